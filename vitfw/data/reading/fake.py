"""Images made up on the spot: to try things out, and for tests."""

import torch

from vitfw.data.images import ArrayImages, Split
from vitfw.data.sets.dataset import SplitName

TEST_SHARE = 4  # one test image for so many training images


def make_fake(
    num_classes: int, channels: int, size: int, num_images: int, split: SplitName
) -> Split:
    """A random pattern a class under heavy noise: learnable, needs nothing, looks like nothing."""
    if split == "test":
        num_images = max(num_images // TEST_SHARE, 1)
    generator = torch.Generator().manual_seed(0)
    patterns = torch.rand(num_classes, channels, size, size, generator=generator)
    generator.manual_seed(1 if split == "train" else 2)
    labels = torch.arange(num_images) % num_classes
    noise = torch.rand(num_images, channels, size, size, generator=generator)
    images = ((patterns[labels] * 0.5 + noise * 0.5) * 255).to(torch.uint8)
    return Split(ArrayImages(images, labels), tuple(f"class {i}" for i in range(num_classes)))
