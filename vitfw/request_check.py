"""What was asked for and does not fit together, said before any data are read."""

import os
from typing import Any

import torch

from vitfw.building import build
from vitfw.errors import ConfigError
from vitfw.inference import check_probed_pooling
from vitfw.progressive_check import check_progressive
from vitfw.target import comes_from, target_of
from vitfw.teacher import check_teacher
from vitfw.training import classifier, distillation, linear_probe, masked_autoencoder, optimizers
from vitfw.training.adaptation import check_lora
from vitfw.training.head_grid import check_apart, zero_linear

Config = dict[str, Any]
CLIPPING = ("norm", "value", "agc")
SAM, SCHEDULE_FREE = target_of(optimizers.sam), target_of(optimizers.schedule_free)


def check_request(cfg: Config, trainer_options: Config) -> None:
    """What does not fit each other, said before any data are read.

    Raises:
        ConfigError: names what to type instead.
    """
    for method in (distillation, linear_probe, masked_autoencoder):
        if comes_from(cfg["method"], method):
            method.check_config(cfg)
    check_lora(cfg)
    if comes_from(cfg["method"], linear_probe):
        check_probing_optimizer(cfg["optimizer"])
        if cfg["init_from"]:
            check_probed_pooling(cfg["init_from"], cfg["model"])
    if cfg["method"].get("teacher"):
        check_teacher(cfg["method"]["teacher"])
    check_progressive(cfg)
    check_optimizer(cfg, trainer_options)


def check_optimizer(cfg: Config, trainer_options: Config) -> None:
    """Raises ConfigError for what an unusual optimizer cannot do."""
    target = cfg["optimizer"]["_target_"]
    if target == SAM and trainer_options["accumulate_grad_batches"] != 1:
        raise ConfigError(
            "optimizer=sam looks at a batch twice, which cannot be gathered over "
            "trainer.accumulate_grad_batches; set that to 1"
        )
    if target == SAM and trainer_options["precision"] == "16-mixed":
        raise ConfigError(
            "optimizer=sam does not work with the scaled gradients of 16-mixed; give "
            "trainer.precision=bf16-mixed or 32-true"
        )
    if target == SAM and trainer_options["gradient_clip_algorithm"] != "norm":
        raise ConfigError(
            "optimizer=sam climbs along the gradient, which clipping by value or agc would bend; "
            "give trainer.gradient_clip_algorithm=norm"
        )
    if target == SCHEDULE_FREE:
        optimizers.import_schedulefree()
        if cfg["average"].get("_target_"):
            raise ConfigError("optimizer=schedule_free averages the weights itself; average=none")
        if not cfg["callbacks"].get("schedule_free"):
            raise ConfigError(
                "optimizer=schedule_free needs its callback: leave callbacks.schedule_free=null out"
            )


def check_probing_optimizer(node: Config) -> None:
    """Raises ConfigError for an optimizer that would couple the heads of a linear probe."""
    with optimizers.naming_optimizer():
        check_apart(build(node)(zero_linear(1, 1)))


def check_clipping(options: Config) -> None:
    """Raises ConfigError for a way to clip that is none, or one without its value."""
    algorithm, value = options["gradient_clip_algorithm"], options["gradient_clip_val"]
    if algorithm not in CLIPPING:
        raise ConfigError(
            f"trainer.gradient_clip_algorithm={algorithm} is not one of: {', '.join(CLIPPING)}"
        )
    if value is not None and not value > 0:
        raise ConfigError(f"trainer.gradient_clip_val={value} must be more than 0, or null")
    if value is None and algorithm != "norm":
        raise ConfigError(
            f"trainer.gradient_clip_algorithm={algorithm} needs trainer.gradient_clip_val=…, "
            "such as 0.01 for agc, 1.0 for the others"
        )


def check_automatic(cfg: Config, trainer_options: Config) -> None:
    """Raises ConfigError for a run whose batch size cannot be found by trying."""
    instead = "type a smaller data.batch_size where memory runs out, and auto_batch_size=false"
    if not comes_from(cfg["method"], classifier, distillation):
        method = cfg["method"]["_target_"]
        raise ConfigError(
            "auto_batch_size=true tries a step of supervised training, and "
            f"{method.rpartition('.')[2]} trains otherwise; {instead}"
        )
    if cfg["optimizer"]["_target_"] == SAM:
        raise ConfigError(
            "auto_batch_size=true gathers a step from several batches, and optimizer=sam looks at "
            f"each batch twice, which cannot be gathered; {instead}"
        )
    if not is_alone(trainer_options):
        raise ConfigError(
            "auto_batch_size=true is for one process, since several would each find a number of "
            f"their own; {instead}, or trainer.devices=1"
        )


def is_alone(trainer_options: Config) -> bool:
    """Whether one process trains, as far as the options and a launcher's variables tell."""
    return world_size(trainer_options) == 1 and os.environ.get("WORLD_SIZE", "1") == "1"


def check_counts(options: Config) -> None:
    """Raises ConfigError for a count below 1, or a limit that is no number."""
    for key in ("devices", "num_nodes", "accumulate_grad_batches", "log_every_n_steps"):
        all_there = key == "devices" and options[key] == -1
        if isinstance(options[key], int) and options[key] < 1 and not all_there:
            raise ConfigError(f"trainer.{key}={options[key]} must be at least 1")
    for key in ("limit_train_batches", "limit_val_batches", "limit_test_batches"):
        limit = options[key]
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int | float)):
            raise ConfigError(f"trainer.{key}={limit} is a number of batches, or a share: 100, 0.1")


def world_size(trainer_options: Config) -> int:
    """Processes that will train."""
    devices = trainer_options["devices"]
    if devices in ("auto", -1, "-1"):
        cuda = trainer_options["accelerator"] == "cuda"
        devices = torch.cuda.device_count() if cuda else 1
    if isinstance(devices, str) and "," in devices:  # numbers of devices: "0,1"
        devices = [number for number in devices.split(",") if number.strip()]
    count = len(devices) if isinstance(devices, list) else int(devices)
    return count * trainer_options["num_nodes"]
