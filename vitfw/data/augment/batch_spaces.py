"""The operations that policies draw from, and how strong they are in three libraries.

B batch, C channels, H height, W width. An operation takes images [B, C, H, W] uint8 and strengths
[B], those of `SCALED` a place [B, 2], too. What comes from outside is black until `filled`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from vitfw.data.augment import batch_geometry, batch_ops
from vitfw.data.augment.batch_erase import rectangles

Operation = Callable[..., Tensor]

# ── torchvision: strengths in bins ────────────────────────────────────────────────────────────

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


# ── timm and big_vision: strengths at levels of 0 to 10 ───────────────────────────────────────


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert the levels from the threshold on, 0 to 256; there are none from 256 on."""
    inverted = batch_ops.solarize(images, threshold.clamp(max=255))
    return torch.where((threshold > 255).view(-1, 1, 1, 1), images, inverted)


def solarize_add(images: Tensor, addition: Tensor) -> Tensor:
    """Make the levels below 128 brighter, by up to 127."""
    return images + (images < 128) * addition.to(torch.uint8).view(-1, 1, 1, 1)


def move_left(images: Tensor, pixels: Tensor) -> Tensor:
    """By the nearest whole number of pixels."""
    return batch_geometry.translate_x(images, -pixels.round())


def move_up(images: Tensor, pixels: Tensor) -> Tensor:
    """By the nearest whole number of pixels."""
    return batch_geometry.translate_y(images, -pixels.round())


def contrast_of_big_vision(images: Tensor, factor: Tensor) -> Tensor:
    """0 grey, 1 the image, 2 twice as far from that grey: H · W / 256, at most 255.

    Theirs divides the number of pixels where others take the mean luma; 224 × 224 give 196.
    """
    grey = min(images.shape[-2] * images.shape[-1] // 256, 255)
    away = (images.float() - grey).mul_(factor.view(-1, 1, 1, 1))
    return away.add_(grey).clamp_(0, 255).to(torch.uint8)


def cutout(images: Tensor, reach: Tensor, place: Tensor) -> Tensor:
    """Black in a square of 2 · `reach` pixels about any pixel; `place` in [0, 1) is (y, x)."""
    height, width = images.shape[-2:]
    reach = reach.long()
    top = (place[:, 0] * height).long().clamp_(max=height - 1) - reach
    left = (place[:, 1] * width).long().clamp_(max=width - 1) - reach
    inside = rectangles(top, left, 2 * reach, 2 * reach, height, width)
    return images.masked_fill(inside[:, None], 0)


@dataclass(frozen=True)
class Scaled:
    """An operation whose strength leads from `low` at level 0 to `high` at level 10, linearly.

    `whole`: it leaves `low` by whole numbers only. `mirrored`: half of the samples go the other
    way from `low`. `placed`: the operation wants the place.
    """

    apply: Operation
    low: float = 0.0
    high: float = 0.0
    whole: bool = False
    mirrored: bool = False
    placed: bool = False

    def __call__(self, images: Tensor, strength: Tensor, place: Tensor) -> Tensor:
        return self.apply(images, strength, *([place] if self.placed else []))


HIGHEST_LEVEL = 10
AUTO_CONTRAST = Scaled(lambda images, _: batch_ops.autocontrast(images))
EQUALIZE = Scaled(lambda images, _: batch_ops.equalize(images))
INVERT = Scaled(lambda images, _: batch_ops.invert(images))
ROTATE = Scaled(batch_geometry.rotate, 0.0, 30.0, mirrored=True)
SHEAR_X = Scaled(batch_geometry.shear_x, 0.0, 0.3, mirrored=True)
SHEAR_Y = Scaled(batch_geometry.shear_y, 0.0, 0.3, mirrored=True)
SOLARIZE_ADD = Scaled(solarize_add, 0.0, 110.0, whole=True)

# Names, order and strengths of timm's `rand-…-inc1`; a strength is the operation's argument there.
TIMM = {
    "AutoContrast": AUTO_CONTRAST,
    "Equalize": EQUALIZE,
    "Invert": INVERT,
    "Rotate": ROTATE,
    "PosterizeIncreasing": Scaled(batch_ops.posterize, 4.0, 0.0, whole=True),
    "SolarizeIncreasing": Scaled(solarize, 256.0, 0.0, whole=True),
    "SolarizeAdd": SOLARIZE_ADD,
    "ColorIncreasing": Scaled(batch_ops.adjust_saturation, 1.0, 1.9, mirrored=True),
    "ContrastIncreasing": Scaled(batch_ops.adjust_contrast, 1.0, 1.9, mirrored=True),
    "BrightnessIncreasing": Scaled(batch_ops.adjust_brightness, 1.0, 1.9, mirrored=True),
    "SharpnessIncreasing": Scaled(batch_ops.adjust_sharpness, 1.0, 1.9, mirrored=True),
    "ShearX": SHEAR_X,
    "ShearY": SHEAR_Y,
    "TranslateXRel": Scaled(
        lambda images, share: move_left(images, share * images.shape[-1]), 0.0, 0.45, mirrored=True
    ),
    "TranslateYRel": Scaled(
        lambda images, share: move_up(images, share * images.shape[-2]), 0.0, 0.45, mirrored=True
    ),
}
# big_vision's `randaug`, google-research/big_vision, big_vision/pp/autoaugment.py. Its pixels are
# those of images of 224; its shears are about the middle of the first pixel, here about its corner.
BIG_VISION = {
    "AutoContrast": AUTO_CONTRAST,
    "Equalize": EQUALIZE,
    "Invert": INVERT,
    "Rotate": ROTATE,
    "Posterize": Scaled(batch_ops.posterize, 0.0, 4.0, whole=True),
    "Solarize": Scaled(solarize, 0.0, 256.0, whole=True),
    "Color": Scaled(batch_ops.adjust_saturation, 0.1, 1.9),
    "Contrast": Scaled(contrast_of_big_vision, 0.1, 1.9),
    "Brightness": Scaled(batch_ops.adjust_brightness, 0.1, 1.9),
    "Sharpness": Scaled(batch_ops.adjust_sharpness, 0.1, 1.9),
    "ShearX": SHEAR_X,
    "ShearY": SHEAR_Y,
    "TranslateX": Scaled(move_left, 0.0, 100.0, mirrored=True),
    "TranslateY": Scaled(move_up, 0.0, 100.0, mirrored=True),
    "Cutout": Scaled(cutout, 0.0, 40.0, whole=True, placed=True),
    "SolarizeAdd": SOLARIZE_ADD,
}
SCALED: dict[str, dict[str, Scaled]] = {"timm": TIMM, "big_vision": BIG_VISION}


@cache
def scales(space: str, device: torch.device) -> Tensor:
    """`low`, the way from there to `high`, `whole` and `mirrored` of each operation: [4, n]."""
    rows = [[s.low, s.high - s.low, s.whole, s.mirrored] for s in SCALED[space].values()]
    return torch.tensor(rows, dtype=torch.float32, device=device).T


def strengths_at(space: str, ops: Tensor, level: Tensor, negative: Tensor) -> Tensor:
    """Strengths of the operations of `SCALED[space]` drawn: [B] int64, [B], [B] bool → [B]."""
    low, way, whole, mirrored = scales(space, level.device)[:, ops]  # each [B]
    way = way * level / HIGHEST_LEVEL
    way = torch.where(whole > 0, way.trunc(), way)
    return low + torch.where(negative & (mirrored > 0), -way, way)


# ── all three ─────────────────────────────────────────────────────────────────────────────────

SPACES: Mapping[str, Mapping[str, Operation]] = {"torchvision": OPERATIONS, **SCALED}
LEAVE_BLANKS = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY", "Cutout")
LEAVE_BLANKS += ("TranslateXRel", "TranslateYRel")


def operations_of(space: str, fill: Tensor | None) -> list[Operation]:
    """Those of a space, with what they leave blank `filled`; the one after them does nothing."""
    operations = [
        filled(operation, fill) if fill is not None and name in LEAVE_BLANKS else operation
        for name, operation in SPACES[space].items()
    ]
    return [*operations, lambda images, *_: images]


def filled(operation: Operation, fill: Tensor) -> Operation:
    """The operation, with levels [C, 1, 1] in the place of what it leaves blank."""

    def apply(images: Tensor, *drawn: Tensor) -> Tensor:
        marked = torch.cat([images, torch.ones_like(images[:, :1])], dim=1)  # [B, C + 1, H, W]
        moved = operation(marked, *drawn)
        return torch.where(moved[:, -1:] == 0, fill, moved[:, :-1])

    return apply


@cache
def fill_levels(shares: tuple[float, ...], channels: int, device: torch.device) -> Tensor:
    """Shares of white to levels, one a channel or their mean for all: [C, 1, 1] uint8."""
    if len(shares) != channels:
        shares = (sum(shares) / len(shares),) * channels
    levels = [round(255 * share) for share in shares]
    return torch.tensor(levels, dtype=torch.uint8, device=device)[:, None, None]
