"""Reports a trial of a search to its study, and stops it where it is not worth going on."""

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from vitfw.console import log
from vitfw.errors import ConfigError
from vitfw.sweep.process_identity import identity
from vitfw.sweep.trial_link import ALIVE, JOB, PRUNED, TrialLink, link_of_process

if TYPE_CHECKING:
    from optuna.trial import Trial

GO_ON, HOPELESS, GIVEN_UP = "go on", "hopeless", "given up"  # what the first process tells all


class TrialReport(L.Callback):
    """After each validation, tell the study; then stop if the pruner says so.

    The step is the epoch, counted from 0; of several validations in an epoch the first counts.
    `pruned` tells whether the run was stopped. A thread says that the trial is alive for as long
    as the fit lasts, since an epoch may be long and the worker dead. Does nothing in a run that
    is no trial.

    Raises:
        ConfigError: in the fit, the trial was ended by another process.
    """

    def __init__(self) -> None:
        self.pruned = False
        self._link: TrialLink | None = None
        self._trial: Trial | None = None  # of the first process
        self._beating = ExitStack()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._link = link_of_process() if stage == "fit" else None
        if self._link is None:
            return
        begun = self._begin(self._link) if trainer.is_global_zero else GO_ON
        if trainer.strategy.broadcast(begun) == GIVEN_UP:
            raise given_up(self._link)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._link is None or trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        verdict = GO_ON if self._trial is None else self._report(self._trial, trainer)
        verdict = trainer.strategy.broadcast(verdict)
        if verdict == GIVEN_UP:
            raise given_up(self._link)
        if verdict == HOPELESS:
            self.pruned = True
            trainer.should_stop = True

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._beating.close()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        self._beating.close()

    def _begin(self, link: TrialLink) -> str:
        from optuna.exceptions import UpdateFinishedTrialError

        from vitfw.sweep.heartbeat import beat_seconds, beating

        self._trial = link.open()
        try:
            self._trial.set_user_attr(JOB, identity())
            self._trial.set_user_attr(ALIVE, time.time())
        except UpdateFinishedTrialError:
            return GIVEN_UP
        self._beating.enter_context(beating([self._trial], beat_seconds(link.patience)))
        return GO_ON

    def _report(self, trial: "Trial", trainer: L.Trainer) -> str:
        from optuna.exceptions import UpdateFinishedTrialError

        try:
            return HOPELESS if self._is_hopeless(trial, trainer) else GO_ON
        except UpdateFinishedTrialError:
            return GIVEN_UP

    def _is_hopeless(self, trial: "Trial", trainer: L.Trainer) -> bool:
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


def given_up(link: TrialLink) -> ConfigError:
    return ConfigError(
        f"trial {link.number} of the study {link.study} was ended by another worker, which took "
        "it for dead; this run ends, and the search goes on from its last.ckpt"
    )
