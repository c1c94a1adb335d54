"""The config of a run in TensorBoard: as text, and on the page that compares runs."""

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.tensorboard.summary import hparams

from vitfw.callbacks.board import boards

UNSEEN = ("callbacks.", "logger.", "run_dir")


class RunConfig(L.Callback):
    """Writes the texts `config` and `overrides`, and `hyperparameters`, by dotted keys, to the
    hparams page, beside the best so far of what `best.ckpt` is chosen by (`val/accuracy_best`).

    That page shows what was typed first, and neither what is built nor what only watches. What
    the run was asked for is told before the fit, by `tell`.
    """

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.hyperparameters: dict[str, Any] = {}

    def tell(
        self, config: str, overrides: Sequence[str], hyperparameters: Mapping[str, Any]
    ) -> None:
        self.texts = {"config": config, "overrides": "\n".join(overrides) or "none"}
        ordered = {**typed_values(overrides, hyperparameters), **hyperparameters}
        self.hyperparameters = {
            key: value if type(value) in (int, float) else str(value)
            for key, value in ordered.items()
            if not key.startswith(UNSEEN) and not key.endswith(("_target_", "_partial_"))
        }

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self.texts:
            return
        for board in boards(trainer):
            for tag, text in self.texts.items():
                board.add_text(tag, block(text), trainer.global_step)
            writer = board._get_file_writer()
            assert writer is not None
            names = dict.fromkeys(best_scores(trainer), 0.0)  # the values come with the epochs
            for summary in hparams(self.hyperparameters, names):
                writer.add_summary(summary)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for name, best in best_scores(trainer).items():
            if best is not None:
                for board in boards(trainer):
                    board.add_scalar(name, float(best), trainer.global_step)


def best_scores(trainer: L.Trainer) -> dict[str, Any]:
    """The best so far of what each checkpoint is chosen by; None before the first validation."""
    return {
        f"{callback.monitor}_best": callback.best_model_score
        for callback in trainer.checkpoint_callbacks
        if isinstance(callback, ModelCheckpoint) and callback.monitor
    }


def typed_values(overrides: Sequence[str], known: Mapping[str, Any]) -> dict[str, Any]:
    """`key=value` as typed, options of groups among them; keys of the config as it has them."""
    pairs = (word.lstrip("+").partition("=") for word in overrides if "=" in word)
    return {key: known.get(key, value) for key, _, value in pairs if not key.startswith("hydra")}


def block(text: str) -> str:
    """Text as Markdown shows it letter by letter."""
    return "\n".join(f"    {line}" for line in text.splitlines())
