"""One DataModule for every data set: splits, loaders, and the last steps on the device."""

import dataclasses
import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from vitfw.atomic import held
from vitfw.data.arrays import READERS, ArrayImages, make_fake
from vitfw.data.batch_augment import BatchAugment
from vitfw.data.catalog import facts_of
from vitfw.data.image_folder import FolderDataset, FolderImages, read_image_folder
from vitfw.data.loaders import EpochSampler, RawBatch, ResidentLoader, StatefulLoader, WorkerLoader
from vitfw.data.splits import stratified_split
from vitfw.data.transforms import fit_to, normalise, scale_to_unit, to_channels
from vitfw.errors import ConfigError

FAKE_TEST_SHARE = 4  # one test image for so many training images


class ImageData(L.LightningDataModule):
    """Training, validation and test batches of a data set of the catalogue.

    Batches are (images [B, C, H, W] float, normalised, of `img_size`; labels [B] int64).
    Validation is a seeded stratified `val_share` of the training images; test images are read
    by `setup("test")` only. Sets of the catalogue that fit in memory are held there as one uint8
    tensor; image folders are decoded by `num_workers` processes (default: one a core, at most
    8). Augmentation and normalisation run on the device, on whole batches.

    Raises:
        ConfigError: the data are missing, or do not fit the options; says what would.
    """

    def __init__(
        self,
        name: str,
        root: str | Path = "data",
        num_classes: int | None = None,
        channels: int | None = None,
        native_size: int | None = None,
        img_size: int | Sequence[int] | None = None,
        batch_size: int = 128,
        eval_batch_size: int | None = None,
        num_workers: int | None = None,
        val_share: float = 0.1,
        split_seed: int = 0,
        seed: int = 0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        crop_share: float = 1.0,
        download: bool = True,
        num_images: int = 1024,
        augment: BatchAugment | None = None,
    ):
        super().__init__()
        facts = facts_of(name)
        if facts.classes and num_classes not in (None, len(facts.classes)):
            raise ConfigError(
                f"data.num_classes={num_classes}, but {facts.title} has {len(facts.classes)}"
            )
        if name == "fake" and not num_classes:
            raise ConfigError("data=fake has no classes of its own; set data.num_classes=10, say")
        for key, value in {"batch_size": batch_size, "num_images": num_images}.items():
            if value < 1:
                raise ConfigError(f"data.{key}={value} must be at least 1")
        self.dataset_name = name
        self.root = Path(root).expanduser()
        self.classes = facts.classes
        self.num_classes = num_classes or len(facts.classes)
        self.channels = channels or facts.channels
        self.native_size = native_size or facts.native_size
        size = self.native_size if img_size is None else img_size
        self.img_size = (size, size) if isinstance(size, int) else (size[0], size[1])
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size or batch_size
        self.num_workers = min(os.cpu_count() or 1, 8) if num_workers is None else num_workers
        self.val_share = val_share
        self.split_seed = split_seed
        self.seed = seed
        self.mean = per_channel("mean", mean or facts.mean, self.channels)
        self.std = per_channel("std", std or facts.std, self.channels)
        self.crop_share = crop_share
        self.download = download
        self.num_images = num_images
        self.augment = augment or BatchAugment()
        self._prepared = False
        self._on_device: dict[torch.device, tuple[Tensor, Tensor]] = {}
        self._train: ArrayImages | FolderImages | None = None
        self._val: ArrayImages | FolderImages | None = None
        self._test: ArrayImages | FolderImages | None = None

    def prepare_data(self) -> None:
        """Download what is missing, before `setup`; one process of a machine at a time."""
        if self._prepared or not facts_of(self.dataset_name).download_mb:
            return
        with held(self.root) if self.download else nullcontext():
            READERS[self.dataset_name](self.root, True, self.download)
        self._prepared = True

    def setup(self, stage: str | None = None) -> None:
        """Read the splits that `stage` (fit, validate or test) needs, once."""
        if self.dataset_name == "image_folder":
            self._setup_folder()
        elif stage in ("fit", "validate", None):
            self._setup_training_arrays()
        if stage in ("test", None) and self._test is None:
            self._test = self._read_arrays(train=False)

    def _setup_folder(self) -> None:
        if self._train is not None:
            return
        found = read_image_folder(self.root)
        if self.num_classes not in (0, len(found.classes)):
            raise ConfigError(
                f"data.num_classes={self.num_classes}, but {self.root} holds "
                f"{len(found.classes)} classes"
            )
        self.classes, self.num_classes = found.classes, len(found.classes)
        self._train, self._val, self._test = found.train, found.val, found.test
        if self._val is None:
            kept, held_out = stratified_split(found.train.labels, self.val_share, self.split_seed)
            self._train, self._val = found.train.subset(kept), found.train.subset(held_out)

    def _setup_training_arrays(self) -> None:
        if self._train is not None:
            return
        everything = self._read_arrays(train=True)
        kept, held_out = stratified_split(everything.labels, self.val_share, self.split_seed)
        self._train, self._val = everything.subset(kept), everything.subset(held_out)

    def _read_arrays(self, train: bool) -> ArrayImages:
        if self.dataset_name in READERS:
            found = READERS[self.dataset_name](self.root, train, self.download)
            return ArrayImages(to_channels(found.images, self.channels), found.labels)
        self.classes = tuple(f"class {i}" for i in range(self.num_classes))
        count = self.num_images if train else max(self.num_images // FAKE_TEST_SHARE, 1)
        return make_fake(self.num_classes, self.channels, self.native_size, count, train)

    @property
    def train_images(self) -> int:
        """Number of training images, after validation has been split off."""
        return len(self._require("_train"))

    def steps_per_epoch(self, world: int = 1) -> int:
        """Batches each of `world` processes takes in an epoch.

        Raises:
            ConfigError: not even one whole batch can be made.
        """
        steps = self.train_images // (self.batch_size * world)
        if steps == 0:
            raise ConfigError(
                f"data.batch_size={self.batch_size} × {world} processes is more than the "
                f"{self.train_images} training images; "
                f"set data.batch_size={max(self.train_images // world, 1)} or less"
            )
        return steps

    def train_dataloader(self) -> StatefulLoader:
        return self._loader("_train", self.batch_size, shuffle=True)

    def val_dataloader(self) -> StatefulLoader | list:
        empty = len(self._require("_val")) == 0
        return [] if empty else self._loader("_val", self.eval_batch_size, shuffle=False)

    def test_dataloader(self) -> StatefulLoader:
        return self._loader("_test", self.eval_batch_size, shuffle=False)

    def _require(self, split: str) -> ArrayImages | FolderImages:
        images = getattr(self, split)
        if images is None:
            raise RuntimeError("call setup() before asking for a loader")
        return images

    def _loader(self, split: str, batch_size: int, shuffle: bool) -> StatefulLoader:
        images = self._require(split)
        rank, world = 0, 1
        device = torch.device("cpu")
        if self.trainer is not None:
            rank, world = self.trainer.global_rank, self.trainer.world_size
            device = self.trainer.strategy.root_device
        sampler = EpochSampler(len(images), batch_size, self.seed, shuffle, rank, world)
        if isinstance(images, ArrayImages):
            if images.images.device != device:
                images = ArrayImages(images.images.to(device), images.labels.to(device))
                setattr(self, split, images)
            return ResidentLoader(images, sampler)
        dataset = FolderDataset(
            images,
            self.img_size,
            self.channels,
            self.seed,
            self.crop_share,
            self.augment if shuffle else None,
        )
        return WorkerLoader(dataset, sampler, self.num_workers, device.type == "cuda")

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Augment (in training), resize and normalise a whole batch on the device."""
        if not isinstance(batch, RawBatch):
            return batch
        training = self.trainer is not None and self.trainer.training
        prepare = self.prepare_training if training else self.prepare_evaluation
        return prepare(batch)

    def prepare_training(self, batch: RawBatch) -> tuple[Tensor, Tensor]:
        """RawBatch → augmented, normalised images of `img_size`, and labels."""
        mean, std = self._statistics(batch.images.device)
        augment = self.augment
        if (
            self.dataset_name == "image_folder"
        ):  # the crop was cut by the worker, from the full picture
            augment = dataclasses.replace(augment, crop_scale=None)
        images = augment(scale_to_unit(batch.images), batch.keys, mean)
        return normalise(fit_to(images, self.img_size), mean, std), batch.labels

    def prepare_evaluation(self, batch: RawBatch) -> tuple[Tensor, Tensor]:
        """RawBatch → normalised images of `img_size`, and labels."""
        mean, std = self._statistics(batch.images.device)
        images = scale_to_unit(fit_to(batch.images, self.img_size))
        return normalise(images, mean, std), batch.labels

    def _statistics(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and std, put on the device once."""
        if device not in self._on_device:
            mean, std = (
                torch.tensor(self.mean, device=device),
                torch.tensor(self.std, device=device),
            )
            self._on_device[device] = mean, std
        return self._on_device[device]


def per_channel(key: str, values: Sequence[float], channels: int) -> tuple[float, ...]:
    """One value a channel; a colour set read as grey gets the mean of its three.

    Raises:
        ConfigError: neither one value nor `channels` of them were given.
    """
    values = tuple(float(v) for v in values)
    if channels == 1 and len(values) == 3:
        values = (sum(values) / 3,)
    if len(values) == 1:
        values *= channels
    if len(values) != channels:
        raise ConfigError(
            f"data.{key} has {len(values)} values, but images have {channels} channels"
        )
    return values
