"""From the folders that were named to a `Comparison`."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vitfw.comparison.differences import Table, differences, short_names
from vitfw.comparison.ranking import check_metric, ranked
from vitfw.comparison.run import BEST, Run, UnreadableRun, find_runs, read_run
from vitfw.comparison.study import Objective, find_study, objectives_of, open_study, trials_of
from vitfw.errors import ConfigError
from vitfw.sweep.objective import less_is_better

if TYPE_CHECKING:
    from optuna.study import Study


@dataclass(frozen=True)
class Comparison:
    """Runs, best first, and what differs between them.

    `parameters` has a value for each run, in their order; `problems` are runs that were skipped,
    in words; `sweep` is the folder of the sweep, where one was named.
    """

    title: str
    runs: Sequence[Run]
    metric: str
    lower: bool
    parameters: Table
    names: dict[str, str]
    objectives: Sequence[Objective] = ()
    study: "Study | None" = None
    problems: Sequence[str] = ()
    sweep: Path | None = None


def compare(folders: Sequence[Path], sort: str | None = None) -> Comparison:
    """Read what is in the folders and rank it by `sort`, the study's objective or val/accuracy.

    Raises:
        ConfigError: a folder is missing or holds no run; no run has the metric; a study cannot be
            read.
    """
    runs: list[Run] = []
    problems: list[str] = []
    study, objectives = None, []
    for folder in folders:
        place = find_study(folder) if folder.is_dir() else None
        found = runs_in(folder, place is not None)
        read, damaged = read_all(found, folder if len(folders) == 1 else common_parent(folders))
        problems += damaged
        if place:
            study = open_study(place)
            objectives = objectives_of(study)
            read = trials_of(study, folder, read)
        runs += read
    if len(folders) > 1:
        study, objectives = None, []
    if not runs:
        raise ConfigError(f"nothing to compare: {'; '.join(problems) or 'the study has no trial'}")
    if sort is not None:
        check_metric(sort, runs)
    metric = sort or (objectives[0].name if objectives else BEST)
    directions = {objective.name: objective.lower for objective in objectives}
    lower = directions.get(metric, less_is_better(metric))
    runs = ranked(runs, metric, lower)
    parameters = differences(runs)
    is_sweep = len(folders) == 1 and (study is not None or is_multirun(folders[0]))
    return Comparison(
        title=title_of(folders, is_sweep, len(runs)),
        runs=runs,
        metric=metric,
        lower=lower,
        parameters=parameters,
        names=short_names(list(parameters)),
        objectives=objectives,
        study=study,
        problems=problems,
        sweep=folders[0] if is_sweep else None,
    )


def runs_in(folder: Path, may_be_empty: bool) -> list[Path]:
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise ConfigError(f"{folder} {what}; give folders of runs, such as runs/sweeps/NAME")
    try:
        found = find_runs(folder)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be read: {error.strerror}") from error
    if not found and not may_be_empty:
        raise ConfigError(
            f"{folder} is no run and holds none; a run has a config.yaml, a sweep a study"
        )
    return found


def read_all(found: Sequence[Path], above: Path) -> tuple[list[Run], list[str]]:
    """The runs, called by their path below `above`, and what could not be read."""
    runs, problems = [], []
    for folder in found:
        name = folder.name if folder == above else os.path.relpath(folder, above)
        try:
            runs.append(read_run(folder, name))
        except UnreadableRun as error:
            problems.append(f"{error}; it is left out")
    return runs, problems


def common_parent(folders: Sequence[Path]) -> Path:
    return Path(os.path.commonpath([folder.parent.resolve() for folder in folders]))


def is_multirun(folder: Path) -> bool:
    """Hydra's own sweeper leaves this file."""
    return (folder / "multirun.yaml").is_file()


def title_of(folders: Sequence[Path], is_sweep: bool, count: int) -> str:
    name = folders[0].resolve().name
    if is_sweep:
        return f"Sweep {name}"
    return name if len(folders) == 1 else f"{count:,} runs compared"
