"""`last.ckpt`: where a run that was stopped goes on."""

import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.utilities.exceptions import SIGTERMException

from vitfw.console import log


class LastCheckpoint(L.Callback):
    """Save at the end of every epoch, every `every_n_steps` steps, and when asked to stop.

    SIGTERM and the first Ctrl-C let the current batch end, save, and stop; a second Ctrl-C stops
    at once. A run whose last save is younger than `min_seconds` skips the save at an epoch's end,
    unless it is the last one.
    """

    def __init__(self, dirpath: str, every_n_steps: int = 1000, min_seconds: float = 10.0):
        self.path = Path(dirpath) / "last.ckpt"
        self.every_n_steps = every_n_steps
        self.min_seconds = min_seconds
        self.interrupted = False
        self._saved_at = 0.0
        self._old_handler: Any = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Not earlier: Lightning puts back the handlers it found just before this.
        try:
            self._old_handler = signal.signal(signal.SIGINT, self._on_interrupt)
        except ValueError:  # not the main thread: leave signals to whoever runs us
            self._old_handler = None

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        self.interrupted = True
        signal.signal(signal.SIGINT, self._old_handler)
        log.info("stopping after this batch; Ctrl-C again stops at once, without saving")
        signal.raise_signal(signal.SIGTERM)  # Lightning stops all processes at the same batch

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        at_epoch_end = batch_idx + 1 == trainer.num_training_batches
        accumulating = trainer.fit_loop._should_accumulate()
        due = trainer.global_step > 0 and trainer.global_step % self.every_n_steps == 0
        if due and not at_epoch_end and not accumulating:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        out_of_steps = 0 < trainer.max_steps <= trainer.global_step
        out_of_epochs = trainer.current_epoch + 1 == trainer.max_epochs
        # Every process must come to the same answer, so the clock of the first one decides.
        young = time.monotonic() - self._saved_at < self.min_seconds
        last = out_of_steps or out_of_epochs or trainer.should_stop
        if last or not trainer.strategy.broadcast(young):
            self._save(trainer)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._restore_handler()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        self._restore_handler()
        if isinstance(exception, SIGTERMException) and trainer.global_step > 0:
            self._save(trainer)

    def _restore_handler(self) -> None:
        if self._old_handler is not None:
            signal.signal(signal.SIGINT, self._old_handler)
            self._old_handler = None

    def _save(self, trainer: L.Trainer) -> None:
        trainer.save_checkpoint(self.path)
        self._saved_at = time.monotonic()
