"""The LightningModule that learns to classify images.

B batch, K classes.
"""

from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from vitfw.training.batch_mean import BatchMean
from vitfw.training.learner import Batch, Learner


def classification_metrics(num_classes: int, prefix: str) -> MetricCollection:
    """Top-1 and top-5 accuracy as fractions of 1; with fewer than five classes, top-K."""
    # Checking the arguments would wait for the device at every step.
    accuracy = partial(MulticlassAccuracy, num_classes, average="micro", validate_args=False)
    return MetricCollection(
        {
            "accuracy": accuracy(top_k=1),
            "accuracy_top5": accuracy(top_k=min(5, num_classes)),
        },
        prefix=prefix,
        compute_groups=False,
    )


class Evaluation(nn.Module):
    """Cross-entropy and accuracies of a split, gathered over its batches on the device."""

    def __init__(self, num_classes: int, split: str):
        super().__init__()
        self.split = split
        self.metrics = classification_metrics(num_classes, f"{split}/")
        self.loss = BatchMean()

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """logits [B, K] float, labels [B]"""
        self.loss.update(F.cross_entropy(logits, labels), weight=len(labels))
        self.metrics.update(logits, labels)

    def take(self) -> dict[str, Tensor]:
        """What was measured since the last time."""
        measured = {f"{self.split}/loss": self.loss.compute(), **self.metrics.compute()}
        self.loss.reset()
        self.metrics.reset()
        return measured


class Classifier(Learner):
    """Train, validate and test a `net` that maps images [B, C, H, W] to logits [B, K].

    Evaluation always reports plain cross-entropy, whatever `loss` trains with. Where weights are
    averaged, `val/…` and `test/…` are of the average and `val_raw/…` of the weights themselves. The
    training accuracy on mixed images is that of their larger part.
    """

    def __init__(
        self, net: nn.Module, num_classes: int, loss: nn.Module | None = None, **training: Any
    ):
        super().__init__(net, **training)
        self.num_classes = num_classes
        self.loss = loss or nn.CrossEntropyLoss()
        self.train_metrics = classification_metrics(num_classes, "train/")
        self.val = Evaluation(num_classes, "val")
        self.val_raw = Evaluation(num_classes, "val_raw") if self.average is not None else None
        self.test = Evaluation(num_classes, "test")

    def loss_of(self, batch: Batch) -> Tensor:
        images, targets = batch
        logits = self.net(images).float()  # [B, K]
        self.count_training(logits, targets)
        return self.loss(logits, targets)

    def count_training(self, logits: Tensor, targets: Tensor) -> None:
        """logits [B, K]; targets [B], or soft [B, K]"""
        if not self.repeated:
            labels = targets if targets.dim() == 1 else targets.argmax(dim=1)
            self.train_metrics.update(logits.detach(), labels)

    def training_metrics(self) -> dict[str, Tensor]:
        measured = self.train_metrics.compute()
        self.train_metrics.reset()
        return measured

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the logits [B, K] of the evaluated weights, as `test_step` does."""
        images, labels = batch
        logits = self.evaluated(images).float()  # [B, K]
        self.val.update(logits, labels)
        if self.val_raw is not None:
            self.val_raw.update(self.net(images).float(), labels)
        return logits

    def on_validation_epoch_end(self) -> None:
        for evaluation in (self.val, self.val_raw):
            if evaluation is not None:
                self.log_at_step(evaluation.take())

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the logits [B, K], for callbacks that look at predictions."""
        images, labels = batch
        logits = self.evaluated(images).float()  # [B, K]
        self.test.update(logits, labels)
        return logits

    def on_test_epoch_end(self) -> None:
        self.log_at_step(self.test.take())
