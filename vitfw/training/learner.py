"""What every training method shares: the net, its optimizer, its averaged weights, its log.

B batch.
"""

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerConfig, OptimizerLRSchedulerConfig
from timm.utils.agc import adaptive_clip_grad
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from vitfw.training.batch_mean import BatchMean
from vitfw.training.freezing import head_of, keep_frozen_norms_still
from vitfw.training.param_groups import trainable
from vitfw.training.weight_average import WeightAverage

Batch = tuple[Tensor, Tensor]  # images, and labels [B] or soft targets [B, K]


class Learner(L.LightningModule):
    """A LightningModule around any `net`; a method of training says what `loss_of` a batch is.

    `optimizer` is a function of the net, `scheduler` one of the optimizer and the counts
    `total_steps` and `steps_per_epoch`, both in optimizer steps. `average` makes a second set of
    weights from the net's, which is evaluated and saved beside them. `agc` clips each gradient to
    that share of its weight's norm (Brock et al. 2021).

    The training loss is gathered on the device and logged every `trainer.log_every_n_steps`
    batches, and at the end of each epoch.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: Callable[[nn.Module], Optimizer] | None = None,
        scheduler: Callable[..., LRScheduler] | None = None,
        total_steps: int = 0,
        steps_per_epoch: int = 0,
        average: Callable[..., WeightAverage] | None = None,
        agc: float | None = None,
    ):
        super().__init__()
        self.net = net
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.total_steps = total_steps
        self.steps_per_epoch = steps_per_epoch
        self.average = None
        if average is not None:
            self.average = average(net, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
        self.agc = agc
        self.train_loss = BatchMean()
        self.train_loss_epoch = BatchMean()

    def loss_of(self, batch: Batch) -> Tensor:
        """The mean loss of a training batch; metrics are updated on the way, unless `repeated`."""
        raise NotImplementedError

    def training_metrics(self) -> dict[str, Tensor]:
        """What was gathered beside the loss since the last time; gathering starts anew."""
        return {}

    @property
    def trained(self) -> nn.Module:
        """What the optimizer gets."""
        return self.net

    @property
    def evaluated(self) -> nn.Module:
        """The averaged net where there is one, else the net."""
        return self.net if self.average is None else self.average.net

    def compile_nets(self) -> None:
        """Compile what runs, in place; state-dict keys stay as they are."""
        self.net.compile()
        if self.average is not None:
            self.average.net.compile()

    @property
    def repeated(self) -> bool:
        """Whether SAM is looking at the same batch for the second time."""
        return any(
            getattr(optimizer, "second_pass", False) for optimizer in self.trainer.optimizers
        )

    @property
    def log_every_n_steps(self) -> int:
        return getattr(self.trainer, "log_every_n_steps", 50)  # set by one of its connectors

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def check_data(self, val_images: int) -> None:
        """Raises ConfigError if it cannot do without validation images, and there are none."""

    def on_train_start(self) -> None:
        keep_frozen_norms_still(self.net)  # in the middle of an epoch, too

    def on_train_epoch_start(self) -> None:
        self.train_loss_epoch.reset()
        keep_frozen_norms_still(self.net)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.loss_of(batch)
        if not self.repeated:
            self.train_loss.update(loss, len(batch[0]))
            self.train_loss_epoch.update(loss, len(batch[0]))
        return loss * self.accumulation_share(batch_idx)

    def accumulation_share(self, batch_idx: int) -> float:
        """What a loss counts beside the 1 / `accumulate_grad_batches` of Lightning's.

        More than 1 in the last batches of an epoch, where there are not enough for a whole step.
        """
        wanted, total = self.trainer.accumulate_grad_batches, self.trainer.num_training_batches
        if total == float("inf") or batch_idx < total - total % wanted:
            return 1.0
        return wanted / (total % wanted)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        if self.agc is not None:
            adaptive_clip_grad(clipped_by_share(self.trained), self.agc)
            return
        super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.average is not None:
            self.average.update(self.net, self.trainer.global_step + 1)  # counted after this

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if (batch_idx + 1) % self.log_every_n_steps == 0:
            self._log_training()
        if 0 < self.trainer.max_steps <= self.trainer.global_step:
            self.trainer.should_stop = True  # else a run that ends mid-epoch is not validated

    def _log_training(self) -> None:
        """What was gathered since the last time; then start gathering anew."""
        metrics = {"train/loss": self.train_loss.compute(), **self.training_metrics()}
        for logger in self.trainer.loggers:
            logger.log_metrics(
                {name: value.item() for name, value in metrics.items()},
                step=self.trainer.global_step,
            )
        self.train_loss.reset()

    def on_train_epoch_end(self) -> None:
        if self.train_loss.update_called:
            self._log_training()
        if self.train_loss_epoch.update_called:
            self.log_at_step({"train/loss_epoch": self.train_loss_epoch.compute()})

    def log_at_step(self, measured: dict[str, Tensor]) -> None:
        """Log at the optimizer step: Lightning counts from 0 unless `step` is among the values."""
        if self.trainer.state.fn == "fit":
            measured = {**measured, "step": torch.tensor(float(self.trainer.global_step))}
        self.log_dict(measured)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig | OptimizerConfig:
        if self.make_optimizer is None:
            raise RuntimeError("this was built without an optimizer: it can evaluate, not train")
        optimizer = self.make_optimizer(self.trained)
        if self.make_scheduler is None:
            return {"optimizer": optimizer}
        scheduler = self.make_scheduler(
            optimizer, total_steps=self.total_steps, steps_per_epoch=self.steps_per_epoch
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }


def clipped_by_share(net: nn.Module) -> list[nn.Parameter]:
    """What adaptive clipping clips: all that is trained but the classifier (Brock et al. 2021)."""
    head = head_of(net)
    return [p for name, p in trainable(net) if name not in head]
