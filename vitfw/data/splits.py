"""Cutting a labelled set in two, every class in the same proportion."""

import torch
from torch import Tensor

from vitfw.data.counter_rng import sample_keys
from vitfw.errors import ConfigError


def stratified_split(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of the kept and of the held-out part: labels [N] → ([N − n], [n]), both sorted.

    Every class gives `share` of its images, rounded to the nearest, at least one where the class
    has two. The same labels, share and seed give the same split on any machine.

    Raises:
        ConfigError: `share` is not in [0, 1); a class has a single image and nothing to share.
    """
    if not 0.0 <= share < 1.0:
        raise ConfigError(f"data.val_share {share} must lie in [0, 1)")
    if share == 0.0:
        return torch.arange(len(labels)), torch.arange(0)
    keys = sample_keys(seed, 0, torch.arange(len(labels)))
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique().tolist():
        members = (labels == label).nonzero()[:, 0]
        if len(members) < 2:
            raise ConfigError(
                f"class {label} has one training image: none would be left to validate on; "
                "add images, remove the class, or set data.val_share=0"
            )
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        held_out[members[keys[members].argsort()[:count]]] = True
    return (~held_out).nonzero()[:, 0], held_out.nonzero()[:, 0]
