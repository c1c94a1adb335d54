"""How fast it trains."""

import time
from typing import Any

import lightning as L


class Throughput(L.Callback):
    """Images per second of training, over all processes, without validation; logged per epoch.

    `images_per_second` is the mean of the run, its first `warmup_steps` after each start left
    out (kernels are chosen and memory is first touched there). `fit_seconds` counts everything,
    over all starts of the run.
    """

    def __init__(self, warmup_steps: int = 5):
        self.warmup_steps = warmup_steps
        self.images = 0
        self.seconds = 0.0
        self.fit_seconds = 0.0
        self._fitting = True
        self._steps = 0
        self._fit_began = 0.0
        self._mark = 0.0
        self._epoch_images = 0
        self._epoch_seconds = 0.0

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
        self._fit_began = time.perf_counter()

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.fit_seconds, self._fit_began = self.total_seconds(), 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._mark = time.perf_counter()
        self._epoch_images, self._epoch_seconds = 0, 0.0

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        now = time.perf_counter()
        self._steps += 1
        if self._steps > self.warmup_steps:
            count = len(batch[1]) * trainer.world_size
            self._epoch_images += count
            self._epoch_seconds += now - self._mark
            self.images += count
            self.seconds += now - self._mark
        self._mark = now

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._mark = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._epoch_seconds:
            pl_module.log("train/images_per_second", self._epoch_images / self._epoch_seconds)
