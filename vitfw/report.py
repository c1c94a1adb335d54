"""`report.html`: what a run did, on one page that needs nothing but itself.

No script and no request: style, plots and images are inline, and the page's own policy forbids the
rest. Whatever comes from outside (class names, errors, config) passes through `escape`.
"""

import base64
import io
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from vitfw.atomic import write_text
from vitfw.plots import PLOT_CSS, heat_map, number, percent, training_curves

MAX_HEAT_MAP_CLASSES = 25
MAX_OPEN_CLASSES = 12  # longer per-class tables start closed
PIXELATED_BELOW = 96  # images smaller than this keep hard pixel edges when enlarged
MAX_IMAGE_SIZE = 192  # larger ones are shrunk: the page travels by mail
ENVIRONMENT = ("device", "precision", "seed", "git_commit")

CSS = """
:root{color-scheme:light dark;--bg:#fff;--card:#f6f7f9;--ink:#16191f;--muted:#626b79;--line:#e1e5ea;
--s0:#2563eb;--s1:#d9660a;--s2:#0d9488;--s3:#7c3aed;--s4:#be185d;--s5:#64748b;--on-fill:#fff;
--bad:#b42318;--bad-bg:#fef1f0;--warn:#92600a;--warn-bg:#fdf6e7}
@media (prefers-color-scheme:dark){:root{--bg:#121418;--card:#1b1e24;--ink:#e7e9ed;--muted:#98a1af;
--line:#2b3038;--s0:#74a3ff;--s1:#f59a4c;--s2:#3fc6b6;--s3:#b394ff;--s4:#f27db1;--s5:#9aa7b8;
--on-fill:#0d1015;--bad:#ff958c;--bad-bg:#331917;--warn:#f0c061;--warn-bg:#302612}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.55 system-ui,sans-serif;
-webkit-text-size-adjust:100%}
main{max-width:1120px;margin:0 auto;padding:40px 20px 72px}
h1{font-size:27px;line-height:1.25;margin:0 0 6px;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{font-size:18px;margin:0 0 14px}section{margin-top:48px}p{margin:0 0 14px}
small,.muted{color:var(--muted);font-size:13px;font-weight:400}.muted{overflow-wrap:anywhere}
.columns{display:grid;gap:32px 40px;
grid-template-columns:repeat(auto-fit,minmax(min(100%,330px),1fr))}
.columns>*{min-width:0}.stack{display:grid;gap:32px;grid-template-columns:minmax(0,1fr)}
.tiles{display:grid;gap:12px;margin-top:28px;
grid-template-columns:repeat(auto-fit,minmax(150px,1fr))}
.tile{background:var(--card);border-radius:10px;padding:14px 16px}
.tile b{display:block;font-size:23px;font-weight:600;line-height:1.3;white-space:nowrap}
.banner{margin-top:24px;padding:14px 16px;border-radius:10px;border-left:4px solid}
.failed{color:var(--bad);background:var(--bad-bg)}.stopped{color:var(--warn);background:var(--warn-bg)}
.banner pre{background:none;padding:0;margin:8px 0 0;color:inherit;white-space:pre-wrap}
figure{margin:0}.plots{display:grid;gap:32px 28px;
grid-template-columns:repeat(auto-fit,minmax(min(100%,320px),1fr))}
.plot{max-width:520px}.plot figcaption{display:flex;flex-wrap:wrap;gap:2px 14px;margin-bottom:8px;
align-items:baseline}.plot figcaption b{width:100%}.key{white-space:nowrap;font-size:13px}
.key i{display:inline-block;width:14px;height:3px;border-radius:2px;margin-right:6px;
vertical-align:middle;background:var(--c)}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:14px}
th,td{text-align:left;padding:6px 14px 6px 0;border-bottom:1px solid var(--line);
overflow-wrap:anywhere;vertical-align:top}th{font-weight:500;color:var(--muted)}tbody th{width:44%}
.numbers td:not(:first-child),.numbers th:not(:first-child){text-align:right;white-space:nowrap;
padding:6px 0 6px 10px}
.scroll{overflow-x:auto;margin-bottom:12px}
.mistakes{display:grid;gap:20px 16px;grid-template-columns:repeat(auto-fill,minmax(104px,1fr))}
.mistakes img{display:block;width:100%;aspect-ratio:1;object-fit:contain;background:var(--card);
border-radius:6px}.pixelated{image-rendering:pixelated}
.mistakes figcaption{margin-top:6px;font-size:13px;line-height:1.4;overflow-wrap:anywhere}
.mistakes small{white-space:nowrap}
pre{background:var(--card);border-radius:10px;padding:14px 16px;margin:0;overflow-x:auto}
pre,code{font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
.chips{display:flex;flex-wrap:wrap;gap:8px;margin-top:14px}
.chips code{background:var(--card);border-radius:6px;padding:3px 9px;overflow-wrap:anywhere}
.command{white-space:pre-wrap;overflow-wrap:anywhere}
summary{cursor:pointer;font-weight:600}details>summary+*{margin-top:14px}
"""


@dataclass(frozen=True)
class Mistake:
    """An image the model got wrong: [C, H, W] uint8, and its confidence (0 to 1) in the guess."""

    image: torch.Tensor
    truth: str
    guess: str
    confidence: float


def write_report(
    run_dir: Path,
    *,
    title: str,
    summary: dict[str, Any],
    history: list[dict[str, float]],
    config_text: str,
    overrides: list[str],
    command: str,
    confusion: torch.Tensor | None = None,
    classes: Sequence[str] = (),
    mistakes: Sequence[Mistake] = (),
    unreadable: Mapping[str, str] | None = None,
    status: str = "finished",
    error: str | None = None,
) -> Path:
    """Write `run_dir/report.html`, all of it or none, and return its path.

    `summary` is metrics.json, `history` the rows of metrics.csv (absent or NaN: not logged),
    `confusion` counts [K, K] with the truth in rows, `unreadable` the images that were skipped and
    why. Sections without data are left out.
    """
    body = [
        _header(run_dir, title),
        _banner(status, error),
        _tiles(summary),
        _curves(history),
        _confusion(confusion, classes),
        _mistakes(mistakes),
        _unreadable(unreadable or {}),
        _tables(summary),
        _reproduce(command, overrides),
        _config(config_text),
    ]
    path = run_dir / "report.html"
    write_text(path, _page(title, "\n".join(filter(None, body))))
    return path


def _page(title: str, body: str) -> str:
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{CSS}{PLOT_CSS}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def _header(run_dir: Path, title: str) -> str:
    written = time.strftime("%Y-%m-%d %H:%M")
    return (
        f"<header><h1>{escape(title)}</h1>"
        f'<div class="muted">{escape(str(run_dir))} · written {written}</div></header>'
    )


def _banner(status: str, error: str | None) -> str:
    if status == "finished" and not error:
        return ""
    kind = "failed" if error or status == "failed" else "stopped"
    headline = "Finished with an error" if status == "finished" else f"Not finished: {status}"
    detail = f"<pre>{escape(error)}</pre>" if error else ""
    return f'<div class="banner {kind}" role="alert"><b>{escape(headline)}</b>{detail}</div>'


def _duration(seconds: float) -> str:
    if not 60 <= seconds < math.inf:
        return f"{number(round(seconds, 1))} s"
    if seconds < 3600:
        return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
    return f"{int(seconds) // 3600:,} h {int(seconds) // 60 % 60:02d} min"


def _magnitude(count: float) -> str:
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            share = count / size
            return f"{share:.3g} {unit}" if share < 999.5 else f"{share:,.0f} {unit}"
    return number(count)


def _rate(per_second: float) -> str:
    return f"{per_second:,.0f}" if per_second >= 10 else number(per_second)


HEADLINES = {
    "test/accuracy": ("test accuracy", percent),
    "val/accuracy_best": ("best val accuracy", percent),
    "fit_seconds": ("training time", _duration),
    "train/images_per_second": ("training images/s", _rate),
    "params": ("parameters", _magnitude),
    "flops_per_image": ("FLOPs per image", _magnitude),
}


def _tiles(summary: Mapping[str, Any]) -> str:
    tiles = [
        f'<div class="tile" title="{escape(f"{key}: {summary[key]}")}">'
        f"<b>{escape(show(summary[key]))}</b><small>{escape(label)}</small></div>"
        for key, (label, show) in HEADLINES.items()
        if summary.get(key) is not None
    ]
    return f'<div class="tiles">{"".join(tiles)}</div>' if tiles else ""


def _curves(history: Sequence[Mapping[str, float]]) -> str:
    plots = "".join(training_curves(history))
    if not plots:
        return ""
    return (
        '<section><h2>Curves</h2><p class="muted">Figures in the legends are the last values.</p>'
        f'<div class="plots">{plots}</div></section>'
    )


def _confusion(confusion: torch.Tensor | None, classes: Sequence[str]) -> str:
    if confusion is None or not confusion.any():
        return ""
    counts = confusion.detach().double().cpu()
    k = len(counts)
    names = [str(classes[i]) if i < len(classes) else str(i) for i in range(k)]
    table = _per_class(counts, names)
    if k > MAX_OPEN_CLASSES:
        table = f"<details><summary>All {k} classes</summary><div>{table}</div></details>"
    parts = [f"<div><h2>By class</h2>{table}</div>"]
    if k <= MAX_HEAT_MAP_CLASSES:
        parts.insert(
            0,
            f"<div><h2>Confusion matrix</h2>{heat_map(counts.tolist(), names)}"
            '<p class="muted">Rows are the truth, columns the guess. Blue is right, orange wrong; '
            "the stronger, the larger the share of its row.</p></div>",
        )
    layout = "columns" if k <= MAX_OPEN_CLASSES else "stack"
    return f'<section class="{layout}">{"".join(parts)}</section>'


def _per_class(counts: torch.Tensor, names: Sequence[str]) -> str:
    """Recall, precision and number of images per class, the weakest class first."""
    right, truths, guesses = counts.diagonal(), counts.sum(1), counts.sum(0)
    recall, precision = (right / truths).tolist(), (right / guesses).tolist()  # 0 / 0 → NaN
    order = sorted(range(len(names)), key=lambda i: (math.isnan(recall[i]), recall[i]))
    rows = "".join(
        f"<tr><td>{escape(names[i])}</td><td>{_share(recall[i])}</td>"
        f"<td>{_share(precision[i])}</td><td>{number(truths[i].item())}</td></tr>"
        for i in order
    )
    return (
        '<table class="numbers"><thead><tr><th>class, weakest first</th><th>recall</th>'
        f"<th>precision</th><th>images</th></tr></thead><tbody>{rows}</tbody></table>"
    )


def _share(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.1f} %"


def _mistakes(mistakes: Sequence[Mistake]) -> str:
    if not mistakes:
        return ""
    figures = "".join(
        f"<figure>{_image(m)}<figcaption>{escape(m.truth)}<br>→ <b>{escape(m.guess)}</b> "
        f"<small>{_share(m.confidence)}</small></figcaption></figure>"
        for m in mistakes
    )
    return (
        '<section><h2>Mistakes</h2><p class="muted">Truth → <b>guess</b>, and the confidence in '
        f'the guess.</p><div class="mistakes">{figures}</div></section>'
    )


def _image(mistake: Mistake) -> str:
    pixels = mistake.image.detach().cpu()
    array = pixels[:3].permute(1, 2, 0).numpy() if len(pixels) >= 3 else pixels[0].numpy()
    picture = Image.fromarray(array)
    picture.thumbnail((MAX_IMAGE_SIZE, MAX_IMAGE_SIZE))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    kind = ' class="pixelated"' if max(picture.size) < PIXELATED_BELOW else ""
    alt = escape(f"{mistake.truth}, taken for {mistake.guess}")
    return f'<img{kind} src="data:image/png;base64,{data}" alt="{alt}">'


def _unreadable(images: Mapping[str, str]) -> str:
    if not images:
        return ""
    rows = "".join(f"<li>{escape(reason)}</li>" for _, reason in sorted(images.items()))
    count = f"{len(images):,} image{'s' if len(images) > 1 else ''}"
    return f"""<section><h2>Skipped</h2><p>{count} could not be read.</p>
<details><summary>Which, and why</summary><ul class="muted">{rows}</ul></details></section>"""


def _tables(summary: Mapping[str, Any]) -> str:
    flat = _flatten({k: v for k, v in summary.items() if k not in HEADLINES})
    versions = {
        k.removeprefix("versions/"): v for k, v in flat.items() if k.startswith("versions/")
    }
    environment = {k: flat[k] for k in ENVIRONMENT if k in flat} | versions
    rest = {k: v for k, v in flat.items() if k not in ENVIRONMENT and not k.startswith("versions/")}
    tables = [
        f"<div><h2>{heading}</h2><table><tbody>{_rows(values)}</tbody></table></div>"
        for heading, values in (("Figures", rest), ("Environment", environment))
        if values
    ]
    return f'<section class="columns">{"".join(tables)}</section>' if tables else ""


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}/")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _rows(values: Mapping[str, Any]) -> str:
    return "".join(
        f"<tr><th>{escape(key)}</th><td>{escape(_show(key, value))}</td></tr>"
        for key, value in values.items()
    )


def _show(key: str, value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool | str) or key == "seed" or not isinstance(value, int | float):
        return str(value)
    if "accuracy" in key:
        return percent(value)
    return _duration(value) if key.endswith("_seconds") else number(value)


def _reproduce(command: str, overrides: Sequence[str]) -> str:
    chips = "".join(f"<code>{escape(item)}</code>" for item in overrides)
    typed = f'<div class="chips">{chips}</div>' if chips else '<p class="muted">No overrides.</p>'
    return (
        f'<section><h2>Reproduce</h2><pre class="command">{escape(command)}</pre>{typed}</section>'
    )


def _config(config_text: str) -> str:
    return (
        "<section><details><summary>Resolved config</summary>"
        f"<pre>{escape(config_text)}</pre></details></section>"
    )
