"""What a worker asks for next: new trials, points of a grid, and orphans; and how it lets go."""

import itertools
import threading
import time
from collections.abc import Iterator, Sequence

from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from vitfw.console import log
from vitfw.sweep.orphans import (
    RETRY_OF,
    VOID,
    WORKER,
    Watch,
    abandon,
    chains,
    first_of,
    is_void,
    outlives_us,
    queue_orphans,
    rescue,
    why_void,
)
from vitfw.sweep.process_identity import identity
from vitfw.sweep.study import Goal
from vitfw.sweep.trial_link import ALIVE, JOB


class TrialQueue:
    """One worker's view of a study: who asks from several threads gets each trial once.

    `n_trials` counts the trials of all workers; those that were orphaned and taken up again count
    once. With `grid` each point of the space is asked for once.
    """

    def __init__(self, study: Study, goal: Goal, n_trials: int, grid: bool, patience: float):
        self.study = study
        self.goal = goal
        self.n_trials = n_trials
        self.grid = grid
        self.watch = Watch(patience)
        self._me = identity()
        self._names = list(goal.space.distributions)
        self._asking = threading.Lock()

    def take(self, most: int) -> tuple[list[Trial], int]:
        """Trials to run, after orphans were queued; and how many run elsewhere if there are none.

        No trials, and none elsewhere: all is done.
        """
        with self._asking:
            rescue(self.study, self.watch, self._names)
            taken = list(itertools.islice(self._asked(), most))
            return taken, 0 if taken else self._running_elsewhere()

    def let_go(self, trials: list[Trial]) -> None:
        """Queue them for the next worker, but for those whose jobs go on without this one."""
        frozen = self.study.get_trials(deepcopy=False)
        going_on = [trial for trial in trials if outlives_us(frozen[trial.number])]
        for trial in trials:
            if trial not in going_on:
                abandon(self.study, trial.number, self._names)
        queue_orphans(self.study)
        for trial in going_on:  # it is its job's now
            trial.set_user_attr(WORKER, frozen[trial.number].user_attrs[JOB])
        if going_on:
            numbers = ", ".join(str(first_of(frozen[trial.number])) for trial in going_on)
            log.info(f"still training: {numbers}; the same command waits and takes the results")

    def _running_elsewhere(self) -> int:
        trials = self.study.get_trials(deepcopy=False)
        running = [trial for trial in trials if not trial.state.is_finished()]
        return sum(trial.user_attrs.get(WORKER) != self._me for trial in running)

    def _asked(self) -> Iterator[Trial]:
        while self._has_more():
            trial = self.study.ask(fixed_distributions=self.goal.space.distributions)
            trial.set_user_attr(WORKER, self._me)
            trial.set_user_attr(ALIVE, time.time())
            trials = self.study.get_trials(deepcopy=False)
            reason = why_void(trials[trial.number], trials, self.n_trials, self.grid)
            if reason is None:
                self._report_again(trial, trials)
                yield trial
            else:
                trial.set_user_attr(VOID, reason)
                self.study.tell(trial, state=TrialState.FAIL)

    def _has_more(self) -> bool:
        """Whether there is something to ask for; a grid's next point is put into the queue."""
        trials = self.study.get_trials(deepcopy=False)
        if any(trial.state == TrialState.WAITING for trial in trials):
            return True
        if len(chains(trials)) >= self.n_trials:
            return False
        if self.grid:
            return self._queue_next_point(trials)
        return True

    def _queue_next_point(self, trials: Sequence[FrozenTrial]) -> bool:
        known = [trial.params for trial in trials if not is_void(trial)]
        for point in self.goal.space.points():
            if point not in known:
                self.study.enqueue_trial(point)
                return True
        return False

    def _report_again(self, trial: Trial, trials: Sequence[FrozenTrial]) -> None:
        """What the orphan had reported, since its run goes on after that."""
        orphan = trials[trial.number].user_attrs.get(RETRY_OF)
        if orphan is not None and len(self.goal.metrics) == 1:
            for step, value in trials[orphan].intermediate_values.items():
                trial.report(value, step)
