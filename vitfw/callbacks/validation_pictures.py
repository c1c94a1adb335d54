"""Predictions on validation images: the worst mistakes, who is taken for whom, and how often.

K classes.
"""

import re
from collections.abc import Sequence
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from vitfw.callbacks.board import boards
from vitfw.callbacks.drawing_time import DrawingTime
from vitfw.callbacks.prediction_tally import MOST_IN_MATRIX, Guess, PredictionTally
from vitfw.confusion_picture import confusion_picture
from vitfw.console import log
from vitfw.preview import sample_grid, writable


class ValidationPictures(L.Callback):
    """In the validation of every `every_n_epochs`-th epoch: the `count` wrong guesses of highest
    confidence (`predictions/mistakes`), the confusion matrix (`predictions/confusion`; not of more
    than 2,000 classes), and with at most `max_classes` classes the accuracy of each
    (`class_accuracy/<name>`), in TensorBoard. `count=0`, `confusion=False` and `max_classes=0`
    leave each of them out.

    The predictions are those of the evaluated weights. Pictures take at most `max_share` of the
    time of the fit, so that one of short epochs has fewer; the first and the last are always
    drawn. `tally` has the last validation's counts and guesses, also of a run that broke.
    Methods whose validation gives no logits have none of it.
    """

    def __init__(
        self,
        count: int = 16,
        every_n_epochs: int = 1,
        max_classes: int = 25,
        max_share: float = 0.005,
        confusion: bool = True,
    ):
        for name, value, least in (
            ("count", count, 0),
            ("every_n_epochs", every_n_epochs, 1),
            ("max_classes", max_classes, 0),
        ):
            if value < least:
                raise ValueError(
                    f"callbacks.validation_pictures.{name} {value} must be at least {least}"
                )
        self.count = count
        self.every_n_epochs = every_n_epochs
        self.max_classes = max_classes
        self.confusion = confusion
        self.tally: PredictionTally | None = None
        self._time = DrawingTime(max_share, "validation_pictures")
        self._counting: PredictionTally | None = None
        self._undrawn: int | None = None  # step of a validation without pictures

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._time.start()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data: Any = getattr(trainer, "datamodule", None)
        due = (trainer.current_epoch + 1) % self.every_n_epochs == 0
        self._counting = None
        if due and not trainer.sanity_checking and hasattr(data, "mean"):
            classes = len(data.classes)
            self._counting = PredictionTally(self.count, classes, data.mean, data.std)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._counting is not None and isinstance(outputs, Tensor) and outputs.dim() == 2:
            images, labels = batch
            self._counting.add(images, labels, outputs)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._counting is None:
            return
        self._counting.finish(trainer.strategy)
        if self._counting.totals is not None:
            if self.tally is None:
                self._say_what_is_missing(trainer, self._counting)
            self.tally, self._undrawn = self._counting, trainer.global_step
            self._log_accuracies(trainer, self._counting.totals)
            if self._time.left:
                with self._time.drawing():
                    self._draw(trainer)
        self._counting = None

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._draw(trainer)

    def _say_what_is_missing(self, trainer: L.Trainer, tally: PredictionTally) -> None:
        if self.confusion and tally.confusion is None and trainer.is_global_zero:
            log.info(
                f"no confusion matrix: there are {tally.num_classes:,} classes, and "
                f"{MOST_IN_MATRIX:,} is the most"
            )

    def _log_accuracies(self, trainer: L.Trainer, totals: Tensor) -> None:
        """Straight to TensorBoard: `metrics.csv` would be as wide as there are classes."""
        classes = class_names(trainer)
        if len(classes) > self.max_classes:
            return
        names, accuracies = scalar_names(classes), class_accuracies(totals).tolist()
        for board in boards(trainer):
            for name, accuracy in zip(names, accuracies, strict=False):
                if accuracy == accuracy:  # NaN: no image of that class
                    board.add_scalar(f"class_accuracy/{name}", accuracy, trainer.global_step)

    def _draw(self, trainer: L.Trainer) -> None:
        found = boards(trainer)
        if not found or self.tally is None or self._undrawn is None:
            return
        classes, pictures = class_names(trainer), {}
        if self.confusion and self.tally.confusion is not None:
            pictures["predictions/confusion"] = confusion_picture(self.tally.confusion, classes)
        if mistakes := self.tally.mistakes:
            images = torch.stack([each.image for each in mistakes])
            captions = [caption_of(each, classes) for each in mistakes]
            pictures["predictions/mistakes"] = sample_grid(images, captions, columns=4)
        for board in found:
            for tag, picture in pictures.items():
                board.add_image(tag, np.asarray(picture), self._undrawn, dataformats="HWC")
        self._undrawn = None


def class_names(trainer: L.Trainer) -> Sequence[str]:
    data: Any = getattr(trainer, "datamodule", None)
    return data.classes


def caption_of(guess: Guess, classes: Sequence[str]) -> str:
    truth, taken_for = (writable(classes[i], i) for i in (guess.truth, guess.guess))
    return f"{truth} · {guess.confidence:.2f} as {taken_for}"


def class_accuracies(totals: Tensor) -> Tensor:
    """The share of each class that was recognised, [3, K] → [K]; NaN for one without images."""
    images, right, _ = totals.double()
    return right / images


def scalar_names(classes: Sequence[str]) -> list[str]:
    """Names that can stand in a tag, no two alike."""
    names: dict[str, None] = {}
    for number, name in enumerate(classes):
        safe = re.sub(r"[^\w.\-]+", "_", name).strip("_") or f"class_{number}"
        while safe in names:
            safe = f"{safe}_{number}"
        names[safe] = None
    return list(names)
