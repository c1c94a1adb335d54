"""What `suite=fit` adds to a `vitfw train`: the clock of its training."""

from typing import Any

import lightning as L

from vitfw.benchmarks.fit_clock import TrainingClock


class ValidationClock(L.Callback):
    """Note the seconds of training and the accuracy, `monitor`, at each validation.

    Writing checkpoints counts as training. The run ends when the clock says so; its last step is
    always validated.
    """

    def __init__(self, path: str, monitor: str, cap: float, stop_at: float):
        self.monitor = monitor
        self.clock = TrainingClock(path, float("inf"), cap, stop_at)  # the Trainer says when

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.clock.begin()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        last = trainer.global_step >= int(getattr(pl_module, "total_steps", 0)) > 0
        if last or self.clock.over:
            trainer.should_stop = True  # after a validation

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.clock.stop()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.clock.resume(float(trainer.callback_metrics[self.monitor]), trainer.global_step)
        if self.clock.over:
            trainer.should_stop = True
