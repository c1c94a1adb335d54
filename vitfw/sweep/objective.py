"""What a search looks for: a figure of metrics.json, or the best of a column of metrics.csv."""

import csv
import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from vitfw.errors import ConfigError, nearest

MAXIMIZE, MINIMIZE = "maximize", "minimize"
# What `finish.gather_metrics` measures, apart from the test.
AT_THE_END = {"fit_seconds", "epochs", "steps", "train/images_per_second"}
AT_THE_END |= {"params", "params_trained", "flops_per_image"}
BEST = "val/accuracy_best"
ACCURACIES = {"accuracy", "accuracy_top5"}
TRAINING = {"train/loss", "train/loss_epoch"}
# What the methods log, by the end of their `_target_`.
LOGGED = {
    "Classifier": {"loss", *ACCURACIES},
    "DistilledClassifier": {"loss", *ACCURACIES},
    "LinearProbe": {"loss", *ACCURACIES},
    "MaskedAutoencoder": {"loss"},
}
# What callbacks add, by the ends of theirs.
LOGGED_BESIDE = {
    "Throughput": {"speed/images_per_second", "speed/model_flop_utilisation"},
    "Gradients": {"gradient_norm/total"},
    "StepTiming": {f"step_seconds/{p}" for p in ("data", "forward", "backward", "optimizer")},
    "MemoryUse": {"memory/process_gib"},
}
KNOWN_CALLBACKS = ("vitfw.", "lightning.")  # those of others may log anything
LESS_IS_BETTER = ("loss", "seconds", "params", "flops", "memory", "latency", "error")


def known_metrics(method: str, averaged: bool, callbacks: Collection[str] = ()) -> set[str]:
    """What a run of a method measures; empty where the method or a callback is not ours.

    `method` and `callbacks` are their `_target_`; `averaged`: there is a second set of weights,
    and `val_raw/…`.
    """
    logged = LOGGED.get(method.rpartition(".")[2])
    if logged is None or any(not each.startswith(KNOWN_CALLBACKS) for each in callbacks):
        return set()
    known = AT_THE_END | TRAINING | {f"val/{name}" for name in logged}
    for each in callbacks:
        known |= LOGGED_BESIDE.get(each.rpartition(".")[2], set())
    if "accuracy" in logged:
        known |= {BEST} | {f"train/{name}" for name in ACCURACIES}
    if averaged and method.endswith("Classifier"):
        known |= {f"val_raw/{name}" for name in logged}
    return known


def check_metrics(metrics: Sequence[str], known: set[str]) -> None:
    """Raises ConfigError: there is none, one is of the test set, or nothing measures it."""
    if not metrics:
        raise ConfigError(f"hydra.sweeper.metric is empty: give one, such as {BEST}")
    for metric in metrics:
        if metric.startswith("test/"):
            raise ConfigError(
                f"hydra.sweeper.metric={metric}: a search must not choose on the test set; "
                f"use val/{metric.removeprefix('test/')} or {BEST}"
            )
        if known and metric not in known:
            hint = nearest(metric, known) or f"; known: {', '.join(sorted(known))}"
            raise ConfigError(
                f"hydra.sweeper.metric={metric} is never logged by this run, or nothing to search "
                f"for{hint}"
            )


def less_is_better(metric: str) -> bool:
    """Of losses, errors, seconds, sizes and memory."""
    return any(word in metric for word in LESS_IS_BETTER) or metric in ("epochs", "steps")


def direction_of(metric: str) -> str:
    return MINIMIZE if less_is_better(metric) else MAXIMIZE


def pruning_metric(metric: str) -> str | None:
    """What is known of a metric after each validation; None: nothing."""
    if metric == BEST:
        return "val/accuracy"
    return metric if metric.startswith(("val/", "val_raw/")) else None


def objective_of(folder: Path, metrics: Mapping[str, Any], metric: str, direction: str) -> float:
    """The metric of a finished run.

    Raises:
        LookupError: the run has not measured it, or it is not finite.
    """
    value = metrics.get(metric)
    if value is None:
        values = column(folder / "metrics.csv", pruning_metric(metric) or metric)
        finite = [value for value in values if math.isfinite(value)]
        if not finite:
            state = "never a finite number" if values else "not measured by this run"
            raise LookupError(f"{metric} was {state}")
        most = direction == MAXIMIZE or metric.startswith("memory/")  # what a run needs at most
        return max(finite) if most else min(finite)
    if not math.isfinite(value):
        raise LookupError(f"{metric} is {value}")
    return float(value)


def column(path: Path, name: str) -> list[float]:
    """What `metrics.csv` has of a metric."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as source:
        return [float(row[name]) for row in csv.DictReader(source) if row.get(name)]


def finished_metrics(folder: Path) -> dict[str, Any] | None:
    """`metrics.json` of a run that came to its end."""
    path = folder / "metrics.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
