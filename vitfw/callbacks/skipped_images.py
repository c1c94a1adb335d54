"""Unreadable images, brought together from all processes of a run."""

from typing import Any

import lightning as L
import torch.distributed as dist


class SkippedImages(L.Callback):
    """At the end of each epoch every process learns what the others could not read.

    `bad_images` is the data module's ledger; in it, a share that is too high is noticed by all
    processes at once, so that none waits for one that has stopped.
    """

    def __init__(self, bad_images: Any):
        self.bad_images = bad_images

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.bad_images.check_at_once = trainer.world_size == 1

    def bring_together(self, trainer: L.Trainer) -> None:
        if trainer.world_size == 1:
            return
        mine = self.bad_images.found, self.bad_images.sizes
        everyone: list[Any] = [None] * trainer.world_size
        dist.all_gather_object(everyone, mine)
        for found, sizes in everyone:
            self.bad_images.merge(found, sizes)
        self.bad_images.check()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.bring_together(trainer)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.bring_together(trainer)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.bring_together(trainer)
