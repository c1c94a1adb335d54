"""Contestants that take turns, so that a noisy machine slows all of them alike."""

import itertools
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from vitfw.data.classification_data import ClassificationData
from vitfw.errors import ConfigError

Batches = Callable[[], Iterator[tuple[Tensor, Tensor]]]  # images and labels of one turn


def now(device: torch.device) -> float:
    """Seconds, when the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def images_per_second(
    contestants: Mapping[str, Batches], turns: int, device: torch.device
) -> dict[str, list[float]]:
    """The speed of each at every turn; a turn before them warms up and is not counted.

    Every turn another one begins.
    """
    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    order = list(contestants)
    for turn in range(turns + 1):
        for name in order[turn % len(order) :] + order[: turn % len(order)]:
            began = now(device)
            images = sum(len(labels) for _, labels in contestants[name]())
            speeds[name].append(images / (now(device) - began))
    return {name: measured[1:] for name, measured in speeds.items()}


def milliseconds(
    calls: Mapping[str, Callable[[], object]], turns: int, device: torch.device
) -> dict[str, float]:
    """The median time of one call of each; a turn before them warms up and is not counted."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(turns + 1):
        for name, call in calls.items():
            began = now(device)
            call()
            times[name].append((now(device) - began) * 1e3)
    return {name: statistics.median(measured[1:]) for name, measured in times.items()}


def medians(speeds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: round(statistics.median(measured), 1) for name, measured in speeds.items()}


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the ratios turn by turn: what slows a turn slows both of it."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def compared(ours: str, speeds: Mapping[str, Sequence[float]]) -> dict[str, dict]:
    """How many times as fast `ours` is as each other: the median of the turns, and their range."""
    others = {name: speed for name, speed in speeds.items() if name != ours}
    ratios = {
        name: [a / b for a, b in zip(speeds[ours], theirs, strict=True)]
        for name, theirs in others.items()
    }
    return {
        "ratios": {name: round(statistics.median(each), 3) for name, each in ratios.items()},
        "ranges": {name: [round(f(each), 3) for f in (min, max)] for name, each in ratios.items()},
    }


def check_shapes(key: str, shapes: Sequence[Sequence[int]], legend: str) -> None:
    """Raises ConfigError for a shape that has not the whole positive numbers of its legend."""
    length = len(legend.split(", "))
    for shape in shapes:
        if len(shape) != length or any(not isinstance(n, int) or n < 1 for n in shape):
            raise ConfigError(f"{key}: {list(shape)} is not {length} whole numbers, {legend}")


def epochs_of(data: ClassificationData) -> Batches:
    """An epoch of training batches a turn, as the model would be given them."""
    loader = data.train_dataloader()
    numbers = itertools.count()

    def epoch() -> Iterator[tuple[Tensor, Tensor]]:
        loader.sampler.set_epoch(next(numbers))
        for raw in loader:
            yield data.prepare_training(raw)

    return epoch


def epochs_of_peer(loader: Iterable, device: torch.device) -> Batches:
    """An epoch of another library's loader a turn, brought to the device."""

    def epoch() -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in loader:
            yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)

    return epoch
