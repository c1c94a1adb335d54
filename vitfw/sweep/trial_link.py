"""How the process of a trial knows its trial: JSON in an environment variable.

Nothing here is imported from Optuna until a trial is looked for.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.trial import Trial

TRIAL_VARIABLE = "VITFW_TRIAL"
PRUNED, JOB, ALIVE = "pruned", "job", "alive"  # attributes of a trial that its process sets


@dataclass(frozen=True)
class TrialLink:
    """A trial, and what is reported of it after each validation; no `metric`: nothing.

    After `patience` seconds without a sign of life others take it for dead.
    """

    storage: str
    study: str
    number: int
    metric: str | None = None
    pruner: str = "none"
    pruner_options: Mapping[str, Any] = field(default_factory=dict)
    patience: float = 120.0

    def as_text(self) -> str:
        return json.dumps(asdict(self))

    def open(self) -> "Trial":
        """The trial, as its process sees it: it reports, and asks whether to go on.

        Raises:
            ConfigError: the storage is out of reach.
        """
        import optuna

        from vitfw.sweep.pruners import make_pruner
        from vitfw.sweep.storage import open_storage

        study = optuna.load_study(
            study_name=self.study,
            storage=open_storage(self.storage),
            sampler=optuna.samplers.RandomSampler(),  # asked for nothing
            pruner=make_pruner(self.pruner, self.pruner_options),
        )
        return trial_of(study, self.number)


def trial_of(study: Any, number: int) -> "Trial":
    """A trial that somebody asked for, by its number."""
    from optuna.trial import Trial

    return Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)


def link_of_process() -> TrialLink | None:
    """The trial that this process is, or None."""
    text = os.environ.get(TRIAL_VARIABLE)
    return TrialLink(**json.loads(text)) if text else None
