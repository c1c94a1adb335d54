"""Which way to cut patches is faster where: a strided convolution, or a linear layer on patches.

Times the three that compute the same (`embed_layer` conv, conv_rearrange, linear), with the sum
that follows them and with the backward pass, in float32 and bfloat16.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

from vitfw.benchmarks.turns import check_shapes, milliseconds
from vitfw.models.construction import EMBED_LAYERS

RESULT = "patch_embed"
LEGEND = "B, C, image side, patch, D"
WAYS = ("conv", "conv_rearrange", "linear")


def call(layer: nn.Module, x: Tensor, positions: Tensor, backward: bool) -> None:
    """One embedding with the position table added, as the model does next."""
    half = x.dtype == torch.bfloat16
    with torch.set_grad_enabled(backward), torch.autocast(x.device.type, x.dtype, enabled=half):
        out = layer(x) + positions
    if backward:
        out.sum().backward()


def measure(device: torch.device, turns: int, shapes: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Milliseconds of the three for each shape [B, C, image side, patch, D], format and pass."""
    check_shapes("patch_embed.shapes", shapes, LEGEND)
    rows = []
    for batch, chans, side, patch, dim in shapes:
        for dtype in (torch.float32, torch.bfloat16):
            layers = {n: EMBED_LAYERS[n](side, patch, chans, dim).to(device) for n in WAYS}
            x = torch.randn(batch, chans, side, side, device=device, dtype=dtype)
            positions = torch.randn(1, (side // patch) ** 2, dim, device=device, dtype=dtype)
            for backward in (False, True):
                calls = {n: partial(call, f, x, positions, backward) for n, f in layers.items()}
                row = {
                    "shape": [batch, chans, side, patch, dim],
                    "dtype": str(dtype).removeprefix("torch."),
                    "pass": "forward + backward" if backward else "forward",
                    "milliseconds": milliseconds(calls, turns, device),
                }
                rows.append(row)
    what = f"milliseconds of one patch embedding, median of {turns}; {LEGEND}"
    return {"what": what, "rows": rows}


def table(figures: dict[str, Any]) -> Table:
    heads = [f"{way}, ms" for way in WAYS]
    table = Table("B, C, S, P, D", "format", "pass", *heads, "linear / conv")
    for row in figures["rows"]:
        times = row["milliseconds"]
        cells = [f"{value:.2f}" for value in (*times.values(), times["linear"] / times["conv"])]
        table.add_row(", ".join(map(str, row["shape"])), row["dtype"], row["pass"], *cells)
    return table
