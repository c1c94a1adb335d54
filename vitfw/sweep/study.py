"""The study of a search: begun, or gone on with."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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

SEARCH = "search"  # the attribute of the study that holds what is searched for


@dataclass(frozen=True)
class Goal:
    """What is searched for, and where: the same for all workers of a study.

    `may_differ` are keys of overrides that need not be the same for all.
    """

    metrics: Sequence[str]
    directions: Sequence[str]
    space: Space
    may_differ: Sequence[str] = ()

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
    try:
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
    except (StorageInternalError, SQLAlchemyError, OSError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise ConfigError(f"hydra.sweeper.storage cannot be written: {reason}") from error
    if changed := differences(before or {}, now):
        raise ConfigError(
            f"the study {name} was begun with another search: {'; '.join(changed)}. Type the same "
            "to go on, or begin anew with another hydra.sweep.dir or hydra.sweeper.study_name"
        )
    return study


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"{key}: {before.get(key, 'absent')} → {now.get(key, 'absent')}"
        for key in {**before, **now}
        if before.get(key) != now.get(key)
    ]
