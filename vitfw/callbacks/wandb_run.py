"""Weights & Biases, with one run there for each run directory."""

import os
import secrets
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from vitfw.callbacks.run_id import remembered_id
from vitfw.errors import ConfigError

MODES = ("online", "offline", "disabled")
STEP = "trainer/global_step"  # Lightning's name for it


class WandbRun(WandbLogger):
    """Lightning's logger for W&B; a run that goes on in its folder goes on there, too.

    Its id stands in `wandb.id` of the folder. Steps that are done again are not told again. `mode`
    None is what WANDB_MODE says, or online.

    Raises:
        ConfigError: wandb is not installed, `mode` is unknown, or (at the first use) W&B cannot be
            reached or knows no key.
    """

    def __init__(
        self,
        run_dir: str,
        project: str = "vitfw",
        name: str | None = None,
        entity: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        mode: str | None = None,
    ):
        if find_spec("wandb") is None:
            raise ConfigError("logger=wandb needs wandb: pip install 'vitfw[wandb]'")
        if mode is not None and mode not in MODES:
            raise ConfigError(f"logger.wandb.mode={mode} is not one of: {', '.join(MODES)}")
        folder = Path(run_dir)
        super().__init__(
            name=name or folder.name,
            save_dir=run_dir,
            project=project,
            entity=entity,
            group=group,
            tags=list(tags),
            mode=mode or os.environ.get("WANDB_MODE"),  # W&B reads it once a process
            settings={"console": "off", "quiet": True},  # the run has its train.log and its table
            reinit="create_new",  # a sweep's runs may share a process
        )
        del self._wandb_init["anonymous"]  # W&B has none any more
        self._folder = folder
        self._told_before = -1  # the last step of an earlier start

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self._experiment is None:
            self._begin()
        return self._experiment

    def _begin(self) -> None:
        import wandb

        made, _ = remembered_id(self._folder / "wandb.id", lambda: secrets.token_hex(4))
        self._wandb_init["id"] = made
        try:
            run: Any = super().experiment
        except wandb.Error as error:
            first_line = str(error).strip().splitlines()[0].rstrip(".")
            raise ConfigError(
                f"logger=wandb: {first_line}; `wandb login` asks for a key, and "
                "logger.wandb.mode=offline needs none"
            ) from error
        if run.resumed:
            self._told_before = int(run.summary.get(STEP, -1))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        begun = self.experiment  # tells what was told before
        if begun is not None and (step is None or step >= self._told_before):
            super().log_metrics(metrics, step)

    @rank_zero_only
    def end_run(self, status: str) -> None:
        """Send what is left, and say there how the run ended: "finished", "stopped" or "failed"."""
        if self._experiment is not None:
            self._experiment.finish(exit_code=0 if status == "finished" else 1)
            self._experiment = None
