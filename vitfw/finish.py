"""How a run ends: the test, `metrics.json`, the report, and the closing table."""

import shlex
import shutil
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from rich import box
from rich.table import Table

from vitfw.callbacks.csv_logger import read_metrics
from vitfw.callbacks.prediction_record import PredictionRecord
from vitfw.callbacks.throughput import Throughput
from vitfw.console import console, log
from vitfw.data.classification_data import ClassificationData
from vitfw.environment import device_name, git_commit, versions
from vitfw.models.profile import count_flops, count_parameters
from vitfw.report import Mistake, write_report
from vitfw.run_directory import RunDirectory
from vitfw.training.learner import Learner
from vitfw.training.linear_probe import LinearProbe
from vitfw.training.masked_autoencoder import MaskedAutoencoder

Metrics = dict[str, Any]


def measure_best(
    trainer: L.Trainer, learner: Learner, data: ClassificationData, directory: RunDirectory
) -> Metrics:
    """Metrics on the test set, the one time it is read: of best.ckpt, or what there is instead."""
    saved = directory.best_checkpoint, directory.last_checkpoint
    there = [str(path) for path in saved if path.is_file()]
    path = trainer.strategy.broadcast(there[0] if there else None)  # None: the weights in memory
    found = trainer.test(learner, datamodule=data, ckpt_path=path, verbose=False)
    return dict(found[0]) if found else {}  # limit_test_batches=0


def gather_metrics(
    trainer: L.Trainer,
    learner: Learner,
    data: ClassificationData,
    callbacks: Mapping[str, L.Callback],
    tested: Metrics,
    best: float | None,
    epochs: int,
    steps: int,
    seed: int,
) -> Metrics:
    """What `metrics.json` holds. Accuracies are fractions of 1; null where nothing was measured."""
    throughput = callbacks.get("throughput")
    timed = isinstance(throughput, Throughput)
    shape = (data.channels, *data.img_size)
    return {
        "test/accuracy": tested.get("test/accuracy"),
        "test/accuracy_top5": tested.get("test/accuracy_top5"),
        "test/loss": tested.get("test/loss"),
        "val/accuracy_best": best,
        "fit_seconds": round(throughput.total_seconds(), 3) if timed else None,
        "epochs": epochs,
        "steps": steps,
        "train/images_per_second": rounded(throughput.images_per_second) if timed else None,
        "params": count_parameters(learner.net),
        "flops_per_image": count_flops(learner.net, shape),
        "device": device_name(trainer.strategy.root_device),
        "precision": trainer.precision,
        "seed": seed,
        "git_commit": git_commit(),
        "versions": versions(),
    }


def rounded(rate: float) -> float | None:
    """A rate to one decimal; none where too few steps were made to tell."""
    return round(rate, 1) or None


def best_val_accuracy(callbacks: Mapping[str, L.Callback]) -> float | None:
    best = callbacks.get("best")
    score = getattr(best, "best_model_score", None)
    watched = getattr(best, "monitor", None) == "val/accuracy"
    return float(score) if watched and score is not None else None


def say_closing(metrics: Metrics, directory: RunDirectory, learner: Learner) -> None:
    """The table at the end: what came out, where it is, how to look at it."""
    shown = (
        ("test accuracy", metrics["test/accuracy"], "{:.4f}"),
        ("test top-5", metrics["test/accuracy_top5"], "{:.4f}"),
        ("test loss", metrics["test/loss"], "{:.4f}"),
        ("best val accuracy", metrics["val/accuracy_best"], "{:.4f}"),
        ("training time", metrics["fit_seconds"], "{:,.1f} s"),
        ("speed", metrics["train/images_per_second"], "{:,.0f} img/s"),
        ("parameters", metrics["params"], "{:,}"),
        ("compute", metrics["flops_per_image"] / 1e6, "{:,.1f} MFLOP an image"),
    )
    table = Table(show_header=False, box=box.HORIZONTALS)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(justify="right")
    for name, value, pattern in shown:
        if value is not None:
            table.add_row(name, pattern.format(value))
    console.print(table)
    path = shlex.quote(str(directory.path))
    for line in (
        f"the run       {path}",
        f"its report    {path}/report.html",
        f"its curves    tensorboard --logdir {path}",
        *next_commands(directory, learner),
    ):
        console.print(line, soft_wrap=True, markup=False)


def next_commands(directory: RunDirectory, learner: Learner) -> tuple[str, str]:
    """What can be done with the checkpoint; one of a masked autoencoder tells no classes yet."""
    best, last = directory.best_checkpoint, directory.last_checkpoint
    if isinstance(learner, MaskedAutoencoder):
        checkpoint = shlex.quote(str(last))  # its lowest loss need not be its best encoder
        return (
            f"its features  vitfw evaluate checkpoint={checkpoint} knn=20",
            f"fine-tune it  vitfw train recipe=finetune model=THE_SAME data=YOURS "
            f"init_from={checkpoint}",
        )
    checkpoint = shlex.quote(str(best if best.is_file() else last))
    return (
        f"once more     vitfw evaluate checkpoint={checkpoint}",
        f"your images   vitfw predict checkpoint={checkpoint} input=FILE_OR_FOLDER",
    )


def command_line() -> str:
    """What was typed, as it can be typed again."""
    script = Path(sys.argv[0]).name
    program = "vitfw" if script == "__main__.py" else script
    words = ["python", program] if program.endswith(".py") else [program]
    return shlex.join([*words, *sys.argv[1:]])


def report_run(
    directory: RunDirectory,
    metrics: Metrics,
    overrides: list[str],
    data: ClassificationData,
    record: L.Callback | None,
    status: str = "finished",
    error: str | None = None,
) -> Path:
    """Write report.html from the run's own files and what the test showed."""
    rows = directory.path / "metrics.csv"
    recorded = record if isinstance(record, PredictionRecord) else None
    return write_report(
        directory.path,
        title=str(directory.path),
        summary=metrics,
        history=read_metrics(rows) if rows.exists() else [],
        config_text=(directory.path / "config.yaml").read_text(encoding="utf-8"),
        overrides=overrides,
        command=command_line(),
        confusion=recorded.confusion if recorded else None,
        classes=data.classes,
        mistakes=[
            Mistake(m.image, data.classes[m.truth], data.classes[m.guess], m.confidence)
            for m in (recorded.mistakes if recorded else [])
        ],
        unreadable=data.bad_images.reasons,
        status=status,
        error=error,
    )


def close_run(
    trainer: L.Trainer,
    learner: Learner,
    data: ClassificationData,
    callbacks: Mapping[str, L.Callback],
    cfg: dict[str, Any],
    overrides: list[str],
    directory: RunDirectory,
) -> Metrics:
    """Test, write what is to be written, say where it is. Returns what `metrics.json` holds."""
    best = best_val_accuracy(callbacks)  # the test restores callbacks from the checkpoint
    epochs, steps = trainer.current_epoch, trainer.global_step
    tested = measure_best(trainer, learner, data, directory) if cfg["test_after_fit"] else {}
    metrics = gather_metrics(
        trainer, learner, data, callbacks, tested, best, epochs, steps, cfg["seed"]
    )
    if trainer.is_global_zero:
        for logger in trainer.loggers:
            if best is not None:
                logger.log_metrics({"val/accuracy_best": best}, step=steps)
            logger.finalize("success")
        report_run(directory, metrics, overrides, data, callbacks.get("prediction_record"))
        if isinstance(learner, LinearProbe):  # a run that is finished does not go on
            shutil.rmtree(directory.path / "features", ignore_errors=True)
        directory.write_metrics(metrics)
        say_closing(metrics, directory, learner)
    return metrics


def say_stopped(directory: RunDirectory) -> None:
    saved = directory.last_checkpoint
    if saved.is_file():
        log.info(f"stopped; saved {saved}. The same command goes on from there (resume=auto)")
    else:
        log.info("stopped before anything was saved")


def report_failure(
    directory: RunDirectory, overrides: list[str], data: ClassificationData, error: Exception
) -> None:
    """Leave the report of a run that broke: how far it came, and why."""
    trace = "".join(traceback.format_exception(error))
    report_run(directory, {}, overrides, data, None, status="failed", error=trace)
