"""Weights against unequal classes: in the loss, or in how often an image is drawn.

N images, K classes, n_k images of class k. Every weight is scaled so that its mean over the N
images is 1: a loss keeps its size, and a sampling weight is how often an epoch of N draws
expects to see that image. A class without images weighs 0.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from vitfw.data.splits import check_labels
from vitfw.errors import ConfigError, nearest

LOSS_WEIGHTS = ("balanced", "sqrt", "effective")
SAMPLING_WEIGHTS = ("balanced", "sqrt")
EFFECTIVE_BETA = 0.9999  # the largest of the four that Cui et al. tried


def class_counts(labels: Tensor, num_classes: int) -> Tensor:
    """Images of each class: labels [N] → [K] int64.

    Raises:
        ConfigError: a label outside 0…K − 1.
    """
    check_labels(labels, num_classes, "the training images")
    return torch.bincount(labels, minlength=num_classes)


def loss_weights(labels: Tensor, num_classes: int, how: str) -> Tensor:
    """Weight of each class in the loss: labels [N] → [K] float32.

    `balanced`: N / (K n_k), K the classes that have images, as in scikit-learn. `sqrt`: the
    weights go as 1 / √n_k. `effective`: as (1 − β) / (1 − β^n_k) with β = 0.9999, the inverse
    effective number of images (Cui et al. 2019, who scale to a mean of 1 over classes instead).

    Raises:
        ConfigError: another `how`; a label outside 0…K − 1.
    """
    _require("data.class_weights", how, LOSS_WEIGHTS)
    return _class_weights(class_counts(labels, num_classes), how).float()


def sampling_weights(labels: Tensor, num_classes: int, how: str) -> Tensor:
    """Weight of each image when images are drawn with replacement: labels [N] → [N] float64.

    `balanced`: every class is drawn equally often. `sqrt`: as often as √n_k (Mahajan et al.
    2018, "Exploring the Limits of Weakly Supervised Pretraining").

    Raises:
        ConfigError: another `how`; a label outside 0…K − 1.
    """
    _require("data.sampling", how, SAMPLING_WEIGHTS)
    return _class_weights(class_counts(labels, num_classes), how)[labels]


def _require(option: str, how: str, known: Sequence[str]) -> None:
    if how not in known:
        hint = nearest(str(how), known)
        raise ConfigError(f"{option}={how} is unknown; use {' or '.join(known)}, or null{hint}")


def _class_weights(counts: Tensor, how: str) -> Tensor:
    """Weights of mean 1 over the images: counts [K] int64 → [K] float64."""
    n = counts.double()
    match how:
        case "balanced":
            weights = 1.0 / n
        case "sqrt":
            weights = n.rsqrt()
        case _:
            weights = (1.0 - EFFECTIVE_BETA) / (1.0 - EFFECTIVE_BETA**n)
    weights[counts == 0] = 0.0
    return weights * (n.sum() / (weights * n).sum())
