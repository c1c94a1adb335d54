"""Smith's range test: the learning rate rises step by step, and the loss tells where it is useful.

Smith 2017, "Cyclical learning rates for training neural networks", §3.3, with a rate that rises
exponentially.
"""

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import lightning as L
import numpy as np
import torch
from rich.progress import Progress, TaskID
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from vitfw.console import progress_bars

LEAST_STEPS = 20
STEEPEST, DIVERGENCE = "steepest descent", "a tenth of divergence"


def rate_at(step: int, steps: int, lowest: float, highest: float) -> float:
    """From `lowest` at the first step to `highest` at the last."""
    return lowest * (highest / lowest) ** (step / max(steps - 1, 1))


def exponential_rise(
    optimizer: Optimizer, total_steps: int, steps_per_epoch: int, lowest: float, highest: float
) -> LambdaLR:
    """A schedule of factors on the rates that the groups of `optimizer` have."""
    return LambdaLR(optimizer, partial(rate_at, steps=total_steps, lowest=lowest, highest=highest))


@dataclass
class Findings:
    """Rates tried and the losses met there, one a step, and what can be read from them.

    `diverged_at` is the rate at which the smoothed loss was `stop_factor` times its lowest or no
    number any more; None where that did not happen.
    """

    rates: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    smoothed: list[float] = field(default_factory=list)
    diverged_at: float | None = None

    def add(self, rate: float, loss: float, smoothing: float, stop_factor: float) -> None:
        """Take a step in; the running mean is corrected for its start, as Adam's are."""
        if not math.isfinite(loss):
            self.diverged_at = rate
            return
        count = len(self.losses)
        before = self.smoothed[-1] * (1 - smoothing**count) if count else 0.0
        mean = (smoothing * before + (1 - smoothing) * loss) / (1 - smoothing ** (count + 1))
        self.rates.append(rate)
        self.losses.append(loss)
        self.smoothed.append(mean)
        if mean >= stop_factor * min(self.smoothed):
            self.diverged_at = rate

    @property
    def steepest(self) -> float | None:
        """The rate at which the loss falls fastest over the logarithm of the rate.

        It is the middle of the window, an eighth of the test wide, through which the straight line
        of least squares falls most; only up to the lowest smoothed loss, for what falls later comes
        back from a hump. None where the fall is less than twice the scatter about the line: noise.
        """
        width = max(len(self.rates) // 8, 5)
        falling = int(np.argmin(self.smoothed)) + 1 if self.smoothed else 0
        if falling < width:
            return None
        x, y = np.log10(self.rates[:falling]), np.array(self.losses[:falling])
        fits = [window_fit(x[i : i + width], y[i : i + width]) for i in range(len(x) - width + 1)]
        best = min(range(len(fits)), key=lambda i: fits[i].slope)
        span = x[best + width - 1] - x[best]
        if -fits[best].slope * span < max(2 * fits[best].scatter, 1e-12):
            return None
        return float(10 ** x[best : best + width].mean())

    @property
    def suggestion(self) -> tuple[float, str] | None:
        """The smaller of the two rules, and its name; None where neither says anything."""
        rules = [(self.steepest, STEEPEST)]
        if self.diverged_at is not None:
            rules.append((self.diverged_at / 10, DIVERGENCE))
        found = [(rate, name) for rate, name in rules if rate is not None]
        return min(found, default=None)


@dataclass(frozen=True)
class Fit:
    slope: float
    scatter: float


def window_fit(x: np.ndarray, y: np.ndarray) -> Fit:
    """The straight line of least squares: its slope, and the deviation of `y` from it."""
    slope, at_zero = np.polyfit(x, y, 1)
    return Fit(float(slope), float(np.std(y - slope * x - at_zero)))


class LRRangeTest(L.Callback):
    """Gathers the loss of every optimizer step into `findings`; stops where the loss diverges.

    The schedule is `exponential_rise` with the same rates, over `trainer.max_steps`.
    """

    def __init__(
        self,
        steps: int,
        min_lr: float,
        max_lr: float,
        stop_factor: float = 4.0,
        smoothing: float = 0.9,
    ):
        self.rate_at = partial(rate_at, steps=steps, lowest=min_lr, highest=max_lr)
        self.steps = steps
        self.stop_factor = stop_factor
        self.smoothing = smoothing
        self.findings = Findings()
        self._step = 0
        self._loss = torch.zeros(())
        self._bar: tuple[Progress, TaskID] | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            bars = progress_bars()
            self._bar = bars, bars.add_task("range test", total=self.steps, rate="")
            bars.start()

    def on_before_backward(
        self, trainer: L.Trainer, pl_module: L.LightningModule, loss: torch.Tensor
    ) -> None:
        """Add the loss of a batch, a share where batches are accumulated; SAM's first look only."""
        if getattr(pl_module, "repeated", False):
            return
        scaler = getattr(trainer.precision_plugin, "scaler", None)  # of 16-mixed
        scale = 1.0 if scaler is None else scaler.get_scale()
        self._loss = self._loss + loss.detach().float() / scale

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if trainer.global_step == self._step:
            return
        loss = float(trainer.strategy.reduce(self._loss, reduce_op="mean"))
        rate, self._loss = self.rate_at(self._step), torch.zeros(())
        self._step = trainer.global_step
        self.findings.add(rate, loss, self.smoothing, self.stop_factor)
        if self.findings.diverged_at is not None:
            trainer.should_stop = True
        if self._bar is not None:
            bars, task = self._bar
            bars.update(task, advance=1, description=f"lr {rate:.1e}", rate=f"loss {loss:.4g}")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._close()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar[0].stop()
            self._bar = None
