"""The largest batch whose training step fits into memory, found by trying.

`auto_batch_size=true` halves `data.batch_size` and accumulates over more batches instead, so that
an optimizer step sees as many images as before.
"""

import copy
import gc
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from vitfw.building import build
from vitfw.console import log
from vitfw.errors import ConfigError
from vitfw.interop.source import is_our_model
from vitfw.models.patch_embed import as_pair
from vitfw.request_check import check_automatic
from vitfw.training.adaptation import adapt
from vitfw.training.optimizers import naming_optimizer
from vitfw.training.precision import AUTOCAST

Config = dict[str, Any]

TRIAL_STEPS = 2  # the optimizer's state is there from the second step on
TRUE_TYPES = {"bf16-true": torch.bfloat16, "16-true": torch.float16, "64-true": torch.float64}
EXHAUSTED = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")


def fit_to_memory(
    cfg: Config, trainer_options: Config, saved: Config | None = None
) -> tuple[Config, Config]:
    """The config and the trainer's options with a batch that fits, and as much accumulation.

    A run that goes on takes the numbers of `saved`, the config in its checkpoint, without a trial:
    its place in the epoch is counted in those batches.

    Raises:
        ConfigError: not even one image fits; as `check_automatic`.
    """
    check_automatic(cfg, trainer_options)
    size, accumulate = cfg["data"]["batch_size"], trainer_options["accumulate_grad_batches"]
    found = saved_batch_size(saved, size * accumulate) if saved else None
    if found is None:
        found = find_batch_size(size, accumulate, trial_of(cfg, trainer_options))
        if found is None:
            raise ConfigError(
                "auto_batch_size=true: a training step of 1 image does not fit into memory; "
                f"{what_to_lower(cfg['model'])}"
            )
        if found != (size, accumulate):
            log.info(
                f"a batch of {size} images does not fit into memory, {found[0]} do: "
                f"data.batch_size={found[0]} trainer.accumulate_grad_batches={found[1]}"
            )
    data = {**cfg["data"], "batch_size": found[0]}
    accumulation = {"accumulate_grad_batches": found[1]}
    trainer = {**cfg["trainer"], **accumulation}
    return {**cfg, "data": data, "trainer": trainer}, {**trainer_options, **accumulation}


def what_to_lower(model: Config) -> str:
    """What makes a step smaller, in the keys that this model has."""
    if not is_our_model(model):
        return "lower model.img_size, or take a smaller model"
    lower = "lower model.img_size, model.depth or model.embed_dim"
    checkpointed = model.get("grad_checkpointing")
    return lower if checkpointed else f"{lower}, or set model.grad_checkpointing=true"


def saved_batch_size(saved: Config, images: int) -> tuple[int, int] | None:
    """Batch size and accumulation of an earlier config, if a step saw as many images there."""
    size, accumulate = saved["data"]["batch_size"], saved["trainer"]["accumulate_grad_batches"]
    return (size, accumulate) if size * accumulate == images else None


def find_batch_size(
    batch_size: int, accumulate: int, try_batch: Callable[[int], None]
) -> tuple[int, int] | None:
    """The first of `batch_size`, its half, … that can be tried, and the accumulation it needs.

    Their product stays: where a half does not divide it, the next smaller size that does is tried.
    None where not even one image fits. Errors other than of memory are passed on.
    """
    images, size = batch_size * accumulate, batch_size
    while size >= 1:
        if fits(try_batch, size):
            return size, images // size
        size = next((s for s in range(size // 2, 0, -1) if images % s == 0), 0)
    return None


def fits(try_batch: Callable[[int], None], size: int) -> bool:
    try:
        try_batch(size)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    else:
        return True
    gc.collect()  # what the failed step held is garbage only now
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return False


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether this is how PyTorch says it, on any device."""
    return isinstance(error, torch.OutOfMemoryError) or any(
        text in str(error) for text in EXHAUSTED
    )


def trial_of(cfg: Config, trainer_options: Config) -> Callable[[int], None]:
    """The trial of a supervised step with the net, loss and optimizer that the config names."""
    net: nn.Module = build(cfg["model"])
    adapt(net, cfg["freeze"], cfg["train_only"], cfg["lora"])
    return memory_trial(
        net,
        build(cfg["loss"]),
        (cfg["data"]["channels"], *as_pair(cfg["data"]["img_size"])),
        cfg["data"]["num_classes"],
        build(cfg["optimizer"]),
        device_of(trainer_options),
        str(trainer_options["precision"]),
    )


def device_of(trainer_options: Config) -> torch.device:
    """Where this process will train."""
    accelerator, devices = trainer_options["accelerator"], trainer_options["devices"]
    if accelerator != "cuda":
        return torch.device(accelerator)
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    return torch.device("cuda", devices[local_rank] if isinstance(devices, list) else local_rank)


def memory_trial(
    net: nn.Module,
    loss: nn.Module,
    shape: Sequence[int],
    num_classes: int,
    optimizer: Callable[[nn.Module], Optimizer],
    device: torch.device,
    precision: str,
) -> Callable[[int], None]:
    """A function of the batch size that trains two steps on noise of `shape` [C, H, W].

    A copy of `net` is trained: the net itself, and the state of random numbers, stay as they are.
    `precision` is Lightning's name of the number format.
    """

    dtype, autocast = TRUE_TYPES.get(precision), AUTOCAST.get(precision)

    def try_batch(batch_size: int) -> None:
        with torch.random.fork_rng():
            trained: Any = copy.deepcopy(net).to(device, dtype).train()
            if sizes := getattr(trained, "flexi_patch_sizes", ()):
                trained.drawn_patch_size = min(sizes)  # the most tokens
            criterion = copy.deepcopy(loss).to(device)
            with naming_optimizer():
                stepper = optimizer(trained)
            set_to_train = getattr(stepper, "train", None)  # of schedule-free optimizers
            if callable(set_to_train):
                set_to_train()
            images = torch.randn(batch_size, *shape, device=device, dtype=dtype)
            labels = torch.randint(num_classes, (batch_size,), device=device)

            def closure() -> float:
                stepper.zero_grad()
                with torch.autocast(device.type, autocast) if autocast else nullcontext():
                    value = criterion(trained(images).float(), labels)
                value.backward()
                return value.item()

            for _ in range(TRIAL_STEPS):
                stepper.step(closure)

    return try_batch
