"""The weights that a schedule-free optimizer is evaluated and saved with."""

from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.optim import Optimizer


class ScheduleFree(L.Callback):
    """Train at y, evaluate and save x, the average. Does nothing for other optimizers.

    Defazio et al. 2024: gradients are taken at y = β x + (1 − β) z; the optimizer's state has z. It
    is in train mode, with y in the net, from a training batch to the next validation or the end
    of the training. A checkpoint always has x and an optimizer in eval mode: it can be used as it
    is, and a run that goes on from it computes y anew. So does the run that wrote it where it
    saved at an epoch's end, and the two go on alike to the bit; elsewhere to rounding.
    """

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        for optimizer in schedule_free_ones(trainer):
            optimizer.train()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._to_average(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._to_average(trainer)

    def _to_average(self, trainer: L.Trainer) -> None:
        for optimizer in schedule_free_ones(trainer):
            optimizer.eval()

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        name_of: dict[Tensor, str] = {p: name for name, p in pl_module.named_parameters()}
        states = checkpoint["optimizer_states"]
        for optimizer, state in zip(trainer.optimizers, states, strict=True):
            if is_schedule_free(optimizer):
                for parameter, average in averages(optimizer).items():
                    checkpoint["state_dict"][name_of[parameter]] = average
                for group in state["param_groups"]:
                    group["train_mode"] = False


def is_schedule_free(optimizer: Optimizer) -> bool:
    return "train_mode" in optimizer.defaults


def schedule_free_ones(trainer: L.Trainer) -> list[Any]:
    return [optimizer for optimizer in trainer.optimizers if is_schedule_free(optimizer)]


def averages(optimizer: Optimizer) -> dict[Tensor, Tensor]:
    """x of each parameter that holds y: y + (1 − 1 / β) (z − y)."""
    return {
        y: torch.lerp(y.detach(), optimizer.state[y]["z"], 1 - 1 / group["betas"][0])
        for group in optimizer.param_groups
        if group["train_mode"]
        for y in group["params"]
        if "z" in optimizer.state[y]
    }
