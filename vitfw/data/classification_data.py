"""What all data modules share: from raw batches to what a model takes, on its device.

B batch, C channels, H height, W width, K classes.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor

from vitfw.data.augment.batch_augment import BatchAugment
from vitfw.data.bad_images import BadImages
from vitfw.data.counter_rng import sample_keys
from vitfw.data.loaders import RawBatch, StatefulLoader
from vitfw.data.option_checks import check_number
from vitfw.data.run_length import batches_of_run
from vitfw.data.transforms import denormalise, fit_to, normalise
from vitfw.errors import ConfigError

MIXING_STREAM = 1 << 20  # added to the seed: mixing and augmentation draw different numbers


class Place(NamedTuple):
    """Which process of how many this is, and the device it trains on."""

    rank: int
    world: int
    device: torch.device


class ClassificationData(L.LightningDataModule, ABC):
    """Training, validation and test batches: (images [B, C, H, W] float, normalised, of `img_size`;
    labels [B] int64, or where they are mixed soft targets [B, K] float).

    Loaders give uint8. Augmentation, normalisation, erasing and mixing run on the device, on whole
    batches; what happens to an image is a function of the seed, the epoch and the image.

    Raises:
        ConfigError: options that do not fit each other.
    """

    def __init__(
        self,
        name: str,
        classes: Sequence[str],
        num_classes: int,
        channels: int,
        img_size: int | Sequence[int],
        batch_size: int,
        eval_batch_size: int | None,
        num_workers: int | None,
        seed: int,
        mean: Sequence[float],
        std: Sequence[float],
        crop_share: float,
        max_bad_share: float,
        channels_last: bool,
        augment: BatchAugment | None,
    ):
        super().__init__()
        for key, value in (
            ("batch_size", batch_size),
            ("eval_batch_size", eval_batch_size),
            ("num_workers", num_workers),
        ):
            check_number(key, value, int)
        if batch_size < 1:
            raise ConfigError(f"data.batch_size={batch_size} must be at least 1")
        if eval_batch_size is not None and eval_batch_size < 1:
            raise ConfigError(f"data.eval_batch_size={eval_batch_size} must be at least 1")
        if num_workers is not None and num_workers < 0:
            raise ConfigError(f"data.num_workers={num_workers} must be at least 0, or null")
        if not 0.0 < crop_share <= 1.0:
            raise ConfigError(
                f"data.crop_share={crop_share} is the part of the picture that evaluation keeps: "
                "above 0, at most 1, such as 0.875"
            )
        if not 0.0 <= max_bad_share <= 1.0:
            raise ConfigError(
                f"data.max_bad_share={max_bad_share} is a share: 0 to 1, such as 0.01"
            )
        self.dataset_name = name
        self.classes = tuple(classes)
        self.num_classes = num_classes
        self.channels = channels
        self.img_size = (
            (img_size, img_size) if isinstance(img_size, int) else (img_size[0], img_size[1])
        )
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size or batch_size
        self.num_workers = min(os.cpu_count() or 1, 8) if num_workers is None else num_workers
        self.seed = seed
        self.mean = per_channel("mean", mean, channels)
        self.std = per_channel("std", std, channels)
        self.crop_share = crop_share
        self.channels_last = channels_last
        self.augment = augment or BatchAugment()
        self._cropped_augment = self.augment.without_crop()
        self.bad_images = BadImages(max_bad_share)
        self.stays_at_start = False  # true: sizes and mixing remain those of the first batch
        self._on_device: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def state_dict(self) -> dict[str, Any]:
        """What could not be read so far, for the report of a run that goes on."""
        return {"bad": self.bad_images.found, "sizes": self.bad_images.sizes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.bad_images.merge(state_dict["bad"], state_dict["sizes"])

    @abstractmethod
    def count(self, split: str) -> int:
        """Number of images of "train", after validation has been split off, "val" or "test"."""

    @abstractmethod
    def class_counts(self, split: str) -> Tensor:
        """Images of each class in "train" or "val": [K] int64."""

    @abstractmethod
    def loader(self, split: str, batch_size: int, shuffle: bool) -> StatefulLoader:
        """The batches of a split that this process takes, ready for its device."""

    @abstractmethod
    def preview_loader(self, split: str, count: int) -> StatefulLoader:
        """A loader of its own, without workers, whose first batch has at most `count` images."""

    @property
    def crops_in_workers(self) -> bool:
        """Whether the random crop has been cut already, from the full picture."""
        return False

    @property
    def fitted_when_read(self) -> bool:
        """Whether images for evaluation have `img_size` already, `crop_share` applied."""
        return False

    @property
    def train_images(self) -> int:
        return self.count("train")

    def loss_weights(self) -> Tensor | None:
        """What each class counts in the loss, where it was asked for: [K] float32."""
        return None

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
        return self.loader("train", self.batch_size, shuffle=True)

    def val_dataloader(self) -> StatefulLoader | list:
        empty = self.count("val") == 0
        return [] if empty else self.loader("val", self.eval_batch_size, shuffle=False)

    def test_dataloader(self) -> StatefulLoader:
        return self.loader("test", self.eval_batch_size, shuffle=False)

    @property
    def place(self) -> Place:
        if self.trainer is None:
            return Place(0, 1, torch.device("cpu"))
        trainer = self.trainer
        return Place(trainer.global_rank, trainer.world_size, trainer.strategy.root_device)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Augment (in training), resize and normalise a whole batch on the device.

        Images get the number format of the trainer's net: it has converted bytes, nothing yet.
        """
        if not isinstance(batch, RawBatch):
            return batch
        trainer: Any = self.trainer
        if trainer is None:
            return self.prepare_evaluation(batch)
        prepare = self.prepare_training if trainer.training else self.prepare_evaluation
        images, targets = prepare(batch)
        return trainer.precision_plugin.convert_input(images), targets

    def prepare_training(self, batch: RawBatch) -> tuple[Tensor, Tensor]:
        """RawBatch → augmented, normalised, mixed images, and labels or targets.

        They have `img_size`, or the smaller one of that time where sizes are progressive.
        """
        augment = self._cropped_augment if self.crops_in_workers else self.augment
        size = augment.size_at(self._progress(batch.step), self.img_size)
        images = self._normalised(fit_to(augment(batch.images, batch.keys), size))
        images = augment.after_normalise(images, batch.keys)
        if augment.mixing is None or not augment.mixing.active:
            return images, batch.labels
        rank = torch.tensor([self.place.rank])
        key = int(sample_keys(self.seed + MIXING_STREAM, batch.step, rank))
        progress = self._progress(batch.step)
        return augment.mixing(images, batch.labels, self.num_classes, key, progress)

    def prepare_evaluation(self, batch: RawBatch) -> tuple[Tensor, Tensor]:
        """RawBatch → normalised images of `img_size`, and labels."""
        crop_share = 1.0 if self.fitted_when_read else self.crop_share
        return self._normalised(fit_to(batch.images, self.img_size, crop_share)), batch.labels

    def _normalised(self, images: Tensor) -> Tensor:
        mean, std = self._statistics(images.device)
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return normalise(images, mean, std, layout)

    def _progress(self, step: int) -> float:
        """The share of training that lies before batch `step`; 0 without a trainer, or where it
        `stays_at_start`.
        """
        trainer = self.trainer
        if trainer is None or self.stays_at_start:
            return 0.0
        epoch, number = divmod(step, self.steps_per_epoch(trainer.world_size))
        taken = int(trainer.num_training_batches)  # of each epoch: it may be limited
        total = batches_of_run(trainer)
        return 0.0 if total is None else (epoch * taken + number) / total

    def preview_batch(self, split: str, count: int) -> tuple[Tensor, Tensor]:
        """The first images of a split as the model sees them, with their labels or targets.

        Images are [B, C, H, W] float in [0, 1], not normalised; those of "train" are augmented and
        mixed. Nothing of a training in progress is moved by it.

        Raises:
            ConfigError: not one of them can be read.
        """
        batch = next(iter(self.preview_loader(split, count)), None)
        if batch is None:
            raise ConfigError(f"none of the first {count} {split} images can be read")
        prepare = self.prepare_training if split == "train" else self.prepare_evaluation
        images, targets = prepare(batch)
        return denormalise(images, self.mean, self.std), targets

    def _statistics(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and std, put on the device once."""
        if device not in self._on_device:
            mean = torch.tensor(self.mean, device=device)
            self._on_device[device] = mean, torch.tensor(self.std, device=device)
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
