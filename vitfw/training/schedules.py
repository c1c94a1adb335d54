"""Learning-rate schedules over optimizer steps.

Each is a function (optimizer, total_steps, steps_per_epoch, …) → LambdaLR, stepped after every
optimizer step: warm-up rises linearly, from 1 / (steps + 1) of the peak at the first step, then the
schedule's own shape falls from 1 to `final`, a share of the peak. docs/schedules.md has them in a
table.

The factor of a step is a partial of a plain function: a callable with attributes would have them
overwritten by those in the checkpoint when a run goes on.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from vitfw.target import target_of

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
        whole = number != text or float(number).is_integer()
    except (ValueError, OverflowError):  # no number; inf
        steps, whole = -1, False
    if steps < 0 or not whole:
        raise ValueError(
            f"duration {duration!r} is not understood: write steps (500), a share of the run "
            '("5%") or epochs ("2ep")'
        )
    return steps


def half_cosine(progress: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def falling_line(progress: float) -> float:
    return 1.0 - progress


def one_minus_sqrt(progress: float) -> float:
    return 1.0 - math.sqrt(progress)


def flat(progress: float) -> float:
    return 1.0


COOLDOWNS: dict[str, Shape] = {
    "linear": falling_line,
    "sqrt": one_minus_sqrt,
    "cosine": half_cosine,
}


def cooldown_shape(name: str) -> Shape:
    """Raises ValueError for a name that is none of `COOLDOWNS`."""
    if name not in COOLDOWNS:
        raise ValueError(f"scheduler.shape={name} does not exist; known: {', '.join(COOLDOWNS)}")
    return COOLDOWNS[name]


def check_final(final: float) -> None:
    if not 0.0 <= final <= 1.0:
        raise ValueError(f"scheduler.final={final} is a share of the peak: 0 to 1")


def risen(step: int, warmup_steps: int) -> float:
    return min((step + 1) / (warmup_steps + 1), 1.0)


def cooled_down(step: int, begin: int, end: int, top: float, final: float, shape: Shape) -> float:
    """`top` up to the step `begin`, from there `shape` down to `final` at `end`."""
    progress = (step - begin) / max(end - begin, 1)
    return final + (top - final) * shape(min(max(progress, 0.0), 1.0))


def plateau(
    step: int, warmup_steps: int, begin: int, end: int, final: float, shape: Shape
) -> float:
    """The factor on the peak learning rate at a step: warm-up, 1, from `begin` on the decay."""
    if step < begin:
        return risen(step, warmup_steps)
    return cooled_down(step, begin, end, 1.0, final, shape)


def _schedule(
    shape: Shape,
    optimizer: Optimizer,
    total_steps: int,
    steps_per_epoch: int,
    warmup: int | str = "5%",
    final: float = 0.0,
) -> LambdaLR:
    check_final(final)
    rise = steps_of(warmup, total_steps, steps_per_epoch)
    times = {"warmup_steps": rise, "begin": rise, "end": total_steps}
    return LambdaLR(optimizer, partial(plateau, **times, final=final, shape=shape))


def cosine(optimizer: Optimizer, total_steps: int, steps_per_epoch: int, **options) -> LambdaLR:
    """Half a cosine from the peak to `final`. Loshchilov and Hutter 2017, without restarts."""
    return _schedule(half_cosine, optimizer, total_steps, steps_per_epoch, **options)


def linear(optimizer: Optimizer, total_steps: int, steps_per_epoch: int, **options) -> LambdaLR:
    """A straight line from the peak to `final`."""
    return _schedule(falling_line, optimizer, total_steps, steps_per_epoch, **options)


def constant(optimizer: Optimizer, total_steps: int, steps_per_epoch: int, **options) -> LambdaLR:
    """The peak to the end, after the warm-up."""
    return _schedule(flat, optimizer, total_steps, steps_per_epoch, **options)


def wsd(
    optimizer: Optimizer,
    total_steps: int,
    steps_per_epoch: int,
    warmup: int | str = "5%",
    cooldown: int | str = "20%",
    shape: str = "sqrt",
    final: float = 0.0,
) -> LambdaLR:
    """Warm-up, the peak, and a cooldown to `final` that ends with the run.

    Hu et al. 2024 (MiniCPM), Hägele et al. 2024: a fifth of the run and the shape 1 − sqrt.

    Raises:
        ValueError: warm-up and cooldown together are longer than the run.
    """
    check_final(final)
    rise, fall = phases(warmup, cooldown, total_steps, steps_per_epoch)
    factor = partial(
        plateau,
        warmup_steps=rise,
        begin=total_steps - fall,
        end=total_steps,
        final=final,
        shape=cooldown_shape(shape),
    )
    return LambdaLR(optimizer, factor)


def phases(
    warmup: int | str, cooldown: int | str, total_steps: int, steps_per_epoch: int
) -> tuple[int, int]:
    """Steps of the warm-up and of the cooldown; raises ValueError where they overlap."""
    rise = steps_of(warmup, total_steps, steps_per_epoch)
    fall = steps_of(cooldown, total_steps, steps_per_epoch)
    if fall and rise + fall > total_steps:
        raise ValueError(
            f"scheduler.warmup={warmup} and scheduler.cooldown={cooldown} are {rise} and {fall} "
            f"steps, more than the {total_steps} of the run; give shorter ones"
        )
    return rise, fall


def inverse_sqrt(
    optimizer: Optimizer,
    total_steps: int,
    steps_per_epoch: int,
    warmup: int | str = "5%",
    timescale: int | str = 10_000,
    cooldown: int | str = 0,
    shape: str = "linear",
) -> LambdaLR:
    """1 / sqrt(1 + t / timescale), t steps after the warm-up; then a cooldown to 0, if any.

    It does not depend on the length of the run but for the cooldown. Zhai et al. 2022, §3.5, and
    big_vision's `rsqrt`.

    Raises:
        ValueError: `timescale` is 0; warm-up and cooldown together are longer than the run.
    """
    scale = steps_of(timescale, total_steps, steps_per_epoch)
    if scale < 1:
        raise ValueError(
            f"scheduler.timescale={timescale} is {scale} steps: it must be at least one"
        )
    rise, fall = phases(warmup, cooldown, total_steps, steps_per_epoch)
    factor = partial(
        falling_root,
        warmup_steps=rise,
        timescale=scale,
        begin=total_steps - fall,
        end=total_steps,
        shape=cooldown_shape(shape) if fall else flat,
    )
    return LambdaLR(optimizer, factor)


def falling_root(
    step: int, warmup_steps: int, timescale: int, begin: int, end: int, shape: Shape
) -> float:
    root = 1.0 / math.sqrt(1.0 + max(step - warmup_steps, 0) / timescale)
    return risen(step, warmup_steps) * root * cooled_down(step, begin, end, 1.0, 0.0, shape)


def cooldown(
    optimizer: Optimizer,
    total_steps: int,
    steps_per_epoch: int,
    length: int | str = "20%",
    shape: str = "sqrt",
    final: float = 0.0,
    start_step: int | None = None,
    start_factor: float = 1.0,
) -> LambdaLR:
    """From `start_factor` at the step `start_step` of another schedule down to `final`.

    A percentage of `length` is one of the steps made so far. Without `start_step` it is the last
    `length` of this run. Hägele et al. 2024: one long run, a cooldown from any of its checkpoints.

    Raises:
        ValueError: the length is no step, or `start_factor` is not above `final`.
    """
    check_final(final)
    if start_step is None:
        start_step = total_steps - cooldown_steps(length, total_steps, steps_per_epoch)
    steps = cooldown_steps(length, start_step, steps_per_epoch)
    if start_factor <= final:
        raise ValueError(
            f"the learning rate stands at {start_factor:.3g} of its peak there, which is not above "
            f"scheduler.final={final}: begin the cooldown at an earlier checkpoint"
        )
    factor = partial(
        cooled_down,
        begin=start_step,
        end=start_step + steps,
        top=start_factor,
        final=final,
        shape=cooldown_shape(shape),
    )
    return LambdaLR(optimizer, factor)


def is_cooldown(scheduler: Mapping[str, Any]) -> bool:
    """Whether a config's `scheduler` is `cooldown`."""
    return scheduler.get("_target_") == target_of(cooldown)


def cooldown_steps(length: int | str, steps_so_far: int, steps_per_epoch: int) -> int:
    """Steps of a cooldown that begins after `steps_so_far`.

    Raises:
        ValueError: there are none.
    """
    steps = steps_of(length, steps_so_far, steps_per_epoch)
    if steps < 1:
        raise ValueError(
            f"scheduler.length={length} is no step; give steps (500), epochs (2ep) or a share of "
            f"the {steps_so_far} made so far (20%)"
        )
    return steps
