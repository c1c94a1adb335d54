"""The learning rate and the weight decay of every parameter group."""

from typing import Any

import lightning as L

from vitfw.callbacks.logging_steps import log_scalars, logs_after


class LearningRate(L.Callback):
    """Logs `lr/<group>` and `weight_decay/<group>` as they were in the step just made.

    A group that has had no weight decay so far has no such curve.
    (Lightning's own counts steps from 0, so its rows stand one beside ours.)
    """

    def __init__(self) -> None:
        self._used: dict[str, float] = {}
        self._decayed: set[str] = set()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if not logs_after(trainer, batch_idx):
            return
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        for i, group in enumerate(groups):
            name = group.get("name", i)
            self._used[f"lr/{name}"] = float(group["lr"])
            decay = float(group.get("weight_decay") or 0.0)
            if decay or f"weight_decay/{name}" in self._decayed:
                self._decayed.add(f"weight_decay/{name}")
                self._used[f"weight_decay/{name}"] = decay

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if self._used:
            log_scalars(trainer, self._used)
            self._used = {}
