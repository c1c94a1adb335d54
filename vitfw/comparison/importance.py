"""How much of the differences between runs each parameter explains, as Optuna measures it."""

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vitfw.comparison.axes import looks_logarithmic
from vitfw.comparison.gather import Comparison
from vitfw.comparison.run import FINISHED, Run
from vitfw.comparison.words import ABSENT, exact

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study

LEAST_RUNS = 4
LEAST_PARAMETERS = 2


def importances(comparison: Comparison) -> tuple[dict[str, float], str]:
    """The share of each parameter that varies, largest first; or none, and why in a sentence.

    Measured on finished runs by fANOVA (Hutter et al. 2014) with a fixed seed.
    """
    measured = [r for r in comparison.runs if usable(r, comparison.metric)]
    if len(measured) < LEAST_RUNS:
        return {}, f"There are fewer than {LEAST_RUNS} finished runs to tell from."
    if len(comparison.parameters) < LEAST_PARAMETERS:
        return {}, "Importances compare parameters, and no two of them vary."
    try:
        from optuna.importance import FanovaImportanceEvaluator, get_param_importances
    except ImportError:
        return {}, "Importances need Optuna: pip install 'vitfw[sweep]'."
    evaluator = FanovaImportanceEvaluator(seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            names = [objective.name for objective in comparison.objectives]
            if comparison.study and comparison.metric in names:
                index = names.index(comparison.metric)
                found = get_param_importances(
                    comparison.study,
                    evaluator=evaluator,
                    target=lambda trial: (trial.values or [])[index],
                )
            else:
                study = study_of(comparison, measured)
                found = get_param_importances(study, evaluator=evaluator)
        except (ValueError, RuntimeError) as error:
            return {}, f"Optuna finds no importances: {error}"
    found = {key: float(share) for key, share in found.items() if key in comparison.parameters}
    return found, "" if found else "No parameter is part of every finished run."


def usable(run: Run, metric: str) -> bool:
    return run.state == FINISHED and run.figure(metric) is not None


def study_of(comparison: Comparison, runs: Sequence[Run]) -> "Study":
    """The runs as a study in memory, with the ranges of the search or those that occur."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    known = searched(comparison.study) if comparison.study else {}
    rows = {id(run): i for i, run in enumerate(comparison.runs)}
    order = [rows[id(run)] for run in runs]
    columns = {key: [values[i] for i in order] for key, values in comparison.parameters.items()}
    columns = {
        key: values for key, values in columns.items() if set(map(exact, values)) != {ABSENT}
    }
    ranges = {key: known.get(key) or range_of(values) for key, values in columns.items()}
    study = optuna.create_study(direction="minimize" if comparison.lower else "maximize")
    for i, run in enumerate(runs):
        present = [key for key in columns if columns[key][i] != ABSENT]
        study.add_trial(
            optuna.create_trial(
                params={key: drawn(columns[key][i], ranges[key]) for key in present},
                distributions={key: ranges[key] for key in present},
                value=run.figure(comparison.metric),
            )
        )
    return study


def searched(study: "Study") -> "dict[str, BaseDistribution]":
    """The ranges that the study drew from; of a range that was changed, the latest."""
    return {
        key: distribution
        for trial in study.get_trials(deepcopy=False)
        for key, distribution in trial.distributions.items()
    }


def range_of(values: Sequence[Any]) -> "BaseDistribution":
    """Numbers lie between the least and the largest, on a log scale if they span magnitudes."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    there = [value for value in values if value != ABSENT]
    if all(is_number(value) for value in there):
        log = looks_logarithmic(there)
        kind = IntDistribution if all(isinstance(v, int) for v in there) else FloatDistribution
        return kind(min(there), max(there), log=log)
    return CategoricalDistribution(tuple(dict.fromkeys(map(exact, there))))


def drawn(value: Any, distribution: "BaseDistribution") -> Any:
    """The value as the range knows it: what is no scalar was stored as text."""
    choices = getattr(distribution, "choices", None)
    return exact(value) if choices is not None and value not in choices else value


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
