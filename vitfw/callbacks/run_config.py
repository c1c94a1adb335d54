"""The config of a run in TensorBoard: as text, and on the page that compares runs."""

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.tensorboard.summary import hparams

from vitfw.callbacks.board import boards

METRIC = "val/accuracy_best"


class RunConfig(L.Callback):
    """Writes the texts `config` and `overrides`, and `hyperparameters`, by dotted keys, to the
    hparams page, beside the best validation accuracy (`val/accuracy_best`) so far.
    """

    def __init__(self, config: str, overrides: Sequence[str], hyperparameters: Mapping[str, Any]):
        self.config = config
        self.overrides = list(overrides)
        self.hyperparameters = {
            key: value if type(value) in (int, float) else str(value)
            for key, value in hyperparameters.items()
        }

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        typed = "\n".join(self.overrides) or "none"
        for board in boards(trainer):
            board.add_text("config", block(self.config), trainer.global_step)
            board.add_text("overrides", block(typed), trainer.global_step)
            writer = board._get_file_writer()
            assert writer is not None
            for summary in hparams(self.hyperparameters, {METRIC: 0.0}):  # the name, no value
                writer.add_summary(summary)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for callback in trainer.checkpoint_callbacks:
            if not isinstance(callback, ModelCheckpoint) or callback.monitor != "val/accuracy":
                continue
            if callback.best_model_score is not None:
                best = float(callback.best_model_score)
                for board in boards(trainer):
                    board.add_scalar(METRIC, best, trainer.global_step)


def block(text: str) -> str:
    """Text as Markdown shows it letter by letter."""
    return "\n".join(f"    {line}" for line in text.splitlines())
