"""One bar for the whole run, one line an epoch, and how far an evaluation is."""

import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from rich.progress import Progress, TaskID

from vitfw.console import console, log, progress_bars
from vitfw.data.run_length import batches_of_run
from vitfw.progress_bar import LongWork

SECONDS_BETWEEN_LINES = 60.0


class RunProgress(ProgressBar):
    """Epoch, images per second, time left; after each epoch a line with loss and accuracy.

    Where the output is not a terminal there is no bar, only the lines. A validation or a test that
    takes long is shown in the same way.
    """

    def __init__(self) -> None:
        super().__init__()
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._evaluation: LongWork | None = None
        self._enabled = True
        self._images = 0
        self._said = 0.0

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def _start(self, description: str, total: int | None) -> None:
        self._stop()
        if not self._enabled or not console.is_terminal:
            return
        self._progress = progress_bars()
        self._task = self._progress.add_task(description, total=total, rate="")
        self._progress.start()

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = self._task = None

    def _begin_evaluation(self, what: str, batches: list[int | float]) -> None:
        """Within the bar of a training it is told by its name alone: two bars are one too many."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, description=what)
        elif self._enabled:
            self._evaluation = LongWork(what, int(sum(batches)), "batches")
            self._evaluation.begin()

    def _advance_evaluation(self) -> None:
        if self._evaluation is not None:
            self._evaluation.update()

    def _end_evaluation(self, broken: bool = False) -> None:
        if self._evaluation is not None:
            self._evaluation.end(broken)
            self._evaluation = None

    def _advance(self, description: str, images: int) -> None:
        if self._progress is None or self._task is None:
            return
        self._progress.update(self._task, advance=1, description=description)
        speed = self._progress.tasks[0].speed
        rate = f"{speed * images:,.0f} img/s" if speed else ""
        self._progress.update(self._task, rate=rate)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._images, self._said = 0, time.monotonic()
        self._start(_epoch(trainer), batches_of_run(trainer))
        if self._progress is not None and self._task is not None:
            done = trainer.fit_loop.epoch_loop.total_batch_idx + 1
            self._progress.update(self._task, completed=done)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        images = len(batch[1]) * trainer.world_size
        self._advance(_epoch(trainer), images)
        self._say_where(trainer, images, batch_idx)

    def _say_where(self, trainer: L.Trainer, images: int, batch_idx: int) -> None:
        """Where there is no bar, a line a minute."""
        self._images += images
        now = time.monotonic()
        if self._progress is None and self._enabled and now - self._said > SECONDS_BETWEEN_LINES:
            rate = self._images / (now - self._said)
            of = f"batch {batch_idx + 1:,}/{int(trainer.num_training_batches):,}"
            log.info(f"{_epoch(trainer)}  {of}  {rate:,.0f} img/s")
            self._images, self._said = 0, now

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        line = epoch_line(trainer, pl_module)  # on all processes: it gathers the mean loss
        if self._enabled:
            log.info(line)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stop()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._begin_evaluation("validation", trainer.num_val_batches)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._advance_evaluation()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._end_evaluation()

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._begin_evaluation("test", trainer.num_test_batches)

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._advance_evaluation()

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._end_evaluation()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        self._end_evaluation(broken=True)
        self._stop()

    def print(self, *args: Any, **kwargs: Any) -> None:
        console.print(*args, **kwargs)


def _epoch(trainer: L.Trainer) -> str:
    epochs = trainer.max_epochs or -1
    return f"epoch {trainer.current_epoch + 1}" + (f"/{epochs}" if epochs > 0 else "")


def epoch_line(trainer: L.Trainer, pl_module: L.LightningModule) -> str:
    """`epoch 3/30  train loss 0.412  val loss 0.301  val accuracy 0.9123  1,203 img/s`."""
    values = {name: float(value) for name, value in trainer.callback_metrics.items()}
    mean_loss: Any = getattr(pl_module, "train_loss_epoch", None)
    if mean_loss is not None and mean_loss.update_called:
        values["train/loss"] = float(mean_loss.compute())
    shown = (
        ("train/loss", "train loss {:.4f}"),
        ("val/loss", "val loss {:.4f}"),
        ("val/accuracy", "val accuracy {:.4f}"),
        ("train/images_per_second", "{:,.0f} img/s"),
    )
    parts = [pattern.format(values[name]) for name, pattern in shown if name in values]
    return "  ".join([_epoch(trainer), *parts])
