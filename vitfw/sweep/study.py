"""The study of a search: begun, or gone on with."""

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import distribution_to_json
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.study import Study, StudyDirection
from sqlalchemy.exc import SQLAlchemyError

from vitfw.errors import ConfigError
from vitfw.sweep.space import Space
from vitfw.sweep.storage import is_absent, open_storage

SEARCH = "search"  # the attribute of the study that holds what is searched for


@dataclass(frozen=True)
class Goal:
    """What is searched for, and where: the same for all workers of a study.

    `may_differ` are keys of overrides that need not be the same for all.
    """

    metrics: Sequence[str]
    directions: Sequence[str]
    space: Space
    may_differ: Collection[str] = ()

    def described(self) -> dict[str, Any]:
        ranges = self.space.distributions.items()
        decisive = [w for w in self.space.fixed if w.split("=")[0] not in self.may_differ]
        return {
            "metric": ", ".join(self.metrics),
            "direction": ", ".join(self.directions),
            **{f"the range of {name}": distribution_to_json(each) for name, each in ranges},
            "overrides": " ".join(sorted(decisive)) or "none",
        }


def open_study(
    storage: BaseStorage, name: str, goal: Goal, sampler: BaseSampler, pruner: BasePruner
) -> Study:
    """Create the study, or go on with it.

    Raises:
        ConfigError: it was begun with another space, metric, direction or other overrides.
    """
    now = goal.described()
    with reached():
        study = optuna.create_study(
            storage=storage,
            study_name=name,
            directions=[StudyDirection[each.upper()] for each in goal.directions],
            sampler=sampler,
            pruner=pruner,
            load_if_exists=True,
        )
        before = study.user_attrs.get(SEARCH)
        if before is None and not study.get_trials(deepcopy=False):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                study.set_metric_names(list(goal.metrics))
            study.set_user_attr(SEARCH, now)
            return study
    if changed := differences(before or {}, now):
        raise ConfigError(
            f"the study {name} was begun with another search: {'; '.join(changed)}. Type the same "
            "to go on, or begin anew with a hydra.sweep.dir of another name (and another "
            "hydra.sweeper.study_name, where you give one)"
        )
    return study


def check_folder(folder: Path, storage: str, name: str) -> None:
    """Let no new study begin among the runs of another search. Writes nothing into the folder.

    The folder is looked at before the study: a worker of this study that begins at the same time
    has asked for a trial before there is a run.

    Raises:
        ConfigError: there are runs in the folder, and the study has no trial.
    """
    runs = sorted((path.name for path in folder.glob("[0-9]*") if is_run(path)), key=int)
    known = studies_with_trials(storage) if runs else []
    if runs and name not in known:
        ways = ["give another hydra.sweep.dir"]
        ways += [f"hydra.sweeper.study_name={known[0]} if they are its"] if len(known) == 1 else []
        raise ConfigError(
            f"{folder} holds runs of another search ({shortened(runs)}), of which the study {name} "
            f"knows nothing: {', or '.join(ways)}"
        )


def is_run(folder: Path) -> bool:
    """Whether it is a trial's folder, which is called by a number, and a run was begun there."""
    files = ("config.yaml", "metrics.json")
    return folder.name.isdecimal() and any((folder / file).is_file() for file in files)


def studies_with_trials(storage: str) -> list[str]:
    """Their names; none where the storage is a file that is not there yet."""
    if is_absent(storage):
        return []
    opened = open_storage(storage)
    with reached():
        found = optuna.get_all_study_summaries(opened)
    return [each.study_name for each in found if each.n_trials]


def shortened(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names if len(names) <= most else [*names[:most], "…"])


@contextmanager
def reached() -> Iterator[None]:
    """Raises ConfigError: the storage opened, and then failed."""
    try:
        yield
    except (StorageInternalError, SQLAlchemyError, OSError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise ConfigError(f"hydra.sweeper.storage cannot be used: {reason}") from error


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"{key}: {before.get(key, 'absent')} → {now.get(key, 'absent')}"
        for key in {**before, **now}
        if before.get(key) != now.get(key)
    ]
