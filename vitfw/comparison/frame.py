"""The frame of a plot over two axes, and the colours of runs, as inline SVG.

Runs are coloured by their place in the ranking, in steps `q0` (worst) to `q5` (best).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from vitfw.comparison.axes import Axis

WIDTH, HEIGHT = 400, 260  # about its pixels on a phone
TOP, RIGHT, BOTTOM = 14, 18, 44
COLOURS = 6

COMPARISON_CSS = """
:root{--q0:#e9c46a;--q1:#ef9a52;--q2:#dd6a62;--q3:#b04a80;--q4:#783a90;--q5:#3f2a96;--faint:#b9c0ca}
@media (prefers-color-scheme:dark){:root{--q0:#4d3f86;--q1:#7d4c9c;--q2:#b25792;--q3:#de6d75;
--q4:#f5995a;--q5:#fbd26a;--faint:#4a515c}}
.q0{--c:var(--q0)}.q1{--c:var(--q1)}.q2{--c:var(--q2)}.q3{--c:var(--q3)}.q4{--c:var(--q4)}
.q5{--c:var(--q5)}.faint{--c:var(--faint)}
.run{fill:none;stroke:var(--c);stroke-width:1.6;stroke-linejoin:round;stroke-opacity:.85}
.faint .run,.faint.run{stroke-width:1.1;stroke-opacity:.75}
.run:hover{stroke-width:4;stroke-opacity:1}
.axis{stroke:var(--muted);stroke-width:1}
svg .halo{paint-order:stroke;stroke:var(--bg);stroke-width:3.5px;stroke-linejoin:round}
svg .axis-name{fill:var(--ink);font-weight:600}
.place{fill:var(--c)}.end{fill:var(--bg);stroke:var(--c);stroke-width:1.4}
.front{fill:none;stroke:var(--s1);stroke-width:1.4;stroke-dasharray:5 4}
.on-front{--c:var(--s1)}
.ramp{display:inline-flex;vertical-align:-1px;margin:0 6px;border-radius:3px;overflow:hidden}
.ramp i{width:16px;height:10px;background:var(--c)}
.runs{width:auto;min-width:100%}.runs td,.runs th{padding:6px 18px 6px 0;white-space:nowrap;
overflow-wrap:normal;vertical-align:middle}
.runs td.figure,.runs th.figure{text-align:right;font-variant-numeric:tabular-nums}
.runs tbody tr:first-child td{font-weight:600}
.runs a,.muted a{color:var(--s0)}
.state{font-size:13px;color:var(--muted)}.state-failed,.state-orphaned{color:var(--bad)}
.state-pruned,.state-stopped{color:var(--warn)}
.bars{display:grid;grid-template-columns:auto minmax(0,1fr) auto;gap:10px 14px;align-items:center}
.bars span{overflow-wrap:anywhere}.bars b{font-weight:500;text-align:right}
.bar{display:block;height:14px;border-radius:3px;background:var(--s0);min-width:2px}
.wide{max-width:760px}
.pairs{display:grid;gap:36px 40px;
grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr))}
"""


@dataclass(frozen=True)
class Frame:
    """Maps values to places in a drawing of `WIDTH` by `HEIGHT`."""

    x: Axis
    y: Axis

    @property
    def left(self) -> float:
        return 14 + 7 * max((len(label) for _, label in self.y.marks), default=3)

    def px(self, value: float) -> float:
        return self._across(self.x.share(value) or 0.0)

    def py(self, value: float) -> float:
        return self._up(self.y.share(value) or 0.0)

    def _across(self, share: float) -> float:
        return self.left + share * (WIDTH - RIGHT - self.left)

    def _up(self, share: float) -> float:
        return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)

    def clipped(self, drawing: str) -> str:
        """What of the drawing lies between the axes: an inner `svg` cuts off what does not."""
        box = f"{self.left} {TOP} {WIDTH - RIGHT - self.left} {HEIGHT - BOTTOM - TOP}"
        x, y, width, height = box.split()
        return (
            f'<svg x="{x}" y="{y}" width="{width}" height="{height}" viewBox="{box}" '
            f'style="display:inline">{drawing}</svg>'
        )

    def grid(self, x_label: str) -> str:
        """Lines and labels of the ticks, and what the horizontal axis is."""
        parts = [
            f'<line class="grid" x1="{self.left}" x2="{WIDTH - RIGHT}" y1="{self._up(share):.1f}" '
            f'y2="{self._up(share):.1f}"/><text x="{self.left - 7}" '
            f'y="{self._up(share) + 4:.1f}" text-anchor="end">{escape(label)}</text>'
            for share, label in self.y.marks
        ]
        parts += [
            f'<text x="{self._across(share):.1f}" y="{HEIGHT - BOTTOM + 19}" '
            f'text-anchor="middle">{escape(label)}</text>'
            for share, label in self.x.marks
        ]
        middle = (self.left + WIDTH - RIGHT) / 2
        parts.append(
            f'<text x="{middle:.0f}" y="{HEIGHT - 5}" text-anchor="middle">{escape(x_label)}</text>'
        )
        return "".join(parts)


def figure(title: str, legend: str, drawing: str, label: str) -> str:
    return (
        f'<figure class="plot"><figcaption><b>{escape(title)}</b>{legend}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
        f"{drawing}</svg></figure>"
    )


def colour_of(place: int, count: int) -> str:
    """The class of the run at `place` (0 is best) among `count` that are ranked."""
    return f"q{COLOURS - 1 - place * COLOURS // max(count, 1)}"


def ramp(worst: str, best: str) -> str:
    """The colours in a row, between the figures at their ends."""
    steps = "".join(f'<i class="q{i}"></i>' for i in range(COLOURS))
    return f'<small>{escape(worst)}<span class="ramp">{steps}</span>{escape(best)}</small>'


def polyline(points: Sequence[tuple[float, float]], kind: str, title: str) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="{kind}" points="{path}"><title>{escape(title)}</title></polyline>'
