"""The figures of a run: the test, what `metrics.json` holds, and what the run ran on."""

import platform
from collections.abc import Mapping
from typing import Any

import lightning as L
import torch

from vitfw.callbacks.throughput import Throughput
from vitfw.environment import device_name, git_commit, versions
from vitfw.finish.run import Run
from vitfw.memory import most_resident_bytes, total_memory
from vitfw.models.profile import count_flops, count_parameters, count_trained_parameters

Metrics = dict[str, Any]


def measure_best(run: Run) -> Metrics:
    """Metrics on the test set, the one time it is read: of best.ckpt, or what there is instead."""
    saved = run.directory.best_checkpoint, run.directory.last_checkpoint
    there = [str(path) for path in saved if path.is_file()]
    # None: the weights in memory
    path = run.trainer.strategy.broadcast(there[0] if there else None)
    found = run.trainer.test(run.learner, datamodule=run.data, ckpt_path=path, verbose=False)
    return dict(found[0]) if found else {}  # limit_test_batches=0


def gather_metrics(
    run: Run, tested: Metrics, best: float | None, epochs: int, steps: int
) -> Metrics:
    """What `metrics.json` holds. Accuracies are fractions of 1; null where nothing was measured."""
    throughput = run.callbacks.get("throughput")
    timed = isinstance(throughput, Throughput)
    shape = (run.data.channels, *run.data.img_size)
    return {
        "test/accuracy": tested.get("test/accuracy"),
        "test/accuracy_top5": tested.get("test/accuracy_top5"),
        "test/loss": tested.get("test/loss"),
        "val/accuracy_best": best,
        "fit_seconds": round(throughput.total_seconds(), 3) if timed else None,
        "epochs": epochs,
        "steps": steps,
        "train/images_per_second": rounded(throughput.images_per_second) if timed else None,
        "params": count_parameters(run.learner.net),
        "params_trained": count_trained_parameters(run.learner),
        "flops_per_image": count_flops(run.learner.net, shape),
        "device": device_name(run.trainer.strategy.root_device),
        "precision": run.trainer.precision,
        "seed": run.cfg["seed"],
        "pruned": run.pruned,
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


def environment_of(trainer: L.Trainer) -> dict[str, Any]:
    """What the run ran on, for people; memory as of now, in this process."""
    device = trainer.strategy.root_device
    taken = {"process memory, at most": in_gib(most_resident_bytes())}
    if device.type == "cuda":
        taken["GPU memory, at most"] = in_gib(torch.cuda.max_memory_allocated(device))
    return {
        "device": device_name(device),
        "memory of the device" if device.type == "cuda" else "memory": in_gib(total_memory(device)),
        **taken,
        "processes": trainer.world_size,
        "precision": trainer.precision,
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "git commit": git_commit(),
        **versions(),
    }


def in_gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
