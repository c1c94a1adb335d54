"""RandAugment, TrivialAugment and 3-Augment on whole batches, every sample by its own draws.

B batch, C channels, H height, W width, L operations one after the other. What happens to a sample
is a function of its key (`counter_rng`); each operation is applied to the samples that drew it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from vitfw.data.augment import batch_geometry, batch_ops
from vitfw.data.augment.batch_ops import check_channels, colour_jitter
from vitfw.data.counter_rng import randint, uniform

# Which random number of a sample decides what: FIRST_DRAW + DRAWS_EACH · (number of the operation)
# + one of these. Numbers below 32 belong to `batch_augment`.
FIRST_DRAW, DRAWS_EACH, MOST_OPS = 32, 8, 20
OP, SIGN, BIN, NOISE = range(4)  # the noise takes two
BLUR, JITTER = 1, 2  # 3-Augment's, after OP; the jitter takes four

Operation = Callable[[Tensor, Tensor], Tensor]

# In torchvision's order; a strength is what torchvision calls a magnitude.
OPERATIONS: dict[str, Operation] = {
    "Identity": lambda images, _: images,
    "ShearX": batch_geometry.shear_x,
    "ShearY": batch_geometry.shear_y,
    "TranslateX": batch_geometry.translate_x,
    "TranslateY": batch_geometry.translate_y,
    "Rotate": batch_geometry.rotate,
    "Brightness": lambda images, strength: batch_ops.adjust_brightness(images, 1.0 + strength),
    "Color": lambda images, strength: batch_ops.adjust_saturation(images, 1.0 + strength),
    "Contrast": lambda images, strength: batch_ops.adjust_contrast(images, 1.0 + strength),
    "Sharpness": lambda images, strength: batch_ops.adjust_sharpness(images, 1.0 + strength),
    "Posterize": batch_ops.posterize,
    "Solarize": lambda images, strength: batch_ops.solarize(images, 255.0 * strength),
    "AutoContrast": lambda images, _: batch_ops.autocontrast(images),
    "Equalize": lambda images, _: batch_ops.equalize(images),
}
POSTERIZE = tuple(OPERATIONS).index("Posterize")  # those before it go both ways


def apply_drawn(
    images: Tensor, drawn: Tensor, strengths: Tensor, operations: Sequence[Operation]
) -> Tensor:
    """To each sample the operation whose number it drew: images [B, C, H, W] uint8 kept.

    `drawn` [B] int64 and `strengths` [B]. Looks at the numbers drawn: a GPU is waited for.

    Raises:
        ConfigError: the images have neither 1 nor 3 channels.
    """
    check_channels(images)
    counts = drawn.bincount(minlength=len(operations)).tolist()
    result = torch.empty_like(images)
    samples = drawn.argsort().split(counts)
    for operation, indices, count in zip(operations, samples, counts, strict=True):
        if count:
            result[indices] = operation(images[indices], strengths[indices])
    return result


@dataclass(frozen=True)
class Space:
    """How strong each operation is in the highest bin of the magnitude.

    `translate_share` is of the side; `colour` is for brightness, saturation, contrast and
    sharpness; `posterize` is the number of bits dropped.
    """

    shear: float
    translate_share: float
    translate_pixels: float
    rotate: float
    colour: float
    posterize: int


RAND_SPACE = Space(0.3, 150 / 331, 0.0, 30.0, 0.9, 4)
TRIVIAL_SPACE = Space(0.99, 0.0, 32.0, 135.0, 0.99, 6)


@cache
def magnitudes(
    space: Space, num_bins: int, height: int, width: int, device: torch.device
) -> Tensor:
    """The strength of each of `OPERATIONS` in each bin, without a sign: [14, num_bins]."""
    x, y = (space.translate_share * side + space.translate_pixels for side in (width, height))
    tops = (0.0, space.shear, space.shear, x, y, space.rotate, *[space.colour] * 4)
    rows = [torch.linspace(0.0, top, num_bins) for top in tops]
    rows += [8 - torch.arange(num_bins) / ((num_bins - 1) / space.posterize)]
    rows += [torch.linspace(1.0, 0.0, num_bins)]
    rows += [torch.zeros(num_bins)] * (len(OPERATIONS) - len(rows))
    return torch.stack(rows).to(device)


def signed_strengths(table: Tensor, ops: Tensor, magnitude: Tensor, negative: Tensor) -> Tensor:
    """Strengths of the operations drawn, linear between two bins, half of them mirrored.

    `table` [14, bins]; `ops` int64, `magnitude` in bins and `negative` bool: [B] → [B].
    """
    low = magnitude.long()
    high = (low + 1).clamp_(max=table.shape[1] - 1)
    start, end = table[ops, low], table[ops, high]
    strength = start + (magnitude - low) * (end - start)
    strength = torch.where(ops == POSTERIZE, strength.round(), strength)
    return torch.where(negative & (ops < POSTERIZE), -strength, strength)


def check_bins(num_bins: int) -> None:
    if num_bins < 2:
        raise ValueError(f"augment.policy.num_bins {num_bins} is no scale; 31 is the papers' own")


@dataclass(frozen=True)
class RandAugment:
    """`num_ops` random operations after one another, all of the same magnitude.

    `magnitude` is a bin, 0 to `num_bins` − 1; a fraction lies between two bins. `magnitude_std`
    adds normal noise of so many bins for each operation, cut to the scale (timm's `mstd`, whose
    scale ends at 10: its m9-mstd0.5 is 27 and 1.5 of 31 bins). Operations and strengths are those
    of `torchvision.transforms.v2.RandAugment`: nearest pixel, black outside.

    Raises:
        ValueError: a number outside its range.

    Source: Cubuk et al. 2020, "RandAugment".
    """

    num_ops: int = 2
    magnitude: float = 9
    magnitude_std: float = 0.0
    num_bins: int = 31

    def __post_init__(self):
        check_bins(self.num_bins)
        if not 1 <= self.num_ops <= MOST_OPS:
            asked = f"augment.policy.num_ops {self.num_ops} is outside 1 to {MOST_OPS}"
            raise ValueError(f"{asked}; augment.policy=null switches the policy off")
        if not 0 <= self.magnitude <= self.num_bins - 1:
            asked = f"augment.policy.magnitude {self.magnitude} is outside 0 to {self.num_bins - 1}"
            raise ValueError(f"{asked}, augment.policy.num_bins − 1")
        if not 0 <= self.magnitude_std < math.inf:
            raise ValueError(
                f"augment.policy.magnitude_std {self.magnitude_std} is a number of bins: 0 or more"
            )

    def drawn(self, keys: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Numbers of the operations in `OPERATIONS`, and strengths: [B, L] int64, [B, L]."""
        table = magnitudes(RAND_SPACE, self.num_bins, height, width, keys.device)
        ops, strengths = [], []
        for first in range(FIRST_DRAW, FIRST_DRAW + DRAWS_EACH * self.num_ops, DRAWS_EACH):
            op = randint(keys, first + OP, len(OPERATIONS))
            magnitude = self.magnitude + self.magnitude_std * _normal(keys, first + NOISE)
            magnitude = magnitude.clamp(0, self.num_bins - 1)
            negative = uniform(keys, first + SIGN) < 0.5
            ops.append(op)
            strengths.append(signed_strengths(table, op, magnitude, negative))
        return torch.stack(ops, dim=1), torch.stack(strengths, dim=1)

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """[B, C, H, W] uint8, keys [B] → the same shape, augmented."""
        ops, strengths = self.drawn(keys, *images.shape[-2:])
        for op, strength in zip(ops.unbind(1), strengths.unbind(1), strict=True):
            images = apply_drawn(images, op, strength, tuple(OPERATIONS.values()))
        return images


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
