"""From any image file to a uint8 tensor of the size a model takes.

B batch, C channels, H height, W width, S output side.
"""

import math
import os
import struct
import zlib
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
import torch
import torchvision.transforms.v2.functional as TF
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms import InterpolationMode

# What PIL's decoders raise on a broken file; RuntimeError is AVIF's, BLP's and DDS's.
BROKEN_FILE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
LONG_STRIP = 8.0  # an image so many times longer than its crop is not resized whole
ORIENTATION = 0x0112  # the EXIF tag
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)


class UnreadableImage(Exception):
    """A file that is not an image, or is broken; the message names it."""


def open_image(
    source: str | os.PathLike[str] | BinaryIO,
    channels: int,
    at_least: tuple[float, float] | None = None,
    name: str | None = None,
) -> Image.Image:
    """Any file PIL reads, upright by its EXIF tag, as grey (1 channel) or RGB (3).

    16-bit grey is scaled to 8 bits; floats too, see `_scale_floats`; transparency is laid over
    white; of an animation, the first frame is taken. A JPEG is decoded at a half, a quarter or an
    eighth of its size where that leaves no side (height, width) shorter than `at_least`. `name` is
    what messages call a source that is no path.

    Raises:
        UnreadableImage: there is no such file, it is no image, it is cut off, or has more than
            twice `PIL.Image.MAX_IMAGE_PIXELS`.
    """
    try:
        with Image.open(source) as opened:
            if at_least is not None and opened.format in ("JPEG", "MPO"):
                height, width = (max(1, math.ceil(side)) for side in at_least)
                sideways = orientation(opened) in SIDEWAYS
                opened.draft(None, (height, width) if sideways else (width, height))
            opened.load()
            image = _grey_or_rgb(opened, channels)
            turn = UPRIGHT.get(orientation(opened))
            return image if turn is None else image.transpose(turn)
    except UnidentifiedImageError as error:
        raise UnreadableImage(f"cannot read {shown(name, source)}: not an image") from error
    except BROKEN_FILE as error:
        reason = error.strerror if isinstance(error, OSError) else None
        reason = reason or " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImage(f"cannot read {shown(name, source)}: {reason}") from error


def shown(name: str | None, source: str | os.PathLike[str] | BinaryIO) -> str:
    """A path in one line, whatever characters it has."""
    if name is None:
        if not isinstance(source, str | os.PathLike):
            return "an image held in memory"
        name = os.fspath(source)
    return name if name.isprintable() else repr(name)


def orientation(image: Image.Image) -> int:
    """The EXIF tag, 1 (upright) where it is missing or cannot be read."""
    try:
        return image.getexif().get(ORIENTATION, 1)
    except BROKEN_FILE:
        return 1


def _grey_or_rgb(image: Image.Image, channels: int) -> Image.Image:
    if image.mode == "F":
        image = _scale_floats(image)
    elif image.mode.startswith("I"):
        # PIL clips 16-bit values to 255 where they should be divided by 257.
        values = np.clip(np.asarray(image, dtype=np.float64) / 257, 0, 255)
        image = Image.fromarray(np.rint(values).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("L" if channels == 1 else "RGB")


def _scale_floats(image: Image.Image) -> Image.Image:
    """Mode F to L: [0, 1] is stretched to [0, 255], values in [0, 255] are kept, any others go
    from their least to their greatest. What is not finite is black.
    """
    values = np.asarray(image, dtype=np.float64)
    finite = np.isfinite(values)
    values = np.where(finite, values, 0)
    least, greatest = (values[finite].min(), values[finite].max()) if finite.any() else (0, 0)
    if least >= 0 and greatest <= 1:
        values = values * 255
    elif least < 0 or greatest > 255:
        span = greatest - least
        values = (values - least) * (255 / span if span else 0)
    values = np.where(finite, np.rint(values), 0)
    return Image.fromarray(values.astype(np.uint8))


def to_uint8(image: Image.Image) -> Tensor:
    """PIL image → [C, H, W] uint8."""
    return TF.pil_to_tensor(image)


def to_channels(images: Tensor, channels: int) -> Tensor:
    """Grey to colour or back: [..., C, H, W] → [..., channels, H, W]."""
    if images.shape[-3] == channels:
        return images
    if channels == 1:
        return TF.rgb_to_grayscale(images)
    return images.expand(*images.shape[:-3], channels, *images.shape[-2:])


def fit_to(images: Tensor, size: tuple[int, int], crop_share: float = 1.0) -> Tensor:
    """Resize the image to cover `size`, crop the middle: [..., C, H, W] uint8 → [..., C, *size].

    `crop_share` is the part of the resized image that the crop keeps: 0.875 resizes the shorter
    side to 256 for a crop of 224. Bicubic, with antialiasing. What has the right size already is
    returned as it is, so that the evaluation of a data set and of the files written from it agree
    to the bit.
    """
    if tuple(images.shape[-2:]) == size and crop_share == 1.0:
        return images
    height, width = images.shape[-2:]
    scale = max(size[0] / height, size[1] / width) / crop_share
    if max(height * scale / size[0], width * scale / size[1]) > LONG_STRIP:
        middle = [
            min(height, math.ceil(2 * size[0] / scale)),
            min(width, math.ceil(2 * size[1] / scale)),
        ]
        if middle != [height, width]:
            return fit_to(TF.center_crop(images, middle), size, crop_share)
    resized = [max(size[0], round(height * scale)), max(size[1], round(width * scale))]
    images = TF.resize(images, resized, InterpolationMode.BICUBIC, antialias=True)
    return TF.center_crop(images, list(size))


def fit_image(image: Image.Image, size: tuple[int, int], crop_share: float = 1.0) -> Image.Image:
    """`fit_to` of a PIL image, with PIL's own resize of the part that the crop keeps.

    A strip of 20,000 × 10 pixels costs what a square does.
    """
    if image.size == (size[1], size[0]) and crop_share == 1.0:
        return image
    box: list[tuple[float, float]] = []  # where it starts and ends: of the height, of the width
    scale = max(size[0] / image.height, size[1] / image.width) / crop_share
    for side, wanted in zip((image.height, image.width), size, strict=True):
        resized = max(wanted, round(side * scale))
        start = round((resized - wanted) / 2)
        box.append((start * side / resized, min((start + wanted) * side / resized, side)))
    (top, bottom), (left, right) = box
    return image.resize(size[::-1], Image.Resampling.BICUBIC, (left, top, right, bottom))


def normalise(
    images: Tensor,
    mean: Tensor,
    std: Tensor,
    layout: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """uint8 to float32 of zero mean and unit deviation a channel: [B, C, H, W] kept.

    `mean` and `std` [C] are those of pixels from 0 to 1.
    """
    factor, offset = 1 / (255 * std), -mean / std
    return (
        images.to(torch.float32, memory_format=layout)
        .mul_(factor[:, None, None])
        .add_(offset[:, None, None])
    )


def denormalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """What `normalise` was given, as float32 from 0 to 1: [..., C, H, W] kept."""
    images = images.float()
    centre, spread = (images.new_tensor(values)[:, None, None] for values in (mean, std))
    return (images * spread + centre).clamp_(0, 1)
