"""Where a run was when something ended it."""

import traceback
from pathlib import Path

import lightning as L
from lightning.pytorch.trainer.states import RunningStage, TrainerFn

READER = Path("loops", "fetchers.py")  # Lightning's file from which batches are asked for


class Whereabouts(L.Callback):
    """`place`, in words, where the trainer was when an error or a signal ended what it did.

    Lightning forgets its stage before the error reaches whoever called it.
    """

    def __init__(self) -> None:
        self.place = ""

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        reading = was_reading(exception)
        self.place = place_of(trainer, reading) + (", reading a batch" if reading else "")


def was_reading(error: BaseException) -> bool:
    """Whether it came out of the data loader."""
    files = (Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__))
    return any(file.parts[-2:] == READER.parts for file in files)


def place_of(trainer: L.Trainer, reading: bool = False) -> str:
    """`training, epoch 3 of 8, batch 120 of 421 (961 steps done)`"""
    if trainer.state.fn == TrainerFn.TESTING:
        return "test"
    steps = f"{trainer.global_step:,} steps done"
    epoch = f"epoch {trainer.current_epoch + 1}"
    if (trainer.max_epochs or 0) > 0:
        epoch += f" of {trainer.max_epochs}"
    if trainer.state.stage == RunningStage.SANITY_CHECKING:
        return "trying the validation before the training"
    if trainer.state.stage == RunningStage.VALIDATING:
        return f"validation, {epoch} ({steps})"
    progress = trainer.fit_loop.epoch_loop.batch_progress
    if progress.total.ready == 0 and not reading:
        return "start of the training, before the first step"
    batch = progress.current.ready + reading
    return f"training, {epoch}, batch {batch:,} of {int(trainer.num_training_batches):,} ({steps})"
