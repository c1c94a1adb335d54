"""Batches in an order that is a function of (seed, epoch), and can be taken up anywhere.

One contract: `len` is the batches of a whole epoch on this process; iterating gives `RawBatch`es of
the current epoch from where `load_state_dict` put it; Lightning calls `sampler.set_epoch` at the
start of each.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from vitfw.data.counter_rng import sample_keys
from vitfw.data.decode import Decoder, Samples, collate
from vitfw.data.images import ArrayImages
from vitfw.data.sampler import EpochSampler

NoteBad = Callable[[list[tuple[str, str]], int], None]  # (name, reason)s, of how many images


class RawBatch(NamedTuple):
    """images [B, C, H, W] uint8, labels [B] int64, keys [B] int64 (see `counter_rng`).

    `step` counts the batches of this process since the beginning of training.
    """

    images: Tensor
    labels: Tensor
    keys: Tensor
    step: int = 0


class StatefulLoader(ABC):
    """What all loaders share: length, and the place in the epoch as a state dict."""

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
            self._given = batch.step % len(self) + 1
            yield batch

    @abstractmethod
    def _load(self) -> Iterator[RawBatch]:
        """The batches that the sampler still has for this epoch."""

    def _steps(self) -> Iterator[int]:
        """The numbers of the batches still to come."""
        first = self.sampler.epoch * len(self)
        yield from range(first + self.sampler.first_batch, first + len(self))

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.sampler.epoch, "batch": self._given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sampler.epoch = int(state["epoch"])
        self.sampler.first_batch = self._given = int(state["batch"])


class ResidentLoader(StatefulLoader):
    """Batches cut out of one uint8 tensor, on whatever device holds it: no workers, no copies.

    A tensor that stays in the machine's memory while a GPU trains gives its batches to `device`
    ahead of time.
    """

    def __init__(
        self, data: ArrayImages, sampler: EpochSampler, device: torch.device | None = None
    ):
        super().__init__(sampler)
        self.data = data
        self.device = device or data.images.device

    def _load(self) -> Iterator[RawBatch]:
        batches = self._cut()
        return batches if self.data.images.device == self.device else ahead(batches, self.device)

    def _cut(self) -> Iterator[RawBatch]:
        epoch, length = self.sampler.epoch, len(self.data)
        draws = self.sampler.batches(self.data.images.device)
        for step, draw in zip(self._steps(), draws, strict=True):
            keys = sample_keys(self.sampler.seed, epoch, draw)
            index = draw % length
            images = self.data.images.index_select(0, index)  # whole rows; [index] goes by bytes
            yield RawBatch(images, self.data.labels[index], keys, step)


class WorkerLoader(StatefulLoader):
    """Batches decoded by worker processes, which live as long as the loader.

    `note_bad` hears of the images that could not be read.
    """

    def __init__(
        self,
        dataset: Decoder,
        sampler: EpochSampler,
        num_workers: int,
        note_bad: NoteBad,
        device: torch.device | None = None,
    ):
        super().__init__(sampler)
        self.dataset = dataset
        self.note_bad = note_bad
        self.device = device or torch.device("cpu")
        self._loader: DataLoader[Samples] = DataLoader(
            dataset,
            batch_sampler=_Places(sampler),
            num_workers=num_workers,
            collate_fn=collate,
            pin_memory=self.device.type == "cuda",
            persistent_workers=num_workers > 0,
            generator=torch.Generator(),  # else every epoch draws a number that is the model's
        )

    def _load(self) -> Iterator[RawBatch]:
        return ahead(self._decoded(), self.device)

    def _decoded(self) -> Iterator[RawBatch]:
        for step, samples in zip(self._steps(), self._loader, strict=True):
            if samples.bad:
                named = [(self.dataset.images.name(i), reason) for i, reason in samples.bad]
                self.note_bad(named, len(self.dataset))
            if len(samples.labels):
                yield RawBatch(samples.images, samples.labels, samples.keys, step)


class _Places:
    """A batch sampler that tells the workers the key of each sample along with its index."""

    def __init__(self, sampler: EpochSampler):
        self._sampler = sampler

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        seed, epoch = self._sampler.seed, self._sampler.epoch
        for draws in self._sampler.batches():
            keys = sample_keys(seed, epoch, draws).tolist()
            yield list(zip((draws % self._sampler.length).tolist(), keys, strict=True))


def ahead(batches: Iterator[RawBatch], device: torch.device) -> Iterator[RawBatch]:
    """Copy each batch to a GPU while the one before it is trained on; elsewhere as they come."""
    if device.type != "cuda":
        yield from batches
        return
    stream = torch.cuda.Stream(device)
    waiting: tuple[RawBatch, Any] | None = None
    for batch in batches:
        with torch.cuda.stream(stream):
            images, labels, keys = (_sent(part, device) for part in batch[:3])
            copied = RawBatch(images, labels, keys, batch.step), stream.record_event()
        if waiting is not None:
            yield _arrived(*waiting, device)
        waiting = copied
    if waiting is not None:
        yield _arrived(*waiting, device)


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    if tensor.device == device:
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def _arrived(batch: RawBatch, copied: Any, device: torch.device) -> RawBatch:
    """What the caller does next waits for the copy, and its memory is not reused before that."""
    current = torch.cuda.current_stream(device)
    current.wait_event(copied)
    for tensor in batch[:3]:
        tensor.record_stream(current)
    return batch
