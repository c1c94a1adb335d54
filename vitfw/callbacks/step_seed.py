"""Dropout and stochastic depth as a function of (seed, step)."""

from typing import Any

import lightning as L
import torch

from vitfw.data.counter_rng import sample_keys


class StepSeed(L.Callback):
    """Seed torch before every batch with a hash of (seed, batches seen, process).

    Then a run that was killed and resumed draws the same dropout masks as one that was not.
    """

    def __init__(self, seed: int = 0):
        self.seed = seed

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        place = torch.tensor([trainer.current_epoch, batch_idx, trainer.global_rank])
        key = sample_keys(self.seed, 0, place)
        torch.manual_seed(int((key * torch.tensor([1, 3, 5])).sum()))
