"""Pictures of soft noise, as photographs are, and folders of them."""

from pathlib import Path

import numpy as np
from PIL import Image

from vitfw.data.images import EncodedImages
from vitfw.data.reading.image_folder import read_folder


def picture(width: int, height: int, seed: int = 0, mode: str = "RGB") -> Image.Image:
    """Random colours that change slowly from pixel to pixel, in every image others."""
    random = np.random.default_rng(seed)
    few = random.integers(0, 256, (max(height // 8, 2), max(width // 8, 2), 3), dtype=np.uint8)
    soft = Image.fromarray(few).resize((width, height), Image.Resampling.BICUBIC)
    return soft.convert(mode)


def fill(
    folder: Path, count: int, suffix: str = "jpg", width: int = 40, height: int = 30, seed: int = 0
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        path = folder / f"{i:03}.{suffix}"
        picture(width + i % 3, height, 1000 * seed + i).save(path)


def two_classes(root: Path, count: int, **options) -> EncodedImages:
    """`count` pictures of each of two classes below `root`, as training images."""
    for number, name in enumerate(("ant", "bee")):
        fill(root / name, count, seed=number, **options)
    images = read_folder(root)["train"].images
    assert isinstance(images, EncodedImages)
    return images


def spoil(images: EncodedImages, *indices: int) -> list[str]:
    """Overwrite some of the files with what is no image; their paths."""
    paths = [images.name(i) for i in indices]
    for path in paths:
        Path(path).write_bytes(b"not an image")
    return paths
