"""What there is of a run when it ends, however it does."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from vitfw.callbacks.whereabouts import Whereabouts
from vitfw.data.classification_data import ClassificationData
from vitfw.run_directory import RunDirectory
from vitfw.training.learner import Learner


@dataclass(frozen=True)
class Run:
    trainer: L.Trainer
    learner: Learner
    data: ClassificationData
    callbacks: Mapping[str, L.Callback]  # by their names in the config
    cfg: dict[str, Any]
    overrides: list[str]
    directory: RunDirectory

    @property
    def pruned(self) -> bool:
        """Whether a search gave it up."""
        return bool(getattr(self.callbacks.get("trial_report"), "pruned", False))

    @property
    def place(self) -> str:
        """Where it was when it was ended, in words."""
        watching = getattr(self.trainer, "callbacks", [])  # set by one of its connectors
        seen = [each.place for each in watching if isinstance(each, Whereabouts)]
        if any(seen):
            return seen[0]
        if self.trainer.state.fn is None:
            return "before the training"
        testing = self.trainer.state.fn == TrainerFn.TESTING
        return "after the test" if testing else "after the training"
