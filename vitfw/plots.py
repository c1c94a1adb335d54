"""Pictures of a run as inline SVG: line plots and a heat map. No script, no file, no dependency.

Colours are CSS classes (`s0` … `s5`, `right`, `wrong`), so that a page's light and dark themes
apply; `PLOT_CSS` holds the rest of the style.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

Point = tuple[float, float]

WIDTH, HEIGHT = 400, 250  # units of the line plot's viewBox: about its pixels on a phone
TOP, RIGHT, BOTTOM = 12, 14, 42
MAX_COLOURS = 6
MAX_BUCKETS = 150  # of which each keeps its lowest and its highest point
MAX_VISIBLE_DOTS = 40
LARGEST = 1e300  # a loss beyond this has no place on an axis

PLOT_CSS = """
.s0{--c:var(--s0)}.s1{--c:var(--s1)}.s2{--c:var(--s2)}
.s3{--c:var(--s3)}.s4{--c:var(--s4)}.s5{--c:var(--s5)}
svg{display:block;width:100%;height:auto}
svg text{font:12px system-ui,sans-serif;fill:var(--muted)}
.grid{stroke:var(--line);stroke-width:1}
.curve{fill:none;stroke:var(--c);stroke-width:1.8;stroke-linejoin:round;stroke-linecap:round}
.dot{fill:var(--c);stroke:transparent;stroke-width:12}
.dots-hidden .dot{opacity:0}.dots-hidden .dot:hover{opacity:1}
.right{fill:var(--s0)}.wrong{fill:var(--s1)}
svg .cell-text{font-size:10.5px;fill:var(--ink);text-anchor:middle;pointer-events:none}
svg .on-fill{fill:var(--on-fill)}
"""


@dataclass(frozen=True)
class Series:
    """A named curve; `points` are finite (x, y), in the order of x."""

    label: str
    points: Sequence[Point]


def number(value: float) -> str:
    """A figure for people: thousands separated, four or five significant digits."""
    if not math.isfinite(value):
        return {math.inf: "∞", -math.inf: "−∞"}.get(value, "NaN")
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if 1e5 <= abs(value) < 1e15 else f"{value:.4g}"


def percent(value: float) -> str:
    return f"{100 * value:.2f} %" if math.isfinite(value) else number(value)


def ticks(low: float, high: float, about: int = 5, integer: bool = False) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) that cover [low, high]."""
    if high - low <= max(1e-4 * max(abs(low), abs(high)), 1e-300):  # one value: room around it
        pad = 1.0 if integer or low == 0 else abs(low) / 5
        low, high = low - pad if low else 0.0, high + pad
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * 0.999)
    step = max(step, 1.0) if integer else step
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def thin(points: Sequence[Point], buckets: int = MAX_BUCKETS) -> list[Point]:
    """At most 2 · `buckets` + 2 of the points: the extremes of each bucket, so that spikes stay."""
    if len(points) <= 2 * buckets:
        return list(points)
    kept = {0, len(points) - 1}
    for b in range(buckets):
        span = range(b * len(points) // buckets, (b + 1) * len(points) // buckets)
        kept |= {min(span, key=lambda i: points[i][1]), max(span, key=lambda i: points[i][1])}
    return [points[i] for i in sorted(kept)]


def line_plot(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str = "step",
    y_format: Callable[[float], str] = number,
    y_tick: Callable[[float], str] = "{:g}".format,
    y_max: float = math.inf,
    note: str = "",
) -> str:
    """A `<figure>`: title, legend with last values, axes, curves; hovering on a point names it.

    The n-th series has the n-th colour. Series without points are left out; with none left the
    result is empty.
    """
    drawn = [(i, s) for i, s in enumerate(series[:MAX_COLOURS]) if s.points]
    if not drawn:
        return ""
    xs, ys = ([p[axis] for _, s in drawn for p in s.points] for axis in (0, 1))
    # Rounding to 9 digits takes 0.30000000000000004 off the labels.
    y_ticks = [float(f"{t:.9g}") for t in ticks(min(ys), max(ys))]
    y_ticks = [t for t in y_ticks if t <= y_max or max(ys) > y_max]
    x_low, x_high = min(xs), max(xs)
    x_low = 0.0 if 0 < x_low < 0.1 * x_high else x_low
    x_ticks = ticks(x_low, x_high, about=6, integer=True)
    if x_low == x_high:
        x_low, x_high = x_ticks[0], x_ticks[-1]
    left = 14 + 7 * max(len(y_tick(t)) for t in y_ticks)

    def px(x: float) -> float:
        return left + (x - x_low) / (x_high - x_low) * (WIDTH - RIGHT - left)

    def py(y: float) -> float:
        share = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)

    parts = [
        f'<line class="grid" x1="{left}" x2="{WIDTH - RIGHT}" y1="{py(t):.1f}" y2="{py(t):.1f}"/>'
        f'<text x="{left - 7}" y="{py(t) + 4:.1f}" text-anchor="end">{escape(y_tick(t))}</text>'
        for t in y_ticks
    ]
    parts += [
        f'<text x="{px(t):.1f}" y="{HEIGHT - BOTTOM + 19}" text-anchor="middle">{_short(t)}</text>'
        for t in x_ticks
        if x_low <= t <= x_high
    ]
    middle = (left + WIDTH - RIGHT) / 2
    parts.append(
        f'<text x="{middle:.0f}" y="{HEIGHT - 5}" text-anchor="middle">{escape(x_label)}</text>'
    )
    parts += [_curve(i, s, px, py, x_label, y_format) for i, s in drawn]
    return (
        f'<figure class="plot"><figcaption><b>{escape(title)}</b>{_legend(drawn, y_format)}'
        f"{f'<small>{escape(note)}</small>' if note else ''}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)} by '
        f'{escape(x_label)}">{"".join(parts)}</svg></figure>'
    )


def _short(tick: float) -> str:
    """1500 → 1.5k: axis labels have little room."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(tick) >= size:
            return f"{tick / size:g}{unit}"
    return f"{tick:g}"


def _legend(drawn: Sequence[tuple[int, Series]], y_format: Callable[[float], str]) -> str:
    return "".join(
        f'<span class="key s{i}"><i></i>{escape(s.label)} '
        f"<small>{escape(y_format(s.points[-1][1]))}</small></span>"
        for i, s in drawn
    )


def _curve(
    index: int,
    series: Series,
    px: Callable[[float], float],
    py: Callable[[float], float],
    x_label: str,
    y_format: Callable[[float], str],
) -> str:
    points = thin(series.points)
    path = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in points)
    dots = "".join(
        f'<circle class="dot" cx="{px(x):.1f}" cy="{py(y):.1f}" r="2.6"><title>'
        f"{escape(f'{series.label}: {y_format(y)} at {x_label} {number(x)}')}</title></circle>"
        for x, y in points
    )
    hidden = " dots-hidden" if len(points) > MAX_VISIBLE_DOTS else ""
    return f'<g class="s{index}{hidden}"><polyline class="curve" points="{path}"/>{dots}</g>'


def heat_map(counts: Sequence[Sequence[float]], names: Sequence[str]) -> str:
    """Confusion counts [K][K], rows the truth: a cell is as strong as its share of the row.

    Right answers and wrong ones have a colour each; wrong ones are drawn stronger than their share
    (its square root), or nobody would see them.
    """
    k = len(counts)
    labels = [name if len(name) <= 14 else name[:13] + "…" for name in names]
    longest = max(len(label) for label in labels)
    cell = min(72.0, max(22.0, 340 / k))
    left = 14 + 6.6 * longest
    upright = 7 * longest > cell  # column labels read upwards
    top = left if upright else 24
    parts = []
    for i, label in enumerate(labels):
        centre = (i + 0.5) * cell
        turn = f' transform="rotate(-90 {left + centre:.1f} {top - 7:.1f})"' if upright else ""
        anchor = "start" if upright else "middle"
        shift = 4 if upright else 0
        parts.append(
            f'<text x="{left - 7:.1f}" y="{top + centre + 4:.1f}" text-anchor="end">'
            f"{escape(label)}</text>"
            f'<text x="{left + centre + shift:.1f}" y="{top - 7:.1f}" text-anchor="{anchor}"{turn}>'
            f"{escape(label)}</text>"
        )
        total = sum(counts[i])
        for j, count in enumerate(counts[i]):
            share = count / total if total else 0.0
            what = f"{names[i]} → {names[j]}: {number(count)} of {number(total)} ({share:.1%})"
            parts.append(_cell(left + j * cell, top + i * cell, cell, count, share, i == j, what))
    width, height = left + k * cell + 1, top + k * cell + 1
    return (
        f'<div class="scroll"><svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'aria-label="Confusion matrix" style="max-width:{width * 1.15:.0f}px;'
        f'min-width:{min(width, left + 25 * k):.0f}px">{"".join(parts)}</svg></div>'
    )


def _cell(
    x: float, y: float, size: float, count: float, share: float, right: bool, what: str
) -> str:
    strength = share if right else math.sqrt(share)
    text = number(count)
    box = (
        f'x="{x + 0.75:.2f}" y="{y + 0.75:.2f}" width="{size - 1.5:.2f}" height="{size - 1.5:.2f}"'
    )
    drawn = (
        f'<rect {box} rx="2" class="{"right" if right else "wrong"}" '
        f'fill-opacity="{0.04 + 0.96 * strength:.3f}"><title>{escape(what)}</title></rect>'
    )
    if count and 6.2 * len(text) + 2 <= size:
        kind = "cell-text on-fill" if strength > 0.6 else "cell-text"
        middle = f'x="{x + size / 2:.1f}" y="{y + size / 2 + 3.8:.1f}"'
        drawn += f'<text class="{kind}" {middle}>{text}</text>'
    return drawn


def training_curves(history: Sequence[Mapping[str, float]]) -> list[str]:
    """Loss, accuracy and learning rate of a run from the rows of its metrics.csv.

    A value that is absent, None, NaN or infinite was not logged in that row. A curve nobody logged
    is left out, and so is a plot without curves.
    """
    x_key = next((key for key in ("step", "epoch") if any(key in row for row in history)), "row")

    def curves(**keys: str) -> list[Series]:
        return [Series(label, _points(history, x_key, key)) for label, key in keys.items()]

    rates, note = _learning_rates(history, x_key)
    plots = [
        line_plot("Loss", curves(train="train/loss", val="val/loss"), x_label=x_key),
        line_plot(
            "Accuracy",
            curves(train="train/accuracy", val="val/accuracy"),
            x_label=x_key,
            y_format=percent,
            y_tick=lambda share: f"{100 * share:.4g} %",
            y_max=1.0,
        ),
        line_plot("Learning rate", rates, x_label=x_key, note=note),
    ]
    return [plot for plot in plots if plot]


def _points(history: Sequence[Mapping[str, float]], x_key: str, key: str) -> tuple[Point, ...]:
    """The finite values of a column by x; of a step logged twice (a resumed run), the later one."""
    values: dict[float, float] = {}
    for index, row in enumerate(history):
        x, y = row.get(x_key, index if x_key == "row" else None), row.get(key)
        if x is not None and y is not None and abs(x) < LARGEST and abs(y) < LARGEST:
            values[float(x)] = float(y)
    return tuple(sorted(values.items()))


def _learning_rates(history: Sequence[Mapping[str, float]], x_key: str) -> tuple[list[Series], str]:
    """One series per distinct curve: parameter groups that share a schedule are one line."""
    keys = dict.fromkeys(key for row in history for key in row if key.startswith("lr/"))
    distinct: dict[tuple[Point, ...], str] = {}
    for key in keys:
        if not key.endswith(("-momentum", "-weight_decay")):
            distinct.setdefault(_points(history, x_key, key), key.removeprefix("lr/"))
    series = [Series(label, points) for points, label in distinct.items() if points]
    if len(series) <= MAX_COLOURS:
        return series, ""
    spread = [round(i * (len(series) - 1) / (MAX_COLOURS - 1)) for i in range(MAX_COLOURS)]
    return [series[i] for i in spread], f"{MAX_COLOURS} of {len(series)} schedules"
