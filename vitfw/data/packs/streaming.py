"""Batches of a pack, in a folder or an S3 bucket, through litdata's streaming data set and loader.

litdata (0.2.76) finds, fetches, caches and reads the shards. Which samples are read, and in which
order, is `shard_order`'s: litdata's own order changes with the number of processes, of workers,
and with the kind of file system; a worker process that lives on counts epochs by itself; and the
rank is asked of the environment before Lightning has said it.

That takes names that litdata keeps to itself: `_DistributedEnv`, `_create_shuffler`, `_iterator`,
the cache's `_reader` and its mappings. The optional dependency `streaming` therefore pins 0.2.76.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from litdata.streaming import StreamingDataLoader, StreamingDataset
from litdata.streaming.sampler import ChunkedIndex
from litdata.streaming.shuffle import Shuffle
from litdata.utilities.env import _DistributedEnv
from torch import Tensor

from vitfw.data.augment.batch_augment import BatchAugment
from vitfw.data.counter_rng import sample_keys
from vitfw.data.decode import Sample, collate, read_augmented, read_fitted, transformed
from vitfw.data.loaders import RawBatch, StatefulLoader, ahead
from vitfw.data.packs.bucket_download import register
from vitfw.data.packs.pack_manifest import Manifest, is_remote
from vitfw.data.packs.pack_manifest import read_manifest as read_manifest
from vitfw.data.packs.shard_order import ShardOrder

CACHE = Path("~/.cache/vitfw/shards")


class StreamLoader(StatefulLoader):
    """Batches of one split of a pack, read by worker processes that live as long as the loader.

    Samples, order and keys are functions of (seed, epoch, `groups`), whatever `num_workers`; see
    `ShardOrder`. A run stopped in an epoch is taken up with any number of workers, and with any
    number of processes of the same batch over all.

    Encoded images are decoded to `size`, cropped for training as `augment` says; pixels are given
    in the size they were packed in. Shards of a bucket are kept in `cache_dir`, up to `cache_gb`
    (default: three quarters of what is free there). `storage_options` are those of boto3's client.
    """

    def __init__(
        self,
        root: str | Path,
        manifest: Manifest,
        split: str,
        batch_size: int,
        size: tuple[int, int],
        seed: int = 0,
        shuffle: bool = False,
        rank: int = 0,
        world: int = 1,
        groups: int = 1,
        num_workers: int = 0,
        crop_share: float = 1.0,
        augment: BatchAugment | None = None,
        storage_options: dict[str, Any] | None = None,
        cache_dir: str | Path | None = None,
        cache_gb: float | None = None,
        device: torch.device | None = None,
    ):
        sizes = [shard.images for shard in manifest.splits[split].shards]
        order = ShardOrder(sizes, batch_size, seed, shuffle, rank, world, groups)
        super().__init__(order)
        self.device = device or torch.device("cpu")
        unpack = Unpack(size, manifest.channels, seed, crop_share, augment if shuffle else None)
        index_sha256 = manifest.splits[split].index_sha256
        place, cache = _place(root, split, cache_dir, index_sha256)
        self._dataset = PackedImages(order, unpack, place, cache, cache_gb, storage_options)
        self._loader: StreamingDataLoader = StreamingDataLoader(
            self._dataset,
            batch_size=batch_size,
            num_workers=num_workers,
            collate_fn=collate,
            pin_memory=self.device.type == "cuda",
            persistent_workers=num_workers > 0,
        )

    def __del__(self):
        # litdata's iterator and loader hold each other: left to the garbage collector, their
        # workers are waited for in vain, 5 seconds each.
        iterator = getattr(getattr(self, "_loader", None), "_iterator", None)
        if iterator is not None:
            iterator._shutdown_workers()

    def _load(self) -> Iterator[RawBatch]:
        return ahead(self._read(), self.device)

    def _read(self) -> Iterator[RawBatch]:
        self._dataset.start_at(self.sampler.epoch, self.sampler.first_batch)
        steps = list(self._steps())
        if not steps:
            return
        for step, samples in zip(steps, self._loader, strict=True):
            yield RawBatch(samples.images, samples.labels, samples.keys, step)


def _place(
    root: str | Path, split: str, cache_dir: str | Path | None, digest: str
) -> tuple[str, str | None]:
    """Where litdata finds a split, and where it keeps the shards that it fetches.

    The cache has a folder for each pack: litdata empties one whose pack has changed, which
    another process may be reading.
    """
    if not is_remote(root):
        return str(Path(root).expanduser().resolve() / split), None
    address = f"{str(root).rstrip('/')}/{split}"
    name = hashlib.sha256(f"{address} {digest}".encode()).hexdigest()[:16]
    cache = Path(cache_dir or CACHE).expanduser().resolve() / name
    cache.mkdir(parents=True, exist_ok=True)
    return address, str(cache)


@dataclass(frozen=True)
class Unpack:
    """From what is stored to a `Sample`: files are decoded to `size`, pixels given as they are."""

    size: tuple[int, int]
    channels: int
    seed: int
    crop_share: float
    augment: BatchAugment | None

    def __call__(self, stored: tuple[bytes | np.ndarray, int, int], epoch: int) -> Sample:
        image, label, index = stored
        key = int(sample_keys(self.seed, epoch, torch.tensor([index])))
        return Sample(self._pixels(image, key), label, key, [])

    def _pixels(self, image: bytes | np.ndarray, key: int) -> Tensor:
        if isinstance(image, np.ndarray):
            pixels = torch.from_numpy(image.copy())
            return pixels if self.augment is None else transformed(pixels, key, self.augment)
        if self.augment is None:
            return read_fitted(BytesIO(image), self.size, self.channels, self.crop_share)
        return read_augmented(
            BytesIO(image), self.size, self.channels, self.crop_share, key, self.augment
        )


class PackedImages(StreamingDataset):
    """litdata's data set, read in the order of a `ShardOrder` and decoded.

    The place in training is in shared memory, where worker processes that are alive see it move.
    """

    def __init__(
        self,
        order: ShardOrder,
        unpack: Unpack,
        place: str,
        cache: str | None,
        cache_gb: float | None,
        storage_options: dict[str, Any] | None,
    ):
        register()
        super().__init__(
            place,
            cache_dir=cache,
            shuffle=order.shuffle,
            seed=order.seed,
            max_cache_size=None if cache_gb is None else int(cache_gb * 1e9),
            storage_options=dict(storage_options or {}),
            batch_decode=1,  # samples of a shard are read in random order, one at a time
        )
        self.distributed_env = _DistributedEnv(1, 0, 1)  # the order knows of the others
        self.order, self.unpack = order, unpack
        self._start = torch.zeros(2, dtype=torch.int64).share_memory_()

    def start_at(self, epoch: int, batch: int) -> None:
        """What the next iteration gives, in whatever process."""
        self._start.copy_(torch.tensor([epoch, batch]))

    def __iter__(self) -> "PackedImages":
        register()
        self.order.epoch, self.order.first_batch = self._start.tolist()
        super().__iter__()
        assert self.cache is not None
        shards = set(self.worker_chunks)
        reader = self.cache._reader
        if self.input_dir.url is not None:
            # Processes of this machine share the cache: each shard counts who has to read it yet.
            reader.acquire_shared_locks(shards)
        # Without a mapping litdata reads the whole shard for each sample. A file that is removed
        # while it is mapped lives on, and shards are never written in place.
        reader.enable_mmap_for_chunks(shards)
        return self

    def _create_shuffler(self, cache: Any) -> Shuffle:
        worker = 0 if self.worker_env is None else self.worker_env.rank
        return _Visits(cache, self.order, worker)

    def __getitem__(self, index: ChunkedIndex | int | slice | str) -> Any:
        stored = super().__getitem__(index)
        return stored if isinstance(index, slice) else self.unpack(stored, self.order.epoch)


class _Visits(Shuffle):
    """Tells litdata which shards a worker visits, and which samples it reads at each visit."""

    def __init__(self, cache: Any, order: ShardOrder, worker: int):
        super().__init__(cache, order.seed, drop_last=False)
        self.order, self.worker = order, worker
        self._places: dict[int, np.ndarray] = {}

    def get_chunks_and_intervals_per_workers(
        self, distributed_env: Any, num_workers: int, batch_size: int, current_epoch: int
    ) -> tuple[list[list[int]], list[list[list[int]]]]:
        """Shards of each worker, and intervals that say no more than how many samples of each.

        litdata uses those of the worker that asks; they stand in for the others'.
        """
        visits = self.order.of_worker(self.worker, num_workers)
        self._places = dict(visits)
        shards = [shard for shard, _ in visits]
        intervals = [[0, 0, len(places), len(places)] for _, places in visits]
        return [shards] * num_workers, [intervals] * num_workers

    def __call__(
        self, array: np.ndarray, num_chunks: int, current_epoch: int, chunk_index: int
    ) -> list[int]:
        return self._places[chunk_index].tolist()
