"""Augmentation of whole batches on the device, every sample by its own random numbers.

B batch, C channels, H height, W width. The numbers are those of `counter_rng`, so what happens
to a sample depends on its key alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from vitfw.data.augment.batch_crop import moved, resized_crop
from vitfw.data.augment.batch_erase import cutout, erase_rectangles
from vitfw.data.augment.batch_ops import colour_jitter, grayscale
from vitfw.data.augment.mixing import Mixing
from vitfw.data.augment.progressive import Progressive
from vitfw.data.counter_rng import uniform

GRAYSCALE = 8  # the random number that decides on it; batch_crop and batch_erase list theirs
JITTER = 16  # the first of the random numbers of the colours

ERASE_MODES = ("constant", "pixel", "colour")


@dataclass(frozen=True)
class BatchAugment:
    """What is done to training batches, in this order; every step is off by default.

    On uint8 images, by calling it:
    `crop_scale`, `crop_ratio`: random resized crop, ranges of the area's share and of the aspect.
    `shift`: crop from the image padded with zeros by so many pixels on each side.
    `translate`: move by up to this share of each side. `hflip`, `vflip`: probabilities.
    `policy`: a policy of `batch_policy`. `jitter`: strength of the changes of brightness, contrast
    and saturation, or one each, and of the hue. `grayscale`: probability. `cutout`: side of a
    square of zeros, in pixels.

    On normalised images, by `after_normalise`:
    `erase`: probability of an erased rectangle, `erase_scale`, `erase_ratio`: ranges of its area's
    share and of height / width. `erase_mode`: `constant` (the mean), `pixel` (noise) or `colour`.

    By others: `progressive` sizes and `mixing` of labels and images (the data module), `per_image`,
    torchvision transforms (worker processes), `repeats` of each image in a batch (the sampler).

    Raises:
        ValueError: a value that cannot be; says which and what to type.
    """

    shift: int = 0
    crop_scale: tuple[float, float] | None = None
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    translate: float = 0.0
    hflip: float = 0.0
    vflip: float = 0.0
    policy: Callable[[Tensor, Tensor], Tensor] | None = None
    jitter: float | Sequence[float] = 0.0
    grayscale: float = 0.0
    cutout: int = 0
    erase: float = 0.0
    erase_scale: tuple[float, float] = (0.02, 1 / 3)
    erase_ratio: tuple[float, float] = (0.3, 3.3)
    erase_mode: str = "constant"
    progressive: Progressive | None = None
    mixing: Mixing | None = None
    per_image: Sequence[Callable[[Tensor], Tensor]] | None = None
    repeats: int = 1

    def __post_init__(self):
        check_counts(self)
        check_shares(self)
        check_ranges(self)
        check_jitter(self.jitter)
        check_callables(self)
        if self.erase_mode not in ERASE_MODES:
            raise ValueError(
                f"augment.erase_mode {self.erase_mode!r} is not one of: {', '.join(ERASE_MODES)}"
            )

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """[B, C, H, W] uint8, keys [B] → the same shape and type, augmented.

        Raises:
            TypeError: the images are not uint8.
        """
        if images.dtype != torch.uint8:
            raise TypeError(f"images are {images.dtype}; augmentation is of uint8, 0 to 255")
        if self.crop_scale is not None:
            images = resized_crop(images, keys, tuple(self.crop_scale), tuple(self.crop_ratio))
        images = moved(images, keys, self.shift, self.translate, self.hflip, self.vflip)
        if self.policy is not None:
            images = self.policy(images, keys)
        if any(strengths := jitter_strengths(self.jitter)):
            images = colour_jitter(images, keys, JITTER, *strengths)
        if self.grayscale:
            images = sometimes_grey(images, keys, self.grayscale)
        if self.cutout:
            images = cutout(images, keys, self.cutout)
        return images

    def after_normalise(self, images: Tensor, keys: Tensor) -> Tensor:
        """[B, C, H, W] float, keys [B] → the same, some of the images erased in part.

        It may happen in place.
        """
        if not self.erase:
            return images
        scale, ratio = tuple(self.erase_scale), tuple(self.erase_ratio)
        return erase_rectangles(images, keys, self.erase, scale, ratio, self.erase_mode)

    @property
    def sizes(self) -> list[int]:
        """Those of the smaller images that a run begins with, in pixels."""
        return [] if self.progressive is None else list(self.progressive.sizes)

    def size_at(self, progress: float, full: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the images at a share of the run; `full` is that of the model."""
        return full if self.progressive is None else self.progressive.size_at(progress, full)

    def without_crop(self) -> "BatchAugment":
        """The same, less the resized crop: worker processes have cut it from the full picture."""
        return replace(self, crop_scale=None)


def sometimes_grey(images: Tensor, keys: Tensor, probability: float) -> Tensor:
    """A share of the images without their colours: [B, C, H, W] kept."""
    chosen = uniform(keys, GRAYSCALE) < probability
    return torch.where(chosen[:, None, None, None], grayscale(images), images)


def jitter_strengths(jitter: float | Sequence[float]) -> tuple[float, float, float, float]:
    """Brightness, contrast, saturation and hue; one number stands for the first three."""
    if isinstance(jitter, Sequence):
        brightness, contrast, saturation, hue = (*jitter, 0.0)[:4]
        return brightness, contrast, saturation, hue
    return jitter, jitter, jitter, 0.0


# ── what users may have typed ─────────────────────────────────────────────────────────────────


def is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def check_counts(augment: BatchAugment) -> None:
    for name, least, example in (
        ("shift", 0, "pixels, such as 4; 0 switches it off"),
        ("cutout", 0, "pixels, such as 16; 0 switches it off"),
        ("repeats", 1, "times an image is in a batch, such as 3; 1 is once"),
    ):
        value = getattr(augment, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"augment.{name} {value} is not a whole number of {example}")


def check_shares(augment: BatchAugment) -> None:
    for name, meaning in (
        ("translate", "share of the side"),
        ("hflip", "probability"),
        ("vflip", "probability"),
        ("grayscale", "probability"),
        ("erase", "probability"),
    ):
        value = getattr(augment, name)
        if not is_number(value) or not 0.0 <= value <= 1.0:
            raise ValueError(
                f"augment.{name} {value} is not a {meaning}, 0 to 1; 0 switches it off"
            )


def check_ranges(augment: BatchAugment) -> None:
    for name, most, example in (
        ("crop_scale", 1.0, "shares of the image's area, 0 < low ≤ high ≤ 1, such as [0.35, 1]"),
        ("crop_ratio", inf, "width / height, 0 < low ≤ high, such as [0.75, 1.3333]"),
        ("erase_scale", 1.0, "shares of the image's area, 0 < low ≤ high ≤ 1, such as [0.02, 0.4]"),
        ("erase_ratio", inf, "height / width, 0 < low ≤ high, such as [0.3, 3.3]"),
    ):
        value = getattr(augment, name)
        if name == "crop_scale" and value is None:
            continue
        pair = isinstance(value, Sequence) and len(value) == 2 and all(map(is_number, value))
        if not pair or not 0.0 < value[0] <= value[1] <= most or value[1] == inf:
            shown = list(value) if isinstance(value, tuple) else value
            raise ValueError(f"augment.{name} {shown} is not a range of {example}")


def check_jitter(jitter: Any) -> None:
    several = isinstance(jitter, Sequence) and len(jitter) in (3, 4)
    strengths = list(jitter) if several else [jitter]
    if not all(is_number(one) and 0.0 <= one < inf for one in strengths):
        raise ValueError(
            f"augment.jitter {jitter} is not a strength: one number from 0, such as 0.4, or "
            "[brightness, contrast, saturation] or [brightness, contrast, saturation, hue]"
        )
    if len(strengths) == 4 and strengths[3] > 0.5:
        raise ValueError(f"augment.jitter {jitter} has a hue above 0.5, half a turn of the circle")


def check_callables(augment: BatchAugment) -> None:
    if augment.policy is not None and not callable(augment.policy):
        raise ValueError(
            f"augment.policy {augment.policy} cannot be called; type null, or its class: "
            "{_target_: vitfw.data.augment.batch_policy.RandAugment}"
        )
    if augment.mixing is not None and not isinstance(augment.mixing, Mixing):
        raise ValueError(
            f"augment.mixing {augment.mixing} is no Mixing; type null, or augment.mixing.mixup=0.8"
        )
    listed = augment.per_image
    if listed is None:
        return
    if (
        isinstance(listed, str)
        or not isinstance(listed, Sequence)
        or not all(map(callable, listed))
    ):
        raise ValueError(
            f"augment.per_image {listed} is not a list of transforms; type null, or "
            "[{_target_: torchvision.transforms.v2.GaussianBlur, kernel_size: 3}]"
        )
