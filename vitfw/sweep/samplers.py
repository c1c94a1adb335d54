"""Which point of the space is tried next."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, QMCSampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from vitfw.errors import ConfigError
from vitfw.sweep.options import build_from, one_of
from vitfw.sweep.space import Dimension, Space

SAMPLERS: dict[str, type[BaseSampler]] = {
    "tpe": TPESampler,
    "cmaes": CmaEsSampler,
    "grid": RandomSampler,  # every point is put into the study beforehand: see search.py
    "random": RandomSampler,
    "qmc": QMCSampler,
}
QUIET: dict[str, dict[str, Any]] = {
    "cmaes": {"warn_independent_sampling": False},
    "qmc": {"warn_independent_sampling": False, "scramble": True},
}


def make_sampler(
    name: str, options: Mapping[str, Any], seed: int, space: Space, objectives: int
) -> BaseSampler:
    """A sampler whose draws for trial n follow from `seed` and n.

    So a search that was stopped does not draw again what it drew, nor do two workers draw alike.

    Raises:
        ConfigError: the sampler or an option is unknown, or it cannot search such a space.
    """
    cls = one_of("hydra.sweeper.sampler", name, SAMPLERS)
    check_space(name, space.dimensions, objectives)
    key = "hydra.sweeper.sampler_options"
    if name == "grid" and options:
        raise ConfigError(f"{key}: sampler=grid has no options")

    def make(trial_seed: int) -> BaseSampler:
        own = dict(QUIET.get(name, {}))
        if name == "qmc":  # one sequence for all workers; only its first point is drawn freely
            return build_from(
                QMCSampler,
                key,
                options,
                seed=seed,
                independent_sampler=RandomSampler(seed=trial_seed),
                **own,
            )
        return build_from(cls, key, options, seed=trial_seed, **own)

    make(seed)  # a wrong option is told now
    return SeededByTrial(make, seed)


def check_space(name: str, dimensions: Sequence[Dimension], objectives: int) -> None:
    """Raises ConfigError: the sampler cannot search such a space."""
    if name == "grid":
        for dimension in dimensions:
            if dimension.values() is None:
                raise ConfigError(
                    f"sampler=grid cannot go through the interval of {dimension.name}; name its "
                    f"values, such as {dimension.name}=1e-3,3e-3, or use sampler=qmc"
                )
    if name == "cmaes":
        if objectives > 1:
            raise ConfigError("sampler=cmaes has one objective; for several use tpe, random or qmc")
        numbers = [d for d in dimensions if not isinstance(d.distribution, CategoricalDistribution)]
        if len(numbers) < 2:
            raise ConfigError(
                "sampler=cmaes searches intervals and ranges of numbers, at least two, and there "
                f"{'is' if len(numbers) == 1 else 'are'} {len(numbers) or 'none'}; use sampler=tpe"
            )


def grid_size(space: Space) -> int:
    return math.prod(len(dimension.values() or ()) for dimension in space.dimensions)


class SeededByTrial(BaseSampler):
    """A sampler of its own for each trial; what it learns from stands in the study."""

    def __init__(self, make: Callable[[int], BaseSampler], seed: int):
        self.make = make
        self.seed = seed
        self._samplers: dict[int, BaseSampler] = {}

    def _of(self, trial: FrozenTrial) -> BaseSampler:
        if trial.number not in self._samplers:
            drawn = np.random.SeedSequence([self.seed, trial.number]).generate_state(1)
            self._samplers[trial.number] = self.make(int(drawn[0]))
        return self._samplers[trial.number]

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._of(trial).sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        self._samplers.pop(trial.number, None)
