"""The learning rate of every parameter group."""

from typing import Any

import lightning as L


class LearningRate(L.Callback):
    """Logs `lr/<group>` with the training metrics, as it was in the step just made.

    (Lightning's own counts steps from 0, so its rows stand one beside ours.)
    """

    def __init__(self) -> None:
        self._used: dict[str, float] = {}

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        every = getattr(trainer, "log_every_n_steps", 50)
        last = batch_idx + 1 == trainer.num_training_batches
        if last or (batch_idx + 1) % every == 0:
            groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
            self._used = {
                f"lr/{group.get('name', i)}": float(group["lr"]) for i, group in enumerate(groups)
            }

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if self._used:
            for logger in trainer.loggers:
                logger.log_metrics(self._used, step=trainer.global_step)
            self._used = {}
