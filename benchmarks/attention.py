"""Which attention kernel is faster where: PyTorch's fused one, or softmax(q kᵀ) v written out.

    python benchmarks/attention.py

Times both, forward alone and with the backward pass, over shapes of small and large images, in
float32 and bfloat16, on the CPU or the GPU. `vitfw/models/attention.py` chooses by the result,
which is printed and stored as JSON.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from record import store
from rich.table import Table
from torch import Tensor

from vitfw.console import console
from vitfw.memory import keep_freed_memory

SHAPES = [
    (64, 4, 17, 32),
    (128, 4, 49, 32),
    (128, 3, 65, 64),
    (8, 12, 197, 64),
    (2, 12, 577, 64),
    (2, 6, 1024, 64),
]
TURNS = 7


def written_out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # [B, H, N, N]
    return scores.softmax(dim=-1) @ v


KERNELS = {"fused": F.scaled_dot_product_attention, "written out": written_out}


def milliseconds(kernel: Callable, qkv: list[Tensor], backward: bool) -> float:
    """Median time of one call."""

    def call() -> None:
        with torch.set_grad_enabled(backward):
            out = kernel(*qkv)
        if backward:
            out.sum().backward()
        if out.device.type == "cuda":
            torch.cuda.synchronize()

    call()
    times = []
    for _ in range(TURNS):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e3


def main() -> int:
    keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    table = Table("B, H, N, D", "format", "pass", "fused, ms", "written out, ms", "fused / written")
    rows = []
    for shape in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            for backward in (False, True):
                qkv = [
                    torch.randn(shape, device=device, dtype=dtype, requires_grad=backward)
                    for _ in range(3)
                ]
                times = {name: milliseconds(f, qkv, backward) for name, f in KERNELS.items()}
                ratio = times["fused"] / times["written out"]
                kind = str(dtype).removeprefix("torch.")
                passes = "forward + backward" if backward else "forward"
                rows.append({"shape": shape, "dtype": kind, "pass": passes, "milliseconds": times})
                cells = [f"{value:.2f}" for value in (*times.values(), ratio)]
                table.add_row(", ".join(map(str, shape)), kind, passes, *cells)
    console.print(table)
    what = "milliseconds of one attention call, median of seven; B, H, N, D"
    store("attention", {"what": what, "rows": rows}, device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
