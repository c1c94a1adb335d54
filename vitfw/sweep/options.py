"""Build one of Optuna's objects from the options that a person typed."""

import inspect
import warnings
from collections.abc import Mapping
from typing import Any, TypeVar

from optuna.exceptions import ExperimentalWarning

from vitfw.errors import ConfigError, nearest

Built = TypeVar("Built")
# Ours to set, or no plain values.
NOT_TYPED = {"self", "seed", "independent_sampler", "constraints_func", "gamma", "weights"}
NOT_TYPED |= {"categorical_distance_func", "source_trials", "lr_adapt", "search_space"}


def build_from(cls: type[Built], key: str, options: Mapping[str, Any], **own: Any) -> Built:
    """`cls(**options, **own)`; `key` is what the options are called in the config.

    Raises:
        ConfigError: an option that `cls` does not have, or a value that it refuses.
    """
    known = [name for name in inspect.signature(cls).parameters if name not in NOT_TYPED]
    for name in options:
        if name not in known:
            hint = nearest(name, known) or f"; known: {', '.join(known) or 'none'}"
            raise ConfigError(f"{key}.{name} is not an option of {cls.__name__}{hint}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return cls(**{**own, **options})
    except (TypeError, ValueError, ImportError) as error:
        raise ConfigError(f"{key}: {' '.join(str(error).split())}") from error


def one_of(key: str, name: str, known: Mapping[str, Any]) -> Any:
    """What `name` stands for; raises ConfigError where it stands for nothing."""
    if name not in known:
        raise ConfigError(f"{key}={name} does not exist; known: {', '.join(known)}")
    return known[name]
