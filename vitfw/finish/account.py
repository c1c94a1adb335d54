"""`report.html` from what a run left: its files, its callbacks, and what it ran on."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from vitfw.callbacks.csv_logger import read_metrics
from vitfw.console import log
from vitfw.figure import Figure
from vitfw.finish.closing import command_words
from vitfw.finish.metrics import Metrics, environment_of
from vitfw.finish.run import Run
from vitfw.models.profile import count_parameters
from vitfw.plots import number
from vitfw.report import Ending, Prediction, Predictions, write_report

LOG_LINES = 20

Made = TypeVar("Made")


def write_account(run: Run, metrics: Metrics, ending: Ending, tested: bool) -> Path:
    """Write report.html; what cannot be had, in a run that broke, is left out."""
    folder, data = run.directory.path, run.data
    rows = folder / "metrics.csv"
    return write_report(
        folder,
        title="/".join(folder.parts[-2:]),
        facts=facts_of(run),
        summary=metrics,
        environment=attempt("the environment", lambda: environment_of(run.trainer), {}),
        history=read_metrics(rows) if rows.exists() else [],
        steps_per_epoch=run.learner.steps_per_epoch,
        config_text=(folder / "config.yaml").read_text(encoding="utf-8"),
        overrides=run.overrides,
        command=shlex.join(command_words(run.overrides)),
        ending=ending,
        predictions=attempt("predictions", lambda: predictions_of(run, tested), Predictions()),
        classes=data.classes,
        figures=figures_of(run),
        unreadable=data.bad_images.reasons,
    )


def attempt(what: str, make: Callable[[], Made], instead: Made) -> Made:
    """`make()`, or after an error `instead`: a report that lacks something is better than none."""
    try:
        return make()
    except Exception as error:
        log.warning(f"not in the report: {what} ({type(error).__name__}: {error})")
        return instead


def facts_of(run: Run) -> str:
    """What was trained on what."""
    data, net = run.data, run.learner.net
    shape = "×".join(str(size) for size in (data.channels, *data.img_size))
    return (
        f"{type(net).__name__} of {count_parameters(net):,} parameters on {data.dataset_name}: "
        f"{data.train_images:,} training images of {len(data.classes)} classes, {shape}"
    )


def predictions_of(run: Run, tested: bool) -> Predictions:
    """Of the test, or where there was none of the last validation that was looked at."""
    split = "test" if tested else "validation"
    tally: Any = run.callbacks.get("prediction_record")
    if not tested:
        tally = getattr(run.callbacks.get("validation_pictures"), "tally", None)
    if tally is None:
        return Predictions()
    return Predictions(
        split=split,
        totals=tally.totals,
        confusion=tally.confusion,
        worst=named(tally.mistakes, run.data.classes),
        best=named(tally.best, run.data.classes),
    )


def named(guesses: Sequence[Any], classes: Sequence[str]) -> list[Prediction]:
    """Guesses with the names of their classes instead of numbers."""
    return [
        Prediction(each.image, classes[each.truth], classes[each.guess], each.confidence)
        for each in guesses
    ]


def figures_of(run: Run) -> list[Figure]:
    """What the callbacks have drawn, in their order."""
    figures: list[Figure] = []
    for name, callback in run.callbacks.items():
        if report_figures := getattr(callback, "report_figures", None):
            figures += attempt(f"the pictures of callbacks.{name}", report_figures, [])
    return figures


def reached(run: Run, best: float | None) -> str:
    """`Epochs done: 2 of 8, steps 842; best validation accuracy 91.53 %.`"""
    of = f" of {run.trainer.max_epochs}" if (run.trainer.max_epochs or 0) > 0 else ""
    accuracy = "" if best is None else f"; best validation accuracy {100 * best:.2f} %"
    done = f"{run.trainer.current_epoch}{of}, steps {number(run.trainer.global_step)}"
    return f"Epochs done: {done}{accuracy}."


def last_lines(path: Path) -> list[str]:
    """The end of train.log; nothing if there is none yet."""
    if not path.is_file():
        return []
    return path.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
