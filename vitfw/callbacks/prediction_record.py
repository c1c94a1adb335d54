"""What the test showed: the confusion matrix, the worst mistakes and the best predictions.

K classes.
"""

from typing import Any

import lightning as L
from torch import Tensor

from vitfw.callbacks.prediction_tally import Guess, PredictionTally


class PredictionRecord(L.Callback):
    """Counts (truth, guess) pairs, and keeps the `most` guesses of highest confidence, wrong
    (`mistakes`) and right (`best`).

    `confusion` [K, K] and `totals` [3, K] are those of a PredictionTally, over all processes; the
    guesses are this process's. All are there when the test has ended.
    """

    def __init__(self, most: int = 24):
        if most < 1:
            raise ValueError(f"callbacks.prediction_record.most {most} must be at least 1")
        self.most = most
        self.confusion: Tensor | None = None
        self.totals: Tensor | None = None
        self.mistakes: list[Guess] = []
        self.best: list[Guess] = []
        self._tally: PredictionTally | None = None

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data: Any = getattr(trainer, "datamodule", None)
        self.confusion = self.totals = None
        self.mistakes, self.best = [], []
        self._tally = PredictionTally(self.most, len(data.classes), data.mean, data.std)

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if isinstance(outputs, Tensor) and self._tally is not None:  # logits; None without classes
            images, labels = batch
            self._tally.add(images, labels, outputs)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._tally is not None:
            self._tally.finish(trainer.strategy)
            self.confusion, self.totals = self._tally.confusion, self._tally.totals
            self.mistakes, self.best = self._tally.mistakes, self._tally.best
            self._tally = None
