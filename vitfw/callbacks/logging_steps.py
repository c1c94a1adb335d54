"""When callbacks log scalars, and to whom: at the steps of the training metrics, to all loggers."""

from collections.abc import Mapping

import lightning as L


def logs_after(trainer: L.Trainer, batch_idx: int) -> bool:
    """Whether this batch, which is about to begin, is one after which scalars are logged.

    It is one of every `log_every_n_steps`, or the last of an epoch or of the run.
    """
    every = getattr(trainer, "log_every_n_steps", 50)  # set by one of its connectors
    last_of_epoch = batch_idx + 1 == trainer.num_training_batches
    if last_of_epoch or (batch_idx + 1) % every == 0:
        return True
    last_of_run = trainer.global_step + 1 == trainer.max_steps
    return last_of_run and not trainer.fit_loop._should_accumulate()


def log_scalars(trainer: L.Trainer, scalars: Mapping[str, float]) -> None:
    """Log at the number of optimizer steps made."""
    for logger in trainer.loggers:
        logger.log_metrics(dict(scalars), step=trainer.global_step)
