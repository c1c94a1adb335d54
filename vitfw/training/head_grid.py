"""Many linear heads that are trained at once, each as if it were alone.

B batch, C channels of a feature, H heads, K classes.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric

from vitfw.errors import ConfigError
from vitfw.training.sam import SAM


class Setting(NamedTuple):
    """How a head is trained: `lr_factor` times `optimizer.lr`; `weight_decay` None: optimizer's."""

    lr_factor: float
    weight_decay: float | None


def settings_of(
    lr_factors: Sequence[float], weight_decays: Sequence[float] | None
) -> list[Setting]:
    """Every learning rate with every weight decay.

    Raises:
        ValueError: there is not one, or one that is no learning rate or weight decay.
    """
    if not lr_factors or not all(factor > 0 for factor in lr_factors):
        raise ValueError(
            f"method.lr_factors={list(lr_factors)} are multiples of optimizer.lr, all above 0, "
            "such as [0.01, 0.1, 1.0]"
        )
    if weight_decays is not None and not (weight_decays and min(weight_decays) >= 0):
        raise ValueError(
            f"method.weight_decays={list(weight_decays)} needs values of 0 or more, such as "
            "[0.0, 1e-4]; or null, the optimizer's"
        )
    return [Setting(factor, decay) for factor in lr_factors for decay in weight_decays or [None]]


def zero_linear(width: int, num_classes: int) -> nn.Linear:
    """A head that has no opinion yet; the problem is convex, so that nothing else is needed."""
    layer = nn.Linear(width, num_classes)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def grid_optimizer(
    make: Callable[..., Optimizer], settings: Sequence[Setting], heads: nn.ModuleList
) -> Optimizer:
    """One optimizer with the groups that `make` gives for each head, by its own setting.

    Raises:
        ConfigError: it looks at all gradients together, which would couple the heads.
    """
    whole: Optimizer | None = None
    for number, (head, setting) in enumerate(zip(heads, settings, strict=True)):
        decay = {} if setting.weight_decay is None else {"weight_decay": setting.weight_decay}
        optimizer = make(head, **decay)
        check_apart(optimizer)
        for group in optimizer.param_groups:
            group["lr"] *= setting.lr_factor
            group["name"] = f"head {number} {group.get('name', '')}".strip()
            if whole is not None:
                whole.add_param_group(group)
        whole = whole or optimizer
    assert whole is not None
    return whole


def check_apart(optimizer: Optimizer) -> None:
    """Raises ConfigError for SAM, and for LAMB where it clips, timm's included."""
    if isinstance(optimizer, SAM):
        raise ConfigError(
            "optimizer=sam climbs by the gradient of all heads of method=linear_probe together, "
            "which are to be trained as if each were alone; give another, such as optimizer=sgd"
        )
    for group in optimizer.param_groups:
        if group.get("max_grad_norm") is not None:
            raise ConfigError(
                f"optimizer.max_grad_norm={group['max_grad_norm']} clips all heads of "
                "method=linear_probe together, which are to be trained as if each were alone; "
                "give optimizer.max_grad_norm=null (++optimizer.max_grad_norm=null of timm's)"
            )


def names_of(optimizer: Optimizer, settings: Sequence[Setting], heads: nn.ModuleList) -> list[str]:
    """`lr_0.01` for each head; where weight decays are compared, `lr_0.01_wd_0.0001`."""
    lr_of = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    several = len({setting.weight_decay for setting in settings}) > 1
    names = []
    for head, setting in zip(heads, settings, strict=True):
        name = f"lr_{lr_of[id(next(head.parameters()))]:.3g}"
        names.append(f"{name}_wd_{setting.weight_decay:g}" if several else name)
    return names


class GridEvaluation(Metric):
    """Cross-entropy, accuracy and top-5 accuracy of every head: [3, H].

    With fewer than five classes, the second accuracy is the top-K one.
    """

    sums: Tensor
    count: Tensor

    def __init__(self, heads: int):
        super().__init__()
        self.add_state("sums", torch.zeros(3, heads), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """logits [B, H, K] float, labels [B]"""
        truth = labels[:, None].expand(logits.shape[:2])  # [B, H]
        loss = F.cross_entropy(logits.flatten(0, 1), truth.flatten(), reduction="none")
        right = logits.argmax(dim=2) == truth
        best = logits.topk(min(5, logits.shape[2]), dim=2).indices
        right5 = (best == truth[:, :, None]).any(dim=2)
        self.sums += torch.stack([loss.view_as(right).sum(0), right.sum(0), right5.sum(0)])
        self.count += len(labels)

    def compute(self) -> Tensor:
        return self.sums / self.count
