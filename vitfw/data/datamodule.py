"""The data module of every set that lies on this machine: its splits and their loaders."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from vitfw.data.augment.batch_augment import BatchAugment
from vitfw.data.catalog import facts_of
from vitfw.data.class_balance import (
    LOSS_WEIGHTS,
    SAMPLING_WEIGHTS,
    class_counts,
    loss_weights,
    sampling_weights,
)
from vitfw.data.classification_data import ClassificationData, per_channel
from vitfw.data.decode import Decoder
from vitfw.data.images import ArrayImages, EncodedImages, Images, Split
from vitfw.data.loaders import ResidentLoader, StatefulLoader, WorkerLoader
from vitfw.data.option_checks import check_number, check_word
from vitfw.data.reading.sources import Source
from vitfw.data.residency import MOST_DECODED, MemoryShare, decode_all
from vitfw.data.sampler import EpochSampler
from vitfw.data.sets.dataset import SplitName
from vitfw.data.splits import (
    check_choice,
    class_numbers,
    keep_classes,
    stratified_fold,
    stratified_limit,
    stratified_split,
)
from vitfw.data.statistics import statistics_of
from vitfw.data.transforms import to_channels
from vitfw.errors import ConfigError


class ImageData(ClassificationData):
    """Training, validation and test batches of a data set that `data=` names.

    `only_classes` are the names or numbers of those to keep, in the order that they are to have.
    Validation images are the official ones; or a seeded stratified `val_share` of the training
    images; or fold number `fold` of `folds`. `limit` keeps a stratified part of the others. Test
    images are read by `setup("test")` only.

    What fits in `resident_share` of the device's memory is held there as one uint8 tensor; image
    files of one size are decoded once for that (`resident` "auto"), or any (true), or none
    (false). The rest is decoded by `num_workers` processes (default: one a core, at most 8).

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
        fold: int | None = None,
        folds: int = 5,
        limit: float | None = None,
        sampling: str | None = None,
        class_weights: str | None = None,
        seed: int = 0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        stats: str = "catalog",
        crop_share: float = 1.0,
        resident: bool | str = "auto",
        resident_share: float = 0.5,
        max_bad_share: float = 0.01,
        channels_last: bool = False,
        download: bool = True,
        columns: Sequence[str] | None = None,
        num_images: int = 1024,
        only_classes: Sequence[int | str] | None = None,
        augment: BatchAugment | None = None,
    ):
        facts = facts_of(name)
        classes, number = facts.classes, facts.num_classes
        if only_classes is not None:
            classes, number = chosen_classes(name, only_classes)
        if number and num_classes not in (None, number):
            holder = facts.title if only_classes is None else "data.only_classes"
            raise ConfigError(f"data.num_classes={num_classes}, but {holder} has {number}")
        if name == "fake" and not num_classes:
            raise ConfigError("data=fake has no classes of its own; set data.num_classes=10, say")
        if num_images < 1:
            raise ConfigError(f"data.num_images={num_images} must be at least 1")
        check_word("stats", stats, ("catalog", "compute"))
        check_word("resident", resident, ("auto", True, False))
        check_word("sampling", sampling, (None, *SAMPLING_WEIGHTS))
        check_word("class_weights", class_weights, (None, *LOSS_WEIGHTS))
        if sampling is not None and class_weights is not None:
            raise ConfigError(
                f"data.sampling={sampling} draws rare classes more often, and "
                f"data.class_weights={class_weights} counts them more: set one of them to null"
            )
        check_number("fold", fold, int)
        for key, value in (("folds", folds), ("split_seed", split_seed), ("seed", seed)):
            check_number(key, value, int)
        check_number("limit", limit, int | float)
        if not 0.0 <= resident_share <= 1.0:
            raise ConfigError(
                f"data.resident_share={resident_share} is a share: 0 to 1, such as 0.5"
            )
        self.native_size = native_size or facts.native_size
        super().__init__(
            name=name,
            classes=classes,
            num_classes=num_classes or number,
            channels=channels or facts.channels,
            img_size=self.native_size if img_size is None else img_size,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            seed=seed,
            mean=mean or facts.mean,
            std=std or facts.std,
            crop_share=crop_share,
            max_bad_share=max_bad_share,
            channels_last=channels_last,
            augment=augment,
        )
        self.facts = facts
        self.only_classes = only_classes
        self.val_share, self.split_seed = val_share, split_seed
        self.fold, self.folds, self.limit = fold, folds, limit
        self.sampling, self.class_weights = sampling, class_weights
        self.stats = stats
        self.resident, self.resident_share = resident, resident_share
        self.source = Source(
            name,
            root,
            download,
            columns,
            self.num_classes,
            self.channels,
            self.native_size,
            num_images,
        )
        self._splits: dict[str, Images] = {}
        self._from_files = False
        self._memory = MemoryShare(resident_share)

    def prepare_data(self) -> None:
        """Download what is missing, before `setup`; one process of a machine at a time."""
        if not self._splits:
            self.source.fetch()

    def setup(self, stage: str | None = None) -> None:
        """Read the splits that `stage` (fit, validate or test) needs, once."""
        if stage in ("fit", None) and "train" not in self._splits:
            self._read_training(("train", "val"))
        if stage == "validate" and "val" not in self._splits:
            self._read_training(("train", "val") if self.stats == "compute" else ("val",))
        if stage in ("test", None) and "test" not in self._splits:
            self._splits["test"] = self._decoded(self._read("test"), "test")
        self.source.forget()

    def _read(self, split: SplitName) -> Images:
        found = self.source.read(split)
        assert found is not None
        return self._accepted(found)

    def _accepted(self, found: Split) -> Images:
        if self.only_classes is not None:
            found = keep_classes(found, self.only_classes)
        if self.num_classes not in (0, len(found.classes)):
            raise ConfigError(
                f"data.num_classes={self.num_classes}, but {self.source.root} holds "
                f"{len(found.classes)} classes"
            )
        self.classes, self.num_classes = found.classes, len(found.classes)
        images = found.images
        self._from_files = isinstance(images, EncodedImages)
        if isinstance(images, ArrayImages):
            images = ArrayImages(to_channels(images.images, self.channels), images.labels)
        return images

    def _read_training(self, wanted: Sequence[str]) -> None:
        train = self._read("train")
        if self.fold is not None:
            kept, held_out = stratified_fold(train.labels, self.fold, self.folds, self.split_seed)
            train, val = train.subset(kept), train.subset(held_out)
        elif official := self.source.read("val"):
            val = self._accepted(official)
        else:
            kept, held_out = stratified_split(train.labels, self.val_share, self.split_seed)
            train, val = train.subset(kept), train.subset(held_out)
        if self.limit is not None:
            train = train.subset(stratified_limit(train.labels, self.limit, self.split_seed))
        for split, images in (("train", train), ("val", val)):
            if split in wanted:
                self._splits[split] = self._decoded(images, split)
        if self.stats == "compute":
            self._measure_statistics()

    def _measure_statistics(self) -> None:
        """Mean and std of the training images, as evaluation would show them to the model."""
        images = self._splits["train"]
        if isinstance(images, ArrayImages):
            loader: StatefulLoader = ResidentLoader(images, self._sampler(images, 256, False))
        else:
            sampler = self._sampler(images, 64, False)
            cpu = torch.device("cpu")
            loader = self._worker_loader(images, "train", sampler, self.num_workers, cpu)
        mean, std = statistics_of((batch.images for batch in loader), len(images))
        self.mean = per_channel("mean", mean, self.channels)
        self.std = per_channel("std", std, self.channels)
        self._on_device.clear()

    def count(self, split: str) -> int:
        return len(self.images(split))

    def class_counts(self, split: str) -> Tensor:
        return class_counts(self.images(split).labels.cpu(), self.num_classes)

    def loss_weights(self) -> Tensor | None:
        if self.class_weights is None:
            return None
        return loss_weights(self.images("train").labels, self.num_classes, self.class_weights)

    def images(self, split: str) -> Images:
        """What `setup` has read of "train", "val" or "test"."""
        if split not in self._splits:
            raise RuntimeError("call setup() before asking for a loader")
        return self._splits[split]

    @property
    def crops_in_workers(self) -> bool:
        return isinstance(self._splits.get("train"), EncodedImages)

    @property
    def fitted_when_read(self) -> bool:
        return self._from_files

    def _decoded(self, images: Images, split: str) -> Images:
        """Image files as pixels, where they are to be held in memory."""
        if isinstance(images, ArrayImages) or self.resident is False or not len(images):
            return images
        if self.resident == "auto" and not self.facts.same_size:
            return images
        whole = self.facts.same_size and split == "train"  # random crops are cut from all of it
        size = (self.native_size, self.native_size) if whole else self.img_size
        needed = len(images) * self.channels * size[0] * size[1]
        if self.resident == "auto" and needed > MOST_DECODED:
            return images
        if not self._memory.takes(needed, torch.device("cpu")):
            if self.resident == "auto":
                return images
            raise ConfigError(
                f"data.resident=true: {len(images):,} {split} images of {size[0]}×{size[1]} are "
                f"more than what is left of data.resident_share={self.resident_share:g} of the "
                "memory; data.resident=auto decodes them when they are needed"
            )
        crop_share = 1.0 if whole else self.crop_share
        return decode_all(
            images, size, self.channels, crop_share, self.num_workers, partial(self._note, split)
        )

    def _note(self, split: str, bad: list[tuple[str, str]], of: int) -> None:
        self.bad_images.note(split, bad, of)

    def loader(self, split: str, batch_size: int, shuffle: bool) -> StatefulLoader:
        images, place = self.images(split), self.place
        sampler = self._sampler(images, batch_size, shuffle, place.rank, place.world)
        in_workers = shuffle and bool(self.augment.per_image)
        if isinstance(images, ArrayImages) and self.resident is not False and not in_workers:
            images = self._splits[split] = self._placed(images, place.device)
            return ResidentLoader(images, sampler, place.device)
        return self._worker_loader(images, split, sampler, self.num_workers, place.device)

    def preview_loader(self, split: str, count: int) -> StatefulLoader:
        images = self.images(split)
        count = min(count, len(images))
        if split == "train":
            sampler = EpochSampler(len(images), count, self.seed, shuffle=True)
        else:  # files are in the order of their classes
            places = torch.linspace(0, len(images) - 1, count).long()
            images = images.subset(places)
            sampler = EpochSampler(count, count, self.seed, shuffle=False)
        if isinstance(images, ArrayImages) and not (sampler.shuffle and self.augment.per_image):
            return ResidentLoader(images, sampler)
        return WorkerLoader(self._decoder(images, sampler), sampler, 0, lambda bad, of: None)

    def _sampler(
        self, images: Images, batch_size: int, shuffle: bool, rank: int = 0, world: int = 1
    ) -> EpochSampler:
        weights, repeats = None, 1
        if shuffle:
            repeats = self.augment.repeats
            if self.sampling is not None:
                weights = sampling_weights(images.labels.cpu(), self.num_classes, self.sampling)
        return EpochSampler(
            len(images), batch_size, self.seed, shuffle, rank, world, repeats, weights
        )

    def _placed(self, images: ArrayImages, device: torch.device) -> ArrayImages:
        """On the device, if they fit there; on a CPU they are there already."""
        pixels = images.images
        if pixels.device == device or not self._memory.takes(pixels.nbytes, device):
            return images
        return ArrayImages(pixels.to(device), images.labels.to(device))

    def _worker_loader(
        self,
        images: Images,
        split: str,
        sampler: EpochSampler,
        num_workers: int,
        device: torch.device,
    ) -> WorkerLoader:
        decoder = self._decoder(images, sampler)
        return WorkerLoader(decoder, sampler, num_workers, partial(self._note, split), device)

    def _decoder(self, images: Images, sampler: EpochSampler) -> Decoder:
        augment = self.augment if sampler.shuffle else None
        return Decoder(images, self.img_size, self.channels, self.crop_share, augment)


def chosen_classes(name: str, chosen: Sequence[int | str]) -> tuple[tuple[str, ...], int]:
    """Names, where they are known before the images are read, and number of the classes to keep.

    Raises:
        ConfigError: this set has no such classes, or makes up as many as it is asked for.
    """
    check_choice(chosen)
    if name == "fake":
        raise ConfigError(
            "data=fake makes up as many classes as it is asked for: give "
            f"data.num_classes={len(chosen)} instead of data.only_classes"
        )
    known = facts_of(name).classes
    names = tuple(known[number] for number in class_numbers(chosen, known)) if known else ()
    return names, len(chosen)
