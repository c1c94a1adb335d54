"""Which trials are given up early."""

from collections.abc import Mapping
from typing import Any

from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    SuccessiveHalvingPruner,
)

from vitfw.errors import ConfigError
from vitfw.sweep.options import build_from, one_of

PRUNERS: dict[str, type[BasePruner]] = {
    "none": NopPruner,
    "median": MedianPruner,
    "halving": SuccessiveHalvingPruner,
    "hyperband": HyperbandPruner,
}


def make_pruner(name: str, options: Mapping[str, Any], objectives: int = 1) -> BasePruner:
    """Steps are epochs, counted from 0.

    Raises:
        ConfigError: the pruner or an option is unknown, or there are several objectives.
    """
    cls = one_of("hydra.sweeper.pruner", name, PRUNERS)
    if objectives > 1 and name != "none":
        raise ConfigError(
            f"hydra.sweeper.pruner={name} needs one objective, and there are {objectives}; "
            "use pruner=none"
        )
    return build_from(cls, "hydra.sweeper.pruner_options", options)
