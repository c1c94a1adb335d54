"""What every operator of a few training steps costs, on demand."""

import os
from pathlib import Path
from typing import Any

import lightning as L
from torch.profiler import ProfilerActivity, profile

from vitfw.atomic import write_text
from vitfw.console import log

OPERATORS = 30  # in the table


class ProfilerTrace(L.Callback):
    """Profiles `steps` optimizer steps from the one numbered `first_step` on, counted from 1.

    `<run_dir>/profile/` then has `trace_step_<first_step>.json`, which ui.perfetto.dev and
    chrome://tracing open, and `operators_step_<first_step>.txt`, the operators that take most.
    Without `first_step` nothing happens. Of several processes the first one is profiled. Steps
    take longer meanwhile; what they compute is the same.
    """

    def __init__(self, first_step: int | None = None, steps: int = 5):
        for name, value in (("first_step", first_step), ("steps", steps)):
            if value is not None and value < 1:
                raise ValueError(f"callbacks.profiler.{name} {value} must be at least 1")
        self.first_step = first_step
        self.steps = steps
        self._running: profile | None = None
        self._seen = False

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        here = self.first_step is not None and trainer.global_step + 1 == self.first_step
        if here and self._running is None and trainer.is_global_zero:
            self._seen = True
            os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # it calls a missing GPU an error
            activities = [ProfilerActivity.CPU]
            if pl_module.device.type == "cuda":
                activities.append(ProfilerActivity.CUDA)
            self._running = profile(activities=activities, record_shapes=True)
            self._running.start()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if self._running and trainer.global_step + 1 == (self.first_step or 1) + self.steps:
            self._finish(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._running:
            self._finish(trainer)
        later = self.first_step is not None and trainer.global_step < self.first_step
        if later and not self._seen and trainer.is_global_zero:
            log.warning(
                f"callbacks.profiler.first_step={self.first_step}: the run ended after step "
                f"{trainer.global_step}, so nothing was profiled"
            )

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        if self._running:
            self._finish(trainer)

    def _finish(self, trainer: L.Trainer) -> None:
        """Write what was seen, and say where it is."""
        assert self._running is not None
        profiler, self._running = self._running, None
        profiler.stop()
        folder = Path(trainer.default_root_dir) / "profile"
        folder.mkdir(parents=True, exist_ok=True)
        trace = folder / f"trace_step_{self.first_step}.json"
        profiler.export_chrome_trace(str(trace))
        where = "cuda" if ProfilerActivity.CUDA in profiler.activities else "cpu"
        table = profiler.key_averages().table(
            sort_by=f"self_{where}_time_total", row_limit=OPERATORS, max_name_column_width=60
        )
        operators = folder / f"operators_step_{self.first_step}.txt"
        write_text(operators, table + "\n")
        log.info(f"profiled: {trace} (open in ui.perfetto.dev), {operators}")
