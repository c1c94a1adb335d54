"""Whether a model takes the smaller images that `augment.progressive` begins a run with."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from vitfw.callbacks.evaluation_mode import evaluation_mode
from vitfw.data.augment.progressive import scaled_to
from vitfw.data.classification_data import ClassificationData
from vitfw.errors import ConfigError
from vitfw.interop.source import is_our_model
from vitfw.models.patch_embed import as_pair, grid_of

Config = Mapping[str, Any]


def check_progressive(cfg: Config) -> None:
    """What the config tells of it, before any data are read.

    Raises:
        ConfigError: sizes that are none, or above that of the images; our model takes one size
            only, or patches do not fill the smaller images.
    """
    sizes, model = (cfg["augment"]["progressive"] or {}).get("sizes"), cfg["model"]
    if not sizes:
        return
    if not isinstance(sizes, list) or not all(isinstance(size, int) for size in sizes):
        raise ConfigError(
            f"augment.progressive.sizes={sizes} is not a list of whole pixels, such as [16,20]"
        )
    full = as_pair(cfg["data"]["img_size"] or cfg["data"]["native_size"])
    if max(sizes) > min(full):
        raise ConfigError(
            f"augment.progressive.sizes={sizes}: the model's images have {min(full)} pixels; "
            "give smaller sizes"
        )
    if not is_our_model(model):
        return
    if not model.get("dynamic_img_size"):
        raise ConfigError(
            f"augment.progressive.sizes={sizes} needs a model that takes images of any size: "
            "model.dynamic_img_size=true"
        )
    filled = [size for size in range(1, min(full) + 1) if patches_fill(size, full, model)]
    for size in sizes:
        if filled and size not in filled:  # where none is, building the model says why
            height, width = scaled_to(size, full)
            near = sorted(sorted(filled, key=lambda other: abs(other - size))[:2])
            raise ConfigError(
                f"augment.progressive.sizes={sizes}: images of {height}×{width} are no whole "
                f"number of patches of {patches_of(model)}; nearest sizes: "
                f"{', '.join(map(str, near))}"
            )


def patches_fill(size: int, full: tuple[int, int], model: Config) -> bool:
    """Whether images of `full`, their shorter side made `size`, are a whole number of patches."""
    stride = model.get("patch_stride")
    try:
        patch = as_pair(model.get("patch_size", 16))
        grid_of(scaled_to(size, full), patch, None if stride is None else as_pair(stride))
    except ValueError:
        return False
    return True


def patches_of(model: Config) -> str:
    """`4`, or `4 every 2 pixels` where they overlap."""
    stride = model.get("patch_stride")
    return f"{model.get('patch_size', 16)}" + (f" every {stride} pixels" if stride else "")


def check_smaller_images(net: nn.Module, model: Config, data: ClassificationData) -> None:
    """Show one blank image of each size to a `net` that is not ours, built from `model`.

    Raises:
        ConfigError: it cannot take one of them.
    """
    if is_our_model(model):
        return
    sizes = data.augment.sizes
    for size in sizes:
        height, width = scaled_to(size, data.img_size)
        try:
            with evaluation_mode(net):
                net(torch.zeros(1, data.channels, height, width))
        except Exception as error:  # it may refuse in any way
            said = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
            raise ConfigError(
                f"augment.progressive.sizes={sizes}: {type(net).__name__} does not take images of "
                f"{height}×{width} ({said}); {remedy(net, model)}"
            ) from error


def remedy(net: nn.Module, model: Config) -> str:
    """The option of timm's that takes any size, where the net has it and it is off."""
    if getattr(net, "dynamic_img_size", None) is False:
        option = "model.dynamic_img_size"
        return f"type {'' if 'dynamic_img_size' in model else '+'}{option}=true"
    return "give sizes that it takes, or leave augment.progressive out"
