"""Squares and rectangles taken out of each image of a batch.

B batch, C channels, H height, W width. All take images [B, C, H, W] and return them changed, in
the same shape and type, each by the random numbers of its key.
"""

import torch
from torch import Tensor

from vitfw.data.augment.batch_crop import Range, first_that, place, tried_sides
from vitfw.data.counter_rng import randint, uniform, uniforms

# Which random number of a sample decides what; a number is used for one thing only.
CUTOUT_Y, CUTOUT_X, ERASE, ERASE_Y, ERASE_X = range(9, 14)
ERASE_SIDES = 220  # and the 19 that follow: area and aspect of each try
COLOUR = 240  # and the next ones: one a channel
NOISE = 1000  # and all that follow: one a value of the image


def cutout(images: Tensor, keys: Tensor, side: int) -> Tensor:
    """Zeros in a square whose centre is any pixel of the image, so that it may stick out.

    Source: DeVries and Taylor 2017, "Improved regularization of convolutional neural networks
    with cutout".
    """
    height, width = images.shape[-2:]
    top = randint(keys, CUTOUT_Y, height) - side // 2
    left = randint(keys, CUTOUT_X, width) - side // 2
    side_of_each = torch.full_like(top, side)
    inside = rectangles(top, left, side_of_each, side_of_each, height, width)
    return images.masked_fill(inside[:, None], 0)


def erase_rectangles(
    images: Tensor, keys: Tensor, probability: float, scale: Range, ratio: Range, mode: str
) -> Tensor:
    """Erase one random rectangle of a share of the images, which are normalised floats.

    The area is uniform in `scale`, as a share of the image's, the aspect (height / width)
    log-uniform in `ratio`; of ten tries the first rectangle smaller than the image on both sides
    is taken, else none. `mode`: `constant` fills with 0, the mean; `colour` with one normal
    random value a channel; `pixel` with normal noise. The distribution is that of torchvision's
    and timm's RandomErasing. `images` may be changed in place.
    Source: Zhong et al. 2020, "Random erasing data augmentation".
    """
    if mode == "constant" and images.device.type == "cpu":
        return with_zeros(images, *erased_boxes(keys, probability, scale, ratio, images.shape))
    erased = erased_pixels(keys, probability, scale, ratio, images.shape)
    if mode == "pixel":
        return with_noise(images, keys, erased)
    if mode == "constant":
        return images.masked_fill_(erased[:, None], 0.0)
    channels = torch.arange(images.shape[1], device=keys.device)
    colours = normal(keys[:, None], COLOUR + channels).to(images.dtype)  # [B, C]
    return torch.where(erased[:, None], colours[:, :, None, None], images)


def erased_pixels(
    keys: Tensor, probability: float, scale: Range, ratio: Range, shape: torch.Size
) -> Tensor:
    """Which pixels random erasing takes: [B, H, W] bool."""
    chosen, top, left, box_height, box_width = erased_boxes(keys, probability, scale, ratio, shape)
    inside = rectangles(top, left, box_height, box_width, *shape[-2:])
    return inside & chosen[:, None, None]


def with_zeros(images: Tensor, chosen: Tensor, *boxes: Tensor) -> Tensor:
    """Zeros in the boxes of the images chosen, one after another: on a CPU that is fastest."""
    sides = torch.stack(boxes, dim=1).tolist()
    for i in chosen.nonzero()[:, 0].tolist():
        top, left, height, width = sides[i]
        images[i, :, top : top + height, left : left + width] = 0
    return images


def erased_boxes(
    keys: Tensor, probability: float, scale: Range, ratio: Range, shape: torch.Size
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Which images lose a rectangle, and its top, left, height and width, each [B]."""
    height, width = shape[-2:]
    area = torch.full_like(keys, height * width)
    heights, widths = tried_sides(keys, ERASE_SIDES, scale, ratio, area)
    fits = (heights < height) & (widths < width)
    box_height, box_width = first_that(fits, heights), first_that(fits, widths)
    top = place(keys, ERASE_Y, height - box_height)
    left = place(keys, ERASE_X, width - box_width)
    chosen = fits.any(dim=1) & (uniform(keys, ERASE) < probability)
    return chosen, top, left, box_height, box_width


def rectangles(
    top: Tensor, left: Tensor, box_height: Tensor, box_width: Tensor, height: int, width: int
) -> Tensor:
    """The pixels inside one rectangle an image, each side [B]: [B, H, W] bool."""
    y = torch.arange(height, device=top.device) - top[:, None]
    x = torch.arange(width, device=top.device) - left[:, None]
    inside_y = (y >= 0) & (y < box_height[:, None])  # [B, H]
    inside_x = (x >= 0) & (x < box_width[:, None])  # [B, W]
    return inside_y[:, :, None] & inside_x[:, None, :]


def with_noise(images: Tensor, keys: Tensor, erased: Tensor) -> Tensor:
    """Normal noise at the pixels `erased` [B, H, W], drawn for these alone."""
    channels, height, width = images.shape[1:]
    image, y, x = erased.nonzero(as_tuple=True)  # of the P pixels: [P]
    channel = torch.arange(channels, device=keys.device)
    number = (channel * height + y[:, None]) * width + x[:, None]  # [P, C], row-major
    images[image, :, y, x] = normal(keys[image][:, None], NOISE + number).to(images.dtype)
    return images


def normal(keys: Tensor, draws: Tensor) -> Tensor:
    """Standard normal numbers: int64 tensors that broadcast → float32.

    By the inverse of the distribution, at the midpoints of 2²⁴ equal steps: none is infinite.
    """
    return torch.erfinv(2 * uniforms(keys, draws) - 1 + 2.0**-24) * 2.0**0.5
