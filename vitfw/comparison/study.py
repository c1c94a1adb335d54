"""A sweep that kept an Optuna study: its trials as runs, with the states that the study knows."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitfw.comparison.run import (
    BEST,
    FAILED,
    FINISHED,
    ORPHANED,
    PRUNED,
    RUNNING,
    WAITING,
    Point,
    Run,
    UnreadableRun,
    read_yaml,
)
from vitfw.errors import ConfigError

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

FILES = {"study.db": "sqlite:///", "study.journal": "journal:"}
STATES = {
    "COMPLETE": FINISHED,
    "PRUNED": PRUNED,
    "FAIL": FAILED,
    "RUNNING": RUNNING,
    "WAITING": WAITING,
}


@dataclass(frozen=True)
class Objective:
    name: str
    lower: bool  # is better


@dataclass(frozen=True)
class StudyPlace:
    storage: str  # as hydra.sweeper.storage takes it
    name: str


def find_study(folder: Path) -> StudyPlace | None:
    """The study of a sweep's folder: a file in it, or where its `multirun.yaml` says it is.

    Raises:
        ConfigError: `multirun.yaml` is damaged.
    """
    try:
        multirun = read_yaml(folder / "multirun.yaml")
    except UnreadableRun as error:
        raise ConfigError(str(error)) from error
    hydra = multirun.get("hydra") if isinstance(multirun, dict) else None
    sweeper: dict[str, Any] = (hydra or {}).get("sweeper") or {}
    name = sweeper.get("study_name") or folder.resolve().name
    for file, kind in FILES.items():
        if (folder / file).is_file():
            return StudyPlace(f"{kind}{(folder / file).absolute()}", name)
    elsewhere = str(sweeper.get("storage"))
    return StudyPlace(elsewhere, name) if ":" in elsewhere else None


def open_study(place: StudyPlace) -> "Study":
    """The study of that name, or the only one of a file.

    Raises:
        ConfigError: Optuna is missing, the storage has no such study or cannot be read.
    """
    try:
        import optuna

        from vitfw.sweep.storage import name_storage, open_storage, shown
    except ImportError as error:
        raise ConfigError(
            f"{place.storage} is a study of Optuna's, which is not installed: "
            "pip install 'vitfw[sweep]'"
        ) from error
    storage = name_storage(place.storage, Path())
    try:
        opened = open_storage(storage)
        names = optuna.get_all_study_names(opened)
        name = names[0] if len(names) == 1 else place.name
        if name in names:
            return optuna.load_study(study_name=name, storage=opened)
    except Exception as error:  # SQLAlchemy's, JSON's or Optuna's, as the file may be
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(f"{shown(storage)} cannot be read as a study: {reason}") from error
    listed = ", ".join(names) or "none"
    raise ConfigError(f"{shown(storage)} has no study called {place.name}; it has {listed}")


def objectives_of(study: "Study") -> list[Objective]:
    """The metrics that were searched for; without names, a single one is val/accuracy_best."""
    lower = [direction.name == "MINIMIZE" for direction in study.directions]
    single = [BEST] if len(lower) == 1 else [f"objective {i}" for i in range(len(lower))]
    return list(map(Objective, study.metric_names or single, lower))


def trials_of(study: "Study", folder: Path, runs: Sequence[Run]) -> list[Run]:
    """The trials as runs, each with what the run in its folder recorded.

    A trial that another one went on with after its worker died is that other one; a trial that
    was never begun is none.
    """
    from vitfw.sweep.orphans import first_of, is_void

    by_folder = {run.folder.resolve(): run for run in runs if run.folder}
    objectives = objectives_of(study)
    trials = [t for t in study.get_trials(deepcopy=False) if not is_void(t)]
    last = {first_of(trial): trial for trial in trials}
    return [
        merged(trial, number, by_folder.get((folder / str(number)).resolve()), objectives)
        for number, trial in sorted(last.items())
    ]


def merged(
    trial: "FrozenTrial", number: int, run: Run | None, objectives: Sequence[Objective]
) -> Run:
    """What the study says of a trial, above what its run says."""
    run = run or Run(str(number), None, RUNNING)
    metrics: dict[str, Any] = {"fit_seconds": elapsed(trial), **run.metrics}
    names = [objective.name for objective in objectives]
    curve = run.curve or (intermediate(trial) if BEST in names else ())
    if curve and metrics.get(BEST) is None:
        metrics[BEST] = max(y for _, y in curve)
    if trial.state.name == "COMPLETE" and trial.values:
        metrics |= dict(zip(names, trial.values, strict=True))
    return dataclasses.replace(
        run,
        name=str(number),
        state=state_of(trial),
        metrics=metrics,
        curve=curve,
        drawn=trial.params,
    )


def state_of(trial: "FrozenTrial") -> str:
    from vitfw.sweep.orphans import Watch, is_orphaned

    lost = is_orphaned(trial) or (trial.state.name == "RUNNING" and Watch(math.inf).is_dead(trial))
    return ORPHANED if lost else STATES[trial.state.name]


def elapsed(trial: "FrozenTrial") -> float | None:
    return trial.duration.total_seconds() if trial.duration else None


def intermediate(trial: "FrozenTrial") -> list[Point]:
    """What the trial reported, by step."""
    values = sorted(trial.intermediate_values.items())
    return [(float(step), value) for step, value in values if math.isfinite(value)]
