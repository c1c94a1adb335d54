"""`vitfw explain`: one batch through a model, step by step."""

import re
from collections.abc import Sequence
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich import box
from rich.table import Table
from torch import nn

from vitfw.building import build
from vitfw.cli.app import run
from vitfw.config import to_plain
from vitfw.console import console
from vitfw.errors import ConfigError
from vitfw.models.patch_embed import as_pair
from vitfw.models.profile import Stage, walk_modules
from vitfw.models.vit import VisionTransformer
from vitfw.models.walk import walk

COUNTED = "FLOPs of one image: matrix products and convolutions, multiply and add as two."


def main(argv: Sequence[str] | None = None) -> int:
    words = list(argv or [])
    if not any(word.startswith(("data=", "data.num_classes=")) for word in words):
        words.append("data.num_classes=1000")  # as most published ViTs have
    return run("explain", explain, words)


def explain(config: DictConfig, overrides: list[str]) -> None:
    """Build the model without memory for its weights, walk through it, print the table.

    Raises:
        ConfigError: the model cannot be built, says nothing of the image size, or takes another.
    """
    follows_model = OmegaConf.is_interpolation(config.data, "img_size")
    if follows_model and "img_size" not in config.model:
        raise ConfigError("the model has no img_size; say how large images are: data.img_size=224")
    cfg: dict[str, Any] = to_plain(config)
    net = build_without_weights(cfg["model"])
    img_size = as_pair(cfg["data"]["img_size"])
    try:
        if isinstance(net, VisionTransformer):
            dynamic = net.patch_embed.dynamic_img_size
            stages = walk(net, cfg["batch_size"], img_size if dynamic else None)
        else:
            stages = walk_modules(net, (cfg["data"]["channels"], *img_size), cfg["batch_size"])
    except (ValueError, RuntimeError, AssertionError) as error:
        height, width = img_size
        raise ConfigError(f"the model takes no images of {height}×{width}: {error}") from error
    console.print(render(stages, notes=notes_on(net)))


def build_without_weights(model: dict[str, Any]) -> nn.Module:
    """The net on the meta device; on the CPU where its constructor reads values of tensors.

    Raises:
        ConfigError: what is built is no network; its arguments do not fit.
    """
    if "pretrained" in model:
        model = {**model, "pretrained": False}
    try:
        with torch.device("meta"):
            net = build(model)
    except ConfigError:
        raise
    except Exception:  # Hydra's, around whatever the constructor met
        net = build(model)
    if not isinstance(net, nn.Module):
        raise ConfigError(f"{model['_target_']} is no network")
    return net


def notes_on(net: nn.Module) -> list[str]:
    """What the numbers leave open: options that act in training, or on other images."""
    if not isinstance(net, VisionTransformer):
        return []
    notes = []
    if net.patch_embed.dynamic_img_size:
        notes.append("Images of any size that patches fill (dynamic_img_size): data.img_size=…")
    if net.flexi_patch_sizes:
        sizes = ", ".join(str(size) for size in net.flexi_patch_sizes)
        notes.append(f"In training each batch draws its patch size from {sizes}.")
    if net.patch_drop_rate:
        notes.append(f"In training {net.patch_drop_rate:.0%} of the patches are left out.")
    if net.options["drop_path_rate"]:
        how = "does not compute" if net.options["drop_path_subset"] else "drops"
        rate = net.options["drop_path_rate"]
        notes.append(f"In training a block {how} up to {rate:.0%} of the samples' branches.")
    if net.rope is not None and net.rope.augments:
        notes.append("In training the places that rope turns by are moved at random.")
    if net.grad_checkpointing:
        notes.append("In training each block is computed twice, to save memory.")
    if net.tome_r:
        notes.append("Tokens merge outside of training only (tome_r).")
    return notes


def render(stages: list[Stage], batch_symbol: str = "B", notes: Sequence[str] = ()) -> Table:
    """One row a stage, a heading a module, totals and `notes` below; made for 80 columns.

    `batch_symbol` stands for the batch where the walk left its size open.
    """
    parameters = sum(stage.parameters for stage in stages)
    flops = sum(stage.flops for stage in stages)
    table = Table(
        box=box.HORIZONTALS,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_footer=True,
        caption="\n".join([COUNTED, *notes]),
        caption_justify="left",
    )
    names = [group_and_step(stage.name) for stage in stages]
    words = [len(word) for group, _ in names for word in group.split()]
    width = max(*words, *(len(step) + 2 for _, step in names))
    table.add_column("step", "total", style="bold", max_width=width)
    table.add_column("what happens")
    table.add_column("shape after it", style="cyan", overflow="fold")
    table.add_column("parameters", f"{parameters:,}", justify="right", no_wrap=True)
    table.add_column("FLOPs", scaled(flops), justify="right", no_wrap=True)
    opened = None
    for stage in stages:
        group, step = group_and_step(stage.name)
        if group != opened and step:
            table.add_section()
            table.add_row(group)
        table.add_row(
            f"  {step}" if step or group == opened else group,
            stage.operation,
            shape(stage, batch_symbol),
            f"{stage.parameters:,}" if stage.parameters else "",
            scaled(stage.flops) if stage.flops else "",
        )
        opened = group
    return table


def group_and_step(name: str) -> tuple[str, str]:
    """`blocks.0.attn.qkv` → `blocks.0`, `attn.qkv`; `blocks.1 … blocks.11` stays whole."""
    found = re.match(r"blocks\.\d+(\.(attns|ffns)\.\d+| … .+)?|\w+", name)
    group = found.group() if found else name
    return group, name[len(group) + 1 :]


def shape(stage: Stage, batch_symbol: str) -> str:
    """`3 × [B,12,197,64]`"""
    batch, *sizes = stage.shape_out
    written = ",".join(str(size) for size in [batch_symbol if batch is None else batch, *sizes])
    return f"{stage.tensors_out} × [{written}]" if stage.tensors_out > 1 else f"[{written}]"


def scaled(count: int) -> str:
    """35127656448 → `35.13 G`"""
    for factor, unit in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= factor:
            return f"{count / factor:.2f} {unit}"
    return str(count)
