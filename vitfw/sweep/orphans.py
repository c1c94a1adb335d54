"""Trials whose worker died: told as failed, and tried again where they stopped.

Everything is written into the study with Optuna's public interface alone, so any storage will do,
and each step can be repeated by any worker. Attributes of a trial:

    worker, job     processes: who asked for it, and who trains it
    alive           renewed every few seconds by either, whichever lives
    orphaned        its worker died; another trial goes on with it
    retry_of        the orphan that this trial goes on with
    continues       the first trial of that chain, whose folder it trains in
    void            it was never run, and why: no part of the search

A job that a launcher of Hydra's has put on a cluster may outlive its worker. Its trial stays with
it for as long as it lives; a job whose trial was given up all the same ends itself.
"""

import time
from collections.abc import Sequence

from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from vitfw.sweep.process_identity import ELSEWHERE, GONE, HERE, fate, identity
from vitfw.sweep.trial_link import ALIVE, JOB, PRUNED, trial_of

WORKER, ORPHANED, RETRY_OF, CONTINUES, VOID = "worker", "orphaned", "retry_of", "continues", "void"


def first_of(trial: FrozenTrial) -> int:
    """The number of the first trial of the chain: the name of its folder."""
    return trial.user_attrs.get(CONTINUES, trial.number)


def is_void(trial: FrozenTrial) -> bool:
    return VOID in trial.user_attrs


def is_orphaned(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.FAIL and ORPHANED in trial.user_attrs


def chains(trials: Sequence[FrozenTrial]) -> list[int]:
    """The trials that count, each once, however often it was taken up again."""
    return sorted({first_of(trial) for trial in trials if not is_void(trial)})


def outlives_us(trial: FrozenTrial) -> bool:
    """Whether another process trains it; of one elsewhere, silence will tell when it has died."""
    job = trial.user_attrs.get(JOB)
    return job is not None and job != identity() and fate(job) != GONE


class Watch:
    """Tells which running trials have lost their worker.

    On this machine the process table says so at once. Of a worker elsewhere, `alive` must stay
    the same for `patience` seconds of our own clock: clocks of two machines differ.
    """

    def __init__(self, patience: float):
        self.patience = patience
        self._seen: dict[int, tuple[float | None, float]] = {}

    def is_dead(self, trial: FrozenTrial) -> bool:
        known = [trial.user_attrs[name] for name in (WORKER, JOB) if name in trial.user_attrs]
        fates = {fate(who) for who in known}
        if HERE in fates:
            return False
        if known and ELSEWHERE not in fates:
            return True
        alive, now = trial.user_attrs.get(ALIVE), time.monotonic()
        before, since = self._seen.get(trial.number, (None, now))
        if trial.number not in self._seen or before != alive:
            self._seen[trial.number] = (alive, now)
            return False
        return now - since > self.patience


def rescue(study: Study, watch: Watch, names: Sequence[str]) -> None:
    """Give up the trials of dead workers, and put each into the queue again.

    `names` are the parameters; a trial that died before it had them all is void.
    """
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if watch.is_dead(trial):
            abandon(study, trial.number, names)
    queue_orphans(study)


def abandon(study: Study, number: int, names: Sequence[str]) -> None:
    """Mark a running trial as orphaned; nothing happens where its worker was faster to finish."""
    trial = trial_of(study, number)
    begun = set(names) <= trial.params.keys()
    try:
        trial.set_user_attr(*((ORPHANED, True) if begun else (VOID, "it was never begun")))
        study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
    except UpdateFinishedTrialError:
        pass


def queue_orphans(study: Study) -> None:
    """Enqueue what no trial goes on with yet; also after a worker that died between the two.

    Two workers may do so at once; `why_void` tells one of the two.
    """
    trials = study.get_trials(deepcopy=False)
    taken_up = {trial.user_attrs.get(RETRY_OF) for trial in trials if not is_void(trial)}
    for trial in trials:
        if is_orphaned(trial) and trial.number not in taken_up:
            attributes = {CONTINUES: first_of(trial), RETRY_OF: trial.number}
            if PRUNED in trial.user_attrs:
                attributes[PRUNED] = trial.user_attrs[PRUNED]
            study.enqueue_trial(trial.params, user_attrs=attributes)


def why_void(
    trial: FrozenTrial, trials: Sequence[FrozenTrial], most: int, grid: bool
) -> str | None:
    """Why a trial that was just asked for is not to be run, by what is in the study before it."""
    if RETRY_OF not in trial.user_attrs and first_of(trial) not in chains(trials)[:most]:
        return "other workers have asked for all trials"
    for other in trials[: trial.number]:
        if is_void(other):
            continue
        retries = RETRY_OF in trial.user_attrs
        if retries and other.user_attrs.get(RETRY_OF) == trial.user_attrs[RETRY_OF]:
            return f"trial {other.number} goes on with the same orphan"
        if grid and not retries and other.params == trial.params:
            return f"trial {other.number} has the same parameters"
    return None
