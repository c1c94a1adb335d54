"""MLflow, with one run there for each run directory."""

import logging
import os
import re
from argparse import Namespace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from vitfw.atomic import held
from vitfw.callbacks.run_id import remembered_id
from vitfw.console import log
from vitfw.errors import ConfigError

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

DEFAULT_STORE = "sqlite:///runs/mlflow.db"
STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}  # ours → MLflow's
MOST_METRICS, MOST_PARAMS = 1000, 100  # in one request
LONGEST_VALUE = 6000
Values = dict[str, Any]


class MlflowRun(Logger):
    """Metrics and the config as an MLflow run; one that goes on in its folder goes on there, too.

    Its id stands in `mlflow.id` of the folder. Steps that are done again are not told again.
    (Lightning's own logger refuses names that MLflow does not take, and a config that differs.)
    `tracking_uri` None is what MLFLOW_TRACKING_URI says, or a SQLite file beside the runs.

    Raises:
        ConfigError: mlflow is not installed, or (at the first use) the store cannot be opened.
    """

    def __init__(
        self,
        run_dir: str,
        experiment: str = "vitfw",
        name: str | None = None,
        tracking_uri: str | None = None,
        tags: dict[str, str] | None = None,
    ):
        super().__init__()
        if find_spec("mlflow") is None:
            raise ConfigError("logger=mlflow needs mlflow: pip install 'vitfw[mlflow]'")
        self.folder = Path(run_dir)
        self.experiment_name = experiment
        self.run_name = name or self.folder.name
        self.tracking_uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_STORE
        self.tags = {key: str(value) for key, value in (tags or {}).items()}
        self._resumed = False
        self._told_before: dict[str, int] = {}  # the last step of an earlier start, by metric

    @property
    def name(self) -> str:
        return self.experiment_name

    @property
    def version(self) -> str:
        return ""

    @cached_property
    def client(self) -> "MlflowClient":
        """The store, which is made where it is a local one."""
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        if self.tracking_uri.startswith("file:"):  # MLflow wants to be told that it is meant
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        try:
            if self.tracking_uri.startswith("sqlite:///"):
                with held(Path(self.tracking_uri.removeprefix("sqlite:///")).absolute().parent):
                    return MlflowClient(self.tracking_uri)
            return MlflowClient(self.tracking_uri)
        except (MlflowException, OSError, ImportError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(
                f"logger.mlflow.tracking_uri={self.tracking_uri} cannot be opened: {reason}"
            ) from error

    @cached_property
    def run_id(self) -> str:
        """The run in the store: the one that `mlflow.id` names, or a new one."""
        known, self._resumed = remembered_id(self.folder / "mlflow.id", self._create)
        if self._resumed:
            self.client.update_run(known, status="RUNNING")
        return known

    def _create(self) -> str:
        from mlflow.exceptions import MlflowException

        try:
            found = self.client.get_experiment_by_name(self.experiment_name)
            where = found.experiment_id if found else self._create_experiment()
            run = self.client.create_run(where, run_name=self.run_name, tags=self.tags)
        except MlflowException as error:
            raise ConfigError(f"logger=mlflow: {' '.join(str(error).split())}") from error
        return run.info.run_id

    def _create_experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        try:
            return self.client.create_experiment(self.experiment_name)
        except MlflowException:  # another run has just done so
            found = self.client.get_experiment_by_name(self.experiment_name)
            if found is None:
                raise
            return found.experiment_id

    @rank_zero_only
    def log_hyperparams(self, params: Values | Namespace, *args: Any, **kwargs: Any) -> None:
        """The flat config. What MLflow was told by an earlier start cannot be changed there."""
        from mlflow.entities import Param

        run_id = self.run_id
        known = self.client.get_run(run_id).data.params if self._resumed else {}
        given = vars(params) if isinstance(params, Namespace) else params
        named = {allowed(key): str(value)[:LONGEST_VALUE] for key, value in given.items()}
        new = [Param(key, value) for key, value in named.items() if key not in known]
        for first in range(0, len(new), MOST_PARAMS):
            self.client.log_batch(run_id, params=new[first : first + MOST_PARAMS])

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        from mlflow.entities import Metric

        run_id, at, now = self.run_id, step or 0, int(time() * 1000)
        named = {allowed(tag): float(value) for tag, value in metrics.items()}
        new = [Metric(k, value, now, at) for k, value in named.items() if at > self._last_told(k)]
        for first in range(0, len(new), MOST_METRICS):
            self.client.log_batch(run_id, metrics=new[first : first + MOST_METRICS])

    def _last_told(self, metric: str) -> int:
        """The step up to which an earlier start told of it; -1 where there was none."""
        if self._resumed and metric not in self._told_before:
            history = self.client.get_metric_history(self.run_id, metric)
            self._told_before[metric] = max((point.step for point in history), default=-1)
        return self._told_before.get(metric, -1)

    @rank_zero_only
    def end_run(self, status: str) -> None:
        """Say there how the run ended: "finished", "stopped" or "failed"."""
        if "run_id" not in self.__dict__:  # nothing was told
            return
        from mlflow.exceptions import MlflowException

        try:
            self.client.set_terminated(self.run_id, STATUS[status])
        except MlflowException as error:  # the run itself may have failed for this reason
            log.warning(
                f"MLflow does not know that the run {status}: {' '.join(str(error).split())}"
            )


def allowed(tag: str) -> str:
    """A tag as a name that MLflow takes: it may be a path of folder and file.

    `mine/a/b` → `mine/a-b`
    """
    group, slash, rest = tag.partition("/")
    group, rest = (re.sub(r"[^\w. :-]", "-", part).strip() for part in (group, rest))
    if not slash:
        return group or "-"
    return f"{group or '-'}/{rest if rest.strip('.') else '-'}"[:250]
