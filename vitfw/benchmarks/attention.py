"""Which attention kernel is faster where: PyTorch's fused one, or softmax(q kᵀ) v written out.

Times both, forward alone and with the backward pass, over shapes of small and large images, in
float32 and bfloat16. `vitfw/models/attention.py` chooses by the result.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from rich.table import Table
from torch import Tensor

from vitfw.benchmarks.turns import check_shapes, milliseconds

RESULT = "attention"
LEGEND = "B, H, N, D"


def written_out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # [B, H, N, N]
    return scores.softmax(dim=-1) @ v


KERNELS = {"fused": F.scaled_dot_product_attention, "written out": written_out}


def call(kernel: Callable, qkv: list[Tensor], backward: bool) -> None:
    with torch.set_grad_enabled(backward):
        out = kernel(*qkv)
    if backward:
        out.sum().backward()


def measure(device: torch.device, turns: int, shapes: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Milliseconds of both kernels for each shape [B, H, N, D], format and pass."""
    check_shapes("attention.shapes", shapes, LEGEND)
    rows = []
    for shape in shapes:
        for dtype in (torch.float32, torch.bfloat16):
            for backward in (False, True):
                qkv = [
                    torch.randn(*shape, device=device, dtype=dtype, requires_grad=backward)
                    for _ in range(3)
                ]
                calls = {name: partial(call, f, qkv, backward) for name, f in KERNELS.items()}
                row = {
                    "shape": list(shape),
                    "dtype": str(dtype).removeprefix("torch."),
                    "pass": "forward + backward" if backward else "forward",
                    "milliseconds": milliseconds(calls, turns, device),
                }
                rows.append(row)
    what = f"milliseconds of one attention call, median of {turns}; {LEGEND}"
    return {"what": what, "rows": rows}


def table(figures: dict[str, Any]) -> Table:
    table = Table("B, H, N, D", "format", "pass", "fused, ms", "written out, ms", "fused / written")
    for row in figures["rows"]:
        times = row["milliseconds"]
        ratio = times["fused"] / times["written out"]
        cells = [f"{value:.2f}" for value in (*times.values(), ratio)]
        table.add_row(", ".join(map(str, row["shape"])), row["dtype"], row["pass"], *cells)
    return table
