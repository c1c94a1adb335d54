"""A search whose runs are functions, for tests that look at the study alone."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from vitfw.sweep.orphans import is_orphaned, is_void
from vitfw.sweep.pruners import make_pruner
from vitfw.sweep.samplers import make_sampler
from vitfw.sweep.search import Search
from vitfw.sweep.space import read_space
from vitfw.sweep.storage import name_storage, open_storage
from vitfw.sweep.study import Goal, check_folder, open_study
from vitfw.sweep.trial_jobs import Request, Result

SPACE = ["lr=tag(log, interval(1e-4, 1e-1))", "depth=int(interval(1, 9))"]
BEST = "val/accuracy_best"


def goal_of(*words: str, metrics: tuple[str, ...] = (BEST,)) -> Goal:
    space = read_space({}, words or SPACE)
    return Goal(metrics, ["maximize"] * len(metrics), space)


def study_in(
    folder: Path, goal: Goal, sampler: str = "random", storage: str | None = "journal"
) -> Study:
    name = name_storage(storage, folder)
    check_folder(folder, name, "study")
    return open_study(
        open_storage(name),
        "study",
        goal,
        make_sampler(sampler, {}, 0, goal.space, len(goal.metrics)),
        make_pruner("none", {}),
    )


def score(params: dict[str, Any]) -> float:
    return 1.0 / (1.0 + math.log10(params["lr"] / 1e-2) ** 2 + 0.1 * abs(params["depth"] - 5))


def worker(
    folder: Path,
    n_trials: int,
    run: Callable[[Request], Result] = lambda each: Result({BEST: score(dict(each.params))}),
    sampler: str = "random",
    storage: str | None = "journal",
    goal: Goal | None = None,
    **options: Any,
) -> Search:
    goal = goal or goal_of()
    return Search(
        study_in(folder, goal, sampler, storage),
        goal,
        lambda requests: [run(each) for each in requests],
        lambda number: folder / str(number),
        n_trials,
        grid=sampler == "grid",
        **{"poll_seconds": 0.01, **options},
    )


def done(study: Study) -> list[FrozenTrial]:
    """The finished trials that count."""
    return [
        trial
        for trial in study.get_trials(deepcopy=False)
        if not is_void(trial) and not is_orphaned(trial) and trial.state != TrialState.RUNNING
    ]
