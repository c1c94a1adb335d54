"""What enters the classifier of a net: the pooled features that a linear probe and kNN look at.

B batch, C channels of a feature.
"""

from typing import Any

import torch
from torch import Tensor, nn


def classifier_layers(net: nn.Module) -> list[nn.Module]:
    """The last layer of a net; those of a distilled net, whose logits are averaged, are two.

    Raises:
        ValueError: it has none that goes by vitfw's or timm's names.
    """
    named: Any = getattr(net, "get_classifier", None)  # timm's
    if callable(named):
        found = named()
    else:
        found = [getattr(net, "head", None), getattr(net, "head_dist", None)]
    layers = list(found) if isinstance(found, tuple | list) else [found]
    layers = [layer for layer in layers if isinstance(layer, nn.Module)]
    if not layers:
        raise ValueError(f"{type(net).__name__} has no classifier: neither a head nor timm's")
    return layers


def linear_layers(net: nn.Module) -> list[nn.Linear]:
    """The same, where they are linear with a bias.

    Raises:
        ValueError: they are not.
    """
    layers = []
    for layer in classifier_layers(net):
        if not isinstance(layer, nn.Linear) or layer.bias is None:
            raise ValueError(
                f"method=linear_probe fits the last layer of a net, which must be linear with a "
                f"bias; that of {type(net).__name__} is {layer}"
            )
        layers.append(layer)
    return layers


def pooled(net: nn.Module, images: Tensor) -> Tensor:
    """What enters the last layer: [B, in_chans, H, W] → [B, C]; of two heads, side by side."""
    layers = classifier_layers(net)
    caught: dict[nn.Module, Tensor] = {}
    handles = [
        layer.register_forward_pre_hook(lambda layer, given: caught.update({layer: given[0]}))
        for layer in layers
    ]
    try:
        net.forward(images)  # not net(images): a compiled net would not see the hooks
    finally:
        for handle in handles:
            handle.remove()
    return torch.cat([caught[layer].flatten(1) for layer in layers], dim=1)
