"""What training through the Trainer costs over a bare loop: the same net, data and optimizer.

    python benchmarks/step_overhead.py

Both train in this one process, a few steps in turns, so that a noisy machine hits both alike. The
bare loop has what no training can do without: batches from the same loader, the forward pass under
autocast, backward, the optimizer step. Everything else is the framework's: callbacks, metrics,
logging, schedule, progress. Prints the ratio of images per second and stores it as JSON.
"""

import argparse
import itertools
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import lightning as L
import torch
from record import store

from vitfw.assemble import (
    build_classifier,
    build_data,
    build_each,
    prepare_process,
    resolve_trainer,
)
from vitfw.config import build, compose, to_plain
from vitfw.console import console, log
from vitfw.data.datamodule import ImageData

USUAL = ["model=vit_mini4_conv", "data=fake", "data.native_size=28", "data.num_images=8000"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=24, help="how often the two take turns")
    parser.add_argument("--steps", type=int, default=5, help="steps a turn")
    parser.add_argument("overrides", nargs="*", help="of the train config; default: a small ViT")
    options = parser.parse_args()
    prepare_process()
    log.setLevel(logging.WARNING)  # its lines would stand between ours
    with tempfile.TemporaryDirectory() as folder:
        cfg = to_plain(compose("train", [*(options.overrides or USUAL), f"run_dir={folder}"]))
        turns = take_turns(cfg, options.turns + 1, options.steps)[1:]  # the first warms up
    images = options.steps * cfg["data"]["batch_size"] * len(turns)
    bare, framework = (images / sum(seconds) for seconds in zip(*turns, strict=True))
    ratios = [bare_seconds / seconds for bare_seconds, seconds in turns]
    result = {
        "what": "images/s through the Trainer over images/s of a bare loop",
        "ratio": round(framework / bare, 4),
        "ratio_median_of_turns": round(statistics.median(ratios), 4),
        "bare_images_per_second": round(bare, 1),
        "trainer_images_per_second": round(framework, 1),
        "turns": len(turns),
        "steps_per_turn": options.steps,
        "overrides": options.overrides or USUAL,
        "batch_size": cfg["data"]["batch_size"],
    }
    store("step_overhead", result, device_of(cfg))
    console.print(f"bare {bare:,.0f} img/s, Trainer {framework:,.0f} img/s")
    console.print(f"ratio {result['ratio']:.3f}, median of turns {statistics.median(ratios):.3f}")
    return 0


def device_of(cfg: dict[str, Any]) -> torch.device:
    return torch.device(resolve_trainer(cfg["trainer"])["accelerator"])


def fresh(cfg: dict[str, Any], steps: int) -> tuple[ImageData, Any, dict[str, Any]]:
    """Data, classifier and trainer options, from the same seed for both."""
    L.seed_everything(cfg["seed"], verbose=False)
    data = build_data(cfg)
    trainer_options = resolve_trainer(cfg["trainer"])
    trainer_options |= {"max_epochs": None, "max_steps": steps, "limit_val_batches": 0}
    return data, build_classifier(cfg, data, trainer_options), trainer_options


def bare_loop(cfg: dict[str, Any], steps: int) -> Iterator[None]:
    """The loop that a person would write by hand; one step each time it is asked."""
    data, classifier, trainer_options = fresh(cfg, steps)
    device = device_of(cfg)
    net = classifier.net.to(device).train()
    optimizer = classifier.make_optimizer(net)
    low = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
    dtype = low.get(trainer_options["precision"])
    for _ in itertools.count():
        for raw in data.train_dataloader():
            batch = type(raw)(*(tensor.to(device) for tensor in raw))
            images, labels = data.prepare_training(batch)
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                loss = classifier.loss(net(images).float(), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield


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


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def take_turns(cfg: dict[str, Any], turns: int, steps: int) -> list[tuple[float, float]]:
    """Seconds of `steps` steps of the bare loop and of `vitfw train`, turn by turn."""
    data, classifier, trainer_options = fresh(cfg, turns * steps)
    watch = Turns(bare_loop(cfg, turns * steps), steps)
    kept = {
        name: node
        for name, node in cfg["callbacks"].items()
        if name not in ("best", "last")  # they write at the end of an epoch, not in a step
    }
    trainer: L.Trainer = build(
        trainer_options,
        default_root_dir=cfg["run_dir"],
        callbacks=[*build_each(kept).values(), watch],
        logger=list(build_each(cfg["logger"]).values()),
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(classifier, datamodule=data)
    return watch.seconds


if __name__ == "__main__":
    sys.exit(main())
