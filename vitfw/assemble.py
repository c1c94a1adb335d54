"""From a plain config to the objects of a run."""

import math
import os
import warnings
from typing import Any

import torch
from torch import nn

from vitfw.checkpoint import Passport
from vitfw.config import build
from vitfw.console import setup_logging
from vitfw.data.classification_data import ClassificationData
from vitfw.environment import versions
from vitfw.errors import ConfigError
from vitfw.memory import keep_freed_memory
from vitfw.token_limit import check_tokens
from vitfw.training.classifier import Classifier
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
    return options


def check_counts(options: Config) -> None:
    """Raises ConfigError for a count below 1, or a limit that is no number."""
    for key in ("devices", "num_nodes", "accumulate_grad_batches", "log_every_n_steps"):
        if isinstance(options[key], int) and options[key] < 1 and options[key] != -1:
            raise ConfigError(f"trainer.{key}={options[key]} must be at least 1")
    for key in ("limit_train_batches", "limit_val_batches", "limit_test_batches"):
        limit = options[key]
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int | float)):
            raise ConfigError(f"trainer.{key}={limit} is a number of batches, or a share: 100, 0.1")


def build_data(cfg: Config) -> ClassificationData:
    """The data set, read and split for training.

    Raises:
        ConfigError: it is not there, or does not fit the options.
    """
    data: ClassificationData = build({**cfg["data"], "augment": cfg["augment"]})
    data.prepare_data()
    data.setup("fit")
    return data


def build_classifier(cfg: Config, data: ClassificationData, trainer_options: Config) -> Classifier:
    """Net, loss, optimizer and schedule; the schedule's length follows from the data.

    Raises:
        ConfigError: options that do not fit each other or the data.
    """
    steps_per_epoch = optimizer_steps_per_epoch(data, trainer_options)
    epochs, steps = trainer_options["max_epochs"], trainer_options["max_steps"]
    limits = [steps] if steps > 0 else []
    if epochs is not None:
        limits.append(steps_per_epoch * epochs)
    net = build(cfg["model"])
    check_tokens(net)
    classifier = Classifier(
        net=net,
        num_classes=data.num_classes,
        loss=build_loss(cfg["loss"], data),
        optimizer=build(cfg["optimizer"]),
        scheduler=build(cfg["scheduler"]),
        total_steps=min(limits),
        steps_per_epoch=steps_per_epoch,
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a scheduler that is never stepped
            classifier.configure_optimizers()  # a trial: errors belong before the run begins
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError(f"optimizer or scheduler: {error}") from error
    return classifier


def build_loss(node: Config, data: ClassificationData) -> nn.Module:
    """The loss, with class weights where the data have them."""
    weights = data.loss_weights()
    return build(node) if weights is None else build(node, weight=weights)


def optimizer_steps_per_epoch(data: ClassificationData, trainer_options: Config) -> int:
    devices = trainer_options["devices"]
    if devices in ("auto", -1, "-1"):
        cuda = trainer_options["accelerator"] == "cuda"
        devices = torch.cuda.device_count() if cuda else 1
    count = len(devices) if isinstance(devices, list) else int(devices)
    batches = data.steps_per_epoch(count * trainer_options["num_nodes"])
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
