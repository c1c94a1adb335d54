"""The net as a graph in TensorBoard."""

import warnings
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from vitfw.callbacks.board import boards
from vitfw.callbacks.evaluation_mode import evaluated_net, evaluation_mode
from vitfw.console import log

MOST_PARAMETERS = 300_000_000


class ModelGraph(L.Callback):
    """At the start of a fit, the graph of the net as it is evaluated on one image.

    None of a net that is compiled, that cannot be traced, or of more than 300 million parameters,
    and none again in a run that goes on.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        net = evaluated_net(trainer, pl_module)
        data: Any = getattr(trainer, "datamodule", None)
        begun = trainer.global_step > 0 or trainer.current_epoch > 0
        if begun or net is None or not hasattr(data, "img_size"):
            return
        first = next(net.parameters(), None)
        compiled = getattr(net, "_compiled_call_impl", None) is not None
        size = sum(parameter.numel() for parameter in net.parameters())
        if first is None or compiled or size > MOST_PARAMETERS:
            return
        image = first.new_zeros(1, data.channels, *data.img_size)
        for board in boards(trainer):
            add_graph(board, net, image)


def add_graph(board: SummaryWriter, net: nn.Module, image: Tensor) -> None:
    """Trace `net` with an image [1, C, H, W] and write its graph, if it can be traced."""
    with warnings.catch_warnings(), evaluation_mode(net):
        warnings.simplefilter("ignore")  # shapes that a trace fixes, and that tracing is deprecated
        try:
            board.add_graph(torch.jit.trace(net, image, check_trace=False), image)
        except Exception as error:  # any of PyTorch's tracer: no reason to stop a run
            log.debug(f"no graph of the model: {error}")
