"""What a result costs: finished runs over a cost, with the front of those that nothing beats."""

from html import escape

from vitfw.comparison.axes import looks_logarithmic, padded_axis, percent_tick, short
from vitfw.comparison.frame import Frame, colour_of, figure
from vitfw.comparison.gather import Comparison
from vitfw.comparison.ranking import pareto_front
from vitfw.comparison.run import FINISHED
from vitfw.comparison.words import is_share, measured
from vitfw.sweep.objective import less_is_better

COSTS = {
    "fit_seconds": "training seconds",
    "params": "parameters",
    "flops_per_image": "FLOPs per image",
}
MOST_LABELS = 12


def cost_plots(comparison: Comparison) -> list[str]:
    """Against time, parameters and FLOPs where they differ; with two objectives, those alone."""
    if len(comparison.objectives) > 1:
        first, second = comparison.objectives[:2]
        return list(filter(None, [cost_plot(comparison, second.name, first.name)]))
    plots = [cost_plot(comparison, cost, comparison.metric) for cost in COSTS]
    return [plot for plot in plots if plot]


def cost_plot(comparison: Comparison, cost: str, metric: str) -> str:
    """Empty unless two finished runs differ in `cost`."""
    dots = [
        (place, run, x, y)
        for place, run in enumerate(comparison.runs)
        if run.state == FINISHED
        and (x := run.figure(cost)) is not None
        and (y := run.figure(metric)) is not None
    ]
    points = [(x, y) for *_, x, y in dots]
    if cost == metric or len({x for x, _ in points}) < 2:
        return ""
    front = pareto_front(points, (lower(comparison, cost), lower(comparison, metric)))
    frame = Frame(
        padded_axis([x for x, _ in points], looks_logarithmic([x for x, _ in points]), label=short),
        padded_axis([y for _, y in points], largest=1.0, label=percent_tick)
        if is_share(metric)
        else padded_axis([y for _, y in points]),
    )
    marks = []
    for n, (place, run, x, y) in enumerate(dots):
        kind = "on-front" if n in front else colour_of(n, len(dots))
        said = f"#{place + 1} {run.name}: {measured(metric, y)}, {measured(cost, x)} {cost}"
        marks.append(
            f'<circle class="place {kind}" cx="{frame.px(x):.1f}" cy="{frame.py(y):.1f}" '
            f'r="{4.6 if n in front else 3.6}"><title>{escape(said)}</title></circle>'
        )
    line = " ".join(f"{frame.px(points[n][0]):.1f},{frame.py(points[n][1]):.1f}" for n in front)
    drawing = (
        f'{frame.grid(COSTS.get(cost, cost))}<polyline class="front" points="{line}"/>'
        f"{labels(frame, points, front, [dots[n][0] for n in front])}{''.join(marks)}"
    )
    legend = '<span class="key on-front"><i></i>Pareto front <small>by rank</small></span>'
    title = f"{metric} against {COSTS.get(cost, cost)}"
    return figure(title, legend, drawing, title)


def lower(comparison: Comparison, metric: str) -> bool:
    directions = {objective.name: objective.lower for objective in comparison.objectives}
    if metric == comparison.metric:
        return comparison.lower
    return directions.get(metric, less_is_better(metric))


def labels(
    frame: Frame, points: list[tuple[float, float]], front: list[int], places: list[int]
) -> str:
    """Ranks above the dots of the front, where they fall neither onto each other nor onto dots."""
    dots = [(frame.px(points[n][0]), frame.py(points[n][1])) for n in front]
    drawn: list[tuple[float, float]] = []
    texts = []
    for dot, place in zip(dots, places, strict=True):
        x, y = dot[0], dot[1] - 9
        taken = [*drawn, *((a, b + 4) for a, b in dots if (a, b) != dot)]
        if len(drawn) < MOST_LABELS and all(abs(x - a) > 20 or abs(y - b) > 11 for a, b in taken):
            drawn.append((x, y))
            texts.append(
                f'<text class="halo" x="{x:.1f}" y="{max(y, 11):.1f}" text-anchor="middle">'
                f"#{place + 1}</text>"
            )
    return "".join(texts)
