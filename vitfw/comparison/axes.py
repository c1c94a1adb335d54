"""Where a value lies between the ends of an axis, linear, logarithmic or of names."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from vitfw.comparison.words import ABSENT, exact
from vitfw.plots import ticks

MAGNITUDES = 20  # numbers that are this many times apart may be powers
FEW_VALUES = 6  # so many numbers are ticks themselves
NEAREST_TICKS = 0.06


@dataclass(frozen=True)
class Axis:
    """`marks` are ticks: how far along the axis, 0 to 1, and what stands there."""

    low: float
    high: float
    logarithmic: bool = False
    marks: Sequence[tuple[float, str]] = ()
    places: dict[str, float] = field(default_factory=dict)  # of names

    def share(self, value: Any) -> float | None:
        """How far along the axis; None for a value that has no place on it."""
        if self.places:
            return self.places.get(exact(value))
        if not isinstance(value, int | float) or (self.logarithmic and value <= 0):
            return None
        if self.high == self.low:
            return 0.5
        return (scaled(value, self.logarithmic) - self.low) / (self.high - self.low)


def scaled(value: float, logarithmic: bool) -> float:
    return math.log10(value) if logarithmic else float(value)


def looks_logarithmic(values: Sequence[float]) -> bool:
    """Positive numbers that span magnitudes, and are not crowded at the upper end."""
    if not values or min(values) <= 0 or max(values) < MAGNITUDES * min(values):
        return False
    ordered = sorted(values)
    return ordered[len(ordered) // 2] < 0.4 * ordered[-1]


def axis_of(values: Sequence[Any], logarithmic: bool | None = None) -> Axis:
    """The axis of a parameter, from its least to its largest value, or of its names."""
    there = [value for value in values if value != ABSENT]
    if not there or any(isinstance(v, bool) or not isinstance(v, int | float) for v in there):
        return names_axis(there)
    if logarithmic is None or min(there) <= 0:
        logarithmic = looks_logarithmic(there)
    low, high = scaled(min(there), logarithmic), scaled(max(there), logarithmic)
    axis = Axis(low, high, logarithmic)
    distinct = sorted(set(there))
    candidates = distinct if len(distinct) <= FEW_VALUES else round_numbers(axis)
    return Axis(low, high, logarithmic, marks=apart(axis, candidates, "{:.4g}".format))


def names_axis(values: Sequence[Any]) -> Axis:
    texts = list(dict.fromkeys(map(exact, values)))
    try:
        texts.sort(key=float)
    except ValueError:
        texts.sort()
    last = max(len(texts) - 1, 1)
    places = {text: (i / last if len(texts) > 1 else 0.5) for i, text in enumerate(texts)}
    return Axis(0, 1, marks=[(share, text) for text, share in places.items()], places=places)


def padded_axis(
    values: Sequence[float],
    logarithmic: bool = False,
    largest: float = math.inf,
    label: Callable[[float], str] = "{:.4g}".format,
) -> Axis:
    """The axis of a plot: with room at both ends, which are round numbers where it is linear."""
    low, high = scaled(min(values), logarithmic), scaled(max(values), logarithmic)
    if logarithmic:
        room = max(0.05 * (high - low), 0.05)
        axis = Axis(low - room, high + room, True)
    else:
        steps = [t for t in ticks(low, high) if t <= largest or high > largest]
        axis = Axis(steps[0], steps[-1])
    return Axis(axis.low, axis.high, logarithmic, apart(axis, round_numbers(axis), label))


def round_numbers(axis: Axis) -> list[float]:
    """Ticks within the axis: a few steps apart, or powers of ten (and 2, 5 times, if few)."""
    slack = 1e-9 * max(abs(axis.low), abs(axis.high))
    if not axis.logarithmic:
        steps = (float(f"{t:.9g}") for t in ticks(axis.low, axis.high))
        return [t for t in steps if axis.low - slack <= t <= axis.high + slack]
    powers = range(math.floor(axis.low), math.ceil(axis.high) + 1)
    factors = (1,) if axis.high - axis.low > 2.5 else (1, 2, 5)
    numbers = [factor * 10.0**power for power in powers for factor in factors]
    return [n for n in numbers if axis.low - slack <= math.log10(n) <= axis.high + slack]


def apart(
    axis: Axis, numbers: Sequence[float], label: Callable[[float], str]
) -> list[tuple[float, str]]:
    """The numbers with their places, or every other, third … of them where they are too near."""
    shares = [(axis.share(number) or 0.0, label(number)) for number in numbers]
    for stride in range(1, len(shares) + 1):
        kept = shares[::stride]
        if all(b - a >= NEAREST_TICKS for (a, _), (b, _) in pairwise(kept)):
            return kept
    return shares


def short(value: float) -> str:
    """1500 → 1.5k: ticks have little room."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{unit}"
    return f"{value:.4g}"


def percent_tick(share: float) -> str:
    return f"{100 * share:.4g} %"
