"""Where the time of a training step goes."""

import time
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import Tensor

from vitfw.callbacks.after_validation import after_validation
from vitfw.callbacks.logging_steps import log_scalars, logs_after

PHASES = ("data", "forward", "backward", "optimizer")
Moment = Any  # seconds on a CPU, an event in a GPU's queue


class StepTiming(L.Callback):
    """Logs `step_seconds/{data,forward,backward,optimizer}`, means over the steps since the last.

    `data` is waiting for a batch, bringing it to the device and augmenting it there; `forward`
    goes up to the loss and takes the gradients of the step before away; `optimizer` clips, moves
    and averages the weights. What other callbacks do between two steps is in `data`. The batches
    of an accumulated step add up, and so do the two passes of SAM, whose way uphill is in
    `forward`.

    Left out: validation and what is drawn and saved after it, the batch after a checkpoint, and the
    first step after each start, in which kernels are chosen and code is compiled.

    On a GPU the phases are told apart by events in its own queue, so that no step waits for it.
    On accelerators other than CUDA nothing is logged: the host's clock does not see their work.
    """

    def __init__(self) -> None:
        self._now: Callable[[], Moment] | None = None
        self._mark: Moment | None = None
        self._spans: list[tuple[str, Moment, Moment]] = []
        self._steps_before = 0  # as the interval began
        self._warm = False
        self._due = False

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        after_validation(trainer, self._set_mark)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._now = {"cpu": time.perf_counter, "cuda": event}.get(pl_module.device.type)
        self._mark, self._spans, self._due = None, [], False
        self._steps_before, self._warm = trainer.global_step, False

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._set_mark()

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._mark = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._ends("data")
        self._due |= logs_after(trainer, batch_idx)

    def on_before_backward(
        self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor
    ) -> None:
        self._ends("forward")

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._ends("backward")

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self._ends("optimizer")
        if trainer.fit_loop._should_accumulate():  # a step is told when it is whole
            return
        steps = trainer.global_step - self._steps_before
        if not self._warm and steps:
            self._warm, self._steps_before = True, trainer.global_step
        elif self._due and steps and self._spans:
            seconds = self._take_spans()
            log_scalars(trainer, {f"step_seconds/{p}": seconds[p] / steps for p in PHASES})
            self._steps_before, self._due = trainer.global_step, False

    def _set_mark(self) -> None:
        self._mark = self._now() if self._now else None

    def _ends(self, phase: str) -> None:
        """A phase ends here, and the next one begins."""
        before = self._mark
        self._set_mark()
        if self._warm and before is not None:
            self._spans.append((phase, before, self._mark))

    def _take_spans(self) -> dict[str, float]:
        """Seconds in each phase since the last time."""
        seconds = dict.fromkeys(PHASES, 0.0)
        for phase, begin, end in reversed(self._spans):  # once the last is over, all are
            seconds[phase] += seconds_between(begin, end)
        self._spans = []
        return seconds


def event() -> torch.cuda.Event:
    """This place in the GPU's queue."""
    here = torch.cuda.Event(enable_timing=True)
    here.record()
    return here


def seconds_between(begin: Moment, end: Moment) -> float:
    """Waits until the GPU has come to `end`."""
    if isinstance(begin, float):
        return end - begin
    end.synchronize()
    return begin.elapsed_time(end) / 1e3
