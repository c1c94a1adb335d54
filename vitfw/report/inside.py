"""What goes on in the parts of a net and in a step, each on the space of one small plot."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from html import escape

from vitfw.plots import Point, number, plot_figure
from vitfw.report.history import Axis, History, columns, logged

WIDTH, CELL = 360, 15  # units of the viewBox
MAX_COLUMNS, MAX_ROWS = 30, 28
PHASES = ("data", "forward", "backward", "optimizer")

Rows = Mapping[str, Sequence[Point]]


def inside(history: History, axis: Axis) -> str:
    def parts(prefix: str, but: str = "") -> Rows:
        keys = [key for key in columns(history, prefix) if key != f"{prefix}{but}"]
        return {key.removeprefix(prefix): logged(history, axis, key) for key in keys}

    distances = {
        name.replace("_", " "): course for name, course in parts("attention_distance/").items()
    }
    plots = (
        step_split({phase: _median(history, f"step_seconds/{phase}") for phase in PHASES}),
        strips("Gradient norm by part", parts("gradient_norm/", but="total"), axis, log=True),
        strips("Update to weight by part", parts("update_ratio/"), axis, log=True),
        strips("Mean attention distance", distances, axis),
    )
    return "".join(plots)


def _median(history: History, key: str) -> float:
    values = [row[key] for row in history if row.get(key) is not None and row[key] >= 0]
    return statistics.median(values) if values else 0.0


def step_split(seconds: Mapping[str, float]) -> str:
    """One bar: which share of a step each phase takes, in the median of what was logged."""
    total = sum(seconds.values())
    if not 0 < total < math.inf:
        return ""
    bars, legend, x = [], [], 0.0
    for i, (phase, value) in enumerate(seconds.items()):
        width = WIDTH * value / total
        told = f"{number(1000 * value)} ms, {value / total:.0%}"
        bars.append(
            f'<rect class="phase s{i}" x="{x:.1f}" y="0" width="{width:.1f}" height="28">'
            f"<title>{escape(f'{phase}: {told}')}</title></rect>"
        )
        legend.append((f"s{i}", phase, told))
        x += width
    drawing = (
        f'<svg viewBox="0 0 {WIDTH} 28" role="img" aria-label="Shares of a training step">'
        f"{''.join(bars)}</svg>"
    )
    return plot_figure("A training step", drawing, legend, f"{number(1000 * total)} ms in all")


def strips(title: str, rows: Rows, axis: Axis, log: bool = False) -> str:
    """A strip for each part, from left to right as training went: the stronger, the larger.

    Cells are means over their stretch, with `log` geometric ones; what is not finite has the
    colour of errors. Of very deep nets every n-th part is shown.
    """
    rows = {name: course for name, course in rows.items() if course}
    if not rows:
        return ""
    names = list(rows)
    kept = _spread(names, MAX_ROWS)
    note = f"{len(kept)} of {len(names)} parts" if len(kept) < len(names) else ""
    xs = sorted({x for name in kept for x, _ in rows[name]})
    begin, stretch = xs[0], (xs[-1] - xs[0]) or 1.0
    count = min(MAX_COLUMNS, len(xs))
    means = {
        name: _means(rows[name], lambda x: int((x - begin) / stretch * count * 0.999999), log)
        for name in kept
    }
    finite = [y for cells in means.values() for y in cells.values() if math.isfinite(y)]
    scale = _Scale(min(finite, default=0.0), max(finite, default=0.0), log)
    left = 10 + 7.4 * max(len(name) for name in kept)
    width = (WIDTH - left) / count
    cells = []
    for row, name in enumerate(kept):
        y = row * CELL
        cells.append(
            f'<text x="{left - 7:.0f}" y="{y + 11}" text-anchor="end">{escape(name)}</text>'
        )
        for column, value in sorted(means[name].items()):
            where = axis.name(begin + (column + 0.5) / count * stretch)
            cells.append(
                f'<rect class="{"right" if math.isfinite(value) else "wrong"}" '
                f'x="{left + column * width:.1f}" y="{y}" width="{width:.1f}" '
                f'height="{CELL - 1}" fill-opacity="{scale.strength(value):.2f}">'
                f"<title>{escape(f'{name}: {number(value)} at {where}')}</title></rect>"
            )
    height = len(kept) * CELL
    first, last = (f"{axis.label} {_short(x)}" for x in (xs[0], xs[-1]))
    ends = (left, "start", first), (WIDTH, "end", last)
    cells += [
        f'<text x="{x:.0f}" y="{height + 14}" text-anchor="{anchor}">{escape(text)}</text>'
        for x, anchor, text in ends[: 1 if xs[0] == xs[-1] else 2]
    ]
    drawing = (
        f'<svg viewBox="0 0 {WIDTH} {height + 20}" role="img" aria-label="{escape(title)} by '
        f'{escape(axis.label)}">{"".join(cells)}</svg>'
    )
    ends_of_scale = f"light {number(scale.low)}, strong {number(scale.high)}"
    return plot_figure(title, drawing, note="; ".join(filter(None, (ends_of_scale, note))))


def _short(x: float) -> str:
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


class _Scale:
    """From the lowest to the highest value, 0.06 to 1 of the colour's strength."""

    def __init__(self, low: float, high: float, log: bool):
        self.low, self.high, self.log = low, high, log and low > 0

    def strength(self, value: float) -> float:
        if not math.isfinite(value) or self.low == self.high:
            return 1.0
        along: Callable[[float], float] = math.log if self.log else float
        low, high = along(self.low), along(self.high)
        return 0.06 + 0.94 * (along(value) - low) / (high - low)


def _means(course: Sequence[Point], column_of: Callable[[float], int], log: bool) -> dict:
    cells: dict[int, list[float]] = {}
    for x, y in course:
        cells.setdefault(column_of(x), []).append(y)
    means = {}
    for column, values in cells.items():
        geometric = log and min(values) > 0 and all(map(math.isfinite, values))
        means[column] = statistics.geometric_mean(values) if geometric else statistics.fmean(values)
    return means


def _spread(names: Sequence[str], most: int) -> list[str]:
    if len(names) <= most:
        return list(names)
    return [names[round(i * (len(names) - 1) / (most - 1))] for i in range(most)]
