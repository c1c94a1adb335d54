"""The last lines of a run on the console: what came out, where it is, what can be done with it."""

import shlex
import sys
from pathlib import Path

from rich import box
from rich.table import Table

from vitfw.console import console, log
from vitfw.finish.metrics import Metrics
from vitfw.finish.run import Run
from vitfw.inference import classifier_command
from vitfw.run_directory import RunDirectory
from vitfw.training.learner import Learner
from vitfw.training.masked_autoencoder import MaskedAutoencoder


def say_closing(metrics: Metrics, run: Run) -> None:
    """The table at the end: what came out, where it is, how to look at it."""
    shown = (
        ("test accuracy", metrics["test/accuracy"], "{:.4f}"),
        ("test top-5", metrics["test/accuracy_top5"], "{:.4f}"),
        ("test loss", metrics["test/loss"], "{:.4f}"),
        ("best val accuracy", metrics["val/accuracy_best"], "{:.4f}"),
        ("pruned after", metrics["steps"] if metrics["pruned"] else None, "{:,} steps, no test"),
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
    path = shlex.quote(str(run.directory.path))
    for line in (
        f"the run       {path}",
        f"its report    {path}/report.html",
        f"its curves    tensorboard --logdir {path}",
        *next_commands(run.directory, run.learner),
    ):
        console.print(line, soft_wrap=True, markup=False)


def next_commands(directory: RunDirectory, learner: Learner) -> tuple[str, str]:
    """What can be done with the checkpoint; one of a masked autoencoder tells no classes yet."""
    best, last = directory.best_checkpoint, directory.last_checkpoint
    if isinstance(learner, MaskedAutoencoder):
        checkpoint = shlex.quote(str(last))  # its lowest loss need not be its best encoder
        return (
            f"its features  vitfw evaluate checkpoint={checkpoint} knn=20",
            f"fine-tune it  {classifier_command(checkpoint)}  # ViT-B and larger: recipe=finetune",
        )
    checkpoint = shlex.quote(str(best if best.is_file() else last))
    return (
        f"once more     vitfw evaluate checkpoint={checkpoint}",
        f"your images   vitfw predict checkpoint={checkpoint} input=FILE_OR_FOLDER",
    )


def say_stopped(directory: RunDirectory) -> None:
    saved = directory.last_checkpoint
    if saved.is_file():
        log.info(f"stopped; saved {saved}. The same command goes on from there (resume=auto)")
    else:
        log.info("stopped before anything was saved")


def command_words(overrides: list[str]) -> list[str]:
    """What was typed, as it can be typed again; a job of a sweep as a run of its own."""
    script, typed = Path(sys.argv[0]), sys.argv[1:]
    sweeping = {"-m", "--multirun"} & set(typed)
    if script.name == "train.py" and not sweeping:
        return ["python", script.name, *typed]
    ours = script.name == "vitfw" or script.parts[-2:] == ("vitfw", "__main__.py")
    return ["vitfw", *typed] if ours and not sweeping else ["vitfw", "train", *overrides]
