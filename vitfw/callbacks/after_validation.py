"""What is to be done when everything else that follows a validation is done."""

from collections.abc import Callable
from typing import Any

import lightning as L


class AfterValidation(L.Callback):
    """Calls `then` when each validation of the training is over.

    As the last of a trainer's callbacks: those before it have drawn, logged and saved by then.
    """

    def __init__(self, then: Callable[[], None]):
        self.then = then

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.then()


def after_validation(trainer: Any, then: Callable[[], None]) -> None:
    """Have `then` called after validations, whatever the order of callbacks in the config.

    For the start of a fit: Lightning has put its checkpoints at the end of the callbacks by then.
    """
    there = [each.then for each in trainer.callbacks if isinstance(each, AfterValidation)]
    if then not in there:  # by an earlier fit
        trainer.callbacks.append(AfterValidation(then))
