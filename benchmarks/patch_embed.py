"""Which way to cut patches is faster where: a strided convolution, or a linear layer on patches.

    python benchmarks/patch_embed.py

Times the three that compute the same (`embed_layer` conv, conv_rearrange, linear), with the sum
that follows them and with the backward pass, in float32 and bfloat16, on the CPU or the GPU. They
take turns, so that a busy machine slows all alike. The result is printed and stored as JSON.
"""

import statistics
import sys
import time

import torch
from record import store
from rich.table import Table
from torch import Tensor, nn

from vitfw.console import console
from vitfw.memory import keep_freed_memory
from vitfw.models.construction import EMBED_LAYERS

WAYS = ("conv", "conv_rearrange", "linear")
SHAPES = [(128, 1, 28, 4, 192), (128, 3, 32, 4, 384), (16, 3, 224, 16, 384), (16, 3, 224, 14, 768)]
TURNS = 9


def milliseconds(layer: nn.Module, x: Tensor, positions: Tensor, backward: bool) -> float:
    """One call with the position table added, as the model does next."""
    began = time.perf_counter()
    with torch.set_grad_enabled(backward), torch.autocast(x.device.type, x.dtype):
        out = layer(x) + positions
    if backward:
        out.sum().backward()
    if x.device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) * 1e3


def main() -> int:
    keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    heads = [f"{way}, ms" for way in WAYS]
    table = Table("B, C, S, P, D", "format", "pass", *heads, "linear / conv")
    rows = []
    for shape in SHAPES:
        batch, chans, side, patch, dim = shape
        for dtype in (torch.float32, torch.bfloat16):
            layers = {n: EMBED_LAYERS[n](side, patch, chans, dim).to(device) for n in WAYS}
            x = torch.randn(batch, chans, side, side, device=device, dtype=dtype)
            positions = torch.randn(1, (side // patch) ** 2, dim, device=device, dtype=dtype)
            for backward in (False, True):
                times: dict[str, list[float]] = {name: [] for name in WAYS}
                for _ in range(TURNS):
                    for name, layer in layers.items():
                        times[name].append(milliseconds(layer, x, positions, backward))
                medians = {name: statistics.median(turns[1:]) for name, turns in times.items()}
                kind = str(dtype).removeprefix("torch.")
                passes = "forward + backward" if backward else "forward"
                rows.append(
                    {"shape": shape, "dtype": kind, "pass": passes, "milliseconds": medians}
                )
                ratio = medians["linear"] / medians["conv"]
                cells = [f"{value:.2f}" for value in (*medians.values(), ratio)]
                table.add_row(", ".join(map(str, shape)), kind, passes, *cells)
    console.print(table)
    what = "milliseconds of one patch embedding, median of eight; B, C, image side, patch, D"
    store("patch_embed", {"what": what, "rows": rows}, device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
