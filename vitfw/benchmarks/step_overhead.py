"""What training through the Trainer costs over a bare loop: the same net, data and optimizer.

Both train in this one process, a few steps in turns, so that a noisy machine hits both alike. The
bare loop has what no training can do without: batches from the same loader, the forward pass under
autocast, backward, the optimizer step. Everything else is the framework's: callbacks, metrics,
logging, schedule, progress.
"""

import itertools
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from rich.table import Table

from vitfw.assemble import (
    build_data,
    build_each,
    build_learner,
    build_net,
    build_trainer,
    resolve_trainer,
)
from vitfw.benchmarks.turns import median_ratio, now
from vitfw.config import compose, to_plain
from vitfw.console import log
from vitfw.data.classification_data import ClassificationData
from vitfw.data.images import ArrayImages
from vitfw.data.loaders import RawBatch, ResidentLoader, StatefulLoader
from vitfw.training.precision import AUTOCAST

RESULT = "step_overhead"


def measure(
    device: torch.device, turns: int, steps: int, overrides: Sequence[str]
) -> dict[str, Any]:
    """Images/s of `vitfw train` with `overrides` and of the bare loop, and their ratio.

    Raises:
        ConfigError: the overrides make no training.
    """
    with tempfile.TemporaryDirectory() as folder, quiet():
        asked = [*overrides, f"trainer.accelerator={device.type}", f"run_dir='{folder}'"]
        cfg = to_plain(compose("train", asked))
        seconds = train_in_turns(cfg, device, turns + 1, steps)[1:]  # the first warms up
    images = steps * cfg["data"]["batch_size"] * len(seconds)
    bare, framework = (images / sum(side) for side in zip(*seconds, strict=True))
    return {
        "what": "images/s through the Trainer over images/s of a bare loop",
        "ratio": round(framework / bare, 4),
        "ratio_median_of_turns": round(median_ratio(*zip(*seconds, strict=True)), 4),
        "bare_images_per_second": round(bare, 1),
        "trainer_images_per_second": round(framework, 1),
        "turns": len(seconds),
        "steps_per_turn": steps,
        "overrides": list(overrides),
        "batch_size": cfg["data"]["batch_size"],
    }


def table(figures: dict[str, Any]) -> Table:
    table = Table("", "images / s", "ratio", "median of turns")
    table.add_row("bare loop", f"{figures['bare_images_per_second']:,.0f}", "", "")
    ratios = (figures["ratio"], figures["ratio_median_of_turns"])
    speed = f"{figures['trainer_images_per_second']:,.0f}"
    table.add_row("Trainer", speed, *(f"{ratio:.3f}" for ratio in ratios))
    return table


@contextmanager
def quiet() -> Iterator[None]:
    """Without the lines of a training, which would stand between ours."""
    before = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(before)


def fresh(cfg: dict[str, Any], steps: int) -> tuple[ClassificationData, Any, dict[str, Any]]:
    """Data, classifier and trainer options, from the same seed for both."""
    L.seed_everything(cfg["seed"], verbose=False)
    data = build_data(cfg)
    trainer_options = resolve_trainer(cfg["trainer"])
    trainer_options |= {"max_epochs": None, "max_steps": steps, "limit_val_batches": 0}
    return data, build_learner(cfg, build_net(cfg), data, trainer_options), trainer_options


def bare_loop(cfg: dict[str, Any], device: torch.device, steps: int) -> Iterator[None]:
    """The loop that a person would write by hand; one step each time it is asked."""
    data, classifier, trainer_options = fresh(cfg, steps)
    net = classifier.net.to(device).train()
    optimizer = classifier.make_optimizer(net)
    dtype = AUTOCAST.get(trainer_options["precision"])
    loader = on_device(data.train_dataloader(), device)
    for epoch in itertools.count():
        loader.sampler.set_epoch(epoch)
        for raw in loader:
            images, labels, keys = (part.to(device, non_blocking=True) for part in raw[:3])
            batch = RawBatch(images, labels, keys, raw.step)
            images, labels = data.prepare_training(batch)
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                loss = classifier.loss(net(images).float(), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield


def on_device(loader: StatefulLoader, device: torch.device) -> StatefulLoader:
    """What is held in memory, held where the Trainer would hold it."""
    if not isinstance(loader, ResidentLoader):
        return loader
    data = ArrayImages(loader.data.images.to(device), loader.data.labels.to(device))
    return ResidentLoader(data, loader.sampler, device)


class Turns(L.Callback):
    """After every few steps of the Trainer, as many of the bare loop; seconds of each."""

    def __init__(self, bare: Iterator[None], steps: int):
        self.bare = bare
        self.steps = steps
        self.seconds: list[tuple[float, float]] = []
        self._began = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._began = now(pl_module.device)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if trainer.global_step % self.steps:
            return
        framework = now(pl_module.device) - self._began
        began = now(pl_module.device)
        for _ in range(self.steps):
            next(self.bare)
        self._began = now(pl_module.device)
        self.seconds.append((self._began - began, framework))


def train_in_turns(
    cfg: dict[str, Any], device: torch.device, turns: int, steps: int
) -> list[tuple[float, float]]:
    """Seconds of `steps` steps of the bare loop and of `vitfw train`, turn by turn."""
    data, classifier, trainer_options = fresh(cfg, turns * steps)
    watch = Turns(bare_loop(cfg, device, turns * steps), steps)
    kept = {
        name: node
        for name, node in cfg["callbacks"].items()
        if name not in ("best", "last")  # they write at the end of an epoch, not in a step
    }
    trainer = build_trainer(
        trainer_options,
        default_root_dir=cfg["run_dir"],
        callbacks=[*build_each(kept).values(), watch],
        logger=list(build_each(cfg["logger"]).values()),
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(classifier, datamodule=data)
    return watch.seconds
