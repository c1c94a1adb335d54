"""JPEG files decoded by worker processes: ours beside timm's loader and torchvision's transforms.

All cut a random part of each picture, resize it (bicubic) to a square, mirror half of them, erase
a rectangle of a quarter, and normalise.
"""

from pathlib import Path
from typing import Any

import torch
from timm.data import create_dataset, create_loader
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from vitfw.benchmarks.turns import (
    Batches,
    compared,
    epochs_of,
    epochs_of_peer,
    images_per_second,
    medians,
)
from vitfw.data.augment.batch_augment import BatchAugment
from vitfw.data.catalog import facts_of
from vitfw.data.classification_data import Place
from vitfw.data.datamodule import ImageData

SCALE, RATIO, HFLIP, ERASE = (0.08, 1.0), (3 / 4, 4 / 3), 0.5, 0.25
IMAGENET = facts_of("imagenet")


class FolderOn(ImageData):
    """An image folder whose batches go to `device`, as in a training there."""

    def __init__(self, device: torch.device, **options: Any):
        super().__init__(name="image_folder", **options)
        self._device_place = Place(0, 1, device)

    @property
    def place(self) -> Place:
        return self._device_place


def ours(root: Path, img_size: int, batch_size: int, workers: int, device: torch.device) -> Batches:
    data = FolderOn(
        device,
        root=root,
        img_size=img_size,
        batch_size=batch_size,
        num_workers=workers,
        mean=IMAGENET.mean,
        std=IMAGENET.std,
        augment=BatchAugment(crop_scale=SCALE, crop_ratio=RATIO, hflip=HFLIP, erase=ERASE),
    )
    data.prepare_data()
    data.setup("fit")
    return epochs_of(data)


def timms(
    root: Path, img_size: int, batch_size: int, workers: int, device: torch.device, prefetcher: bool
) -> Batches:
    """`prefetcher`: normalises and erases whole batches on the device, as ours does."""
    without: Any = None  # its signature says float; None is what switches it off
    loader = create_loader(
        create_dataset("", root=str(root / "train"), is_training=True),
        input_size=(3, img_size, img_size),
        batch_size=batch_size,
        is_training=True,
        re_prob=ERASE,
        scale=SCALE,
        ratio=RATIO,
        hflip=HFLIP,
        color_jitter=without,
        interpolation="bicubic",
        mean=IMAGENET.mean,
        std=IMAGENET.std,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        device=device,
        use_prefetcher=prefetcher,
        persistent_workers=workers > 0,
    )
    return epochs_of_peer(loader, device)


def torchvisions(
    root: Path, img_size: int, batch_size: int, workers: int, device: torch.device
) -> Batches:
    bicubic = v2.InterpolationMode.BICUBIC
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(img_size, SCALE, RATIO, interpolation=bicubic),
            v2.RandomHorizontalFlip(HFLIP),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET.mean, IMAGENET.std),
            v2.RandomErasing(ERASE),
        ]
    )
    loader = DataLoader(
        ImageFolder(str(root / "train"), transform),
        batch_size,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
    )
    return epochs_of_peer(loader, device)


def contestants(
    root: Path, img_size: int, batch_size: int, workers: int, device: torch.device
) -> dict[str, Batches]:
    """Epochs of `root/train` from each library, all with as many workers."""
    options = (root, img_size, batch_size, workers, device)
    return {
        "vitfw": ours(*options),
        "timm": timms(*options, prefetcher=False),
        "timm, prefetcher": timms(*options, prefetcher=True),
        "torchvision": torchvisions(*options),
    }


def measure_files(
    device: torch.device, turns: int, root: Path, img_size: int, batch_size: int, workers: int
) -> dict[str, Any]:
    """Images/s of each, and how many times as fast ours is; timm's faster form is its peer."""
    sides = contestants(root, img_size, batch_size, workers, device)
    speeds = images_per_second(sides, turns, device)
    typical = medians(speeds)
    peer = max((name for name in typical if name.startswith("timm")), key=typical.__getitem__)
    comparison = compared("vitfw", speeds)
    return {
        "workers": workers,
        "images_per_second": typical,
        **comparison,
        "peer": peer,
        "ratio_to_peer": comparison["ratios"][peer],
    }
