"""TensorBoard's writers of a run, for callbacks that draw."""

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter


def boards(trainer: L.Trainer) -> list[SummaryWriter]:
    """The writers of this process: none without the logger, or where another process writes."""
    if not trainer.is_global_zero:
        return []
    return [each.experiment for each in trainer.loggers if isinstance(each, TensorBoardLogger)]
