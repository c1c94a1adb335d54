"""RandAugment, TrivialAugment and 3-Augment on whole batches, every sample by its own draws.

B batch, C channels, H height, W width, L operations one after the other. What happens to a sample
is a function of its key (`counter_rng`); each operation is applied to the samples that drew it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from vitfw.data.augment import batch_ops
from vitfw.data.augment.batch_ops import check_channels, colour_jitter
from vitfw.data.augment.batch_spaces import (
    HIGHEST_LEVEL,
    OPERATIONS,
    RAND_SPACE,
    SPACES,
    TRIVIAL_SPACE,
    Operation,
    fill_levels,
    magnitudes,
    operations_of,
    signed_strengths,
    strengths_at,
)
from vitfw.data.counter_rng import randint, uniform
from vitfw.errors import ConfigError, nearest

# Which random number of a sample decides what: FIRST_DRAW + DRAWS_EACH · (number of the operation)
# + one of these. Numbers below 32 belong to `batch_augment`.
FIRST_DRAW, DRAWS_EACH, MOST_OPS = 32, 8, 20
OP, SIGN, BIN, NOISE = range(4)  # the noise takes two
APPLIED, PLACE = 5, 6  # the place takes two
BLUR, JITTER = 1, 2  # 3-Augment's, after OP; the jitter takes four

TORCHVISION_BINS = 31
GREY = 128 / 255


def apply_drawn(
    images: Tensor,
    drawn: Tensor,
    strengths: Tensor,
    operations: Sequence[Operation],
    *more: Tensor,
) -> Tensor:
    """To each sample the operation whose number it drew: images [B, C, H, W] uint8 kept.

    `drawn` [B] int64 and `strengths` [B]; `more` [B, …] is what else the operations want. Looks at
    the numbers drawn: a GPU is waited for.

    Raises:
        ConfigError: the images have neither 1 nor 3 channels.
    """
    check_channels(images)
    counts = drawn.bincount(minlength=len(operations)).tolist()
    result = torch.empty_like(images)
    samples = drawn.argsort().split(counts)
    for operation, indices, count in zip(operations, samples, counts, strict=True):
        if count:
            arguments = (each[indices] for each in (strengths, *more))
            result[indices] = operation(images[indices], *arguments)
    return result


def check_bins(num_bins: int) -> None:
    if num_bins < 2:
        raise ValueError(f"augment.policy.num_bins {num_bins} is no scale; 31 is the papers' own")


@dataclass(frozen=True)
class RandAugment:
    """`num_ops` random operations after one another, all of the same magnitude.

    `operations` names whose operations and strengths they are. `torchvision`: those of
    `torchvision.transforms.v2.RandAugment`; `magnitude` is a bin, 0 to `num_bins` − 1, and a
    fraction lies between two bins. `timm`: those of its `rand-…-inc1`, and `big_vision`: those of
    its `randaug`; the scale of both is 0 to 10. `magnitude_std` adds normal noise on that scale
    for each operation, cut to it; each is applied with `probability`. timm's `rand-m9-mstd0.5-inc1`
    is magnitude 9, magnitude_std 0.5, probability 0.5.

    Blanks are `fill`, a share of white or one a channel, such as the data's mean; None is black for
    torchvision and grey, level 128, for the others. Moved pixels are the nearest ones.

    Raises:
        ValueError: a number outside its range.
        ConfigError: `operations` are nobody's.

    Source: Cubuk et al. 2020, "RandAugment".
    """

    num_ops: int = 2
    magnitude: float = 9
    magnitude_std: float = 0.0
    num_bins: int = TORCHVISION_BINS
    operations: str = "torchvision"
    probability: float = 1.0
    fill: float | Sequence[float] | None = None

    def __post_init__(self):
        check_bins(self.num_bins)
        if self.operations not in tuple(SPACES):
            asked = f"augment.policy.operations {self.operations!r} is not one of"
            raise ConfigError(
                f"{asked}: {', '.join(SPACES)}{nearest(str(self.operations), SPACES)}"
            )
        if not self.binned and self.num_bins != TORCHVISION_BINS:
            raise ValueError(
                f"augment.policy.num_bins {self.num_bins} is for operations=torchvision; the scale "
                f"of {self.operations} is 0 to 10: leave it at {TORCHVISION_BINS}"
            )
        if not 1 <= self.num_ops <= MOST_OPS:
            asked = f"augment.policy.num_ops {self.num_ops} is outside 1 to {MOST_OPS}"
            raise ValueError(f"{asked}; augment.policy=null switches the policy off")
        if not 0 <= self.magnitude <= self.highest:
            asked = f"augment.policy.magnitude {self.magnitude} is outside 0 to {self.highest}"
            why = "augment.policy.num_bins − 1" if self.binned else f"{self.operations}'s scale"
            raise ValueError(f"{asked}, {why}")
        if not 0 <= self.magnitude_std < math.inf:
            raise ValueError(
                f"augment.policy.magnitude_std {self.magnitude_std} is noise on the magnitude: "
                "0 or more"
            )
        if not 0 <= self.probability <= 1:
            raise ValueError(f"augment.policy.probability {self.probability} is outside 0 to 1")
        if self.fill is not None and not (
            len(self.shares) in (1, 3) and all(map(is_share, self.shares))
        ):
            raise ValueError(
                f"augment.policy.fill {self.fill} is not a share of white, 0 to 1, nor one for "
                "each of three channels; augment.policy.fill=null fills as the original does"
            )

    @property
    def binned(self) -> bool:
        """Whether the magnitude is a bin, as torchvision's, and no level of 0 to 10."""
        return self.operations == "torchvision"

    @property
    def highest(self) -> int:
        """Where the scale of the magnitude ends."""
        return self.num_bins - 1 if self.binned else HIGHEST_LEVEL

    @property
    def shares(self) -> tuple[float, ...]:
        """`fill`, a number a channel or one for all; none leaves the blanks black."""
        if self.fill is None:
            return () if self.binned else (GREY,)
        return tuple(self.fill) if isinstance(self.fill, Sequence) else (self.fill,)

    def drawn(self, keys: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Numbers of the operations in `SPACES`, and strengths: [B, L] int64, [B, L].

        The number after the last operation's is that of one that is not applied.
        """
        count = len(SPACES[self.operations])
        ops, strengths = [], []
        for first in range(FIRST_DRAW, FIRST_DRAW + DRAWS_EACH * self.num_ops, DRAWS_EACH):
            op = randint(keys, first + OP, count)
            magnitude = self.magnitude + self.magnitude_std * _normal(keys, first + NOISE)
            magnitude = magnitude.clamp(0, self.highest)
            negative = uniform(keys, first + SIGN) < 0.5
            if self.binned:
                table = magnitudes(RAND_SPACE, self.num_bins, height, width, keys.device)
                strengths.append(signed_strengths(table, op, magnitude, negative))
            else:
                strengths.append(strengths_at(self.operations, op, magnitude, negative))
            applied = uniform(keys, first + APPLIED) < self.probability
            ops.append(torch.where(applied, op, count))
        return torch.stack(ops, dim=1), torch.stack(strengths, dim=1)

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """[B, C, H, W] uint8, keys [B] → the same shape, augmented."""
        fill = fill_levels(self.shares, images.shape[1], images.device) if self.shares else None
        operations = operations_of(self.operations, fill)
        ops, strengths = self.drawn(keys, *images.shape[-2:])
        for number in range(self.num_ops):
            places: list[Tensor] = []
            if not self.binned:
                first = FIRST_DRAW + DRAWS_EACH * number + PLACE
                places.append(torch.stack([uniform(keys, first), uniform(keys, first + 1)], dim=1))
            images = apply_drawn(images, ops[:, number], strengths[:, number], operations, *places)
        return images


def is_share(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and 0 <= float(value) <= 1


def _normal(keys: Tensor, draw: int) -> Tensor:
    """A standard normal number of each key, from its uniform numbers `draw` and `draw` + 1.

    Source: Box and Muller 1958.
    """
    radius = (-2.0 * (1.0 - uniform(keys, draw)).log()).sqrt()
    return radius * (2.0 * math.pi * uniform(keys, draw + 1)).cos()


@dataclass(frozen=True)
class TrivialAugment:
    """One random operation of random magnitude, in the wide space of the paper.

    Operations and strengths are those of `torchvision.transforms.v2.TrivialAugmentWide`.

    Raises:
        ValueError: fewer than 2 bins.

    Source: Müller and Hutter 2021, "TrivialAugment".
    """

    num_bins: int = 31

    def __post_init__(self):
        check_bins(self.num_bins)

    def drawn(self, keys: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Number of the operation in `OPERATIONS`, and strength: [B] int64, [B]."""
        table = magnitudes(TRIVIAL_SPACE, self.num_bins, height, width, keys.device)
        op = randint(keys, FIRST_DRAW + OP, len(OPERATIONS))
        magnitude = randint(keys, FIRST_DRAW + BIN, self.num_bins).float()
        negative = uniform(keys, FIRST_DRAW + SIGN) < 0.5
        return op, signed_strengths(table, op, magnitude, negative)

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """[B, C, H, W] uint8, keys [B] → the same shape, augmented."""
        op, strength = self.drawn(keys, *images.shape[-2:])
        return apply_drawn(images, op, strength, tuple(OPERATIONS.values()))


THREE_OPERATIONS: dict[str, Operation] = {
    "Grayscale": lambda images, _: batch_ops.grayscale(images),
    "Solarize": lambda images, sigma: batch_ops.solarize(images, torch.full_like(sigma, 128.0)),
    "GaussianBlur": batch_ops.gaussian_blur,
}


@dataclass(frozen=True)
class ThreeAugment:
    """One of grey, solarised (from level 128) or blurred (sigma 0.1 to 2 pixels), then jitter.

    The three are equally likely; `jitter` is the strength of random brightness, contrast and
    saturation after them. The original shuffles these three, here their order is fixed.

    Raises:
        ValueError: a negative jitter.

    Source: Touvron et al. 2022, "DeiT III", §3; its blur is PIL's, an approximation of a Gaussian.
    """

    jitter: float = 0.3

    def __post_init__(self):
        if not 0 <= self.jitter < math.inf:
            raise ValueError(f"augment.policy.jitter {self.jitter} is a strength: 0 or more")

    def drawn(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Number of the operation in `THREE_OPERATIONS`, and sigma of the blur: [B] int64, [B]."""
        op = randint(keys, FIRST_DRAW + OP, len(THREE_OPERATIONS))
        return op, 0.1 + 1.9 * uniform(keys, FIRST_DRAW + BLUR)

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """[B, C, H, W] uint8, keys [B] → the same shape, augmented."""
        images = apply_drawn(images, *self.drawn(keys), tuple(THREE_OPERATIONS.values()))
        strengths = (self.jitter, self.jitter, self.jitter, 0.0)
        return colour_jitter(images, keys, FIRST_DRAW + JITTER, *strengths)
