"""Learning-rate schedules over optimizer steps.

Each is a function (optimizer, total_steps, steps_per_epoch, …) → LambdaLR, stepped after every
optimizer step: warm-up rises linearly, from 1 / steps of the peak at the first step, then the
schedule's own shape falls from 1 to `final`, a share of the peak.
"""

import math
from collections.abc import Callable
from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

Shape = Callable[[float], float]


def steps_of(duration: int | str, total_steps: int, steps_per_epoch: int) -> int:
    """Optimizer steps in a duration: `500` steps, `"5%"` of the run, `"2ep"` epochs.

    Raises:
        ValueError: the duration is spelled otherwise, or negative.
    """
    text = str(duration).strip()
    number, per = text, 1.0
    if text.endswith("%"):
        number, per = text[:-1], total_steps / 100
    elif text.endswith("ep"):
        number, per = text[:-2], float(steps_per_epoch)
    try:
        steps = round(float(number) * per)
    except (ValueError, OverflowError):  # no number; inf
        steps = -1
    if steps < 0:
        raise ValueError(
            f"duration {duration!r} is not understood: write steps (500), a share of the run "
            '("5%") or epochs ("2ep")'
        )
    return steps


def warmed_up(step: int, warmup_steps: int, total_steps: int, final: float, shape: Shape) -> float:
    """The factor on the peak learning rate at a step: warm-up, then `shape` between 1 and final."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
    return final + (1.0 - final) * shape(min(progress, 1.0))


def half_cosine(progress: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def falling_line(progress: float) -> float:
    return 1.0 - progress


def flat(progress: float) -> float:
    return 1.0


def _schedule(
    shape: Shape,
    optimizer: Optimizer,
    total_steps: int,
    steps_per_epoch: int,
    warmup: int | str = "5%",
    final: float = 0.0,
) -> LambdaLR:
    if not 0.0 <= final <= 1.0:
        raise ValueError(f"scheduler.final={final} is a share of the peak: 0 to 1")
    warmup_steps = steps_of(warmup, total_steps, steps_per_epoch)
    factor = partial(
        warmed_up,
        warmup_steps=warmup_steps,
        total_steps=total_steps,
        final=final,
        shape=shape,
    )
    return LambdaLR(optimizer, factor)


def cosine(optimizer: Optimizer, total_steps: int, steps_per_epoch: int, **options) -> LambdaLR:
    """Half a cosine from the peak to `final`. Loshchilov and Hutter 2017, without restarts."""
    return _schedule(half_cosine, optimizer, total_steps, steps_per_epoch, **options)


def linear(optimizer: Optimizer, total_steps: int, steps_per_epoch: int, **options) -> LambdaLR:
    """A straight line from the peak to `final`."""
    return _schedule(falling_line, optimizer, total_steps, steps_per_epoch, **options)


def constant(optimizer: Optimizer, total_steps: int, steps_per_epoch: int, **options) -> LambdaLR:
    """The peak to the end, after the warm-up."""
    return _schedule(flat, optimizer, total_steps, steps_per_epoch, **options)
