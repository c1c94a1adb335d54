"""How fast this machine multiplies matrices, measured."""

import time
from functools import cache

import torch
from torch import Tensor

LARGEST = 8192
SECONDS = 0.025  # that one product may take; all of them then take a tenth of a second
REPEATS = 3


@cache
def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the fastest product of two square matrices in `dtype` on `device`.

    Sides are 256, 512, … up to 8192, as long as one product should take no more than 25 ms; of
    each, one warms up and the best of three counts. A multiplication and an addition are two
    FLOPs. It is what PyTorch reaches with the threads and the settings of this process (TF32 on
    GPUs, where that is on) and whatever else the machine is doing, not what a data sheet says.
    Measured once a process; random states stay as they are.
    """
    side, peak = 256, 0.0
    while True:
        seconds = fastest_product(side, device, dtype)
        peak = max(peak, 2 * side**3 / seconds)
        side *= 2
        if side > LARGEST or 8 * seconds > SECONDS:
            return peak


def fastest_product(side: int, device: torch.device, dtype: torch.dtype) -> float:
    """Seconds of the fastest of a few products of [side, side] matrices."""
    wave = torch.arange(side, device=device).sin().to(dtype)
    a = torch.outer(wave, wave)  # of zeros or ones a GPU would be faster: they take less power
    out = torch.empty_like(a)
    timed_product(a, out)
    return min(timed_product(a, out) for _ in range(REPEATS))


def timed_product(a: Tensor, out: Tensor) -> float:
    finish(a.device)
    began = time.perf_counter()
    torch.mm(a, a, out=out)
    finish(a.device)
    return max(time.perf_counter() - began, 1e-9)


def finish(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
