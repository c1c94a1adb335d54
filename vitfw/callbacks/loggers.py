"""What is said to all loggers of a run alike: its config, and how it ended."""

from collections.abc import Iterable
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger

from vitfw.callbacks.mlflow_run import MlflowRun
from vitfw.callbacks.wandb_run import WandbRun


def log_config(loggers: Iterable[Logger], config: dict[str, Any]) -> None:
    """The flat config, where it is not shown otherwise: on TensorBoard by `RunConfig`."""
    for logger in loggers:
        if not isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(config)


def end_logging(loggers: Iterable[Logger], status: str) -> None:
    """`status` is "finished", "stopped" (by a signal, to go on another time) or "failed"."""
    for logger in loggers:
        logger.finalize("success" if status == "finished" else "failed")
        if isinstance(logger, WandbRun | MlflowRun):
            logger.end_run(status)
