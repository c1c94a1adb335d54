"""How large gradients are, and how far a step moves the weights, part by part of the net."""

import math
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vitfw.callbacks.evaluation_mode import SHARDED
from vitfw.callbacks.logging_steps import log_scalars, logs_after

Parts = dict[str, list[nn.Parameter]]


class Gradients(L.Callback):
    """Logs `gradient_norm/total` and `gradient_norm/<part>` (`norms`), and `update_ratio/<part>`
    (`update_ratios`).

    The gradients are those of an optimizer step's whole batch, before clipping; of SAM, those of
    the weights as they are. The ratio is ‖Δw‖ / ‖w‖ of that step; a part whose weights are all
    zero has none. A healthy one is around 1e-3; far less means a part that hardly learns.

    Measured at every `every_n_log`-th logging, in the first optimizer step that ends then or
    later. For the ratios a copy of what is trained is held until that step is over. Where a process
    has only a part of the weights (FSDP, DeepSpeed) nothing is logged.
    """

    def __init__(self, every_n_log: int = 1, norms: bool = True, update_ratios: bool = True):
        if every_n_log < 1:
            raise ValueError(f"callbacks.gradients.every_n_log {every_n_log} must be at least 1")
        self.every_n_log = every_n_log
        self.norms, self.update_ratios = norms, update_ratios
        self._loggings = 0
        self._due = False
        self._step: StepSizes | None = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if logs_after(trainer, batch_idx):
            self._due |= self._loggings % self.every_n_log == 0
            self._loggings += 1

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        second_pass = self._step is not None
        whole = not isinstance(trainer.strategy, SHARDED)
        wanted = self._due and (self.norms or self.update_ratios)
        if wanted and not second_pass and whole and trainer.is_global_zero:
            self._step = StepSizes(trained_parts(pl_module), self.norms, self.update_ratios)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if self._step is not None:
            log_scalars(trainer, self._step.measured())
            self._step, self._due = None, False


class StepSizes:
    """Made when gradients are there and the weights not yet moved; read once, when they are.

    Without `gradients` or `updates` it neither measures nor keeps what those would need.
    """

    def __init__(self, parts: Parts, gradients: bool = True, updates: bool = True):
        moving = [(part, p) for part, ps in parts.items() for p in ps if p.grad is not None]
        self.parts = [part for part, _ in moving]
        self.weights = [p.detach() for _, p in moving]
        self.before = [weight.clone() for weight in self.weights] if updates else []
        self.columns: dict[str, Tensor] = {}
        if gradients:
            self.columns["gradient"] = norms([p.grad for _, p in moving if p.grad is not None])

    def measured(self) -> dict[str, float]:
        """All norms and ratios by their tags, brought from the device at once."""
        if not self.parts:
            return {}
        if self.before:
            self.columns["weight"] = norms(self.before)
            torch._foreach_sub_(self.before, self.weights)
            self.columns["update"] = norms(self.before)
        found = torch.stack([*self.columns.values()]).tolist()
        sizes = dict(zip(self.columns, map(self._by_part, found), strict=True))
        told = {}
        if gradient := sizes.get("gradient"):
            told["gradient_norm/total"] = math.hypot(*gradient.values())
            told |= {f"gradient_norm/{part}": norm for part, norm in gradient.items()}
        for part, weight in sizes.get("weight", {}).items():
            if weight:
                told[f"update_ratio/{part}"] = sizes["update"][part] / weight
        return told

    def _by_part(self, norms: Sequence[float]) -> dict[str, float]:
        """The norm of each part from those of its tensors."""
        of_tensors: dict[str, list[float]] = {}
        for part, norm in zip(self.parts, norms, strict=True):
            of_tensors.setdefault(part, []).append(norm)
        return {part: math.hypot(*each) for part, each in of_tensors.items()}


def norms(tensors: list[Tensor]) -> Tensor:
    """The Euclidean norm of each of P tensors, in float32: [P]."""
    if not tensors:
        return torch.empty(0)
    return torch.stack(torch._foreach_norm(tensors, 2, dtype=torch.float32))


def trained_parts(module: nn.Module) -> Parts:
    """What is trained, by the part of the net that it belongs to.

    A part is a child of `module.net`, or of `module` where there is no net: `patch_embed`, `head`.
    Lists of children of one kind are one part each: `blocks.0`. Parameters of the net itself are
    `tokens`; what is trained beside the net, a decoder or many heads, is one part by its name.
    """
    net = dict(module.named_children()).get("net", module)
    parts: Parts = {}
    seen: set[nn.Parameter] = set()
    for owner in (net, module):
        for name, parameter in owner.named_parameters():
            if parameter.requires_grad and parameter not in seen:
                part = part_of(name, net) if owner is net else name.partition(".")[0]
                parts.setdefault(part, []).append(parameter)
                seen.add(parameter)
    return parts


def part_of(name: str, net: nn.Module) -> str:
    """`blocks.0.attn.qkv.weight` → `blocks.0`, `head.weight` → `head`, `cls_token` → `tokens`."""
    child, _, rest = name.partition(".")
    if not rest:
        return "tokens"
    listed = isinstance(module := getattr(net, child), nn.ModuleList) or (
        isinstance(module, nn.Sequential) and len(module) > 1 and len(set(map(type, module))) == 1
    )
    return f"{child}.{rest.partition('.')[0]}" if listed else child
