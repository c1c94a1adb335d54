"""The frame of a page: its head, its style in light and dark, its policy of loading nothing."""

from html import escape

from vitfw.plots import PLOT_CSS

LIGHT = """--bg:#fff;--card:#f6f7f9;--ink:#16191f;--muted:#5c6573;--line:#e1e5ea;
--s0:#2563eb;--s1:#d9660a;--s2:#0d9488;--s3:#7c3aed;--s4:#be185d;--s5:#64748b;
--on-right:#fff;--on-wrong:#16191f;
--bad:#b42318;--bad-bg:#fef1f0;--warn:#8a5a08;--warn-bg:#fdf6e7"""
DARK = """--bg:#121418;--card:#1b1e24;--ink:#e7e9ed;--muted:#98a1af;--line:#2b3038;
--s0:#74a3ff;--s1:#f59a4c;--s2:#3fc6b6;--s3:#b394ff;--s4:#f27db1;--s5:#9aa7b8;
--on-right:#0d1015;--on-wrong:#0d1015;
--bad:#ff958c;--bad-bg:#331917;--warn:#f0c061;--warn-bg:#302612"""

CSS = """
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.55 system-ui,sans-serif;
-webkit-text-size-adjust:100%}
main{max-width:1120px;margin:0 auto;padding:40px 20px 72px}
h1{font-size:27px;line-height:1.25;margin:0 0 6px;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{font-size:18px;margin:0 0 14px}h3{font-size:15px;margin:0 0 8px}
section{margin-top:48px}p{margin:0 0 14px}
small,.muted{color:var(--muted);font-size:13px;font-weight:400}.muted{overflow-wrap:anywhere}
.columns{display:grid;gap:32px 40px;
grid-template-columns:repeat(auto-fit,minmax(min(100%,330px),1fr))}
.columns>*{min-width:0}.stack{display:grid;gap:32px;grid-template-columns:minmax(0,1fr)}
.tiles{display:grid;gap:12px;margin-top:28px;
grid-template-columns:repeat(auto-fit,minmax(150px,1fr))}
.tile{background:var(--card);border-radius:10px;padding:14px 16px}
.tile b{display:block;font-size:23px;font-weight:600;line-height:1.3;white-space:nowrap}
.banner{margin-top:24px;padding:16px 18px;border-radius:10px;border-left:4px solid}
.banner.failed{color:var(--bad);background:var(--bad-bg)}
.banner.stopped{color:var(--warn);background:var(--warn-bg)}
.banner h2{margin-bottom:6px}.banner>*{color:var(--ink)}.banner>h2{color:inherit}
.banner p{margin:0 0 10px;overflow-wrap:anywhere}.banner>:last-child{margin-bottom:0}
.banner details{margin-top:10px}.banner pre{background:var(--bg)}.banner .cause{font-weight:600}
figure{margin:0}.plots{display:grid;gap:32px 28px;
grid-template-columns:repeat(auto-fill,minmax(min(100%,320px),1fr))}
.plots+.plots{margin-top:32px}
.plot{max-width:520px;min-width:0}
.plot figcaption{display:flex;flex-wrap:wrap;gap:2px 14px;margin-bottom:8px;
align-items:baseline}.plot figcaption b{width:100%}.key{white-space:nowrap;font-size:13px}
.key i{display:inline-block;width:14px;height:3px;border-radius:2px;margin-right:6px;
vertical-align:middle;background:var(--c)}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:14px}
th,td{text-align:left;padding:6px 14px 6px 0;border-bottom:1px solid var(--line);
overflow-wrap:anywhere;vertical-align:top}th{font-weight:500;color:var(--muted)}tbody th{width:44%}
.numbers td,.numbers th:not(:first-child){text-align:right;white-space:nowrap;
padding:6px 0 6px 10px}.numbers tbody th{color:inherit;font-weight:400;width:auto}
.scroll{overflow-x:auto;margin-bottom:12px}
.right{fill:var(--s0)}.wrong{fill:var(--s1)}
.phase{fill:var(--c)}
svg .cell-text{font-size:10.5px;fill:var(--ink);text-anchor:middle;pointer-events:none}
svg .on-right{fill:var(--on-right)}svg .on-wrong{fill:var(--on-wrong)}
.guesses{display:grid;gap:20px 16px;grid-template-columns:repeat(auto-fill,minmax(104px,1fr))}
.guesses img{display:block;width:100%;aspect-ratio:1;object-fit:contain;background:var(--card);
border-radius:6px}.pixelated{image-rendering:pixelated}
.guesses figcaption{margin-top:6px;font-size:13px;line-height:1.4;overflow-wrap:anywhere}
.guesses small{white-space:nowrap}.guesses+h3{margin-top:32px}
.picture+.picture{margin-top:36px}.picture .scroll{margin-bottom:6px}
.picture img{display:block;height:auto;max-width:none;border-radius:6px}
pre{background:var(--card);border-radius:10px;padding:14px 16px;margin:0 0 14px;overflow-x:auto}
pre,code{font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
.chips{display:flex;flex-wrap:wrap;gap:8px;margin-bottom:14px}
.chips code{background:var(--card);border-radius:6px;padding:3px 9px;overflow-wrap:anywhere}
.command{white-space:pre-wrap;overflow-wrap:anywhere}
summary{cursor:pointer;font-weight:600}details>summary+*{margin-top:14px}
@media print{main{max-width:none;padding:0}section{margin-top:28px}
figure,.tile,tr{break-inside:avoid}}
"""


def page(title: str, body: str) -> str:
    """A whole HTML page around `body`, which is trusted; `title` is escaped.

    Its policy forbids scripts and every request; pictures are data URIs.
    """
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    themes = (
        f":root{{color-scheme:light dark;{LIGHT}}}"
        f"@media (prefers-color-scheme:dark){{:root{{{DARK}}}}}"
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{themes}{CSS}{PLOT_CSS}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""
