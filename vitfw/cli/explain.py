"""`vitfw explain`: one batch through a model, step by step."""

import re
from collections.abc import Sequence
from typing import Any

import torch
from omegaconf import DictConfig
from rich import box
from rich.table import Table

from vitfw.cli.app import run
from vitfw.config import build, to_plain
from vitfw.console import console
from vitfw.errors import ConfigError
from vitfw.models.profile import Stage, walk
from vitfw.models.vit import VisionTransformer


def main(argv: Sequence[str] | None = None) -> int:
    words = list(argv or [])
    if not any(word.startswith("data") for word in words):
        words.append("data.num_classes=1000")  # as most published ViTs have
    return run("explain", explain, words)


def explain(config: DictConfig, overrides: list[str]) -> None:
    """Build the model without memory for its weights, walk through it, print the table."""
    cfg: dict[str, Any] = to_plain(config)
    with torch.device("meta"):
        net = build(cfg["model"])
    if not isinstance(net, VisionTransformer):
        raise ConfigError(f"{cfg['model']['_target_']} is no VisionTransformer: no walk is known")
    console.print(render(walk(net, cfg["batch_size"])))


def render(stages: list[Stage], batch_symbol: str = "B") -> Table:
    """One row a stage, a heading a module, totals below; made for 80 columns.

    `batch_symbol` stands for the batch where the walk left its size open.
    """
    parameters = sum(stage.parameters for stage in stages)
    flops = sum(stage.flops for stage in stages)
    table = Table(
        box=box.HORIZONTALS,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_footer=True,
        caption="FLOPs of one image: matrix products and convolutions, multiply and add as two.",
        caption_justify="left",
    )
    table.add_column("step", "total", style="bold", max_width=13)
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
    found = re.match(r"blocks\.\d+( … .+)?|\w+", name)
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
