"""A folder of JPEG files of the size that ImageNet's have, cut from scikit-image's photographs."""

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (500, 375)  # width, height
QUALITY = 90
CLASSES = 8
NAMES = ("astronaut", "chelsea", "coffee", "rocket")  # part of the package: nothing is downloaded
OCTAVES = 7


def write_photographs(root: Path, count: int, seed: int = 0) -> str:
    """Write `count` files to `root/train/CLASS`, and one a class to `root/val` and `root/test`.

    Returns what they show: photographs, or rendered textures where scikit-image is not installed.
    """
    random = np.random.default_rng(seed)
    sources = photographs()
    for i in range(count + 2 * CLASSES):
        split = "train" if i < count else ("val", "test")[(i - count) // CLASSES]
        folder = root / split / f"class{i % CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        image = cut(sources[i % len(sources)], random) if sources else texture(random)
        image.save(folder / f"{i:05}.jpg", quality=QUALITY)
    return "photographs" if sources else "rendered textures"


def photographs() -> list[Image.Image]:
    try:
        from skimage import data
    except ImportError:
        return []
    return [Image.fromarray(getattr(data, name)()).convert("RGB") for name in NAMES]


def cut(source: Image.Image, random: np.random.Generator) -> Image.Image:
    """A part of the picture, of the shape of `SIZE` and at least 0.7 of the largest such."""
    scale = min(source.width / SIZE[0], source.height / SIZE[1]) * random.uniform(0.7, 1.0)
    width, height = SIZE[0] * scale, SIZE[1] * scale
    left = random.uniform(0, source.width - width)
    top = random.uniform(0, source.height - height)
    box = (left, top, left + width, top + height)
    return source.resize(SIZE, Image.Resampling.BICUBIC, box=box)


def texture(random: np.random.Generator) -> Image.Image:
    """Noise at every scale, each half as strong as the next larger."""
    total = np.zeros((SIZE[1], SIZE[0], 3), dtype=np.float32)
    for octave in range(OCTAVES):
        side = 4 << octave
        noise = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
        layer = Image.fromarray(noise).resize(SIZE, Image.Resampling.BICUBIC)
        total += np.asarray(layer, dtype=np.float32) / 2 ** (octave + 1)
    return Image.fromarray(total.astype(np.uint8))
