"""Dropout, stochastic depth and patch size as a function of (seed, step)."""

from typing import Any

import lightning as L
import torch

from vitfw.data.counter_rng import sample_keys


class StepSeed(L.Callback):
    """Seed torch before every batch with a hash of (seed, batches seen, process).

    Then a run that was killed and resumed draws the same dropout masks as one that was not. A net
    with `flexi_patch_sizes` is told which one the batch gets, the same in every process.
    """

    def __init__(self, seed: int = 0):
        self.seed = seed

    def number(self, epoch: int, batch: int, process: int) -> int:
        key = sample_keys(self.seed, 0, torch.tensor([epoch, batch, process]))
        return int((key * torch.tensor([1, 3, 5])).sum())

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        torch.manual_seed(self.number(trainer.current_epoch, batch_idx, trainer.global_rank))
        net: Any = getattr(pl_module, "net", None)
        if sizes := getattr(net, "flexi_patch_sizes", ()):
            number = self.number(trainer.current_epoch, batch_idx, 0)
            net.drawn_patch_size = sizes[number % len(sizes)]
