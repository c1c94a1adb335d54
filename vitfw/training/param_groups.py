"""Which parameters are decayed, and which are matrices of the hidden layers."""

from collections.abc import Iterator
from typing import Any

from torch import nn


def trainable(net: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in net.named_parameters() if p.requires_grad)


def is_decayed(name: str, parameter: nn.Parameter, exempt: set[str]) -> bool:
    """Matrices and kernels are; norms, biases, tokens and position embeddings are not.

    Source: Steiner et al. 2021 and timm's `param_groups_weight_decay`.
    """
    return parameter.ndim > 1 and not name.endswith(".bias") and name not in exempt


def exempt_names(net: nn.Module) -> set[str]:
    """What the net itself names as not to be decayed (timm's convention `no_weight_decay`)."""
    named = getattr(net, "no_weight_decay", None)
    return set(named()) if callable(named) else set()


def decay_groups(net: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups, `decay` and `no_decay`; an empty one is left out."""
    exempt = exempt_names(net)
    decayed, others = [], []
    for name, parameter in trainable(net):
        (decayed if is_decayed(name, parameter, exempt) else others).append(parameter)
    groups = [
        {"name": "decay", "params": decayed, "weight_decay": weight_decay},
        {"name": "no_decay", "params": others, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def hidden_matrices(net: nn.Module) -> set[str]:
    """Names of the 2-D weights inside the blocks: what Muon is for.

    Embedding, head, norms and biases are left to AdamW, as Jordan et al. 2024 advise. A net
    without `blocks` gives all its 2-D weights but the classifier's.
    """
    matrices = {name for name, p in trainable(net) if p.ndim == 2 and name.endswith("weight")}
    inside = {name for name in matrices if name.startswith(("blocks.", "stages.", "layers."))}
    return inside or {
        name for name in matrices if not name.startswith(("head", "fc.", "classifier"))
    }
