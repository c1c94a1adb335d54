"""Reports a trial of a search to its study, and stops it where it is not worth going on."""

import time
from typing import TYPE_CHECKING

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from vitfw.console import log
from vitfw.sweep.process_identity import identity
from vitfw.sweep.trial_link import ALIVE, JOB, PRUNED, TrialLink, link_of_process

if TYPE_CHECKING:
    from optuna.trial import Trial


class TrialReport(L.Callback):
    """After each validation, tell the study; then stop if the pruner says so.

    The step is the epoch, counted from 0; of several validations in an epoch the first counts.
    `pruned` tells whether the run was stopped. Does nothing in a run that is no trial.
    """

    def __init__(self) -> None:
        self.pruned = False
        self._link: TrialLink | None = None
        self._trial: Trial | None = None  # of the first process

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._link = link_of_process() if stage == "fit" else None
        if self._link is None or not trainer.is_global_zero:
            return
        self._trial = self._link.open()
        self._trial.set_user_attr(JOB, identity())
        self._trial.set_user_attr(ALIVE, time.time())

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._link is None or trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        hopeless = self._trial is not None and self._report(self._trial, trainer)
        if trainer.strategy.broadcast(hopeless):
            self.pruned = True
            trainer.should_stop = True

    def _report(self, trial: "Trial", trainer: L.Trainer) -> bool:
        """Whether the trial is to be given up."""
        assert self._link is not None
        trial.set_user_attr(ALIVE, time.time())
        if PRUNED in trial.user_attrs:  # and then killed, before it had ended
            return True
        value = trainer.callback_metrics.get(self._link.metric or "")
        if value is None:
            return False
        trial.report(float(value), trainer.current_epoch)
        if not trial.should_prune():
            return False
        trial.set_user_attr(PRUNED, trainer.current_epoch)
        log.info(f"pruned after epoch {trainer.current_epoch}: other trials were better by then")
        return True
