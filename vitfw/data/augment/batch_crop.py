"""Where the pixels of each image of a batch come from: moves, mirror images, random crops.

B batch, C channels, H height, W width, T tries. All take images [B, C, H, W] and keep their shape
and type; the random numbers are those of `counter_rng`, one set a key.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vitfw.data.counter_rng import randint, uniform, uniforms

# Which random number of a sample decides what; a number is used for one thing only.
SHIFT_Y, SHIFT_X, TRANSLATE_Y, TRANSLATE_X, HFLIP, VFLIP, CROP_Y, CROP_X = range(8)
CROP_SIDES = 200  # and the 19 that follow: area and aspect of each try

TRIES = 10  # boxes drawn before giving up, as torchvision and timm do

Range = tuple[float, float]


# ── moves by whole pixels ─────────────────────────────────────────────────────────────────────


def moved(
    images: Tensor,
    keys: Tensor,
    shift: int = 0,
    translate: float = 0.0,
    hflip: float = 0.0,
    vflip: float = 0.0,
) -> Tensor:
    """Shift, then translate, then mirror, in one pass over the pixels.

    `shift`: crop from the image padded with zeros by so many pixels on each side.
    `translate`: move by up to this share of each side, filling with zeros (torchvision's
    RandomAffine). `hflip`, `vflip`: probabilities of a mirror image, left-right and upside down.
    """
    if shift and not translate and images.device.type == "cpu":
        images, shift = shifted(images, keys, shift), 0
    if not shift and not translate:
        return mirrored(images, keys, hflip, vflip)
    height, width = images.shape[-2:]
    rows = sources(keys, height, shift, translate, vflip, (SHIFT_Y, TRANSLATE_Y, VFLIP))
    columns = sources(keys, width, shift, translate, hflip, (SHIFT_X, TRANSLATE_X, HFLIP))
    padded = F.pad(images, (1, 0, 1, 0)).movedim(1, -1)  # [B, 1 + H, 1 + W, C]
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    return padded[batch, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)


def shifted(images: Tensor, keys: Tensor, shift: int) -> Tensor:
    """`moved` with a shift alone, on a CPU: NumPy copies windows ten times as fast."""
    height, width = images.shape[-2:]
    top, left = (randint(keys, draw, 2 * shift + 1).numpy() for draw in (SHIFT_Y, SHIFT_X))
    padded = F.pad(images, (shift, shift, shift, shift)).numpy()
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
    return torch.from_numpy(windows[np.arange(len(images)), :, top, left])


def sources(
    keys: Tensor, side: int, shift: int, translate: float, flip: float, draws: tuple[int, int, int]
) -> Tensor:
    """The row (or column) that each one of the result shows: [B, side], 0 for zeros, else 1 + i."""
    places = torch.arange(side, device=keys.device)
    shown = (places + 1).expand(len(keys), side)
    if shift:
        shown = looked_up(shown, places + randint(keys, draws[0], 2 * shift + 1)[:, None] - shift)
    if translate:
        distance = ((2 * uniform(keys, draws[1]) - 1) * (translate * side)).round().long()
        shown = looked_up(shown, places - distance[:, None])
    if flip:
        flipped = uniform(keys, draws[2]) < flip
        shown = torch.where(flipped[:, None], shown.flip(1), shown)
    return shown


def looked_up(shown: Tensor, wanted: Tensor) -> Tensor:
    """`shown` at the places `wanted`, 0 where there is no such place: [B, side] kept."""
    side = shown.shape[1]
    outside = (wanted < 0) | (wanted >= side)
    return shown.gather(1, wanted.clamp(0, side - 1)).masked_fill(outside, 0)


def mirrored(images: Tensor, keys: Tensor, hflip: float, vflip: float) -> Tensor:
    """Left-right with probability `hflip`, upside down with `vflip`."""
    for probability, draw, side in ((hflip, HFLIP, -1), (vflip, VFLIP, -2)):
        if probability:
            flipped = uniform(keys, draw) < probability
            if images.device.type == "cpu":  # choosing byte by byte is slow there
                chosen = flipped.nonzero()[:, 0]
                mirror_images = images.index_select(0, chosen).flip(side)
                images = images.index_copy(0, chosen, mirror_images)
            else:  # where a count would have to be waited for
                images = torch.where(flipped[:, None, None, None], images.flip(side), images)
    return images


# ── random resized crops ──────────────────────────────────────────────────────────────────────


def resized_crop(images: Tensor, keys: Tensor, scale: Range, ratio: Range) -> Tensor:
    """Random crop of each image, stretched back to its size, bilinear: uint8.

    A crop is never shrunk, so antialiasing has nothing to do. Like torchvision's, it sees
    nothing of the image beyond the crop.
    """
    top, left, height, width = crop_pixels(keys, scale, ratio, *images.shape[-2:])
    grid = torch.stack(
        torch.broadcast_tensors(
            crop_coordinates(left, width, images.shape[-1])[:, None, :],
            crop_coordinates(top, height, images.shape[-2])[:, :, None],
        ),
        dim=-1,
    )  # [B, H, W, 2]
    stretched = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    return stretched.round_().to(torch.uint8)


def crop_coordinates(start: Tensor, length: Tensor, side: int) -> Tensor:
    """Where `side` pixels fall in a crop, in grid_sample's coordinates from −1 to 1: [B, side]."""
    start, length = start[:, None].float(), length[:, None].float()
    steps = torch.arange(side, device=start.device) + 0.5
    inside = (steps * (length / side) - 0.5).clamp(min=0.0).minimum(length - 1)
    return (start + inside + 0.5) * (2 / side) - 1


def crop_pixels(
    keys: Tensor, scale: Range, ratio: Range, height: int | Tensor, width: int | Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random boxes in images of height × width (numbers or [B]): top, left, height, width, [B].

    Whole pixels. The area is uniform in `scale`, as a share of the image's, the aspect
    (width / height) log-uniform in `ratio`; of ten tries the first that fits, else the largest
    box in the middle with an aspect inside `ratio`. The distribution is that of torchvision's
    RandomResizedCrop. Source: Szegedy et al. 2015.
    """
    if isinstance(height, int):  # filled on the device: a copy would wait for it
        height = torch.full_like(keys, height)
    if isinstance(width, int):
        width = torch.full_like(keys, width)
    widths, heights = tried_sides(keys, CROP_SIDES, scale, ratio, height * width)
    fits = (widths > 0) & (widths <= width[:, None]) & (heights > 0) & (heights <= height[:, None])
    box_height, box_width = first_that(fits, heights), first_that(fits, widths)
    none = ~fits.any(dim=1)
    widest = torch.minimum(width, (height * ratio[1]).round().long()).clamp(min=1)
    tallest = torch.minimum(height, (width / ratio[0]).round().long()).clamp(min=1)
    box_height = torch.where(none, tallest, box_height)
    box_width = torch.where(none, widest, box_width)
    top = torch.where(none, (height - tallest) // 2, place(keys, CROP_Y, height - box_height))
    left = torch.where(none, (width - widest) // 2, place(keys, CROP_X, width - box_width))
    return top, left, box_height, box_width


def tried_sides(
    keys: Tensor, first_draw: int, scale: Range, ratio: Range, area: Tensor
) -> tuple[Tensor, Tensor]:
    """Sides of ten random rectangles a key: two [B, T] int64, the first over the second in `ratio`.

    Takes the 2 · T random numbers from `first_draw` on.
    """
    draws = torch.arange(first_draw, first_draw + 2 * TRIES, device=keys.device)
    numbers = uniforms(keys[:, None], draws)  # [B, 2T]
    areas = (scale[0] + (scale[1] - scale[0]) * numbers[:, :TRIES]) * area[:, None]
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspects = (low + (high - low) * numbers[:, TRIES:]).exp()
    return (areas * aspects).sqrt().round().long(), (areas / aspects).sqrt().round().long()


def first_that(fits: Tensor, values: Tensor) -> Tensor:
    """Of each row of `values` the first that fits, or its first: [B, T], [B, T] → [B]."""
    return values.gather(1, fits.byte().argmax(dim=1, keepdim=True))[:, 0]


def place(keys: Tensor, draw: int, largest: Tensor) -> Tensor:
    """A random integer from 0 to `largest`, which may differ by key: [B] int64."""
    number = (uniform(keys, draw) * (largest + 1)).long()
    return number.minimum(largest.clamp(min=0))
