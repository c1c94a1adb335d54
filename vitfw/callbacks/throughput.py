"""How fast it trains."""

import time
from typing import Any

import lightning as L
import torch
from torch import nn

from vitfw.callbacks.after_validation import after_validation
from vitfw.callbacks.logging_steps import log_scalars, logs_after
from vitfw.matmul_peak import matmul_peak
from vitfw.models.profile import count_flops, dtype_of
from vitfw.training.classifier import Classifier
from vitfw.training.precision import AUTOCAST


class Throughput(L.Callback):
    """Images per second of training, over all processes, without validation and what is drawn and
    saved after it.

    `speed/images_per_second` is the mean since the last logging, the first batch after each start
    left out; `train/images_per_second` that of an epoch. The property `images_per_second` is the
    mean of the run; it and that of an epoch leave out the first `warmup_steps` after each start
    (kernels are chosen and memory is first touched there). `fit_seconds` counts everything, over
    all starts of the run.

    `speed/model_flop_utilisation` is how much of what this machine can do goes into the model:
    `training_flops` of an image × images per second over the `matmul_peak` of the device in the
    run's precision, times processes. `utilisation=false` leaves it out, and the tenth of a second
    at the start that measuring the peak takes.
    """

    def __init__(self, warmup_steps: int = 5, utilisation: bool = True):
        self.warmup_steps = warmup_steps
        self.utilisation = utilisation
        self.images = 0
        self.seconds = 0.0
        self.fit_seconds = 0.0
        self._fitting = True
        self._steps = 0
        self._fit_began = 0.0
        self._mark = 0.0
        self._epoch_images = 0
        self._epoch_seconds = 0.0
        self._due = False
        self._images = 0  # since the last logging
        self._seconds = 0.0
        self._peak: float | None = None
        self._flops: dict[tuple[int, ...], int | None] = {}

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds if self.seconds else 0.0

    def state_dict(self) -> dict[str, Any]:
        return {
            "images": self.images,
            "seconds": self.seconds,
            "fit_seconds": self.total_seconds(),
        }

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._fitting = stage == "fit"

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not self._fitting:  # the checkpoint that is tested may be older than the end of the fit
            return
        self.images = int(state_dict["images"])
        self.seconds = float(state_dict["seconds"])
        self.fit_seconds = float(state_dict["fit_seconds"])

    def total_seconds(self) -> float:
        running = time.perf_counter() - self._fit_began if self._fit_began else 0.0
        return self.fit_seconds + running

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._steps = 0
        self._images, self._seconds = 0, 0.0
        self._fit_began = time.perf_counter()
        after_validation(trainer, self._set_mark)
        shown = trainer.is_global_zero and trainer.loggers
        if self.utilisation and shown and isinstance(pl_module, Classifier):
            dtype = AUTOCAST.get(str(trainer.precision), dtype_of(pl_module.net))
            self._peak = matmul_peak(trainer.strategy.root_device, dtype)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.fit_seconds, self._fit_began = self.total_seconds(), 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._set_mark()
        self._epoch_images, self._epoch_seconds = 0, 0.0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._due = logs_after(trainer, batch_idx)
        if self._steps == 0:
            self._flops_of_image(trainer, pl_module, batch[0])  # now: this batch is not timed

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        now = time.perf_counter()
        count, seconds = len(batch[1]) * trainer.world_size, now - self._mark
        self._steps += 1
        if self._steps > self.warmup_steps:
            self._epoch_images += count
            self._epoch_seconds += seconds
            self.images += count
            self.seconds += seconds
        if self._steps > 1:
            self._images += count
            self._seconds += seconds
        self._mark = now
        if self._due and self._seconds:
            log_scalars(trainer, self._speed(trainer, pl_module, batch[0]))
            self._images, self._seconds = 0, 0.0

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._epoch_seconds:
            pl_module.log("train/images_per_second", self._epoch_images / self._epoch_seconds)

    def _set_mark(self) -> None:
        """The next batch begins to be fetched."""
        self._mark = time.perf_counter()

    def _speed(
        self, trainer: L.Trainer, pl_module: L.LightningModule, images: torch.Tensor
    ) -> dict[str, float]:
        rate = self._images / self._seconds
        speed = {"speed/images_per_second": rate}
        flops = self._flops_of_image(trainer, pl_module, images)
        if flops and self._peak:
            machine = self._peak * trainer.world_size
            speed["speed/model_flop_utilisation"] = flops * rate / machine
        return speed

    def _flops_of_image(
        self, trainer: L.Trainer, pl_module: L.LightningModule, images: torch.Tensor
    ) -> int | None:
        """`training_flops` for images of this size: it grows where it is progressive."""
        if self._peak is None or not isinstance(pl_module, Classifier):
            return None
        shape = tuple(images.shape[1:])
        if shape not in self._flops:
            self._flops[shape] = training_flops(pl_module.net, shape)
        passes = 2 if any(hasattr(each, "second_pass") for each in trainer.optimizers) else 1  # SAM
        flops = self._flops[shape]
        return flops and passes * flops


def training_flops(net: nn.Module, image_shape: tuple[int, ...]) -> int | None:
    """FLOPs of training on an image [C, H, W]: 3 × `count_flops`, the backward pass being two.

    What gradient checkpointing computes again does not count, nor does a teacher. None where
    layers are frozen, which takes less, and where the net cannot be counted.
    """
    layers = [module for module in net.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    if len(image_shape) != 3 or not all(layer.weight.requires_grad for layer in layers):
        return None
    channels, height, width = image_shape
    try:
        return 3 * count_flops(net, (channels, height, width))
    except Exception:  # a net of any kind, on the meta device: it may fail in any way
        return None
