"""The plain facts of a run, as the rules want them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from vitfw.building import build
from vitfw.config import compose, group_choices, typed_keys
from vitfw.data.augment.progressive import scaled_to
from vitfw.data.catalog import CATALOG
from vitfw.data.classification_data import ClassificationData
from vitfw.guard_rails.idle_options import idle_keys
from vitfw.interop.source import is_our_model
from vitfw.models.patch_embed import as_pair
from vitfw.request_check import SCHEDULE_FREE
from vitfw.training.lr_scaling import scaled_lr
from vitfw.training.schedules import is_cooldown, steps_of

Config = dict[str, Any]

STEMS = ("conv_stem", "pool_stem")  # convolutions over the edges of patches
BY_LABELS = ("vitfw.training.classifier.", "vitfw.training.distillation.")  # methods with a loss
OWN_RATES = "vitfw.training.linear_probe."  # tries many learning rates at once
BASE = "optimizer@optimizer.base="
# What a group's learning rate is not meant for.
OTHER_OPTIMIZER = (
    *("optimizer._target_", "optimizer.name"),
    *("optimizer.base._target_", "optimizer.base.name"),
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The facts of a run that is about to begin; None where there is no such thing."""

    token_counts: Mapping[
        str, int
    ]  # patches of an image, the fewest by each key that may lower them
    patch_side: int | None
    img_side: int
    native_side: int | None
    stem: bool
    ordered: bool  # tokens know where they are
    depth: int | None
    drop_path_rate: float
    from_scratch: bool
    train_images: int
    val_images: int  # of the data
    validates: bool  # not switched off
    device_batch: int  # images of one forward pass
    batch_size: int  # images of an optimizer step
    total_steps: int
    max_steps: int | None  # as asked for
    warmup_steps: int
    lr: float | None  # as it is used
    lr_factor: float  # … over optimizer.lr
    usual_lr: float | None  # the recipe's, for this batch size
    last_lr_share: float | None  # of its peak
    schedule_free: bool
    precision: str
    mixing: bool
    loss: str
    takes_soft_targets: bool
    monitored: tuple[str, ...]
    average_memory: float | None  # of an EMA, in steps
    average_start: int | None  # step of the first weights that SWA takes
    hflip: float
    usual_hflip: float
    idle: Mapping[str, str]  # keys that were typed and do nothing, and what would let them

    @property
    def tokens(self) -> int | None:
        """The fewest that an image gives."""
        return min(self.token_counts.values(), default=None)


def plan_of(
    cfg: Config,
    net: nn.Module,
    data: ClassificationData,
    batch_size: int,
    total_steps: int,
    steps_per_epoch: int,
    overrides: Sequence[str],
) -> Plan:
    """Read the facts off the resolved config and what was built from it.

    `batch_size` counts the images of an optimizer step, over devices and accumulation;
    `overrides` are what was typed.
    """
    usual = usual_choice("train", overrides)
    model, method, average = cfg["model"], cfg["method"]["_target_"], cfg["average"]
    max_steps = cfg["trainer"]["max_steps"]
    mixing, blocks = data.augment.mixing, getattr(net, "blocks", None)
    facts = CATALOG[data.dataset_name]
    lr_factor = scaled_lr(1.0, cfg["lr_scaling"], batch_size, cfg["lr_batch_size"])
    lr = None if method.startswith(OWN_RATES) else cfg["optimizer"].get("lr")
    usual_lr = usual["lr"]
    if usual_lr:
        usual_lr = scaled_lr(usual_lr, usual["rule"], batch_size, usual["batch_size"])
    counts = token_counts(net, is_our_model(model), data.augment.sizes)
    warmup_steps = steps_of(cfg["scheduler"].get("warmup", 0), total_steps, steps_per_epoch)
    by_ema = average["_target_"] == "vitfw.training.weight_average.ema"
    by_swa = average["_target_"] == "vitfw.training.weight_average.swa"
    return Plan(
        token_counts=counts,
        patch_side=max(as_pair(cast(Any, net).patch_embed.patch_size)) if counts else None,
        img_side=min(data.img_size),
        native_side=cfg["data"].get("native_size") if facts.same_size else None,
        stem=model.get("embed_layer") in STEMS,
        ordered=is_ordered(model),
        depth=len(blocks) if isinstance(blocks, nn.ModuleList | nn.Sequential) else None,
        drop_path_rate=model.get("drop_path_rate") or 0.0,
        from_scratch=cfg["init_from"] is None and not model.get("pretrained"),
        train_images=data.train_images,
        val_images=data.count("val"),
        validates=cfg["trainer"]["limit_val_batches"] != 0,
        device_batch=data.batch_size,
        batch_size=batch_size,
        total_steps=total_steps,
        max_steps=max_steps if max_steps > 0 and not is_cooldown(cfg["scheduler"]) else None,
        warmup_steps=warmup_steps,
        lr=lr and lr * lr_factor,
        lr_factor=lr_factor,
        usual_lr=usual_lr,
        last_lr_share=last_lr_share(cfg["scheduler"], warmup_steps, total_steps, steps_per_epoch),
        schedule_free=cfg["optimizer"]["_target_"] == SCHEDULE_FREE,
        precision=str(cfg["trainer"]["precision"]),
        mixing=mixing is not None and mixing.active,
        loss=f"loss={cfg['loss']['_target_'].rpartition('.')[2]}",
        takes_soft_targets=not method.startswith(BY_LABELS)
        or takes_soft_targets(build(cfg["loss"])),
        monitored=tuple(
            str(callback["monitor"])
            for callback in cfg["callbacks"].values()
            if callback and callback.get("monitor")
        ),
        average_memory=ema_memory(**options_of(average)) if by_ema else None,
        average_start=steps_of(average["start"], total_steps, steps_per_epoch) if by_swa else None,
        hflip=data.augment.hflip,
        usual_hflip=facts.hflip,
        idle=idle_keys(cfg, overrides),
    )


def token_counts(net: nn.Module, ours: bool, progressive: Sequence[int]) -> dict[str, int]:
    """Patches of an image, the fewest that training draws, by the key that decides.

    That is the patch size (of a net that is not ours, the image's), those that are drawn, and
    the smaller images of the first epochs.
    """
    embed: Any = getattr(net, "patch_embed", None)
    if not getattr(embed, "num_patches", None):
        return {}
    counts = {"model.patch_size" if ours else "model.img_size": int(embed.num_patches)}
    if flexible := getattr(net, "flexi_patch_sizes", ()):
        counts["model.flexi_patch_sizes"] = patches(embed.img_size, as_pair(max(flexible)))
    if progressive:
        sides, patch = scaled_to(min(progressive), embed.img_size), as_pair(embed.patch_size)
        stride = as_pair(getattr(embed, "stride", patch))
        counts["augment.progressive.sizes"] = patches(sides, patch, stride)
    return counts


def patches(
    sides: tuple[int, int], patch: tuple[int, int], stride: tuple[int, int] | None = None
) -> int:
    """How many there are, every `stride` (a whole patch unless given)."""
    steps = zip(sides, patch, stride or patch, strict=True)
    return math.prod((side - size) // step + 1 for side, size, step in steps)


def is_ordered(model: Config) -> bool:
    """Whether tokens know where they are: by positions, or by convolutions with padded edges."""
    told = model.get("pos_embed") != "none" or model.get("rope") != "none"
    return told or model.get("embed_layer") in STEMS


def ema_memory(decay: float, warmup: bool) -> float | None:
    """1 / (1 − decay), the mean age in steps of what an EMA holds; None where it warms up."""
    return None if warmup else 1.0 / (1.0 - decay)


def options_of(node: Config) -> Config:
    return {key: value for key, value in node.items() if not key.startswith("_")}


def last_lr_share(
    scheduler: Config, warmup_steps: int, total_steps: int, steps_per_epoch: int
) -> float | None:
    """Where the schedule ends, as a share of where it stands after the warm-up; None if it is not
    made of factors.
    """
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = build(scheduler)(optimizer, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
    if not isinstance(schedule, LambdaLR):
        return None
    factor = schedule.lr_lambdas[0]
    return factor(total_steps) / factor(min(warmup_steps, total_steps))


def takes_soft_targets(loss: nn.Module) -> bool:
    """Whether a loss accepts targets [B, K] that are shares."""
    try:
        loss(torch.zeros(2, 3), torch.full((2, 3), 1 / 3))
    except (RuntimeError, ValueError, TypeError, IndexError):
        return False
    return True


def usual_choice(config_name: str, overrides: Sequence[str]) -> Config:
    """The learning rate of the recipe: what the groups that were chosen say, single values aside.

    `lr` (None where the optimizer has none, or is not the one of its group) is meant for batches
    of `batch_size` and follows them by `rule`: the recipe's own `lr_scaling`; else linear for SGD
    and the square root for Adam and its kin, from the recipe's batch size.
    """
    config = compose(config_name, group_choices(overrides))
    optimizer, rule = config["optimizer"], config["lr_scaling"]
    for text in overrides:
        if text.startswith(BASE):  # what SAM steps with; its own learning rate is for SGD
            optimizer = compose(config_name, [f"optimizer={text.removeprefix(BASE)}"])["optimizer"]
    base = optimizer.get("base") or optimizer
    by_sgd = base["_target_"].endswith(".sgd")
    batch_size = config["lr_batch_size"]
    if rule == "none":
        rule = "linear" if by_sgd else "sqrt"
        batch_size = config["data"]["batch_size"] * config["trainer"]["accumulate_grad_batches"]
    meant = set(typed_keys(overrides)).isdisjoint(OTHER_OPTIMIZER)
    return {"lr": optimizer.get("lr") if meant else None, "batch_size": batch_size, "rule": rule}
