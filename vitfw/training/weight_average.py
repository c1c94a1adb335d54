"""A second set of weights, averaged from those that are trained."""

import copy
import itertools
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from vitfw.training.schedules import steps_of

Share = Callable[[int], float]


class WeightAverage(nn.Module):
    """A copy of `net`, in evaluation mode, that moves towards it after optimizer steps.

    `share(step)` says how far after the step of that number (from 1): 0 not at all, 1 all the
    way. Running statistics of batch norms are averaged like weights, counters are copied.
    """

    def __init__(self, net: nn.Module, share: Share):
        super().__init__()
        self.net = copy.deepcopy(net).requires_grad_(False).eval()
        self.share = share

    def train(self, mode: bool = True) -> "WeightAverage":
        return super().train(False)

    @torch.no_grad()
    def update(self, net: nn.Module, step: int) -> None:
        share = self.share(step)
        if share == 0.0:
            return
        pairs = list(zip(tensors_of(self.net), tensors_of(net), strict=True))
        own, new = zip(*[pair for pair in pairs if pair[0].is_floating_point()], strict=True)
        torch._foreach_lerp_(own, new, share)
        for counter, value in pairs:
            if not counter.is_floating_point():
                counter.copy_(value)


def tensors_of(net: nn.Module) -> Iterator[Tensor]:
    return itertools.chain(net.parameters(), net.buffers())


def ema(
    net: nn.Module,
    total_steps: int,
    steps_per_epoch: int,
    decay: float = 0.9999,
    warmup: bool = True,
) -> WeightAverage:
    """Exponential moving average, a ← d a + (1 − d) w after every step; the first copies.

    With `warmup` d is (1 + step) / (10 + step) until that reaches `decay`: without, the average
    of a run shorter than 1 / (1 − decay) steps is mostly what it began with.

    Raises:
        ValueError: `decay` is not between 0 and 1.

    Source: Polyak and Juditsky 1992; the warm-up is that of TensorFlow's ExponentialMovingAverage.
    """
    if not 0.0 <= decay < 1.0:
        raise ValueError(f"average.decay={decay} must be at least 0 and below 1, such as 0.999")
    return WeightAverage(net, partial(ema_share, decay=decay, warmup=warmup))


def ema_share(step: int, decay: float, warmup: bool) -> float:
    if step <= 1:
        return 1.0
    return 1.0 - (min(decay, (1 + step) / (10 + step)) if warmup else decay)


def swa(
    net: nn.Module,
    total_steps: int,
    steps_per_epoch: int,
    start: int | str = "75%",
    every: int | str = "1ep",
) -> WeightAverage:
    """The plain mean of the weights that stand every `every`, from `start` to the last step.

    Counted back from the last step, so that with `1ep` they are those at the epochs' ends. Before
    `start` it is a copy of the last of them. Both are steps (500), shares of the run ("75%") or
    epochs ("2ep"). It wants a learning rate that stays up: scheduler.final=0.1, or
    scheduler=constant.

    Raises:
        ValueError: a duration is not understood, or `every` is no step.

    Source: Izmailov et al. 2018, "Averaging weights leads to wider optima", who compute the running
    statistics of batch norms anew at the end; here they are averaged, too.
    """
    first = max(steps_of(start, total_steps, steps_per_epoch), 1)
    period = steps_of(every, total_steps, steps_per_epoch)
    if period < 1:
        raise ValueError(f"average.every={every} is less than a step; try 1ep")
    share = partial(swa_share, first=first, period=period, total_steps=total_steps)
    return WeightAverage(net, share)


def swa_share(step: int, first: int, period: int, total_steps: int) -> float:
    if (total_steps - step) % period:
        return 0.0
    earlier = max((step - first) // period, 0)  # snapshots from `first` on, before this one
    return 1.0 / (earlier + 1)
