"""Mean and deviation of the pixels that a model is trained on.

B batch, C channels, H height, W width. A pixel is one of 256 values, so that counting them says
everything: sums of integers, with no rounding however many there are.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from vitfw.errors import ConfigError
from vitfw.progress_bar import LongWork


def statistics_of(
    batches: Iterable[Tensor], images: int | None = None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and population deviation of each channel, over the pixels of batches [B, C, H, W] uint8.

    `images` is how many there are, for those who wait.

    Pixels count as 0 to 1. A channel that has one value throughout gets the deviation 1: there is
    nothing to divide by.

    Raises:
        ConfigError: there is no pixel.
    """
    counts: list[Tensor] = []  # of each channel: how often each of 256 values, [256] int64
    with LongWork("statistics of train images", images) as work:
        for batch in batches:
            seen = [torch.bincount(c.reshape(-1), minlength=256).cpu() for c in batch.unbind(1)]
            counts = [a + b for a, b in zip(counts, seen, strict=True)] if counts else seen
            work.update(len(batch))
    if not counts or not counts[0].any():
        raise ConfigError("data.stats=compute: there are no training images to compute them from")
    found = [mean_and_std_of_counts(values.tolist()) for values in counts]
    return tuple(mean for mean, _ in found), tuple(std for _, std in found)


def mean_and_std_of_counts(counts: list[int]) -> tuple[float, float]:
    """`counts[v]` pixels have the value v, of 0 to 255. Python's integers keep the sums exact."""
    number = sum(counts)
    total = sum(value * count for value, count in enumerate(counts))
    squares = sum(value * value * count for value, count in enumerate(counts))
    variance = number * squares - total * total  # · (255 · number)²
    std = math.sqrt(variance) / (255 * number)
    return total / (255 * number), std or 1.0
