"""What watching a training costs: `callbacks=default` beside `callbacks=essential`.

One training, in one process. Each epoch has a few steps and a validation; in every other one the
callbacks that only watch are taken out, so that a noisy machine hits both alike. They do not touch
what is trained: apart from them, all epochs do the same.

A few per cent more or less are hard to tell apart that way on a shared machine. What is spent in
the watchers' own calls is therefore timed as well, by Lightning's profiler: on a CPU that is their
cost, on a GPU the host's part of it.
"""

import tempfile
from collections.abc import Collection, Sequence
from statistics import mean, median
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.profilers import SimpleProfiler
from rich.table import Table

from vitfw.assemble import (
    build_data,
    build_each,
    build_learner,
    build_net,
    build_trainer,
    resolve_trainer,
)
from vitfw.benchmarks.step_overhead import quiet
from vitfw.benchmarks.turns import now
from vitfw.config import compose, to_plain
from vitfw.errors import ConfigError

RESULT = "monitoring"
LEFT_OUT = ("best", "last")  # they write checkpoints, with either set
HOOKS_OF_A_STEP = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)


class Seconds(NamedTuple):
    """Of the steps of an epoch, and of what follows until the next one begins."""

    steps: float
    validation: float


def measure(
    device: torch.device, turns: int, steps: int, overrides: Sequence[str]
) -> dict[str, Any]:
    """Milliseconds of a step with either set of callbacks; the share spent in the watchers' calls.

    The ratio is that of the sums; `ratios` are those of the turns, in order of size.

    Raises:
        ConfigError: the overrides make no training.
    """
    with tempfile.TemporaryDirectory() as folder, quiet():
        asked = [*overrides, f"trainer.accelerator={device.type}", f"run_dir='{folder}'"]
        cfg = to_plain(compose("train", asked))
        plain = [word for word in asked if not word.startswith("callbacks")]
        essential = to_plain(compose("train", [*plain, "callbacks=essential"]))["callbacks"]
        watch, profiler = train_in_turns(cfg, essential, turns + 1, steps)
    alone, watched = watch.alone[1:], watch.watched[1:]  # the first turn warms up
    ratio = sum(each.steps for each in watched) / sum(each.steps for each in alone)
    ratios = [a.steps / b.steps for a, b in zip(watched, alone, strict=True)]
    in_calls = seconds_in_steps(profiler, watch.watchers) / sum(s.steps for s in watch.watched)
    return {
        "what": "time of a step with callbacks=default over callbacks=essential",
        "ratio": round(ratio, 4),
        "ratios": [round(each, 3) for each in sorted(ratios)],
        "share_in_calls": round(in_calls, 5),
        "essential_milliseconds_per_step": per_step(alone, steps),
        "default_milliseconds_per_step": per_step(watched, steps),
        "essential_validation_seconds": round(median(each.validation for each in alone), 4),
        "default_validation_seconds": round(median(each.validation for each in watched), 4),
        "watchers": [type(each).__name__ for each in watch.watchers],
        "turns": turns,
        "steps_per_turn": steps,
        "log_every_n_steps": cfg["trainer"]["log_every_n_steps"],
        "overrides": list(overrides),
        "batch_size": cfg["data"]["batch_size"],
    }


def per_step(epochs: Sequence[Seconds], steps: int) -> float:
    return round(1e3 * mean(each.steps for each in epochs) / steps, 3)


def table(figures: dict[str, Any]) -> Table:
    table = Table("callbacks", "ms / step", "ratio", "in their calls", "validation, s")
    compared = f"{figures['ratio']:.3f}", f"{figures['share_in_calls']:.2%}"
    for name, cells in (("essential", ("", "")), ("default", compared)):
        milliseconds = f"{figures[f'{name}_milliseconds_per_step']:,.2f}"
        table.add_row(name, milliseconds, *cells, f"{figures[f'{name}_validation_seconds']:,.2f}")
    return table


class TakeTurns(L.Callback):
    """Takes `watchers` out of the trainer in half of the epochs, and times all of them.

    In the first turn the epoch without them is first, in the next one the epoch with them, and so
    on: what a callback does every other epoch is seen, too. It must be the first of the callbacks.
    """

    def __init__(self, watchers: Sequence[L.Callback]):
        self.watchers = watchers
        self.alone: list[Seconds] = []
        self.watched: list[Seconds] = []
        self._all: list[L.Callback] = []
        self._side = self.alone
        self._began = self._stepped = 0.0

    def on_train_start(self, trainer: Any, pl_module: L.LightningModule) -> None:
        self._all = trainer.callbacks
        self._choose(trainer, 0)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._began, self._stepped = self._note(pl_module), 0.0
        self._side = self.watched if is_watched(trainer.current_epoch) else self.alone

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stepped = now(pl_module.device)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stepped = self._stepped or now(pl_module.device)  # without validation images
        self._choose(trainer, trainer.current_epoch + 1)

    def on_train_end(self, trainer: Any, pl_module: L.LightningModule) -> None:
        self._note(pl_module)
        trainer.callbacks = self._all

    def _note(self, pl_module: L.LightningModule) -> float:
        """The time now; where an epoch is over, its seconds are kept."""
        end = now(pl_module.device)
        if self._stepped:
            self._side.append(Seconds(self._stepped - self._began, end - self._stepped))
        return end

    def _choose(self, trainer: Any, epoch: int) -> None:
        """The callbacks of that epoch: a new list, since the old one is being called through."""
        out = () if is_watched(epoch) else self.watchers
        trainer.callbacks = [each for each in self._all if each not in out]


def is_watched(epoch: int) -> bool:
    """Without, with; with, without; and so on."""
    return epoch % 4 in (1, 2)


def train_in_turns(
    cfg: dict[str, Any], essential: Collection[str], turns: int, steps: int
) -> tuple[TakeTurns, SimpleProfiler]:
    """A training of two epochs of `steps` steps a turn, the watchers in one of them.

    Raises:
        ConfigError: an epoch has fewer steps.
    """
    L.seed_everything(cfg["seed"], verbose=False)
    data = build_data(cfg)
    if (there := data.steps_per_epoch(1)) < steps:
        raise ConfigError(
            f"monitoring.steps={steps}: an epoch has {there} of them; choose "
            f"monitoring.steps={there}, or more images"
        )
    trainer_options = resolve_trainer(cfg["trainer"])
    trainer_options |= {"max_epochs": 2 * turns, "max_steps": -1, "limit_train_batches": steps}
    trainer_options |= {"check_val_every_n_epoch": 1, "val_check_interval": 1.0}
    learner = build_learner(cfg, build_net(cfg), data, trainer_options)
    callbacks = build_each({k: v for k, v in cfg["callbacks"].items() if k not in LEFT_OUT})
    watch = TakeTurns([each for name, each in callbacks.items() if name not in essential])
    profiler = SimpleProfiler()
    trainer = build_trainer(
        trainer_options,
        profiler=profiler,
        default_root_dir=cfg["run_dir"],
        callbacks=[watch, *callbacks.values()],
        logger=list(build_each(cfg["logger"]).values()),
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(learner, datamodule=data)
    return watch, profiler


def seconds_in_steps(profiler: SimpleProfiler, watchers: Sequence[L.Callback]) -> float:
    """What the watchers' calls took within steps, in all epochs."""
    calls = {f"[Callback]{each.state_key}.{hook}" for each in watchers for hook in HOOKS_OF_A_STEP}
    return sum(sum(profiler.recorded_durations.get(call, ())) for call in calls)
