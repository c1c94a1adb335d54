"""In which order the samples of a pack are read: shards in a random order, samples within them.

N samples, B batch, P processes, G groups of processes. A place is the number of a sample in the
pack, shard after shard.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from vitfw.data.counter_rng import permutation, sample_keys
from vitfw.data.sampler import EpochSampler
from vitfw.errors import ConfigError


class ShardOrder(EpochSampler):
    """Batches of places, for every process; the same for any number of worker processes.

    Shuffled, an epoch is one sequence of all samples: shards in the order that (seed, epoch)
    gives, the samples of each in an order that (seed, epoch) gives. It is cut into `groups` equal
    parts, which are read side by side, and odd ends are dropped. The processes of a group take
    batches from its part in turn. So with one group, P processes of batch B see at every step
    what one process of batch P · B sees; with as many groups as machines, each machine reads its
    part of the shards only.

    Not shuffled (evaluation), each process is given one Pth of the sequence 0, 1, … N - 1.

    Raises:
        ConfigError: `groups` does not divide the number of processes.
    """

    def __init__(
        self,
        shard_sizes: Sequence[int],
        batch_size: int,
        seed: int,
        shuffle: bool,
        rank: int = 0,
        world: int = 1,
        groups: int = 1,
    ):
        super().__init__(sum(shard_sizes), batch_size, seed, shuffle, rank, world)
        check_groups(groups, world)
        self.groups = groups
        self.starts = np.concatenate([[0], np.cumsum(shard_sizes)])

    def __len__(self) -> int:
        if self.shuffle:
            return self.length // (self.batch_size * self.world)
        first, last = self._bounds()
        return -(-(last - first) // self.batch_size)

    def batches(self, device: torch.device | str = "cpu") -> Iterator[Tensor]:
        """Places of each batch still to come in this epoch: [B] int64 on `device`."""
        mine = torch.from_numpy(self._mine()).to(device)
        if len(mine):
            yield from mine.split(self.batch_size)[self.first_batch :]

    def of_worker(self, worker: int, workers: int) -> list[tuple[int, np.ndarray]]:
        """(shard, places) in the order that one of `workers` reads them: its batches of those to
        come are every `workers`-th, so that taken in turn they are the batches of the process.
        """
        batches = list(self.batches())[worker::workers]
        if not batches:
            return []
        places = torch.cat(batches).numpy()
        shards = np.searchsorted(self.starts, places, side="right") - 1
        visits = np.split(np.arange(len(places)), np.flatnonzero(np.diff(shards)) + 1)
        return [(int(shards[visit[0]]), places[visit]) for visit in visits]

    def _mine(self) -> np.ndarray:
        """Places that this process takes in an epoch, in order."""
        if not self.shuffle:
            return np.arange(*self._bounds())
        per_group = self.world // self.groups
        group, member = divmod(self.rank, per_group)
        part = self.length // self.groups
        places = self._epoch()[group * part : (group + 1) * part]
        steps = places[: len(self) * per_group * self.batch_size]
        return steps.reshape(len(self), per_group, self.batch_size)[:, member].reshape(-1)

    def _bounds(self) -> tuple[int, int]:
        return (
            self.rank * self.length // self.world,
            (self.rank + 1) * self.length // self.world,
        )

    def _epoch(self) -> np.ndarray:
        """Places of all samples, in the order of this epoch."""
        keys = sample_keys(self.seed, self.epoch, torch.arange(self.length)).numpy()
        shards = permutation(self.seed, self.epoch, len(self.starts) - 1).tolist()
        spans = [(self.starts[shard], self.starts[shard + 1]) for shard in shards]
        return np.concatenate([first + np.argsort(keys[first:end]) for first, end in spans])


def check_groups(groups: int, world: int) -> None:
    """Raises ConfigError where `groups` does not divide the number of processes."""
    if groups < 1 or world % groups:
        processes = "1 process" if world == 1 else f"{world} processes"
        raise ConfigError(
            f"data.groups={groups} does not divide the {processes}; it is the number of machines "
            "that each read their own shards, 1 where all read all"
        )
