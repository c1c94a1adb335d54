"""`last.ckpt`: where a run that was stopped goes on."""

import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from vitfw.callbacks.csv_logger import CsvLogger
from vitfw.console import log

GRADIENTS = "gradients"  # their key in a checkpoint


class LastCheckpoint(L.Callback):
    """Save at the end of every epoch, every `every_n_steps` steps, and when asked to stop.

    SIGTERM and the first Ctrl-C let the current batch or validation end, save, and stop; a second
    Ctrl-C stops at once. A run whose last save is younger than `min_seconds` skips the save at an
    epoch's end, unless it is the last one.

    Where gradients are being accumulated, those gathered so far are saved as well. Several
    processes save the mean of theirs, which is what they would have come to.
    """

    def __init__(self, dirpath: str, every_n_steps: int = 1000, min_seconds: float = 10.0):
        self.path = Path(dirpath) / "last.ckpt"
        self.every_n_steps = every_n_steps
        self.min_seconds = min_seconds
        self.interrupted = False
        self._saved_at = 0.0
        self._old_handler: Any = None
        self._gradients: dict[str, Tensor] = {}
        self._held = False  # a stop, until the end of the validation
        self._due = False

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.fit_loop._should_accumulate():
            checkpoint[GRADIENTS] = {
                name: trainer.strategy.reduce(parameter.grad.clone(), reduce_op="mean")
                for name, parameter in pl_module.named_parameters()
                if parameter.grad is not None
            }

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self._gradients = checkpoint.get(GRADIENTS, {})

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for name, gradient in self._gradients.items():
            parameter = pl_module.get_parameter(name)
            parameter.grad = gradient.to(parameter.device)
        self._gradients = {}
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
        loop = trainer.fit_loop
        if loop._should_accumulate():
            return
        self._due |= trainer.global_step > 0 and trainer.global_step % self.every_n_steps == 0
        # A run that goes on from just before a validation would leave it out: save a step later.
        assert loop._data_fetcher is not None
        validates = loop.epoch_loop._should_check_val_fx(loop._data_fetcher)
        at_epoch_end = batch_idx + 1 == trainer.num_training_batches
        if self._due and not validates and not at_epoch_end:
            self._save(trainer)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        # Lightning would stop here, and the run that goes on would not validate these weights.
        if not trainer.received_sigterm or trainer.sanity_checking:
            return
        trainer._signal_connector.received_sigterm = False
        self._held = True
        if trainer.world_size == 1:
            self._save(trainer)  # in case that whoever stops us does not wait for the end

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._held:
            trainer._signal_connector.received_sigterm = True
            self._held = False

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
        training = trainer.state.fn == TrainerFn.FITTING  # a test has loaded other weights
        if isinstance(exception, SIGTERMException) and training and trainer.global_step > 0:
            self._save(trainer)

    def _restore_handler(self) -> None:
        if self._old_handler is not None:
            signal.signal(signal.SIGINT, self._old_handler)
            self._old_handler = None

    def _save(self, trainer: L.Trainer) -> None:
        self._due = False
        for logger in trainer.loggers:
            if isinstance(logger, CsvLogger):
                logger.write()  # before: rows of steps that are done again are dropped
        trainer.save_checkpoint(self.path)
        self._saved_at = time.monotonic()
