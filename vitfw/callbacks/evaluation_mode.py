"""To look at a net without leaving a trace in its training."""

from collections.abc import Iterator
from contextlib import contextmanager

import lightning as L
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

SHARDED = (DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy)


def evaluated_net(trainer: L.Trainer, pl_module: L.LightningModule) -> nn.Module | None:
    """The net with the weights that are evaluated; None where a process has only a part of them."""
    net = getattr(pl_module, "evaluated", None)
    whole = not isinstance(trainer.strategy, SHARDED)
    return net if whole and isinstance(net, nn.Module) else None


@contextmanager
def evaluation_mode(net: nn.Module) -> Iterator[None]:
    """All of `net` in evaluation mode, no gradients, and random numbers of its own.

    Afterwards each module is in the mode it had, and the random states are as they were.
    """
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    with torch.no_grad(), isolate_rng():
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training
