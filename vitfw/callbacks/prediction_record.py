"""What the test showed: the confusion matrix and the worst mistakes."""

from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor


@dataclass(frozen=True)
class WrongGuess:
    """A test image that was taken for another class. `image` is [C, H, W] uint8."""

    image: Tensor
    truth: int
    guess: int
    confidence: float


class PredictionRecord(L.Callback):
    """Counts (truth, guess) pairs, and keeps the `most` wrong guesses of highest confidence.

    `confusion` is [K, K], rows the truth, over all processes; `mistakes` are this process's.
    """

    def __init__(self, most: int = 24):
        self.most = most
        self.confusion: Tensor | None = None
        self.mistakes: list[WrongGuess] = []

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.confusion, self.mistakes = None, []

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if outputs is None:  # a method without classes
            return
        images, labels = batch
        confidences, guesses = outputs.softmax(dim=1).max(dim=1)  # [B], [B]
        classes = outputs.shape[1]
        pairs = torch.bincount(labels * classes + guesses, minlength=classes**2)
        counts = pairs.reshape(classes, classes)
        self.confusion = counts if self.confusion is None else self.confusion + counts
        wrong = (guesses != labels).nonzero()[:, 0]
        wrong = wrong[confidences[wrong].argsort(descending=True)][: self.most]
        for i in wrong.tolist():
            guess = WrongGuess(
                self._pixels(trainer, images[i]),
                int(labels[i]),
                int(guesses[i]),
                float(confidences[i]),
            )
            self.mistakes.append(guess)
        self.mistakes.sort(key=lambda mistake: -mistake.confidence)
        del self.mistakes[self.most :]

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.confusion is not None:
            self.confusion = trainer.strategy.reduce(self.confusion, reduce_op="sum").cpu()

    @staticmethod
    def _pixels(trainer: L.Trainer, image: Tensor) -> Tensor:
        data: Any = getattr(trainer, "datamodule", None)
        mean, std = (image.new_tensor(values)[:, None, None] for values in (data.mean, data.std))
        return ((image * std + mean) * 255).round().clamp(0, 255).to(torch.uint8).cpu()
