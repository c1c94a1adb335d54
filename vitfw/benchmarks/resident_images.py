"""Small images held in memory: batched augmentation against a transform for each image.

Made-up images of CIFAR's shape, [N, 3, 32, 32] uint8. Both sides crop with a padding of 4 pixels,
mirror, erase a rectangle of a quarter of them, and normalise.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from vitfw.benchmarks.turns import (
    Batches,
    compared,
    epochs_of,
    epochs_of_peer,
    images_per_second,
    medians,
)
from vitfw.building import build
from vitfw.config import compose, to_plain
from vitfw.data.augment.batch_augment import BatchAugment
from vitfw.data.catalog import facts_of
from vitfw.data.class_balance import class_counts
from vitfw.data.classification_data import ClassificationData, Place
from vitfw.data.images import ArrayImages
from vitfw.data.loaders import ResidentLoader
from vitfw.data.sampler import EpochSampler

SIDE, PADDING, HFLIP, ERASE = 32, 4, 0.5, 0.25
CIFAR = facts_of("cifar10")


def made_up(count: int) -> ArrayImages:
    generator = torch.Generator().manual_seed(0)
    shape = (count, 3, SIDE, SIDE)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return ArrayImages(images, torch.arange(count) % CIFAR.num_classes)


class ResidentImages(ClassificationData):
    """Images that are there already, on a device, as `ImageData` would have put them."""

    def __init__(
        self, images: ArrayImages, augment: BatchAugment, batch_size: int, device: torch.device
    ):
        super().__init__(
            name="made up",
            classes=CIFAR.classes,
            num_classes=CIFAR.num_classes,
            channels=3,
            img_size=SIDE,
            batch_size=batch_size,
            eval_batch_size=None,
            num_workers=0,
            seed=0,
            mean=CIFAR.mean,
            std=CIFAR.std,
            crop_share=1.0,
            max_bad_share=0.0,
            channels_last=False,
            augment=augment,
        )
        self._place = Place(0, 1, device)
        self._images = ArrayImages(images.images.to(device), images.labels.to(device))

    @property
    def place(self) -> Place:
        return self._place

    def count(self, split: str) -> int:
        return len(self._images)

    def class_counts(self, split: str) -> Tensor:
        return class_counts(self._images.labels.cpu(), self.num_classes)

    def loader(self, split: str, batch_size: int, shuffle: bool) -> ResidentLoader:
        sampler = EpochSampler(len(self._images), batch_size, self.seed, shuffle)
        return ResidentLoader(self._images, sampler)

    def preview_loader(self, split: str, count: int) -> ResidentLoader:
        return self.loader(split, count, shuffle=split == "train")


class PerImage(Dataset):
    """One image at a time: how a data set is commonly written.

    `as_pil` is torchvision's CIFAR10, which makes a PIL image of each [H, W, C] array; without it
    the transform is given the [C, H, W] uint8 tensor itself.
    """

    def __init__(self, images: ArrayImages, transform: Callable, as_pil: bool):
        self.arrays = images.images.permute(0, 2, 3, 1).contiguous().numpy() if as_pil else None
        self.tensors = images.images
        self.labels: list[int] = images.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if self.arrays is None:
            return self.transform(self.tensors[index]), self.labels[index]
        return self.transform(Image.fromarray(self.arrays[index])), self.labels[index]


def per_image_loader(
    images: ArrayImages, as_pil: bool, batch_size: int, workers: int, device: torch.device
) -> DataLoader:
    transform = v2.Compose(
        [
            v2.RandomCrop(SIDE, padding=PADDING),
            v2.RandomHorizontalFlip(HFLIP),
            *([v2.ToImage()] if as_pil else []),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(CIFAR.mean, CIFAR.std),
            v2.RandomErasing(ERASE),
        ]
    )
    return DataLoader(
        PerImage(images, transform, as_pil),
        batch_size,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
    )


def contestants(
    images: ArrayImages, batch_size: int, workers: int, device: torch.device
) -> dict[str, Batches]:
    """Epochs of ours, and of torchvision's transforms in a DataLoader, in its two usual forms."""
    ours = BatchAugment(shift=PADDING, hflip=HFLIP, erase=ERASE)
    peers = {
        "torchvision, PIL": per_image_loader(images, True, batch_size, workers, device),
        "torchvision, tensors": per_image_loader(images, False, batch_size, workers, device),
    }
    return {
        "vitfw": epochs_of(ResidentImages(images, ours, batch_size, device)),
        **{name: epochs_of_peer(loader, device) for name, loader in peers.items()},
    }


def measure_resident(
    device: torch.device, turns: int, images: int, batch_size: int, workers: int
) -> dict[str, Any]:
    """Images/s of ours and of a DataLoader, and how many times as fast ours is."""
    sides = contestants(made_up(images), batch_size, workers, device)
    speeds = images_per_second(sides, turns, device)
    return {
        "images": images,
        "batch_size": batch_size,
        "workers_of_peers": workers,
        "images_per_second": medians(speeds),
        **compared("vitfw", speeds),
    }


def augment_called(name: str) -> BatchAugment:
    """An option of `augment=` as it is for CIFAR-10, but without mixing and repeats.

    Raises:
        ConfigError: there is no such option.
    """
    cfg = to_plain(compose("train", ["data=cifar10", f"augment={name}"]))
    return build({**cfg["augment"], "mixing": None, "repeats": 1})


def measure_policies(
    device: torch.device, turns: int, names: Sequence[str], batches: int, batch_size: int
) -> dict[str, Any]:
    """Images/s of each option of `augment=`."""
    images = made_up(batches * batch_size)
    sides = {}
    for name in names:
        augment = augment_called(name)
        sides[name] = epochs_of(ResidentImages(images, augment, batch_size, device))
    speeds = images_per_second(sides, turns, device)
    return {
        "batch_size": batch_size,
        "batches_per_turn": batches,
        "images_per_second": medians(speeds),
    }
