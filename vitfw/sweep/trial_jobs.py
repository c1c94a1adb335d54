"""The jobs of trials: launched, or found done or being done in the folder of an orphan."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from vitfw.atomic import is_held
from vitfw.console import log
from vitfw.sweep.objective import finished_metrics
from vitfw.sweep.orphans import RETRY_OF, first_of

ANOTHER_PROCESS = "another process "  # so begins what a run says that finds its folder taken
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


Launch = Callable[[list[Request]], list[Result]]


def request_for(trial: FrozenTrial) -> Request:
    return Request(trial.number, first_of(trial), trial.params, RETRY_OF in trial.user_attrs)


class TrialJobs:
    """Launches jobs. A retry waits where the orphan's run still trains, and takes its result.

    `check` is called while it waits, and raises to end that.
    """

    def __init__(
        self,
        launch: Launch,
        folder_of: Callable[[int], Path],
        poll_seconds: float,
        check: Callable[[], None],
    ):
        self.launch = launch
        self.folder_of = folder_of
        self.poll_seconds = poll_seconds
        self.check = check

    def results_of(self, jobs: list[Request]) -> dict[int, Result]:
        """By the number of the trial, once all have ended."""
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
            self.check()
            if left != waiting:
                self._say_waiting(left)
            time.sleep(self.poll_seconds)
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

    def _say_waiting(self, jobs: list[Request]) -> None:
        names = ", ".join(str(self.folder_of(job.folder)) for job in jobs)
        log.info(f"waiting for a process that still trains in {names}")
