"""Parallel coordinates: an upright axis a parameter, the metric last, a line a run."""

from collections.abc import Sequence
from html import escape
from typing import Any

from vitfw.comparison.axes import Axis, axis_of
from vitfw.comparison.frame import colour_of, polyline, ramp
from vitfw.comparison.gather import Comparison
from vitfw.comparison.run import FINISHED
from vitfw.comparison.words import ABSENT, clipped, is_share, measured, shown

MOST_AXES = 9
MOST_LINES = 200
LEAST_STEP, MOST_STEP, HEIGHT = 128, 280, 330  # between two axes; of the whole
TOP, BOTTOM, LEFT, RIGHT = 36, 14, 78, 66


def parallel_plot(comparison: Comparison, keys: Sequence[str]) -> str:
    """The parameters `keys` from left to right, then the metric; empty without finished runs.

    Finished runs are coloured by their place, the best drawn last; others are faint, and end
    before the metric.
    """
    metric = comparison.metric
    runs = list(enumerate(comparison.runs))[:MOST_LINES]
    done = [(i, r) for i, r in runs if r.state == FINISHED and r.figure(metric) is not None]
    if not keys or not done:
        return ""
    keys = keys[-MOST_AXES + 1 :]
    logarithmic = logarithmic_keys(comparison)
    columns = {key: comparison.parameters[key][:MOST_LINES] for key in keys}
    step = max(LEAST_STEP, min(MOST_STEP, 700 // len(keys)))
    axes = [axis_of(values, logarithmic.get(key)) for key, values in columns.items()]
    figures = [run.figure(metric) or 0.0 for _, run in done]
    axes.append(metric_axis(figures, metric))
    place = {i: n for n, (i, _) in enumerate(done)}
    lines = []
    for i, run in sorted(runs, key=lambda item: place.get(item[0], len(runs)), reverse=True):
        values = [*(columns[key][i] for key in keys), run.figure(metric) if i in place else ABSENT]
        said = ", ".join(f"{comparison.names[key]} {shown(columns[key][i])}" for key in keys)
        result = measured(metric, run.figure(metric)) if i in place else run.state
        kind = colour_of(place[i], len(done)) if i in place else "faint"
        points = points_of(values, axes, step)
        lines.append(polyline(points, f"run {kind}", f"{run.name}: {said} → {result}"))
    names = [comparison.names[key] for key in keys] + [metric]
    drawn = "".join(
        draw_axis(LEFT + n * step, a, names[n], n == len(keys)) for n, a in enumerate(axes)
    )
    width = LEFT + step * len(keys) + RIGHT
    best, worst = measured(metric, figures[0]), measured(metric, figures[-1])
    return (
        f'<p class="muted">{escape(metric)}: {ramp(worst, best)}</p><div class="scroll">'
        f'<svg viewBox="0 0 {width} {HEIGHT}" role="img" aria-label="Parameters and metric" '
        f'style="min-width:{0.85 * width:.0f}px;max-width:{1.35 * width:.0f}px">'
        f"{''.join(lines)}{drawn}</svg></div>"
    )


def points_of(values: Sequence[Any], axes: Sequence[Axis], step: int) -> list[tuple[float, float]]:
    """A point on each axis that the run has a value for."""
    return [
        (LEFT + n * step, upright(share))
        for n, (axis, value) in enumerate(zip(axes, values, strict=True))
        if (share := axis.share(value)) is not None
    ]


def logarithmic_keys(comparison: Comparison) -> dict[str, bool]:
    """What the study drew on a log scale, and what it did not; unknown without a study."""
    trials = comparison.study.get_trials(deepcopy=False) if comparison.study else []
    return {
        key: bool(getattr(distribution, "log", False))
        for trial in trials
        for key, distribution in trial.distributions.items()
        if hasattr(distribution, "log")
    }


def metric_axis(figures: Sequence[float], metric: str) -> Axis:
    axis = axis_of(figures)
    if not is_share(metric):
        return axis
    marks = [(share, f"{100 * float(label):.4g} %") for share, label in axis.marks]
    return Axis(axis.low, axis.high, axis.logarithmic, marks)


def upright(share: float) -> float:
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def draw_axis(x: float, axis: Axis, name: str, last: bool) -> str:
    """The axis with its name above, and ticks on the left, or on the right of the last."""
    shift, anchor = (8, "start") if last else (-8, "end")
    ticks = "".join(
        f'<text class="halo" x="{x + shift}" y="{upright(share) + 4:.1f}" text-anchor="{anchor}">'
        f"{escape(clipped(label, 12))}</text>"
        for share, label in axis.marks
    )
    return (
        f'<line class="axis" x1="{x}" x2="{x}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>{ticks}'
        f'<text class="axis-name" x="{x}" y="16" text-anchor="middle">'
        f"{escape(clipped(name, 17))}<title>{escape(name)}</title></text>"
    )
