"""Carry learned weights to another grid, patch size or number of channels.

C channels (embed_dim), D filters of the first convolution, G grid side, P patch side.
"""

from contextlib import nullcontext
from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.amp.autocast_mode import is_autocast_available

INTERPOLATIONS = ("bicubic", "bilinear")
INVERSES: dict[tuple, Tensor] = {}  # a dict, since torch.compile looks past functools.lru_cache


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """Half precisions are computed in float32; float32 and float64 in themselves."""
    return torch.promote_types(dtype, torch.float32)


def guess_grid(tokens: int) -> tuple[int, int]:
    """The square grid that `tokens` patches fill.

    Raises:
        ValueError: no square holds that many.
    """
    side = isqrt(max(tokens, 0))
    if side < 1 or side * side != tokens:
        raise ValueError(
            f"{tokens} patch tokens do not fill a square grid (nearest: {side**2}, "
            f"{(side + 1) ** 2}); give the grid as (rows, columns)"
        )
    return side, side


def resize_images(images: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    """[B, C, H, W] → [B, C, *size], antialiased.

    PyTorch 2.14 on a CPU gives every row the value of the first when the new width is 1, so such
    images are turned on their side.
    """
    if size[1] == 1:
        on_side = images.mT.contiguous()
        return F.interpolate(on_side, size[::-1], mode=interpolation, antialias=True).mT
    return F.interpolate(images, size, mode=interpolation, antialias=True)


def resample_pos_embed(
    table: Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int], num_prefix: int = 0
) -> Tensor:
    """Stretch position embeddings over another grid: bicubic, antialiased when it shrinks.

    [1, num_prefix + G · G, C] → [1, num_prefix + G' · G', C], row-major. The prefix rows (class
    and register tokens) stay as they are, and so does the whole table where the grids are equal.

    Raises:
        ValueError: the length of `table` is not `num_prefix` and `old_grid` together.

    Source: Dosovitskiy et al. 2021, §3.2, whose interpolation was bilinear; bicubic with
    antialiasing is what timm and DINOv2 do.
    """
    height, width = old_grid
    if table.ndim != 3 or table.shape[0] != 1 or table.shape[1] != num_prefix + height * width:
        raise ValueError(
            f"pos_embed {list(table.shape)} does not fit a grid of {height} x {width} with "
            f"{num_prefix} prefix tokens, which needs [1, {num_prefix + height * width}, C]"
        )
    if tuple(old_grid) == tuple(new_grid):
        return table
    prefix, patches = table[:, :num_prefix], table[:, num_prefix:]
    image = patches.unflatten(1, (height, width)).permute(0, 3, 1, 2)  # [1, C, G, G]
    image = image.to(working_dtype(table.dtype))
    image = resize_images(image, (new_grid[0], new_grid[1]), "bicubic")  # [1, C, G', G']
    patches = image.flatten(2).transpose(1, 2).to(table.dtype)  # [1, G' · G', C]
    return torch.cat([prefix, patches], dim=1)


def inverse_of_resize(
    old: tuple[int, int],
    new: tuple[int, int],
    interpolation: str,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """B⁺, the pseudo-inverse of the matrix B that resizes a flattened image: [P · P, P' · P'].

    Computed on the CPU in float64 and kept for each device and dtype.
    """
    key = (old, new, interpolation, device, dtype)
    if key in INVERSES:
        return INVERSES[key]
    with torch.inference_mode(False), torch.no_grad():
        pixels = torch.eye(old[0] * old[1], dtype=torch.float64, device="cpu")
        pixels = pixels.unflatten(1, (1, *old))  # [P · P, 1, P, P], an image for each pixel
        resized = resize_images(pixels, new, interpolation)  # [P · P, 1, P', P']
        matrix = resized.flatten(1).T  # B [P' · P', P · P]
        inverse = torch.linalg.pinv(matrix).to(dtype).to(device)
    if type(inverse) is Tensor:  # a tracer's stand-in is of no use later
        INVERSES[key] = inverse
    return inverse


def resize_patch_kernel(
    weight: Tensor, size: tuple[int, int], interpolation: str = "bicubic"
) -> Tensor:
    """Resize the filters of a patch embedding so that resized patches give the same tokens.

    [D, C, P, P] → [D, C, P', P']. With B the matrix that resizes a patch x, the new filter is the
    w' that comes nearest to ⟨x, w⟩ = ⟨B x, w'⟩ over patches x of white noise: w' = (Bᵀ)⁺ w. Where
    patches grow the two are equal for every x. Differentiable in `weight`.

    Raises:
        ValueError: `interpolation` is neither bicubic nor bilinear.

    Source: Beyer et al. 2023, "FlexiViT", §3.4, with bilinear; bicubic is timm's.
    """
    if interpolation not in INTERPOLATIONS:
        raise ValueError(
            f"unknown interpolation {interpolation!r}; there are: {', '.join(INTERPOLATIONS)}"
        )
    old, new = (weight.shape[-2], weight.shape[-1]), (int(size[0]), int(size[1]))
    if old == new:
        return weight
    dtype = working_dtype(weight.dtype)
    inverse = inverse_of_resize(old, new, interpolation, weight.device, dtype)
    kind = weight.device.type
    full = torch.autocast(kind, enabled=False) if is_autocast_available(kind) else nullcontext()
    with full:
        resized = weight.flatten(2).to(dtype) @ inverse  # [D, C, P · P] → [D, C, P' · P']
    return resized.unflatten(2, new).to(weight.dtype)  # [D, C, P', P']


def adapt_in_chans(weight: Tensor, in_chans: int) -> Tensor:
    """Fit the first convolution to images of another number of channels.

    [D, C, P, P] → [D, in_chans, P, P]. To one channel the C filters are summed, so that a grey
    image answers as its C copies did. To n channels they are repeated in turn, r g b r g …, up to
    n, and multiplied by C / n, which keeps the size of the response; from one channel that is n
    equal copies, each divided by n.

    Raises:
        ValueError: `in_chans` is below 1.
    """
    if in_chans < 1:
        raise ValueError(f"in_chans must be at least 1, not {in_chans}")
    chans = weight.shape[1]
    if in_chans == chans:
        return weight
    wide = weight.to(working_dtype(weight.dtype))
    if in_chans == 1:
        return wide.sum(dim=1, keepdim=True).to(weight.dtype)  # [D, 1, P, P]
    turns = -(-in_chans // chans)
    wide = wide.repeat(1, turns, 1, 1)[:, :in_chans]  # [D, in_chans, P, P]
    return (wide * (chans / in_chans)).to(weight.dtype)
