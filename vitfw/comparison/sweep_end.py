"""A callback of Hydra's that ends a sweep with its report."""

import logging
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

PAGE = "sweep_report.html"

log = logging.getLogger("vitfw")


class WriteSweepReport(Callback):
    """Writes `sweep_report.html` into the folder of the sweep; what goes wrong is a warning."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        from vitfw.comparison.gather import compare
        from vitfw.comparison.page import write_page

        folder = Path(config.hydra.sweep.dir)
        try:
            path = write_page(compare([folder]), folder / PAGE)
        except Exception as error:  # the runs are done, whatever became of the page about them
            reason = " ".join(str(error).split()) or type(error).__name__
            log.warning(f"no {PAGE}: {reason}")
            return
        log.info(f"the sweep     {path}")
