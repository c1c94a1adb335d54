"""Ask for a trial, launch it, tell what came of it; until there are enough.

Any number of workers do so on one study, each in its own process, and any of them may die.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import Trial, TrialState

from vitfw.console import log
from vitfw.errors import ConfigError
from vitfw.sweep.heartbeat import beat_seconds, beating
from vitfw.sweep.objective import objective_of
from vitfw.sweep.orphans import first_of, is_void
from vitfw.sweep.progress import Progress
from vitfw.sweep.study import Goal
from vitfw.sweep.trial_jobs import POLL_SECONDS, Launch, Request, Result, TrialJobs, request_for
from vitfw.sweep.trial_link import PRUNED
from vitfw.sweep.trial_queue import TrialQueue

ERROR, SECONDS = "error", "seconds"  # attributes of a trial
FAILURES_AT_ONCE = 3  # with nothing finished, the search is given up
MOST_RETRIES = 3  # of a trial whose jobs were lost


class Stopped(SystemExit):
    """The search was asked to stop; its trials can be gone on with."""


class Search:
    """One worker of a search.

    `launch` runs some jobs and returns when all of them have ended; it is called by `slots`
    threads at once, with `batch` jobs each. `n_trials` counts the trials of all workers; those
    that were orphaned and taken up again count once.
    `asked_to_stop` tells the exit code to end with, once there is one.
    """

    def __init__(
        self,
        study: Study,
        goal: Goal,
        launch: Launch,
        folder_of: Callable[[int], Path],
        n_trials: int,
        grid: bool = False,
        slots: int = 1,
        batch: int = 1,
        patience: float = 120.0,
        poll_seconds: float = POLL_SECONDS,
        asked_to_stop: Callable[[], int | None] = lambda: None,
    ):
        self.study = study
        self.goal = goal
        self.folder_of = folder_of
        self.slots = slots
        self.batch = batch
        self.beat_seconds = beat_seconds(patience)
        self.poll_seconds = poll_seconds
        self.asked_to_stop = asked_to_stop
        self.queue = TrialQueue(study, goal, n_trials, grid, patience)
        self.jobs = TrialJobs(launch, folder_of, poll_seconds, self._check)
        self.progress = Progress(study, goal.directions, n_trials)
        self._failures = 0
        self._succeeded = False
        self._over: BaseException | None = None

    def run(self) -> None:
        """Work until all trials are done, here or by other workers.

        Raises:
            ConfigError: the first trials all failed.
            Stopped: it was asked to; the trials that were running wait in the study.
        """
        self.progress.say_begun()
        if self.slots == 1:  # in this thread, where signals arrive
            self._work()
            return
        with ThreadPoolExecutor(self.slots) as pool:
            done = [pool.submit(self._work) for _ in range(self.slots)]
        for each in done:
            each.result()

    def _work(self) -> None:
        try:
            while self._over is None:
                self._check()
                trials, elsewhere = self.queue.take(self.batch)
                if trials:
                    self._run(trials)
                elif elsewhere:
                    self.progress.say_waiting(elsewhere)
                    time.sleep(self.poll_seconds)
                else:
                    return
        except BaseException as error:
            self._over = self._over or error
            raise

    def _check(self) -> None:
        """Raise if it is to stop, or has ended in another slot."""
        if (code := self.asked_to_stop()) is not None:
            raise Stopped(code)
        if self._over is not None:
            raise self._over

    def _run(self, trials: list[Trial]) -> None:
        frozen = self.study.get_trials(deepcopy=False)
        jobs = [request_for(frozen[trial.number]) for trial in trials]
        began = time.monotonic()
        with beating(trials, self.beat_seconds):
            try:
                results = self.jobs.results_of(jobs)
            except BaseException:
                self.queue.let_go(trials)
                raise
            for trial, job in zip(trials, jobs, strict=True):
                self._tell(trial, job, results[trial.number], time.monotonic() - began)

    def _tell(self, trial: Trial, job: Request, result: Result, seconds: float) -> None:
        if result.lost and self._retries_of(job) < MOST_RETRIES:
            log.info(f"trial {job.folder} was cut off ({result.error}); it is taken up again")
            self.queue.let_go([trial])
            return
        attributes = self.study.get_trials(deepcopy=False)[trial.number].user_attrs
        values, error = None, result.error
        pruned = PRUNED in attributes and result.error is None
        if error is None and not pruned:
            values, error = self._values_of(job, result)
        try:
            trial.set_user_attr(SECONDS, round(seconds, 3))
            if pruned:
                self.study.tell(trial, state=TrialState.PRUNED)
            elif values is not None:
                self.study.tell(trial, values)
            else:
                trial.set_user_attr(ERROR, error)
                self.study.tell(trial, state=TrialState.FAIL)
        except (UpdateFinishedTrialError, ValueError):  # another worker took it for dead
            return
        self.progress.say(trial.number, seconds)
        self._count(values is not None or pruned, job, error)

    def _retries_of(self, job: Request) -> int:
        trials = self.study.get_trials(deepcopy=False)
        chain = [each for each in trials if first_of(each) == job.folder and not is_void(each)]
        return len(chain) - 1

    def _values_of(self, job: Request, result: Result) -> tuple[list[float] | None, str | None]:
        folder = self.folder_of(job.folder)
        goals = zip(self.goal.metrics, self.goal.directions, strict=True)
        try:
            return [objective_of(folder, result.metrics or {}, *goal) for goal in goals], None
        except (LookupError, OSError, ValueError) as reason:
            return None, str(reason)

    def _count(self, succeeded: bool, job: Request, error: str | None) -> None:
        self._succeeded |= succeeded
        self._failures = 0 if succeeded else self._failures + 1
        if not self._succeeded and self._failures >= FAILURES_AT_ONCE:
            raise ConfigError(
                f"the first {self._failures} trials all failed, the last one with: {error}; "
                f"see {self.folder_of(job.folder)}"
            )
