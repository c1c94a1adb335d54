"""Learning curves of all runs over each other; the best stand out."""

from collections.abc import Sequence
from html import escape

from vitfw.comparison.axes import padded_axis, percent_tick, short
from vitfw.comparison.frame import Frame, figure, polyline
from vitfw.comparison.gather import Comparison
from vitfw.comparison.run import CURVE, FINISHED, Point, Run
from vitfw.comparison.words import measured
from vitfw.plots import percent, thin

HIGHLIGHTED = 5
MOST_CURVES = 200
CUT_OFF = 0.15  # the share of points that may lie below the plot
BATCH = ("data.batch_size", "trainer.accumulate_grad_batches")


def curves_plot(comparison: Comparison) -> str:
    """val/accuracy by step, or by images seen where the batch size is not the same."""
    runs = [run for run in comparison.runs[:MOST_CURVES] if len(run.curve) > 1]
    if not runs:
        return ""
    per_step = [images_per_step(run) for run in runs]
    by_images = len(set(per_step)) > 1 and None not in per_step
    scales = [float(n or 1) if by_images else 1.0 for n in per_step]
    curves = [
        [(x * scale, y) for x, y in thin(run.curve, 60)]
        for run, scale in zip(runs, scales, strict=True)
    ]
    frame = frame_of([point for curve in curves for point in curve])
    best = [i for i, run in enumerate(runs) if run.state == FINISHED][:HIGHLIGHTED]
    drawn = [
        draw(frame, runs[i], curves[i], f"s{best.index(i)}" if i in best else "faint")
        for i in [*(i for i in range(len(runs)) if i not in best), *reversed(best)]
    ]
    legend = "".join(
        f'<span class="key s{n}"><i></i>{escape(runs[i].name)} '
        f"<small>{escape(measured(comparison.metric, runs[i].figure(comparison.metric)))}</small>"
        "</span>"
        for n, i in enumerate(best)
    )
    label = "images seen" if by_images else "step"
    return figure(
        "Learning curves",
        legend,
        frame.grid(label) + frame.clipped("".join(drawn)),
        f"{CURVE} by {label}",
    )


def frame_of(points: Sequence[Point]) -> Frame:
    """Steep beginnings are cut off: they would press the ends together."""
    ys = sorted(y for _, y in points)
    return Frame(
        padded_axis([0.0, *(x for x, _ in points)], label=short),
        padded_axis(
            ys[int(CUT_OFF * len(ys)) :],
            largest=1.0,
            label=percent_tick,
        ),
    )


def images_per_step(run: Run) -> int | None:
    batch, accumulated = (run.config.get(key) for key in BATCH)
    return batch * (accumulated or 1) if isinstance(batch, int) else None


def draw(frame: Frame, run: Run, curve: Sequence[Point], kind: str) -> str:
    """The curve; of a run that did not finish also where it ended."""
    places = [(frame.px(x), frame.py(y)) for x, y in curve]
    title = f"{run.name}: {percent(run.curve[-1][1])} at the last check"
    if run.state != FINISHED:
        title += f", {run.state}"
    line = polyline(places, f"run {kind}", title)
    if run.state == FINISHED:
        return line
    x, y = places[-1]
    return f'{line}<circle class="end {kind}" cx="{x:.1f}" cy="{y:.1f}" r="2.6"/>'
