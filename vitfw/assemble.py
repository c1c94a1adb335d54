"""From a plain config to the objects of a run."""

import math
import os
import warnings
from typing import Any

import lightning as L
import torch
from torch import nn
from torch.optim import Optimizer

from vitfw.building import build
from vitfw.checkpoint import Passport
from vitfw.console import setup_logging
from vitfw.data.classification_data import ClassificationData
from vitfw.environment import versions
from vitfw.errors import ConfigError
from vitfw.memory import keep_freed_memory
from vitfw.request_check import check_clipping, check_counts, world_size
from vitfw.teacher import load_teacher
from vitfw.token_limit import check_tokens
from vitfw.training.learner import Learner
from vitfw.training.lr_scaling import scaled_lr
from vitfw.training.optimizers import naming_optimizer
from vitfw.training.precision import best_precision, resolve_accelerator

Config = dict[str, Any]


def prepare_process() -> None:
    """Once a process, before anything large is allocated."""
    setup_logging()
    keep_freed_memory()
    torch.set_float32_matmul_precision("high")  # TensorFloat-32 on GPUs, where precision is 32


def is_first_process() -> bool:
    """Whether this is the process that writes, told before torch.distributed is set up."""
    for names in (("RANK",), ("LOCAL_RANK", "NODE_RANK", "GROUP_RANK"), ("SLURM_PROCID",)):
        ranks = [int(os.environ[name]) for name in names if name in os.environ]
        if ranks:
            return not any(ranks)
    return True


def resolve_trainer(options: Config) -> Config:
    """`accelerator` and `precision` as what is there, limits only where they are set.

    Raises:
        ConfigError: a GPU is asked for where there is none; the precision is unknown.
    """
    options = dict(options)
    accelerator = resolve_accelerator(str(options["accelerator"]))
    check_counts(options)
    epochs, steps = options["max_epochs"], options["max_steps"]
    if (epochs is None and steps <= 0) or (epochs is not None and epochs < 1):
        raise ConfigError(
            f"trainer.max_epochs={epochs} must be at least 1, or null with trainer.max_steps set"
        )
    options["accelerator"] = accelerator
    if options["precision"] == "auto":
        options["precision"] = best_precision(accelerator)
    if accelerator == "cpu" and options["devices"] == "auto" and options["strategy"] != "auto":
        options["devices"] = os.cpu_count() or 1
    check_clipping(options)
    return options


def build_data(cfg: Config) -> ClassificationData:
    """The data set, read and split for training.

    Raises:
        ConfigError: it is not there, or does not fit the options.
    """
    data: ClassificationData = build({**cfg["data"], "augment": cfg["augment"]})
    data.prepare_data()
    data.setup("fit")
    return data


def build_net(cfg: Config) -> nn.Module:
    """The net that the config names, with fresh weights.

    Raises:
        ConfigError: options that do not fit each other, or more tokens than memory holds.
    """
    net = build(cfg["model"])
    check_tokens(net)
    return net


def build_learner(
    cfg: Config, net: nn.Module, data: ClassificationData, trainer_options: Config
) -> Learner:
    """The method that trains `net`, with loss, optimizer and a schedule as long as the run.

    Raises:
        ConfigError: options that do not fit each other or the data.
    """
    steps_per_epoch, total_steps = count_steps(data, trainer_options)
    options: Config = {
        "net": net,
        "num_classes": data.num_classes,
        "loss": build_loss(cfg["loss"], data),
        "optimizer": build_optimizer(cfg, trainer_options),
        "scheduler": build(cfg["scheduler"]),
        "total_steps": total_steps,
        "steps_per_epoch": steps_per_epoch,
        "average": build_optional(cfg["average"]),
        "agc": agc_share(trainer_options),
    }
    if cfg["method"].get("teacher"):
        options["teacher"] = load_teacher(
            cfg["method"]["teacher"], data.classes, data.mean, data.std
        )
    learner: Learner = build(cfg["method"], **options)
    learner.check_data(data.count("val"))
    return learner


def try_optimizer(learner: Learner) -> Optimizer:
    """The optimizer that training will make, so that errors come before the run begins.

    Raises:
        ConfigError: options of the optimizer or the schedule that cannot be.
    """
    with naming_optimizer(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a scheduler that is never stepped
        made = learner.configure_optimizers()
    return made["optimizer"]


def build_optional(node: Config) -> Any:
    """What the node names, or None where its `_target_` is null."""
    return build(node) if node.get("_target_") else None


def build_loss(node: Config, data: ClassificationData) -> nn.Module:
    """The loss, with class weights where the data have them."""
    weights = data.loss_weights()
    return build(node) if weights is None else build(node, weight=weights)


def build_optimizer(cfg: Config, trainer_options: Config) -> Any:
    """The function net → optimizer, its learning rate scaled to the size of the batches."""
    node = cfg["optimizer"]
    batch_size = effective_batch_size(cfg["data"]["batch_size"], trainer_options)
    lr = scaled_lr(node["lr"], cfg["lr_scaling"], batch_size, cfg["lr_batch_size"])
    return build({**node, "lr": lr})


def effective_batch_size(batch_size: int, trainer_options: Config) -> int:
    """Images that an optimizer step sees, over all processes."""
    return batch_size * world_size(trainer_options) * trainer_options["accumulate_grad_batches"]


def agc_share(trainer_options: Config) -> float | None:
    """The clipping share, where the gradients are clipped by `agc`."""
    agc = trainer_options["gradient_clip_algorithm"] == "agc"
    return trainer_options["gradient_clip_val"] if agc else None


def build_trainer(options: Config, **more: Any) -> L.Trainer:
    if options["gradient_clip_algorithm"] == "agc":  # the learner's own
        options = {**options, "gradient_clip_algorithm": None, "gradient_clip_val": None}
    return build(options, **more)


def count_steps(data: ClassificationData, trainer_options: Config) -> tuple[int, int]:
    """Optimizer steps of an epoch, and of the run."""
    per_epoch = optimizer_steps_per_epoch(data, trainer_options)
    epochs, steps = trainer_options["max_epochs"], trainer_options["max_steps"]
    limits = [steps] if steps > 0 else []
    if epochs is not None:
        limits.append(per_epoch * epochs)
    return per_epoch, min(limits)


def optimizer_steps_per_epoch(data: ClassificationData, trainer_options: Config) -> int:
    batches = data.steps_per_epoch(world_size(trainer_options))
    limit = trainer_options["limit_train_batches"]
    if isinstance(limit, float):
        batches = max(int(batches * limit), 1)
    elif limit is not None:
        batches = min(batches, limit)
    return math.ceil(batches / trainer_options["accumulate_grad_batches"])


def build_each(nodes: Config) -> dict[str, Any]:
    """The entries of a group of named objects; those set to null are left out."""
    return {name: build(node) for name, node in nodes.items() if node is not None}


def make_passport(cfg: Config, data: ClassificationData) -> Passport:
    return Passport(
        config=cfg,
        classes=list(data.classes),
        channels=data.channels,
        img_size=list(data.img_size),
        crop_share=data.crop_share,
        mean=list(data.mean),
        std=list(data.std),
        versions=versions(),
    )
