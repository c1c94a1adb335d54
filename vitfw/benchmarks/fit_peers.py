"""One peer's training, in a process of its own: `python -m vitfw.benchmarks.fit_timm FOLDER`.

FOLDER holds what `fit.py` writes with `prepare`; the clock's file is left there. Nothing of vitfw's
training is imported: start-up and speed are the peer's.

N images, C channels, H height, W width.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from vitfw.benchmarks.fit_clock import TrainingClock

CLOCK = "clock.jsonl"
MARGIN = 0.95  # of the time a schedule is laid over: it must be through before that ends
UNKNOWN_STEPS = 1_000_000  # a schedule that a probe does not leave the beginning of


@dataclass(frozen=True)
class Order:
    """What a peer is to train: for so many `epochs`, or for as many as fit `schedule_seconds`, at
    the speed measured; one of them is None.
    """

    device: str
    bf16: bool
    seed: int
    img_size: tuple[int, int]
    channels: int
    num_classes: int
    mean: list[float]
    std: list[float]
    epochs: float | None
    schedule_seconds: float | None
    probe_seconds: float
    validate_every: float
    cap: float
    stop_at: float
    patch_size: int
    embed_dim: int
    depth: int
    num_heads: int
    batch_size: int
    lr: float
    weight_decay: float
    warmup_share: float
    crop_scale: list[float]
    workers: int

    def warmup_steps(self, total_steps: int) -> int:
        return round(self.warmup_share * total_steps)


@dataclass(frozen=True)
class Progress:
    """What a training tells: `begin()` before its first step, `after_step(net, step)`, which says
    whether to stop, after each.
    """

    begin: Callable[[], None]
    after_step: Callable[[nn.Module, int], bool]


class PilImages(Dataset):
    """uint8 [N, C, H, W] as PIL images, one by one, through the `transform` of a library."""

    def __init__(self, images: Tensor, labels: Tensor):
        self.arrays = images.permute(0, 2, 3, 1).squeeze(3).contiguous().numpy()
        self.labels: list[int] = labels.tolist()
        self.transform: Callable[[Image.Image], Any] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = Image.fromarray(self.arrays[index])
        return image if self.transform is None else self.transform(image), self.labels[index]


def accuracy_of(net: nn.Module, images: Tensor, labels: Tensor, order: Order) -> float:
    """Share of normalised `images` that are told right, in evaluation mode."""
    net.eval()
    right = 0
    with torch.inference_mode(), autocast(order):
        for some, truth in zip(images.split(256), labels.split(256), strict=True):
            output = net(some.to(order.device))
            logits = output if isinstance(output, Tensor) else output.logits
            right += int((logits.argmax(dim=1).cpu() == truth).sum())
    net.train()
    return right / len(labels)


def autocast(order: Order) -> torch.autocast:
    return torch.autocast(order.device, torch.bfloat16, enabled=order.bf16)


class Train(Protocol):
    """Train until `total_steps` are made or `progress` says to stop, in the library's own way."""

    def __call__(
        self, data: PilImages, order: Order, total_steps: int, progress: Progress
    ) -> None: ...


def measure_speed(train: Train, data: PilImages, order: Order) -> float:
    """Optimizer steps a second of a training that is thrown away; its first quarter warms up.

    The device is waited for at both ends of what is counted, and not in between.
    """
    marks: list[tuple[int, float]] = []  # step and time: the first one, then both ends

    def mark(step: int) -> None:
        if order.device == "cuda":
            torch.cuda.synchronize()
        marks.append((step, time.perf_counter()))

    def after_step(net: nn.Module, step: int) -> bool:
        if not marks:
            marks.append((step, time.perf_counter()))
            return False
        passed = time.perf_counter() - marks[0][1]
        if passed >= (order.probe_seconds / 4 if len(marks) == 1 else order.probe_seconds):
            mark(step)
        return len(marks) == 3

    train(data, order, UNKNOWN_STEPS, Progress(lambda: None, after_step))
    (began, since), (ended, until) = marks[1:]
    return (ended - began) / (until - since)


def run(folder: Path, train: Train, versions: dict[str, str]) -> None:
    """Train as `order.json` says, and write the curve.

    A validation is made whenever the clock says so, and after the last step.
    """
    order = Order(**json.loads((folder / "order.json").read_text(encoding="utf-8")))
    held = torch.load(folder / "images.pt", weights_only=True)
    data = PilImages(held["train_images"], held["train_labels"])
    steps_per_epoch = len(data) / order.batch_size
    probe_s = 0.0
    if order.schedule_seconds is not None:
        began = time.perf_counter()
        speed = measure_speed(train, data, order)
        total_steps = int(MARGIN * order.schedule_seconds * speed)
        probe_s = time.perf_counter() - began
    else:
        assert order.epochs is not None
        total_steps = round(order.epochs * steps_per_epoch)
    total_steps = max(total_steps, 1)
    clock = TrainingClock(folder / CLOCK, order.validate_every, order.cap, order.stop_at)
    about = {
        "versions": versions,
        "probe_s": round(probe_s, 3),
        "batch_size": order.batch_size,
        "epochs": round(total_steps / steps_per_epoch, 2),
    }

    def after_step(net: nn.Module, step: int) -> bool:
        last = step >= total_steps
        if clock.due or last:
            clock.stop()
            if "parameters" not in about:
                about["parameters"] = sum(p.numel() for p in net.parameters())
                clock.write({"about": about})
            accuracy = accuracy_of(net, held["val_images"], held["val_labels"], order)
            clock.resume(accuracy, step)
        return clock.over or last

    train(data, order, total_steps, Progress(clock.begin, after_step))


def prepare(folder: Path, order: Order, images: dict[str, Tensor]) -> None:
    """Write what `run` reads: train_images uint8, val_images normalised, and their labels."""
    text = json.dumps(asdict(order))
    (folder / "order.json").write_text(text, encoding="utf-8")
    torch.save(images, folder / "images.pt")
