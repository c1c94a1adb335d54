"""From any image file to a uint8 tensor of the size a model takes.

B batch, C channels, H height, W width, S output side.
"""

from pathlib import Path

import torch
import torchvision.transforms.v2.functional as TF
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms import InterpolationMode

# What PIL's decoders raise on a broken file; RuntimeError is AVIF's, BLP's and DDS's.
BROKEN_FILE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    RuntimeError,
    Image.DecompressionBombError,
)


class UnreadableImage(Exception):
    """A file that is not an image, or is broken; the message names it."""


def open_image(path: Path | str, channels: int) -> Image.Image:
    """Any file PIL reads, upright by its EXIF tag, as grey (1 channel) or RGB (3).

    16-bit grey is scaled to 8 bits; transparency is laid over white.

    Raises:
        UnreadableImage: there is no such file, it is no image, or it is cut off.
    """
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            image.load()
            return _grey_or_rgb(image, channels)
    except UnidentifiedImageError as error:
        raise UnreadableImage(f"cannot read {path}: not an image PIL can read") from error
    except BROKEN_FILE as error:
        raise UnreadableImage(f"cannot read {path}: {error}") from error


def _grey_or_rgb(image: Image.Image, channels: int) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        # PIL clips 16-bit values to 255 where they should be divided by 257.
        image = image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("L" if channels == 1 else "RGB")


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
    resized = [max(size[0], round(height * scale)), max(size[1], round(width * scale))]
    images = TF.resize(images, resized, InterpolationMode.BICUBIC, antialias=True)
    return TF.center_crop(images, list(size))


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Floats in [0, 1] to zero mean and unit deviation a channel: [B, C, H, W] kept."""
    return (images - mean[:, None, None]) / std[:, None, None]


def scale_to_unit(images: Tensor) -> Tensor:
    """uint8 0 to 255 → float32 in [0, 1]."""
    return images.to(torch.float32).div_(255.0)
