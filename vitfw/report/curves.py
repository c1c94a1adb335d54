"""The curves of a run: how well it did, how it was driven, how fast it went."""

from vitfw.plots import MAX_COLOURS, Point, Series, line_plot, percent
from vitfw.report.history import Axis, History, axis_of, columns, points
from vitfw.report.inside import inside


def curves(history: History, steps_per_epoch: int = 0) -> str:
    """Two sections of small plots; a curve nobody logged is left out, so is a plot without any."""
    axis = axis_of(history, steps_per_epoch)
    last = '<p class="muted">Figures in the legends are the last values.</p>'
    sections = (
        (f"<h2>Curves</h2>{last}", _course(history, axis)),
        ("<h2>Inside the training</h2>", inside(history, axis)),
    )
    return "\n".join(
        f'<section>{heading}<div class="plots">{plots}</div></section>'
        for heading, plots in sections
        if plots
    )


def _course(history: History, axis: Axis) -> str:
    def series(**keys: str) -> list[Series]:
        return [Series(label, points(history, axis, key)) for label, key in keys.items()]

    def splits(metric: str) -> list[Series]:
        """Of training and validation; where the weights are averaged, with both and without."""
        keys = {"train": f"train/{metric}", "val": f"val/{metric}"}
        if columns(history, f"val_raw/{metric}"):
            keys = {"train": f"train/{metric}", "val, averaged weights": f"val/{metric}"}
            keys["val, as trained"] = f"val_raw/{metric}"
        return series(**keys)

    along = {"x_label": axis.label, "x_name": axis.name}
    share = {"y_format": percent, "y_tick": lambda y: f"{100 * y:.4g} %", "y_max": 1.0}
    speed = "speed/images_per_second"
    if not columns(history, speed):
        speed = "train/images_per_second"
    rates, note = _learning_rates(history, axis)
    utilisation = series(training="speed/model_flop_utilisation")
    memory = series(process="memory/process_gib", device="memory/device_gib")
    plots = (
        line_plot("Loss", splits("loss"), **along),
        line_plot("Accuracy", splits("accuracy"), **along, **share),
        line_plot("Learning rate", rates, **along, note=note),
        line_plot("Gradient norm", series(total="gradient_norm/total"), **along, log=True),
        line_plot("Images per second", series(training=speed), **along, y_min=0.0),
        line_plot("Model FLOP utilisation", utilisation, **along, **share, y_min=0.0),
        line_plot("Memory, GiB", memory, **along, y_min=0.0),
    )
    return "".join(plots)


def _learning_rates(history: History, axis: Axis) -> tuple[list[Series], str]:
    """One series per distinct curve: parameter groups that share a schedule are one line."""
    distinct: dict[tuple[Point, ...], str] = {}
    for key in columns(history, "lr/"):
        if not key.endswith(("-momentum", "-weight_decay")):
            distinct.setdefault(points(history, axis, key), key.removeprefix("lr/"))
    series = [Series(label, found) for found, label in distinct.items() if found]
    if len(series) <= MAX_COLOURS:
        return series, ""
    spread = [round(i * (len(series) - 1) / (MAX_COLOURS - 1)) for i in range(MAX_COLOURS)]
    return [series[i] for i in spread], f"{MAX_COLOURS} of {len(series)} schedules"
