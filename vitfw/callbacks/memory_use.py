"""How much memory training takes."""

from typing import Any

import lightning as L
import torch

from vitfw.callbacks.logging_steps import log_scalars, logs_after
from vitfw.memory import resident_bytes

GIB = 2**30


class MemoryUse(L.Callback):
    """Logs `memory/process_gib` and, on a CUDA GPU, `memory/device_gib`.

    The former is what this process has in memory now (its highest so far where the system has no
    /proc), without the workers that load data. The latter is the most that tensors have taken at
    once since training began: what a smaller GPU would need.
    """

    def __init__(self) -> None:
        self._due = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._due = logs_after(trainer, batch_idx)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if self._due:
            used = {"memory/process_gib": resident_bytes() / GIB}
            if pl_module.device.type == "cuda":
                most = torch.cuda.max_memory_allocated(pl_module.device)
                used["memory/device_gib"] = most / GIB
            log_scalars(trainer, used)
