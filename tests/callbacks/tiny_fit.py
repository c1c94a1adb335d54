"""A training of a few steps, and what was logged in it."""

from collections.abc import Callable

import lightning as L
import torch
from lightning.pytorch.loggers.logger import Logger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from vitfw.training.classifier import Classifier

BATCH, CLASSES, SHAPE = 4, 3, (3, 4, 4)


class Records(Logger):
    """Keeps what is logged: the step, and the values by their tags."""

    def __init__(self):
        super().__init__()
        self.rows: list[tuple[int, dict[str, float]]] = []

    name, version = "records", ""

    def log_hyperparams(self, *args, **kwargs):
        pass

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, dict(metrics)))

    def curve(self, tag: str) -> dict[int, float]:
        return {step: values[tag] for step, values in self.rows if tag in values}

    def tags(self, start: str) -> set[str]:
        return {tag for _, values in self.rows for tag in values if tag.startswith(start)}


def small_net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.ReLU(), nn.Linear(8, CLASSES))


def sgd(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)


def batches(count: int) -> DataLoader:
    """The same `count` batches each time."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count * BATCH, *SHAPE, generator=generator)
    labels = torch.arange(count * BATCH) % CLASSES
    return DataLoader(TensorDataset(images, labels), batch_size=BATCH)


def fit(
    *callbacks: L.Callback,
    net: nn.Module | None = None,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] = sgd,
    scheduler: Callable | None = None,
    agc: float | None = None,
    data: DataLoader | None = None,
    val: DataLoader | None = None,
    folder: object = None,
    **options,
) -> tuple[Records, Classifier]:
    """Train on four batches; every step is logged, unless `options` of the Trainer say else."""
    records = Records()
    learner = Classifier(
        net or small_net(), CLASSES, optimizer=optimizer, scheduler=scheduler, agc=agc
    )
    usual = {"max_epochs": 1, "log_every_n_steps": 1, "num_sanity_val_steps": 0}
    options = {**usual, "enable_checkpointing": False, **options}
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        logger=records,
        callbacks=list(callbacks),
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(learner, data or batches(4), val)
    return records, learner
