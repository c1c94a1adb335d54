"""Reading an image file in two steps: its size, then as many of its pixels as are needed.

C channels, H height, W width.
"""

import io
import os
from pathlib import Path
from typing import BinaryIO

import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from vitfw.data.transforms import (
    BROKEN_FILE,
    SIDEWAYS,
    UnreadableImage,
    fit_to,
    open_image,
    orientation,
    shown,
    to_channels,
    to_uint8,
)

Source = str | os.PathLike[str] | BinaryIO
JPEG = b"\xff\xd8"
SMALL_FILE = 1 << 18  # bytes of about a megapixel: not worth decoding at a reduced scale
EVALUATION_GAP = 2.0  # a JPEG decoded smaller keeps so many times the side that is needed


class ImageFile:
    """An image file whose size is known. `height` and `width` are those upright.

    Raises:
        UnreadableImage: there is no such file, it is no image, or not one that can be opened.
    """

    def __init__(self, source: Source, name: str | None = None):
        self._name = shown(name, source)
        try:
            self._bytes = _content(source)
            self._pixels = decoded_at_once(self._bytes)
            if self._pixels is not None:
                self.height, self.width = self._pixels.shape[1:]
                return
            header = Image.open(io.BytesIO(self._bytes))
        except BROKEN_FILE as error:
            reason = error.strerror if isinstance(error, OSError) else None
            if isinstance(error, Image.DecompressionBombError):
                reason = str(error)
            raise UnreadableImage(
                f"cannot read {self._name}: {reason or 'not an image'}"
            ) from error
        sideways = orientation(header) in SIDEWAYS
        self.width, self.height = header.size[::-1] if sideways else header.size

    def pixels(self, channels: int, at_least: tuple[float, float] | None = None) -> Tensor:
        """[C, H, W] uint8, upright; see `open_image`.

        A large JPEG may be smaller than `height` × `width`, by 2, 4 or 8, but no side shorter than
        `at_least`.

        Raises:
            UnreadableImage: the file is broken, or too large.
        """
        if self._pixels is not None and len(self._pixels) <= channels:
            return to_channels(self._pixels, channels)
        return to_uint8(open_image(io.BytesIO(self._bytes), channels, at_least, self._name))


def decoded_at_once(content: bytes) -> Tensor | None:
    """The pixels of a small JPEG in grey or RGB, upright: [1 or 3, H, W]; of others none.

    They are PIL's to the bit, in half of the time. A broken file is left to PIL, which says why.
    """
    if len(content) > SMALL_FILE or not content.startswith(JPEG):
        return None
    encoded = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    try:
        pixels = decode_jpeg(encoded, ImageReadMode.UNCHANGED, apply_exif_orientation=True)
    except RuntimeError:
        return None
    assert isinstance(pixels, Tensor)  # given a list, it would give one
    return pixels if len(pixels) in (1, 3) else None  # four are cyan, magenta, yellow and black


def _content(source: Source) -> bytes:
    if isinstance(source, str | os.PathLike):
        return Path(source).read_bytes()
    return source.read()


def read_fitted(
    source: Source,
    size: tuple[int, int],
    channels: int,
    crop_share: float = 1.0,
    name: str | None = None,
) -> Tensor:
    """An image as a model is evaluated on it: [C, *size] uint8; see `fit_to`.

    Raises:
        UnreadableImage: PIL cannot read it.
    """
    needed = EVALUATION_GAP / crop_share
    image = ImageFile(source, name)
    pixels = image.pixels(channels, at_least=(size[0] * needed, size[1] * needed))
    return fit_to(pixels, size, crop_share)
