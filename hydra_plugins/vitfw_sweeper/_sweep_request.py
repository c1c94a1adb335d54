"""What was asked of the Optuna sweeper, checked before anything is started."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from vitfw.sweep.space import Space
    from vitfw.sweep.study import Goal

SWEEPS = Path("runs") / "sweeps"
# Another number of trials or workers is the same search.
NOT_IN_NAME = ("n_trials", "n_jobs", "patience_seconds", "storage", "study_name")


@dataclass(frozen=True)
class SweepRequest:
    """`options` are those of the sweeper, `folder` is where trials and study go."""

    options: Mapping[str, Any]
    goal: "Goal"
    folder: Path
    n_trials: int
    max_epochs: int | None

    @property
    def grid(self) -> bool:
        return self.options["sampler"] == "grid"

    @property
    def pruned_by(self) -> str | None:
        """The metric that trials report; none with several objectives."""
        from vitfw.sweep.objective import pruning_metric

        return pruning_metric(self.goal.metrics[0]) if len(self.goal.metrics) == 1 else None

    @property
    def pruner_options(self) -> dict[str, Any]:
        """Hyperband has to know how long a trial is."""
        options = dict(self.options["pruner_options"])
        if self.options["pruner"] == "hyperband" and self.max_epochs:
            options.setdefault("max_resource", self.max_epochs)
        return options


def read_request(
    raw: Mapping[str, Any], typed: Sequence[str], config: DictConfig, context: HydraContext
) -> SweepRequest:
    """Raises ConfigError: one line, whatever is wrong."""
    from vitfw.errors import ConfigError
    from vitfw.sweep.objective import check_metrics
    from vitfw.sweep.samplers import check_space, grid_size
    from vitfw.sweep.space import Space, read_space
    from vitfw.sweep.study import Goal

    options: dict[str, Any] = {
        key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        for key, value in raw.items()
    }
    if (command := config.hydra.job.config_name) != "train":
        raise ConfigError(f"hydra/sweeper=optuna searches over vitfw train, not vitfw {command}")
    space = read_space(options["params"], typed, context.config_loader)
    if any(word.startswith("run_dir=") for word in space.fixed):
        raise ConfigError(
            "run_dir cannot be given in a search, where each trial has a folder of its own: give "
            "hydra.sweep.dir"
        )
    metrics = listed(options["metric"])
    check_metrics(metrics, known_to(config))
    directions = directions_of(metrics, options["direction"])
    check_space(options["sampler"], space.dimensions, len(metrics))
    if options["pruner"] != "none":
        check_pruning(metrics, options["pruner"])
    n_trials = options["n_trials"]
    if options["sampler"] == "grid":
        size = grid_size(space)
        n_trials = size if n_trials is None else min(size, n_trials)
    if n_trials is None or n_trials < 1:
        raise ConfigError(
            f"hydra.sweeper.n_trials={'null' if n_trials is None else n_trials} should be a number "
            "from 1 up; null is for sampler=grid"
        )
    for key, least in (("n_jobs", 1), ("patience_seconds", 1)):
        if options[key] < least:
            raise ConfigError(f"hydra.sweeper.{key}={options[key]} must be at least {least}")
    check_words(space)
    if "test_after_fit" not in {word.partition("=")[0] for word in space.fixed}:
        space = Space([*space.fixed, "test_after_fit=false"], space.dimensions)
    hydra_words = list(config.hydra.overrides.hydra)
    unresolved: Any = OmegaConf.to_container(config.hydra.sweep, resolve=False)
    by_the_clock = "${now:" in unresolved["dir"]  # the default, which no command finds again
    return SweepRequest(
        options,
        Goal(metrics, directions, space, may_differ=may_differ()),
        sweep_folder([*typed, *hydra_words]) if by_the_clock else Path(config.hydra.sweep.dir),
        n_trials,
        config.trainer.get("max_epochs"),
    )


def known_to(config: DictConfig) -> set[str]:
    """What a run of this config measures."""
    from vitfw.sweep.objective import known_metrics

    average = config.get("average")
    averaged = bool(average) and average.get("_target_") is not None
    callbacks = [str(each._target_) for each in (config.get("callbacks") or {}).values() if each]
    return known_metrics(str(config.method._target_), averaged, callbacks)


def listed(value: Any) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else [str(value)]


def directions_of(metrics: Sequence[str], typed: Any) -> list[str]:
    """Raises ConfigError: there are not as many as metrics, or there is no such direction."""
    from vitfw.errors import ConfigError
    from vitfw.sweep.objective import MAXIMIZE, MINIMIZE, direction_of

    if typed is None:
        return [direction_of(metric) for metric in metrics]
    directions = listed(typed)
    if len(directions) != len(metrics):
        raise ConfigError(
            f"hydra.sweeper.direction has {len(directions)} for {len(metrics)} metrics: "
            f"{', '.join(metrics)}"
        )
    for direction in directions:
        if direction not in (MAXIMIZE, MINIMIZE):
            raise ConfigError(
                f"hydra.sweeper.direction={direction} should be {MAXIMIZE} or {MINIMIZE}"
            )
    return directions


def check_pruning(metrics: Sequence[str], pruner: str) -> None:
    """Raises ConfigError: the metric is not known before a trial ends."""
    from vitfw.errors import ConfigError
    from vitfw.sweep.objective import pruning_metric

    if len(metrics) == 1 and pruning_metric(metrics[0]) is None:
        raise ConfigError(
            f"hydra.sweeper.pruner={pruner} looks at each validation, where {metrics[0]} is not "
            "measured; use pruner=none, or metric=val/accuracy_best"
        )


def check_words(space: "Space") -> None:
    """Compose with all choices and both ends of each range, the others at their first.

    Raises:
        ConfigError: a key that does not exist, a value that it does not take.
    """
    from vitfw.config import compose

    first = {each.name: each.corners()[0] for each in space.dimensions}
    compose("train", space.words(first))
    for dimension in space.dimensions:
        for value in dimension.corners()[1:]:
            compose("train", space.words({**first, dimension.name: value}))


def sweep_folder(words: Sequence[str]) -> Path:
    """runs/sweeps/<name>, which follows from what was typed: the same command finds its search."""
    from vitfw.run_directory import run_name

    kept, harmless = [], may_differ()
    for word in words:
        key, _, value = word.partition("=")
        if key == "experiment":
            kept.append(value)
        elif key.startswith("hydra.sweeper.") and key.split(".")[2] not in NOT_IN_NAME:
            kept.append(word.removeprefix("hydra.sweeper."))
        elif not key.startswith("hydra") and (key not in harmless or is_range(value)):
            kept.append(word)
    return SWEEPS / re.sub("^default$", "optuna", run_name(kept))


def may_differ() -> set[str]:
    """What changes no trial's result. `data.root` may, where it is all that names the data."""
    from vitfw.start import HARMLESS

    return {*HARMLESS} - {"data.root", "data.storage_options"}


def is_range(value: str) -> bool:
    return "," in value or "(" in value


def best_command(space: "Space", params: Mapping[str, Any]) -> str:
    """The run with such parameters, tested, as it can be typed."""
    words = [word for word in space.words(params) if word != "test_after_fit=false"]
    return shlex.join(["vitfw", "train", *words])
