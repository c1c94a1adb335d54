"""The data module of a pack: `data=stream`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitfw.data.augment.batch_augment import BatchAugment
from vitfw.data.class_balance import LOSS_WEIGHTS, loss_weights
from vitfw.data.classification_data import ClassificationData
from vitfw.data.loaders import StatefulLoader
from vitfw.data.option_checks import check_number, check_word
from vitfw.data.packs.pack_manifest import read_manifest
from vitfw.data.packs.shard_order import check_groups
from vitfw.errors import ConfigError


class StreamData(ClassificationData):
    """Batches of a pack in a folder or a bucket, with the splits that it was made with.

    The pack is not read before it is needed but for its manifest. See `StreamLoader` for `groups`,
    `cache_dir`, `cache_gb` and `storage_options`.

    Raises:
        ConfigError: there is no whole pack at `root`; options that do not fit it.
    """

    def __init__(
        self,
        root: str | Path,
        name: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
        num_classes: int | None = None,
        channels: int | None = None,
        native_size: int | None = None,
        img_size: int | Sequence[int] | None = None,
        batch_size: int = 128,
        eval_batch_size: int | None = None,
        num_workers: int | None = None,
        groups: int = 1,
        cache_dir: str | Path | None = None,
        cache_gb: float | None = None,
        seed: int = 0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        class_weights: str | None = None,
        crop_share: float | None = None,
        channels_last: bool = False,
        augment: BatchAugment | None = None,
    ):
        self.root, self.storage_options = root, dict(storage_options or {})
        check_number("groups", groups, int)
        check_number("cache_gb", cache_gb, int | float)
        check_word("class_weights", class_weights, (None, *LOSS_WEIGHTS))
        self.manifest = found = read_manifest(root, self.storage_options)
        if name not in (None, found.name):
            raise ConfigError(
                f"data.name={name}, but {root} is a pack of {found.name}; leave data.name out"
            )
        for key, given, packed in (
            ("num_classes", num_classes, len(found.classes)),
            ("channels", channels, found.channels),
        ):
            if given not in (None, packed):
                raise ConfigError(f"data.{key}={given}, but {root} was packed with {packed}")
        super().__init__(
            name=found.name,
            classes=found.classes,
            num_classes=len(found.classes),
            channels=found.channels,
            img_size=img_size or native_size or found.native_size,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            seed=seed,
            mean=mean or found.mean,
            std=std or found.std,
            crop_share=found.crop_share if crop_share is None else crop_share,
            max_bad_share=0.0,
            channels_last=channels_last,
            augment=augment,
        )
        if self.augment.repeats > 1:
            raise ConfigError("data=stream takes no augment.repeats: a shard is read once an epoch")
        self.native_size = found.native_size
        self.groups = groups
        self.cache_dir, self.cache_gb = cache_dir, cache_gb
        self.class_weights = class_weights

    def count(self, split: str) -> int:
        return self.manifest.splits[split].images if split in self.manifest.splits else 0

    def steps_per_epoch(self, world: int = 1) -> int:
        """Batches each of `world` processes takes in an epoch.

        Raises:
            ConfigError: not even one whole batch can be made; `groups` does not divide `world`.
        """
        check_groups(self.groups, world)
        return super().steps_per_epoch(world)

    def class_counts(self, split: str) -> Tensor:
        if split not in self.manifest.splits:
            return torch.zeros(self.num_classes, dtype=torch.int64)
        return torch.tensor(self.manifest.splits[split].class_counts)

    def loss_weights(self) -> Tensor | None:
        if self.class_weights is None:
            return None
        labels = torch.arange(self.num_classes).repeat_interleave(self.class_counts("train"))
        return loss_weights(labels, self.num_classes, self.class_weights)

    @property
    def crops_in_workers(self) -> bool:
        return self.manifest.size is None

    @property
    def fitted_when_read(self) -> bool:
        return self.crops_in_workers

    def preview_loader(self, split: str, count: int) -> StatefulLoader:
        batch = min(count, self.count(split))
        return self.loader(split, batch, split == "train", alone=True)

    def loader(
        self, split: str, batch_size: int, shuffle: bool, alone: bool = False
    ) -> StatefulLoader:
        if split not in self.manifest.splits:
            known = ", ".join(self.manifest.splits)
            raise ConfigError(f"the pack at {self.root} has no {split} images, only {known}")
        try:
            from vitfw.data.packs.streaming import StreamLoader
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"data=stream needs {error.name}: pip install 'vitfw[streaming]'"
            ) from error
        place = self.place
        return StreamLoader(
            self.root,
            self.manifest,
            split,
            batch_size,
            self.img_size,
            seed=self.seed,
            shuffle=shuffle,
            rank=0 if alone else place.rank,
            world=1 if alone else place.world,
            groups=1 if alone or not shuffle else self.groups,
            num_workers=0 if alone else self.num_workers,
            crop_share=self.crop_share,
            augment=self.augment if shuffle else None,
            storage_options=self.storage_options,
            cache_dir=self.cache_dir,
            cache_gb=self.cache_gb,
            device=torch.device("cpu") if alone else place.device,
        )
