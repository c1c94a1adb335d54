"""What training through the Trainer costs over a bare loop: the same net, data and optimizer.

    python benchmarks/step_overhead.py

Both train in this one process, in turns, so that a noisy machine hits both alike. The bare loop
has what no training can do without: batches from the same loader, the forward pass under
autocast, backward, the optimizer step. Everything else is the framework's: callbacks, metrics,
logging, schedule, progress. Prints the ratio of images per second and stores it as JSON.
"""

import argparse
import json
import logging
import statistics
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import lightning as L
import torch

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
from vitfw.environment import device_name, git_commit, versions

RESULTS = Path(__file__).parent / "results"
USUAL = ["model=vit_mini4_conv", "data=fake", "data.native_size=28", "data.num_images=8000"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=40, help="timed steps a turn")
    parser.add_argument("--turns", type=int, default=5, help="how often each is timed")
    parser.add_argument("overrides", nargs="*", help="of the train config; default: a small ViT")
    options = parser.parse_args()
    prepare_process()
    log.setLevel(logging.WARNING)  # its lines would stand between ours
    nowhere = f"run_dir={Path(tempfile.gettempdir()) / 'not-written'}"
    cfg = to_plain(compose("train", [*(options.overrides or USUAL), nowhere]))
    bare, framework = [], []
    for turn in range(options.turns + 1):
        rates = (time_bare(cfg, options.steps), time_framework(cfg, options.steps))
        if turn:  # the first turn of each warms up
            bare.append(rates[0])
            framework.append(rates[1])
            console.print(f"bare {rates[0]:,.0f} img/s, Trainer {rates[1]:,.0f} img/s")
    ratios = [b / a for a, b in zip(bare, framework, strict=True)]
    result = {
        "what": "images/s through the Trainer over images/s of a bare loop",
        "ratio_median": round(statistics.median(ratios), 4),
        "ratios": [round(ratio, 4) for ratio in ratios],
        "bare_images_per_second": [round(rate, 1) for rate in bare],
        "trainer_images_per_second": [round(rate, 1) for rate in framework],
        "overrides": options.overrides or USUAL,
        "batch_size": cfg["data"]["batch_size"],
        "device": device_name(device_of(cfg)),
        "date": date.today().isoformat(),
        "git_commit": git_commit(),
        "versions": versions(),
    }
    RESULTS.mkdir(exist_ok=True)
    kind = device_of(cfg).type
    (RESULTS / f"step_overhead_{kind}.json").write_text(json.dumps(result, indent=2) + "\n")
    console.print(f"median ratio {result['ratio_median']:.3f}; stored in {RESULTS}")
    return 0


def device_of(cfg: dict[str, Any]) -> torch.device:
    return torch.device(resolve_trainer(cfg["trainer"])["accelerator"])


def fresh(cfg: dict[str, Any], steps: int) -> tuple[ImageData, Any, dict[str, Any]]:
    """Data, classifier and trainer options, from the same seed for both."""
    L.seed_everything(cfg["seed"], verbose=False)
    data = build_data(cfg)
    trainer_options = resolve_trainer(cfg["trainer"])
    trainer_options |= {"max_epochs": 1, "limit_train_batches": steps, "limit_val_batches": 0}
    return data, build_classifier(cfg, data, trainer_options), trainer_options


def time_bare(cfg: dict[str, Any], steps: int) -> float:
    """Images per second of the loop that a person would write by hand."""
    data, classifier, trainer_options = fresh(cfg, steps)
    device = device_of(cfg)
    net = classifier.net.to(device).train()
    optimizer = classifier.make_optimizer(net)
    low = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
    dtype = low.get(trainer_options["precision"])
    images_seen, began = 0, time.perf_counter()
    for step, raw in enumerate(data.train_dataloader()):
        if step == steps:
            break
        raw = type(raw)(*(tensor.to(device) for tensor in raw))
        images, labels = data.prepare_training(raw)
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            loss = classifier.loss(net(images).float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        images_seen += len(labels)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return images_seen / (time.perf_counter() - began)


class StepClock(L.Callback):
    """Seconds from the start of the first step to the end of the last."""

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.began = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds = time.perf_counter() - self.began


def time_framework(cfg: dict[str, Any], steps: int) -> float:
    """Images per second of `vitfw train` with its usual callbacks and loggers."""
    data, classifier, trainer_options = fresh(cfg, steps)
    clock = StepClock()
    kept = {
        name: node
        for name, node in cfg["callbacks"].items()
        if name not in ("best", "last")  # they act at the end of an epoch, past the timed steps
    }
    with tempfile.TemporaryDirectory() as folder:
        trainer: L.Trainer = build(
            trainer_options,
            default_root_dir=folder,
            callbacks=[clock, *build_each(kept).values()],
            logger=list(build_each(cfg["logger"]).values()),
            enable_checkpointing=False,
            enable_model_summary=False,
        )
        trainer.fit(classifier, datamodule=data)
    return steps * cfg["data"]["batch_size"] / clock.seconds


if __name__ == "__main__":
    sys.exit(main())
