"""Line plots as inline SVG: no script, no file, no dependency.

Colours are CSS classes (`s0` … `s5`), so that a page's light and dark themes apply; `PLOT_CSS`
holds the rest of the style.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

Point = tuple[float, float]

WIDTH, HEIGHT = 360, 236  # units of the viewBox: about its pixels on a phone
TOP, RIGHT, BOTTOM = 12, 14, 42
MAX_COLOURS = 6
MAX_BUCKETS = 150  # of which each keeps its lowest and its highest point
MAX_VISIBLE_DOTS = 40
SMALLEST = 1e-300  # below it there is no logarithmic axis

PLOT_CSS = """
.s0{--c:var(--s0)}.s1{--c:var(--s1)}.s2{--c:var(--s2)}
.s3{--c:var(--s3)}.s4{--c:var(--s4)}.s5{--c:var(--s5)}
svg{display:block;width:100%;height:auto}
svg text{font:12px system-ui,sans-serif;fill:var(--muted)}
.grid{stroke:var(--line);stroke-width:1}
.curve{fill:none;stroke:var(--c);stroke-width:1.8;stroke-linejoin:round;stroke-linecap:round}
.dot{fill:var(--c);stroke:transparent;stroke-width:12}
.dots-hidden .dot{opacity:0}.dots-hidden .dot:hover{opacity:1}
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


def log_ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Powers of ten that cover [low, high], with 2 and 5 times them where those are few."""
    first = math.floor(math.log10(low) + 1e-9)
    last = max(math.ceil(math.log10(high) - 1e-9), first + 1)
    step = math.ceil((last - first) / about)
    between = (1, 2, 5) if last - first <= 2 else (1,)
    marks = [m * 10.0**power for power in range(first, last + step, step) for m in between]
    begin = max(i for i, mark in enumerate(marks[:-1]) if i == 0 or mark <= low * (1 + 1e-9))
    end = next(i for i, mark in enumerate(marks) if i > begin and mark >= high * (1 - 1e-9))
    return marks[begin : end + 1]


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
    x_name: Callable[[float], str] | None = None,
    y_format: Callable[[float], str] = number,
    y_tick: Callable[[float], str] = "{:g}".format,
    y_min: float = math.inf,
    y_max: float = math.inf,
    log: bool = False,
    note: str = "",
) -> str:
    """A `<figure>`: title, legend with last values, axes, curves; hovering on a point names it.

    The n-th series has the n-th colour. Series without points are left out; with none left the
    result is empty. `x_name` says in words where a point is. The axis of y reaches down to
    `y_min`, and up to `y_max` at most where no value is above; `log` makes it logarithmic where
    all values are positive.
    """
    drawn = [(i, s) for i, s in enumerate(series[:MAX_COLOURS]) if s.points]
    if not drawn:
        return ""
    named = x_name or (lambda x: f"{x_label} {number(x)}")
    xs, ys = ([p[axis] for _, s in drawn for p in s.points] for axis in (0, 1))
    y_low, y_high = min(*ys, y_min), max(ys)
    log = log and y_low > SMALLEST
    marks = log_ticks(y_low, y_high) if log else ticks(y_low, y_high)
    y_ticks = [float(f"{t:.9g}") for t in marks]  # 0.30000000000000004 is 0.3
    y_ticks = [t for t in y_ticks if t <= y_max or y_high > y_max]
    x_low, x_high = min(xs), max(xs)
    x_low = 0.0 if 0 < x_low < 0.1 * x_high else x_low
    x_ticks = ticks(x_low, x_high, about=6, integer=True)
    if x_low == x_high:
        x_low, x_high = x_ticks[0], x_ticks[-1]
    left = 14 + 7 * max(len(y_tick(t)) for t in y_ticks)
    along: Callable[[float], float] = math.log10 if log else float
    bottom, top = along(y_ticks[0]), along(y_ticks[-1])

    def px(x: float) -> float:
        return left + (x - x_low) / (x_high - x_low) * (WIDTH - RIGHT - left)

    def py(y: float) -> float:
        share = (along(y) - bottom) / (top - bottom)
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
    parts += [_curve(i, s, px, py, named, y_format) for i, s in drawn]
    legend = [(f"s{i}", s.label, y_format(s.points[-1][1])) for i, s in drawn]
    drawing = (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)} by '
        f'{escape(x_label)}">{"".join(parts)}</svg>'
    )
    return plot_figure(title, drawing, legend, note)


def plot_figure(
    title: str, drawing: str, legend: Sequence[tuple[str, str, str]] = (), note: str = ""
) -> str:
    """A drawing below its title, a legend of (CSS class, label, value), and a word more."""
    keys = "".join(
        f'<span class="key {colour}"><i></i>{escape(label)} <small>{escape(value)}</small></span>'
        for colour, label, value in legend
    )
    return (
        f'<figure class="plot"><figcaption><b>{escape(title)}</b>{keys}'
        f"{f'<small>{escape(note)}</small>' if note else ''}</figcaption>{drawing}</figure>"
    )


def _short(tick: float) -> str:
    """1500 → 1.5k: axis labels have little room."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(tick) >= size:
            return f"{tick / size:g}{unit}"
    return f"{tick:g}"


def _curve(
    index: int,
    series: Series,
    px: Callable[[float], float],
    py: Callable[[float], float],
    named: Callable[[float], str],
    y_format: Callable[[float], str],
) -> str:
    points = thin(series.points)
    path = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in points)
    dots = "".join(
        f'<circle class="dot" cx="{px(x):.1f}" cy="{py(y):.1f}" r="2.6"><title>'
        f"{escape(f'{series.label}: {y_format(y)} at {named(x)}')}</title></circle>"
        for x, y in points
    )
    hidden = " dots-hidden" if len(points) > MAX_VISIBLE_DOTS else ""
    return f'<g class="s{index}{hidden}"><polyline class="curve" points="{path}"/>{dots}</g>'
