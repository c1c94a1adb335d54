"""The LightningModule: an image classifier around any net.

B batch, K classes.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

Batch = tuple[Tensor, Tensor]  # images, and labels [B] or soft targets [B, K]


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


class Classifier(L.LightningModule):
    """Train, validate and test a `net` that maps images [B, C, H, W] to logits [B, K].

    `optimizer` is a function of the net, `scheduler` one of the optimizer and the counts
    `total_steps` and `steps_per_epoch`, both in optimizer steps. Evaluation always reports plain
    cross-entropy, whatever `loss` trains with. Training metrics are gathered on the device and
    logged every `trainer.log_every_n_steps` steps, and at the end of each epoch; the accuracy on
    mixed images is that of their larger part.
    """

    def __init__(
        self,
        net: nn.Module,
        num_classes: int,
        loss: nn.Module | None = None,
        optimizer: Callable[[nn.Module], Optimizer] | None = None,
        scheduler: Callable[..., LRScheduler] | None = None,
        total_steps: int = 0,
        steps_per_epoch: int = 0,
    ):
        super().__init__()
        self.net = net
        self.loss = loss or nn.CrossEntropyLoss()
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.total_steps = total_steps
        self.steps_per_epoch = steps_per_epoch
        self.train_metrics = classification_metrics(num_classes, "train/")
        self.train_loss = MeanMetric()
        self.train_loss_epoch = MeanMetric()
        self.val_metrics = classification_metrics(num_classes, "val/")
        self.val_loss = MeanMetric()
        self.test_metrics = classification_metrics(num_classes, "test/")
        self.test_loss = MeanMetric()

    @property
    def log_every_n_steps(self) -> int:
        return getattr(self.trainer, "log_every_n_steps", 50)  # set by one of its connectors

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def on_train_epoch_start(self) -> None:
        self.train_loss_epoch.reset()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, targets = batch
        logits = self.net(images).float()  # [B, K]
        loss = self.loss(logits, targets)
        labels = targets if targets.dim() == 1 else targets.argmax(dim=1)
        self.train_loss.update(loss.detach(), weight=len(labels))
        self.train_loss_epoch.update(loss.detach(), weight=len(labels))
        self.train_metrics.update(logits.detach(), labels)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if (batch_idx + 1) % self.log_every_n_steps == 0:
            self._log_training()

    def _log_training(self) -> None:
        """What was gathered since the last time; then start gathering anew."""
        metrics = {"train/loss": self.train_loss.compute(), **self.train_metrics.compute()}
        for logger in self.trainer.loggers:
            logger.log_metrics(
                {name: value.item() for name, value in metrics.items()},
                step=self.trainer.global_step,
            )
        self.train_loss.reset()
        self.train_metrics.reset()

    def on_train_epoch_end(self) -> None:
        if self.train_loss.update_called:
            self._log_training()
        if self.train_loss_epoch.update_called:
            # Lightning counts steps from 0 unless `step` is among what is logged.
            step = float(self.trainer.global_step)
            self.log_dict({"train/loss_epoch": self.train_loss_epoch.compute(), "step": step})

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch, self.val_metrics, self.val_loss)

    def on_validation_epoch_end(self) -> None:
        self._log_evaluation("val", self.val_metrics, self.val_loss)

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the logits [B, K], for callbacks that look at predictions."""
        return self._evaluate(batch, self.test_metrics, self.test_loss)

    def on_test_epoch_end(self) -> None:
        self._log_evaluation("test", self.test_metrics, self.test_loss)

    def _evaluate(self, batch: Batch, metrics: MetricCollection, mean_loss: MeanMetric) -> Tensor:
        images, labels = batch
        logits = self.net(images).float()  # [B, K]
        mean_loss.update(F.cross_entropy(logits, labels), weight=len(labels))
        metrics.update(logits, labels)
        return logits

    def _log_evaluation(self, split: str, metrics: MetricCollection, mean_loss: MeanMetric) -> None:
        measured = {f"{split}/loss": mean_loss.compute(), **metrics.compute()}
        if self.trainer.state.fn == "fit":
            measured["step"] = torch.tensor(float(self.trainer.global_step))
        self.log_dict(measured)
        mean_loss.reset()
        metrics.reset()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        if self.make_optimizer is None:
            raise RuntimeError("this Classifier was built without an optimizer: it can evaluate")
        optimizer = self.make_optimizer(self.net)
        if self.make_scheduler is None:
            return optimizer
        scheduler = self.make_scheduler(
            optimizer, total_steps=self.total_steps, steps_per_epoch=self.steps_per_epoch
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }
