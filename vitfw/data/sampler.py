"""Which samples make up which batch of an epoch: a function of (seed, epoch), in any process.

N samples, B batch, P processes, r repeats.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from vitfw.data.counter_rng import permutation, sample_keys, uniform64

WEIGHTED = 400  # the random number of a place in the epoch; augmentation uses those below


class EpochSampler:
    """Batches of draws. A draw is a sample and a count of how often it came before in this epoch.

    A draw d means sample d % length, for the (d // length + 1)-th time in the epoch, and is
    augmented by the key `sample_keys(seed, epoch, d)`: a sample that comes twice is augmented in
    two ways. Where none comes twice, draws are plain indices.

    Shuffled, every process takes every `world`-th draw of a common order and odd ends are
    dropped, so that all batches are full and all processes take as many steps. With the same
    batch over all processes, 1, 2 or 4 of them are given the same draws at each step. Not
    shuffled (evaluation), every sample is given exactly once over all processes.

    `repeats` = r, repeated augmentation: every sample that is drawn comes r times in a row in the
    common order. So with P processes its copies go to min(r, P) of them; with fewer processes
    than copies, and in one process, they are in the same batch, unless r does not divide B · P
    and the end of the batch falls between them. An epoch keeps its number of batches and sees
    length / r of the samples, others each time; the last of them may come less than r times.

    `weights` [length]: samples are drawn with replacement, as often as their weights say; one of
    weight 0 never. With `repeats`, every such draw counts r times.

    Raises:
        ValueError: repeats or weights in evaluation, `repeats` below 1, weights that are not
            `length` finite numbers ≥ 0 with a positive sum.

    Source: Hoffer et al. 2020, "Augment Your Batch: Improving Generalization Through Instance
    Repetition"; copies in different processes as in DeiT (Touvron et al. 2021).
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        shuffle: bool,
        rank: int = 0,
        world: int = 1,
        repeats: int = 1,
        weights: Tensor | None = None,
    ):
        if repeats < 1:
            raise ValueError(f"repeats={repeats} must be at least 1, which is no repetition")
        if not shuffle and (repeats > 1 or weights is not None):
            raise ValueError("evaluation gives every sample once: neither repeats nor weights")
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.rank = rank
        self.world = world
        self.repeats = repeats
        self.epoch = 0
        self.first_batch = 0
        self._cumulative = None if weights is None else cumulative_shares(weights, length)

    def set_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            self.epoch, self.first_batch = epoch, 0

    def __len__(self) -> int:
        if self.shuffle:
            return self.length // (self.batch_size * self.world)
        mine = len(range(self.rank, self.length, self.world))
        return -(-mine // self.batch_size)

    def batches(self, device: torch.device | str = "cpu") -> Iterator[Tensor]:
        """Draws of each batch still to come in this epoch: [B] int64 on `device`."""
        order = self._order() if self.shuffle else torch.arange(self.length)
        mine = order[self.rank :: self.world].to(device)
        if len(mine):  # `split` makes one empty batch of nothing
            yield from mine.split(self.batch_size)[self.first_batch :]

    def _order(self) -> Tensor:
        """Draws of all processes in turn: [batches · B · P] int64."""
        total = len(self) * self.batch_size * self.world
        distinct = -(-total // self.repeats)
        if self._cumulative is None:
            samples = permutation(self.seed, self.epoch, self.length)[:distinct]
        else:
            keys = sample_keys(self.seed, self.epoch, torch.arange(distinct))
            samples = torch.searchsorted(self._cumulative, uniform64(keys, WEIGHTED), right=True)
        samples = samples.repeat_interleave(self.repeats)[:total]
        if self.repeats == 1 and self._cumulative is None:
            return samples
        return samples + self.length * occurrences(samples)


def cumulative_shares(weights: Tensor, length: int) -> Tensor:
    """Sum of the shares up to and including each sample: weights [length] → float64, ends at 1."""
    weights = weights.to("cpu", torch.float64)
    if weights.shape != (length,):
        raise ValueError(f"weights of shape {list(weights.shape)} for {length} samples")
    cumulative = weights.cumsum(0)
    if not (weights >= 0).all() or not 0.0 < cumulative[-1:].sum() < torch.inf:
        raise ValueError("weights must be finite, not negative, and not all 0")
    return cumulative / cumulative[-1]


def occurrences(samples: Tensor) -> Tensor:
    """How often the same number came earlier: [5, 7, 5, 5] → [0, 0, 1, 2]."""
    order = samples.argsort(stable=True)
    grouped = samples[order]
    earlier = torch.arange(len(samples)) - torch.searchsorted(grouped, grouped)
    return torch.empty_like(samples).scatter_(0, order, earlier)
