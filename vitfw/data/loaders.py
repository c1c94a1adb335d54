"""Batches in an order that is a function of (seed, epoch), and can be taken up anywhere.

Two loaders, one contract: `len` is the batches of a whole epoch on this process; iterating
gives `RawBatch`es of the current epoch from where `load_state_dict` put it; Lightning calls
`sampler.set_epoch` at the start of each.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from vitfw.data.arrays import ArrayImages
from vitfw.data.counter_rng import permutation, sample_keys
from vitfw.data.image_folder import FolderDataset


class RawBatch(NamedTuple):
    """images [B, C, H, W] uint8, labels [B] int64, keys [B] int64 (see `counter_rng`)."""

    images: Tensor
    labels: Tensor
    keys: Tensor


class EpochSampler:
    """Which samples make up which batch of an epoch.

    Shuffled, every process takes every `world`-th sample of a common order and odd ends are
    dropped, so that all batches are full and all processes take as many steps. Not shuffled
    (evaluation), every sample is given exactly once over all processes.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        shuffle: bool,
        rank: int = 0,
        world: int = 1,
    ):
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.rank = rank
        self.world = world
        self.epoch = 0
        self.first_batch = 0

    def set_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            self.epoch, self.first_batch = epoch, 0

    def __len__(self) -> int:
        if self.shuffle:
            return self.length // (self.batch_size * self.world)
        mine = len(range(self.rank, self.length, self.world))
        return -(-mine // self.batch_size)

    def batches(self, device: torch.device | str = "cpu") -> Iterator[Tensor]:
        """Indices of each batch still to come in this epoch: [B] int64 on `device`."""
        if self.shuffle:
            order = permutation(self.seed, self.epoch, self.length)
            order = order[: len(self) * self.batch_size * self.world]
        else:
            order = torch.arange(self.length)
        mine = order[self.rank :: self.world].to(device)
        if len(mine):  # `split` makes one empty batch of nothing
            yield from mine.split(self.batch_size)[self.first_batch :]


class StatefulLoader(ABC):
    """The part both loaders share: length, and the place in the epoch as a state dict."""

    batch_sampler = None  # Lightning looks here, too, where there is a `sampler`

    def __init__(self, sampler: EpochSampler):
        self.sampler = sampler
        self.batch_size = sampler.batch_size
        self._given = 0

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[RawBatch]:
        # A generator: nothing happens, and no epoch is read, before the first batch is asked for.
        self._given = self.sampler.first_batch
        for batch in self._load():
            self._given += 1
            yield batch

    @abstractmethod
    def _load(self) -> Iterator[RawBatch]:
        """The batches that the sampler still has for this epoch."""

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.sampler.epoch, "batch": self._given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sampler.epoch = int(state["epoch"])
        self.sampler.first_batch = self._given = int(state["batch"])


class ResidentLoader(StatefulLoader):
    """Batches cut out of one uint8 tensor, on whatever device holds it: no workers, no copies."""

    def __init__(self, data: ArrayImages, sampler: EpochSampler):
        super().__init__(sampler)
        self.data = data

    def _load(self) -> Iterator[RawBatch]:
        epoch = self.sampler.epoch
        for index in self.sampler.batches(self.data.images.device):
            keys = sample_keys(self.sampler.seed, epoch, index)
            yield RawBatch(self.data.images[index], self.data.labels[index], keys)


class WorkerLoader(StatefulLoader):
    """Batches decoded from files by worker processes, which live as long as the loader."""

    def __init__(
        self, dataset: FolderDataset, sampler: EpochSampler, num_workers: int, pin_memory: bool
    ):
        super().__init__(sampler)
        self._loader = DataLoader(
            dataset,
            batch_sampler=_EpochAndIndex(sampler),
            num_workers=num_workers,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
        )

    def _load(self) -> Iterator[RawBatch]:
        for images, labels, keys in self._loader:
            yield RawBatch(images, labels, keys)


class _EpochAndIndex:
    """A batch sampler that tells the workers the epoch along with each index."""

    def __init__(self, sampler: EpochSampler):
        self._sampler = sampler

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self._sampler.epoch
        for index in self._sampler.batches():
            yield [(epoch, i) for i in index.tolist()]
