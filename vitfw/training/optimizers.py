"""Optimizers, as functions of the net: they choose the parameter groups themselves.

Each takes `layer_decay` and `overrides`, which `param_groups` explains.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import timm.optim
import torch
from timm.optim import AdafactorBigVision, Lamb, Lion, Muon
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from vitfw.errors import ConfigError, nearest
from vitfw.training.param_groups import Overrides, param_groups
from vitfw.training.sam import SAM


@contextmanager
def naming_optimizer() -> Iterator[None]:
    """What torch and timm raise for an option that cannot be, as the ConfigError that it is."""
    try:
        yield
    except ConfigError:
        raise
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError(f"optimizer or scheduler: {error}") from error


def pair_of(betas: Any) -> tuple[float, float]:
    """Raises ConfigError for anything but two numbers."""
    check_betas(betas, 2)
    return float(betas[0]), float(betas[1])


def check_betas(betas: Any, count: int) -> None:
    """Raises ConfigError for anything but `count` numbers."""
    numbers = list(betas) if isinstance(betas, Sequence) else [betas]
    if len(numbers) != count or not all(isinstance(beta, int | float) for beta in numbers):
        such = ", ".join(["0.9", "0.99", "0.999"][:count])
        raise ConfigError(f"optimizer.betas={betas} must be {count} numbers, such as [{such}]")


def adamw(
    net: nn.Module,
    lr: float = 1e-3,
    weight_decay: float = 0.05,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
    layer_decay: float | None = None,
    overrides: Overrides | None = None,
) -> Optimizer:
    """AdamW without decay on norms, biases, tokens and positions. Loshchilov and Hutter 2019."""
    groups = param_groups(net, lr, weight_decay, layer_decay, overrides)
    return AdamW(groups, lr=lr, betas=pair_of(betas), eps=eps)


def sgd(
    net: nn.Module,
    lr: float = 0.1,
    weight_decay: float = 1e-4,
    momentum: float | None = 0.9,
    nesterov: bool = True,
    layer_decay: float | None = None,
    overrides: Overrides | None = None,
) -> Optimizer:
    """SGD with momentum, without decay on norms, biases, tokens and positions.

    Raises:
        ConfigError: Nesterov's momentum of 0.
    """
    if nesterov and not momentum:
        raise ConfigError(
            f"optimizer.momentum={momentum} leaves Nesterov's nothing to look ahead by: "
            "optimizer.nesterov=false (beneath SAM: optimizer.base.nesterov=false)"
        )
    groups = param_groups(net, lr, weight_decay, layer_decay, overrides)
    return SGD(groups, lr=lr, momentum=momentum or 0.0, nesterov=nesterov)


def muon(
    net: nn.Module,
    lr: float = 3e-3,
    weight_decay: float = 0.05,
    momentum: float = 0.95,
    nesterov: bool = True,
    betas: Sequence[float] = (0.9, 0.95),
    layer_decay: float | None = None,
    overrides: Overrides | None = None,
) -> Optimizer:
    """Muon for the matrices inside the blocks, AdamW for the rest, in one optimizer (timm's).

    `nesterov` holds for both: with it the rest is stepped by NAdamW.

    Muon's updates are scaled to the size of AdamW's (0.2 · sqrt of the longer side), so that one
    `lr` serves both. Jordan et al. 2024; Liu et al. 2025, "Muon is scalable for LLM training".
    """
    groups = param_groups(net, lr, weight_decay, layer_decay, overrides, muon=True)
    return Muon(
        groups,
        lr=lr,
        momentum=momentum,
        nesterov=nesterov,
        betas=pair_of(betas),
        adjust_lr_fn="match_rms_adamw",
    )


def lamb(
    net: nn.Module,
    lr: float = 3e-3,
    weight_decay: float = 0.05,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-6,
    max_grad_norm: float | None = 1.0,
    layer_decay: float | None = None,
    overrides: Overrides | None = None,
) -> Optimizer:
    """AdamW's step, scaled in each tensor to the size of its weights. You et al. 2020.

    `max_grad_norm` clips the norm of all gradients inside the optimizer, as the paper does.
    """
    groups = param_groups(net, lr, weight_decay, layer_decay, overrides)
    return Lamb(groups, lr=lr, betas=pair_of(betas), eps=eps, max_grad_norm=max_grad_norm)


def lion(
    net: nn.Module,
    lr: float = 1e-4,
    weight_decay: float = 0.5,
    betas: Sequence[float] = (0.9, 0.99),
    layer_decay: float | None = None,
    overrides: Overrides | None = None,
) -> Optimizer:
    """Steps of the sign of the momentum, all of one size. Chen et al. 2023.

    Its lr is 3 to 10 times smaller than AdamW's, its weight decay larger by the same factor.
    """
    groups = param_groups(net, lr, weight_decay, layer_decay, overrides)
    return Lion(groups, lr=lr, betas=pair_of(betas))


def adafactor(
    net: nn.Module,
    lr: float = 1e-3,
    weight_decay: float = 0.05,
    momentum: float | None = 0.9,
    beta2_cap: float = 0.999,
    layer_decay: float | None = None,
    overrides: Overrides | None = None,
) -> Optimizer:
    """Adam with second moments kept as a row and a column of each matrix: half of AdamW's memory.

    Shazeer and Stern 2018, changed for Vision Transformers as in Zhai et al. 2022, §3.4: a
    learning rate like Adam's, and momentum. `momentum=null` saves that memory, too.
    """
    return AdafactorBigVision(
        param_groups(net, lr, weight_decay, layer_decay, overrides),
        lr=lr,
        momentum=momentum,
        momentum_dtype=torch.float32,
        beta2_cap=beta2_cap,
    )


def schedule_free(
    net: nn.Module,
    lr: float = 2.5e-3,
    weight_decay: float = 0.05,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
    layer_decay: float | None = None,
    overrides: Overrides | None = None,
) -> Optimizer:
    """AdamW that averages its weights instead of lowering its lr. Defazio et al. 2024.

    It wants a constant schedule with warm-up, and the callback `ScheduleFree`, which evaluates
    and saves the averaged weights.

    Raises:
        ConfigError: the package schedulefree is not installed; betas[0] is not in (0, 1).
    """
    package = import_schedulefree()
    first, second = pair_of(betas)
    if not 0.0 < first < 1.0:
        raise ConfigError(f"optimizer.betas={list(betas)}: the first must lie between 0 and 1")
    groups = param_groups(net, lr, weight_decay, layer_decay, overrides)
    return package.AdamWScheduleFree(groups, lr=lr, betas=(first, second), eps=eps)


def import_schedulefree() -> Any:
    """The package. Raises ConfigError where it is not installed."""
    try:
        import schedulefree
    except ImportError as error:
        raise ConfigError(
            "optimizer=schedule_free needs schedulefree: pip install 'vitfw[schedulefree]'"
        ) from error
    return schedulefree


def timm_optimizer(
    net: nn.Module,
    name: str,
    lr: float,
    weight_decay: float = 0.05,
    layer_decay: float | None = None,
    overrides: Overrides | None = None,
    **options: Any,
) -> Optimizer:
    """Any optimizer that timm knows, by its name there (`nadamw`, `adopt`, `lookahead_adam`, …).

    Raises:
        ConfigError: timm does not know it, or its package or device is not there; it takes other
            betas.
    """
    bare = name.lower().removeprefix("lookahead_")
    known = [str(known) for known in timm.optim.list_optimizers()]
    if bare not in known:
        raise ConfigError(f"optimizer.name={name} is none of timm's{nearest(bare, known)}")
    info = timm.optim.get_optimizer_info(bare)
    if info.second_order:
        raise ConfigError(
            f"optimizer.name={name} needs second derivatives, which training does not take; "
            "there are nadamw, lamb, lion, adopt, …"
        )
    if info.has_betas and options.get("betas") is not None:
        check_betas(options["betas"], info.num_betas)
    hybrid = info.opt_class is Muon
    groups = param_groups(net, lr, weight_decay, layer_decay, overrides, muon=hybrid)
    try:
        return timm.optim.create_optimizer_v2(
            groups, opt=name, lr=lr, weight_decay=weight_decay, **options
        )
    except (ImportError, AssertionError) as error:
        raise ConfigError(f"optimizer.name={name} cannot be had here: {error}") from error


def sam(
    net: nn.Module,
    base: Callable[..., Optimizer] = sgd,
    lr: float = 0.1,
    weight_decay: float = 1e-4,
    rho: float = 0.05,
    adaptive: bool = False,
    layer_decay: float | None = None,
    overrides: Overrides | None = None,
) -> SAM:
    """Sharpness-aware minimisation around another optimizer, which it gives its own lr and decay.

    Raises:
        ConfigError: `base` has an lr, decay or groups of its own; it is schedule-free, or SAM.
    """
    shared = {
        "lr": lr,
        "weight_decay": weight_decay,
        "layer_decay": layer_decay,
        "overrides": overrides,
    }
    own = base.keywords if isinstance(base, partial) else {}
    for key in shared:
        if own.get(key) is not None:
            raise ConfigError(
                f"optimizer.base.{key}={own[key]}: with sam it is called optimizer.{key}"
            )
    inner = base(net, **shared)
    if isinstance(inner, SAM) or "train_mode" in inner.defaults:
        raise ConfigError(
            "optimizer.base cannot be sam or schedule_free; type optimizer@optimizer.base=adamw"
        )
    return SAM(inner, net, rho=rho, adaptive=adaptive)
