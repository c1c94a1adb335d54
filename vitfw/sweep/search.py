"""Ask for a trial, launch it, tell what came of it; until there are enough.

Any number of workers do so on one study, each in its own process, and any of them may die.
"""

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from vitfw.atomic import is_held
from vitfw.console import log
from vitfw.errors import ConfigError
from vitfw.sweep.heartbeat import beat_seconds, beating
from vitfw.sweep.objective import finished_metrics, objective_of
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
from vitfw.sweep.progress import Progress
from vitfw.sweep.study import Goal
from vitfw.sweep.trial_link import ALIVE, JOB, PRUNED

ERROR, SECONDS = "error", "seconds"  # attributes of a trial
ANOTHER_PROCESS = "another process "  # so begins what a run says that finds its folder taken
FAILURES_AT_ONCE = 3  # with nothing finished, the search is given up
MOST_RETRIES = 3  # of a trial whose jobs were lost
POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Request:
    """A trial to be run. `folder` is the number that its folder is called by.

    `retries`: it goes on with an orphan, in the orphan's folder.
    """

    trial: int
    folder: int
    params: Mapping[str, Any]
    retries: bool = False


@dataclass(frozen=True)
class Result:
    """`metrics` of a run that came to its end, or why it did not.

    `lost`: it may not be its own fault, and may be gone on with: a job that was cut off, or one of
    several of which one ended badly.
    """

    metrics: Mapping[str, Any] | None = None
    error: str | None = None
    lost: bool = False


def request_for(trial: FrozenTrial) -> Request:
    return Request(trial.number, first_of(trial), trial.params, RETRY_OF in trial.user_attrs)


class Stopped(SystemExit):
    """The search was asked to stop; its trials can be gone on with."""


Launch = Callable[[list[Request]], list[Result]]


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
        self.launch = launch
        self.folder_of = folder_of
        self.n_trials = n_trials
        self.grid = grid
        self.slots = slots
        self.batch = batch
        self.watch = Watch(patience)
        self.beat_seconds = beat_seconds(patience)
        self.poll_seconds = poll_seconds
        self.asked_to_stop = asked_to_stop
        self.progress = Progress(study, goal.directions, n_trials)
        self._me = identity()
        self._names = list(goal.space.distributions)
        self._asking = threading.Lock()
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
                if (code := self.asked_to_stop()) is not None:
                    raise Stopped(code)
                trials = self._take()
                if trials is None:
                    return
                if trials:
                    self._run(trials)
                else:
                    time.sleep(self.poll_seconds)
        except BaseException as error:
            self._over = self._over or error
            raise

    def _take(self) -> list[Trial] | None:
        """Trials to run; none for now while other workers run the last ones; None: all is done."""
        with self._asking:
            rescue(self.study, self.watch, self._names)
            taken = list(itertools.islice(self._asked(), self.batch))
            if taken:
                return taken
            trials = self.study.get_trials(deepcopy=False)
            running = [trial for trial in trials if not trial.state.is_finished()]
            others = [each for each in running if each.user_attrs.get(WORKER) != self._me]
            if others:
                self.progress.say_waiting(len(others))
                return []
            return None

    def _asked(self) -> Iterator[Trial]:
        while self._has_more():
            trial = self.study.ask(fixed_distributions=self.goal.space.distributions)
            trial.set_user_attr(WORKER, self._me)
            trial.set_user_attr(ALIVE, time.time())
            trials = self.study.get_trials(deepcopy=False)
            reason = why_void(trials[trial.number], trials, self.n_trials, self.grid)
            if reason is None:
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

    def _run(self, trials: list[Trial]) -> None:
        frozen = self.study.get_trials(deepcopy=False)
        jobs = [request_for(frozen[trial.number]) for trial in trials]
        for trial in trials:
            self._report_again(trial, frozen)
        began = time.monotonic()
        with beating(trials, self.beat_seconds):
            try:
                results = self._results_of(jobs)
            except BaseException:
                self._let_go(trials)
                raise
            for trial, job in zip(trials, jobs, strict=True):
                self._tell(trial, job, results[trial.number], time.monotonic() - began)

    def _results_of(self, jobs: list[Request]) -> dict[int, Result]:
        """Launch them. A retry waits where the orphan's run still trains, and takes its result."""
        results: dict[int, Result] = {}
        left, waiting = jobs, []
        while True:
            results |= {job.trial: found for job in left if (found := self._found(job))}
            left = [job for job in left if job.trial not in results]
            free = [job for job in left if not self._is_held(job)]
            if free:
                for job, result in zip(free, self.launch(free), strict=True):
                    if not self._met_another(job, result):
                        results[job.trial] = result
            left = [job for job in left if job.trial not in results]
            if not left:
                return results
            self._pause(left, waiting)
            waiting = left

    def _found(self, job: Request) -> Result | None:
        """What is there before it is launched: its worker may have died before it told of it."""
        folder = self.folder_of(job.folder)
        metrics = finished_metrics(folder)
        if metrics is None:
            return None
        return Result(metrics) if job.retries else Result(error=f"{folder} holds another run")

    def _is_held(self, job: Request) -> bool:
        return job.retries and is_held(self.folder_of(job.folder))

    def _met_another(self, job: Request, result: Result) -> bool:
        """Whether a retry ended because the orphan's run was faster to take the folder."""
        if not job.retries or result.error is None:
            return False
        told = result.error.startswith(ANOTHER_PROCESS)
        return told or self._is_held(job) or self._found(job) is not None

    def _pause(self, waiting: list[Request], told: list[Request]) -> None:
        if (code := self.asked_to_stop()) is not None:
            raise Stopped(code)
        if self._over is not None:  # in another slot
            raise self._over
        if waiting != told:
            names = ", ".join(str(self.folder_of(job.folder)) for job in waiting)
            log.info(f"waiting for a process that still trains in {names}")
        time.sleep(self.poll_seconds)

    def _let_go(self, trials: list[Trial]) -> None:
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

    def _report_again(self, trial: Trial, trials: Sequence[FrozenTrial]) -> None:
        """What the orphan had reported, since its run goes on after that."""
        orphan = trials[trial.number].user_attrs.get(RETRY_OF)
        if orphan is not None and len(self.goal.metrics) == 1:
            for step, value in trials[orphan].intermediate_values.items():
                trial.report(value, step)

    def _tell(self, trial: Trial, job: Request, result: Result, seconds: float) -> None:
        if result.lost and self._retries_of(job) < MOST_RETRIES:
            log.info(f"trial {job.folder} was cut off ({result.error}); it is taken up again")
            self._let_go([trial])
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
