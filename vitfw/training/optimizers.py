"""Optimizers, as functions of the net: they choose the parameter groups themselves."""

from collections.abc import Sequence

from timm.optim import Muon
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from vitfw.training.param_groups import (
    decay_groups,
    exempt_names,
    hidden_matrices,
    is_decayed,
    trainable,
)


def adamw(
    net: nn.Module,
    lr: float = 1e-3,
    weight_decay: float = 0.05,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> Optimizer:
    """AdamW without decay on norms, biases, tokens and positions. Loshchilov and Hutter 2019."""
    groups = decay_groups(net, weight_decay)
    return AdamW(groups, lr=lr, betas=(betas[0], betas[1]), eps=eps)


def sgd(
    net: nn.Module,
    lr: float = 0.1,
    weight_decay: float = 1e-4,
    momentum: float = 0.9,
    nesterov: bool = True,
) -> Optimizer:
    """SGD with momentum, without decay on norms, biases, tokens and positions."""
    groups = decay_groups(net, weight_decay)
    return SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov)


def muon(
    net: nn.Module,
    lr: float = 3e-3,
    weight_decay: float = 0.05,
    momentum: float = 0.95,
    nesterov: bool = True,
    betas: Sequence[float] = (0.9, 0.95),
) -> Optimizer:
    """Muon for the matrices inside the blocks, AdamW for the rest, in one optimizer (timm's).

    `nesterov` holds for both: with it the rest is stepped by NAdamW.

    Muon's updates are scaled to the size of AdamW's (0.2 · sqrt of the longer side), so that one
    `lr` serves both. Jordan et al. 2024; Liu et al. 2025, "Muon is scalable for LLM training".
    """
    hidden, exempt = hidden_matrices(net), exempt_names(net)
    matrices, decayed, others = [], [], []
    for name, parameter in trainable(net):
        if name in hidden:
            matrices.append(parameter)
        else:
            (decayed if is_decayed(name, parameter, exempt) else others).append(parameter)
    groups = [
        {"name": "muon", "params": matrices, "weight_decay": weight_decay},
        {"name": "decay", "params": decayed, "weight_decay": weight_decay, "use_fallback": True},
        {"name": "no_decay", "params": others, "weight_decay": 0.0, "use_fallback": True},
    ]
    return Muon(
        [group for group in groups if group["params"]],
        lr=lr,
        momentum=momentum,
        nesterov=nesterov,
        betas=(betas[0], betas[1]),
        adjust_lr_fn="match_rms_adamw",
    )


def timm_optimizer(
    net: nn.Module, name: str, lr: float, weight_decay: float = 0.05, **options
) -> Optimizer:
    """Any optimizer that timm knows, by its name there (`lamb`, `lion`, `adafactor`, …)."""
    from timm.optim import create_optimizer_v2

    groups = decay_groups(net, weight_decay)
    return create_optimizer_v2(groups, opt=name, lr=lr, weight_decay=weight_decay, **options)
