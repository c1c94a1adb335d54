"""Losses of logits [B, K] against labels [B] int64 or soft targets [B, K].

All are means over images. With `weight` [K], which says how much an image of each class counts and
has a mean of 1 over the training images, they still divide by the number of images and not by the
sum of a batch's weights: the mean over small batches is the loss of the large one that they make.

B batch, K classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CrossEntropy(nn.Module):
    """torch's cross-entropy of softmax probabilities, but for what `weight` is divided by.

    Raises:
        ValueError: `label_smoothing` outside [0, 1).

    Source: Szegedy et al. 2016, §7, for `label_smoothing`.
    """

    weight: Tensor | None

    def __init__(self, label_smoothing: float = 0.0, weight: Tensor | None = None):
        super().__init__()
        check_smoothing(label_smoothing)
        self.label_smoothing = label_smoothing
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        if self.weight is None:
            return F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)
        weight = self.weight.to(logits)
        total = F.cross_entropy(
            logits, targets, weight, reduction="sum", label_smoothing=self.label_smoothing
        )
        return total / len(logits)


class BinaryCrossEntropy(nn.Module):
    """Each class against all others, by a sigmoid of its own; the mean over images and classes.

    `label_smoothing` mixes the targets with 1/K, as in cross-entropy. `target_threshold` makes them
    1 where they are above it and 0 elsewhere: with 0, both classes of a mixed image are there, as
    in DeiT III. `sum_classes` sums over classes, which makes the loss K times as large.

    Raises:
        ValueError: `label_smoothing` or `target_threshold` outside [0, 1), or both set.

    Source: Touvron et al. 2022, "DeiT III", §3; Wightman et al. 2021, "ResNet strikes back", §2.1.
    """

    weight: Tensor | None

    def __init__(
        self,
        label_smoothing: float = 0.0,
        target_threshold: float | None = None,
        sum_classes: bool = False,
        weight: Tensor | None = None,
    ):
        super().__init__()
        check_smoothing(label_smoothing)
        if target_threshold is not None:
            check_threshold(target_threshold, label_smoothing)
        self.label_smoothing = label_smoothing
        self.target_threshold = target_threshold
        self.sum_classes = sum_classes
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        wanted = probabilities(targets, logits)  # [B, K]
        of_image = None if self.weight is None else wanted @ self.weight.to(wanted)  # [B]
        if self.target_threshold is None:
            wanted = smooth(wanted, self.label_smoothing)
        else:
            wanted = (wanted > self.target_threshold).to(logits.dtype)
        losses = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")  # [B, K]
        losses = losses.sum(dim=1) if self.sum_classes else losses.mean(dim=1)  # [B]
        return losses.mean() if of_image is None else (losses * of_image).mean()


class Focal(nn.Module):
    """Cross-entropy in which a class counts by (1 − p)^gamma: what is learned already, little.

    The softmax form, −Σ t (1 − p)^gamma log p over classes; with `gamma` 0 it is CrossEntropy,
    `label_smoothing`, soft targets and `weight` included.

    Raises:
        ValueError: a negative `gamma`, or `label_smoothing` outside [0, 1).

    Source: Lin et al. 2017, "Focal Loss for Dense Object Detection", eq. 4.
    """

    weight: Tensor | None

    def __init__(
        self, gamma: float = 2.0, label_smoothing: float = 0.0, weight: Tensor | None = None
    ):
        super().__init__()
        check_smoothing(label_smoothing)
        if gamma < 0:
            raise ValueError(f"loss.gamma={gamma} must be at least 0; 2 is usual")
        self.gamma = gamma
        self.label_smoothing = label_smoothing
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        wanted = smooth(probabilities(targets, logits), self.label_smoothing)  # [B, K]
        log_p = logits.log_softmax(dim=1)  # [B, K]
        # Clamped, as a power below 1 of exactly 0 has no gradient.
        missing = (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny)  # 1 − p
        losses = -wanted * missing**self.gamma * log_p
        if self.weight is not None:
            losses = losses * self.weight.to(losses)
        return losses.sum(dim=1).mean()


def probabilities(targets: Tensor, logits: Tensor) -> Tensor:
    """Labels [B] as one-hot rows, soft targets [B, K] as they are, in the dtype of the logits."""
    if targets.dim() == logits.dim():
        return targets.to(logits.dtype)
    return torch.zeros_like(logits, requires_grad=False).scatter_(1, targets[:, None], 1.0)


def smooth(targets: Tensor, label_smoothing: float) -> Tensor:
    """Targets [B, K] mixed with 1/K. Szegedy et al. 2016, §7."""
    if not label_smoothing:
        return targets
    return targets * (1.0 - label_smoothing) + label_smoothing / targets.shape[1]


def check_smoothing(label_smoothing: float) -> None:
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(
            f"loss.label_smoothing={label_smoothing} must be from 0 to below 1; 0.1 is usual"
        )


def check_threshold(target_threshold: float, label_smoothing: float) -> None:
    if not 0.0 <= target_threshold < 1.0:
        raise ValueError(
            f"loss.target_threshold={target_threshold} must be from 0 to below 1, or null: targets "
            "above it become 1, all others 0"
        )
    if label_smoothing:
        raise ValueError(
            f"loss.target_threshold={target_threshold} makes targets 0 or 1, which leaves nothing "
            f"of loss.label_smoothing={label_smoothing}; type loss.label_smoothing=0 or "
            "loss.target_threshold=null"
        )
