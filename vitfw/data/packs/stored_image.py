"""What is stored of an image: the bytes of a file, or pixels."""

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from vitfw.data.images import ArrayImages, EncodedImages, Images
from vitfw.data.packs.pack_options import PackOptions
from vitfw.data.transforms import UnreadableImage, fit_image, open_image, to_uint8

PROBED = 64  # images that tell how many fill a shard


def encode(images: Images, i: int, options: PackOptions, channels: int) -> bytes | np.ndarray:
    """What is stored of image `i`: the bytes of a file, or pixels [C, H, W] uint8.

    A JPEG or PNG file that is small enough is stored as it is.

    Raises:
        UnreadableImage: the file is no image, or broken.
    """
    if isinstance(images, ArrayImages):
        return images.images[i].numpy()
    image = open_image(images.open(i), channels)
    if options.quality == "raw":
        size = (options.size, options.size)
        return to_uint8(fit_image(image, size)).numpy()
    shorter = min(image.size)
    if shorter <= options.size:
        content, kind = _file(images, i)
        if kind in ("JPEG", "PNG"):
            return content
    else:
        scale = options.size / shorter
        width, height = (max(options.size, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    sink = BytesIO()
    try:
        image.save(sink, "JPEG", quality=options.quality)
    except (OSError, ValueError) as error:  # a side longer than JPEG can count
        raise UnreadableImage(f"cannot store {images.name(i)} as JPEG: {error}") from error
    return sink.getvalue()


def _file(images: EncodedImages, i: int) -> tuple[bytes, str | None]:
    """The bytes of an image file that has been read once, and its format."""
    source = images.open(i)
    content = Path(source).read_bytes() if isinstance(source, str) else source.read()
    with Image.open(BytesIO(content)) as opened:
        return content, opened.format


def images_per_shard(images: Images, order: np.ndarray, options: PackOptions, channels: int) -> int:
    """How many images fill a shard, told from the first ones that are packed."""
    sizes = []
    for i in order[:PROBED].tolist():
        try:
            stored = encode(images, i, options, channels)
            sizes.append(len(stored) if isinstance(stored, bytes) else stored.nbytes)
        except UnreadableImage:
            continue
    mean = sum(sizes) / len(sizes) if sizes else 1.0
    return max(1, round(options.chunk_mb * 1e6 / mean))
