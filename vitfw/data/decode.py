"""What worker processes do: from one image of a split to the pixels of a sample.

C channels, H height, W width.
"""

from typing import NamedTuple

import torch
import torchvision.transforms.v2.functional as TF
from torch import Tensor
from torch.utils.data import Dataset, default_collate
from torchvision.transforms import InterpolationMode

from vitfw.data.augment.batch_augment import BatchAugment
from vitfw.data.augment.random_crop import random_box
from vitfw.data.counter_rng import uniform_of
from vitfw.data.images import ArrayImages, Images
from vitfw.data.reading.image_file import ImageFile, Source, read_fitted
from vitfw.data.transforms import UnreadableImage

SUBSTITUTE = 300  # the first of the random numbers that choose another image for a bad one
MOST_SUBSTITUTES = 20


class Sample(NamedTuple):
    """pixels [C, H, W] uint8, or None where the image is bad; label; key; (index, reason)s."""

    pixels: Tensor | None
    label: int
    key: int
    bad: list[tuple[int, str]]


class Samples(NamedTuple):
    """The good samples of a batch: pixels [B, C, H, W] uint8, labels [B], keys [B]; bad ones."""

    images: Tensor
    labels: Tensor
    keys: Tensor
    bad: list[tuple[int, str]]


class Decoder(Dataset):
    """(index of the image, key) → `Sample`.

    With an `augment`, for training: its random crop is cut here, from the full resolution, and its
    `per_image` transforms are applied, seeded by the sample's key; all else is left to the batch.
    Then an image that cannot be read is replaced by another, which is a function of the sample's
    key, so that batches stay full; in evaluation it is left out. Arrays are given as they are:
    they are cropped and resized as batches.
    """

    def __init__(
        self,
        images: Images,
        size: tuple[int, int],
        channels: int,
        crop_share: float = 1.0,
        augment: BatchAugment | None = None,
    ):
        self.images = images
        self.size = size
        self.channels = channels
        self.crop_share = crop_share
        self.augment = augment

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: tuple[int, int]) -> Sample:
        i, key = index
        bad: list[tuple[int, str]] = []
        for attempt in range(MOST_SUBSTITUTES):
            try:
                pixels = self._pixels(i, key)
                return Sample(pixels, int(self.images.labels[i]), key, bad)
            except UnreadableImage as error:
                bad.append((i, str(error)))
            if self.augment is None:
                break
            i = int(uniform_of(key, SUBSTITUTE + attempt) * len(self.images))
        if self.augment is not None:
            raise UnreadableImage(f"of {MOST_SUBSTITUTES} images none can be read: {bad[0][1]}")
        return Sample(None, -1, key, bad)

    def _pixels(self, i: int, key: int) -> Tensor:
        if isinstance(self.images, ArrayImages):
            pixels = self.images.images[i]  # cropped and resized as a batch, with the others
            return transformed(pixels, key, self.augment) if self.augment else pixels
        source, name = self.images.open(i), self.images.name(i)
        if self.augment is None:
            return read_fitted(source, self.size, self.channels, self.crop_share, name)
        return read_augmented(
            source, self.size, self.channels, self.crop_share, key, self.augment, name
        )


def read_augmented(
    source: Source,
    size: tuple[int, int],
    channels: int,
    crop_share: float,
    key: int,
    augment: BatchAugment,
    name: str | None = None,
) -> Tensor:
    """An image as a worker hands it on for training: [C, *size] uint8.

    The random crop of `augment` is cut from the full picture, or else the picture fitted to `size`;
    then come its `per_image` transforms. `key` decides.

    Raises:
        UnreadableImage: PIL cannot read it.
    """
    if augment.crop_scale is None:
        pixels = read_fitted(source, size, channels, crop_share, name)
    else:
        image = ImageFile(source, name)
        top, left, height, width = random_box(
            key, tuple(augment.crop_scale), tuple(augment.crop_ratio), image.height, image.width
        )
        needed = size[0] * image.height / height, size[1] * image.width / width
        pixels = image.pixels(channels, at_least=needed)
        if pixels.shape[1:] != (image.height, image.width):  # it was decoded at a reduced scale
            down, right = pixels.shape[1] / image.height, pixels.shape[2] / image.width
            top, height = int(top * down), max(int(height * down), 1)
            left, width = int(left * right), max(int(width * right), 1)
        pixels = TF.resized_crop(
            pixels, top, left, height, width, list(size), InterpolationMode.BICUBIC, antialias=True
        )
    return transformed(pixels, key, augment)


def transformed(pixels: Tensor, key: int, augment: BatchAugment) -> Tensor:
    """`per_image` applied, with the global random state that it draws from set by the key."""
    if not augment.per_image:
        return pixels
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(key)  # the GPU's is the model's
        for transform in augment.per_image:
            pixels = transform(pixels)
    return pixels


def collate(samples: list[Sample]) -> Samples:
    """Stack the good ones, in a worker into shared memory. An empty batch has no pixels: [0]."""
    good = [sample for sample in samples if sample.pixels is not None]
    bad = [entry for sample in samples for entry in sample.bad]
    images = default_collate([sample.pixels for sample in good]) if good else torch.empty(0)
    labels = torch.tensor([sample.label for sample in good], dtype=torch.int64)
    keys = torch.tensor([sample.key for sample in good], dtype=torch.int64)
    return Samples(images, labels, keys, bad)
