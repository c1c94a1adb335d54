"""The rows of metrics.csv as points: values by epoch where the run came past the first, else by
step.

A value that is absent or None was not logged in that row.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vitfw.plots import Point, number

LARGEST = 1e300  # a loss beyond this has no place on an axis

History = Sequence[Mapping[str, float]]


@dataclass(frozen=True)
class Axis:
    """What stands along x: the column `key` divided by `unit`, called `label`."""

    key: str
    label: str
    unit: float = 1.0

    def at(self, row: Mapping[str, float], index: int) -> float | None:
        value = index if self.key == "row" else row.get(self.key)
        return None if value is None or not math.isfinite(value) else value / self.unit

    def name(self, x: float) -> str:
        """`epoch 2.5 (step 1,250)`"""
        step = f" (step {number(round(x * self.unit))})" if self.unit != 1.0 else ""
        return f"{self.label} {number(x)}{step}"


def axis_of(history: History, steps_per_epoch: int = 0) -> Axis:
    steps = [row["step"] for row in history if row.get("step") is not None]
    if steps:
        by_epoch = 0 < steps_per_epoch < max(steps)
        return Axis("step", "epoch", steps_per_epoch) if by_epoch else Axis("step", "step")
    key = "epoch" if any("epoch" in row for row in history) else "row"
    return Axis(key, key)


def logged(history: History, axis: Axis, key: str) -> list[Point]:
    """All values of a column by x, also NaN; of a step logged twice (a resumed run), the later."""
    values: dict[float, float] = {}
    for index, row in enumerate(history):
        x, y = axis.at(row, index), row.get(key)
        if x is not None and y is not None:
            values[x] = float(y)
    return sorted(values.items())


def points(history: History, axis: Axis, key: str) -> tuple[Point, ...]:
    """Those of them that can be drawn."""
    return tuple((x, y) for x, y in logged(history, axis, key) if abs(y) < LARGEST)


def columns(history: History, prefix: str) -> list[str]:
    """The columns that begin with `prefix`, as they were first logged."""
    keys = dict.fromkeys(key for row in history for key in row)
    return [key for key in keys if key.startswith(prefix)]
