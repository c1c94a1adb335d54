"""`hydra/sweeper=optuna`: a search over configs that can be stopped, continued and shared."""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class OptunaSweeperConfig:
    """What `hydra.sweeper.…` sets. docs/sweeps.md explains it."""

    _target_: str = "hydra_plugins.vitfw_sweeper.optuna_sweeper.OptunaSweeper"
    sampler: str = "tpe"  # tpe | cmaes | grid | random | qmc
    sampler_options: dict[str, Any] = field(default_factory=dict)  # Optuna's own, by name
    seed: int = 0
    n_trials: int | None = 20  # of the study, over all workers and restarts; null: a whole grid
    n_jobs: int = 1  # trials that this worker runs at once
    metric: Any = "val/accuracy_best"  # or a list of several
    direction: Any = None  # maximize | minimize | a list; null: what is better of the metric
    pruner: str = "none"  # none | median | halving | hyperband
    pruner_options: dict[str, Any] = field(default_factory=dict)
    storage: str | None = None  # null: study.db in the folder | journal | journal:PATH | URL
    study_name: str | None = None  # null: the name of the folder
    params: dict[str, Any] = field(default_factory=dict)  # key: range, as on the command line
    patience_seconds: float = 120.0  # silence after which a worker elsewhere counts as dead


ConfigStore.instance().store(
    group="hydra/sweeper", name="optuna", node=OptunaSweeperConfig, provider="vitfw"
)


class OptunaSweeper(Sweeper):
    """What Hydra calls; the search itself is `vitfw.sweep`."""

    def __init__(self, **options: Any):
        self.options = options
        self.hydra_context: Any = None
        self.task_function: Any = None
        self.config: Any = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def sweep(self, arguments: list[str]) -> None:
        """Raises ConfigError: the search cannot be made; then nothing was started or written."""
        from vitfw.errors import ConfigError

        try:
            import optuna  # noqa: F401
        except ModuleNotFoundError as error:
            raise ConfigError(
                "hydra/sweeper=optuna needs Optuna: pip install 'vitfw[sweep]'"
            ) from error
        from hydra_plugins.vitfw_sweeper._sweep_request import read_request
        from hydra_plugins.vitfw_sweeper._trial_launch import run_search

        request = read_request(self.options, arguments, self.config, self.hydra_context)
        run_search(request, self.config, self.hydra_context, self.task_function)
