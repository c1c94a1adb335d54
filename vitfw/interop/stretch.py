"""The two tensors that depend on the image: position table and first layer, for another grid.

N tokens, C channels (embed_dim), D filters, P patch side, G grid side.

Each function gives the tensor in the shape that the net has, and what was done to it; None where
nothing makes it fit.
"""

from collections.abc import Mapping
from contextlib import suppress
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from vitfw.errors import ConfigError
from vitfw.interop.source import Weights
from vitfw.models.patch_embed import as_pair, grid_of, kernel_to_linear, linear_to_kernel
from vitfw.models.resample import (
    adapt_in_chans,
    guess_grid,
    resample_pos_embed,
    resize_patch_kernel,
)
from vitfw.models.vit import VisionTransformer

PREFIXES = ("cls_token", "dist_token", "reg_token")
Fit = tuple[Tensor | None, str]
UNFIT: Fit = (None, "")


def by_sides(pair: Any) -> str:
    """`(14, 14)` → `14×14`"""
    height, width = pair
    return f"{height}×{width}"


def fit_kernel(theirs: Tensor, ours: Tensor, net: VisionTransformer, weights: Weights) -> Fit:
    """The first layer for other patches, channels, or form: convolution or linear."""
    embed = net.patch_embed
    patch = patch_size_of(theirs, net, weights.options)
    if theirs.shape == ours.shape and (ours.ndim == 4 or patch == embed.patch_size):
        return theirs, ""
    if theirs.ndim == 2 and patch is not None and theirs.shape[1] % (patch[0] * patch[1]) == 0:
        theirs = linear_to_kernel(theirs, patch)
    stem = ours.ndim == 4 and tuple(ours.shape[-2:]) != embed.patch_size
    if stem or theirs.ndim != 4 or len(theirs) != len(ours):
        return UNFIT
    done = []
    if theirs.shape[1] != embed.in_chans:
        done.append(f"from {theirs.shape[1]} to {embed.in_chans} channels")
        theirs = adapt_in_chans(theirs, embed.in_chans)
    if tuple(theirs.shape[-2:]) != embed.patch_size:
        sizes = f"from {by_sides(theirs.shape[-2:])} to {by_sides(embed.patch_size)}"
        done.append(f"patches resized {sizes}")
        theirs = resize_patch_kernel(theirs, embed.patch_size)
    if ours.ndim == 2:
        theirs = kernel_to_linear(theirs)
    return theirs, ", ".join(done)


def patch_size_of(
    theirs: Tensor, net: VisionTransformer, options: Mapping[str, Any]
) -> tuple[int, int] | None:
    """The patch size of their first layer, where it can be known."""
    if theirs.ndim == 4:
        return theirs.shape[-2], theirs.shape[-1]
    if "patch_size" in options:
        return as_pair(options["patch_size"])
    height, width = net.patch_embed.patch_size
    if theirs.ndim != 2:
        return None
    fits = theirs.shape[1] == height * width * net.patch_embed.in_chans
    return (height, width) if fits else None


def fit_positions(theirs: Tensor, ours: Tensor, net: VisionTransformer, weights: Weights) -> Fit:
    """The position table [1, N, C] for another grid, or for other tokens before the patches.

    Raises:
        ConfigError: the grid that the table was made for cannot be told.
    """
    if theirs.ndim != 3 or len(theirs) != 1 or theirs.shape[2] != ours.shape[2]:
        return UNFIT
    grid, rows = grid_of_table(theirs.shape[1], net, weights)
    there = prefix_rows(theirs, net, weights)
    patches, here_grid = theirs[:, rows:], net.patch_embed.grid_size
    done = []
    if grid != here_grid:
        done.append(f"resampled from {by_sides(grid)} to {by_sides(here_grid)}")
    elif "img_size" not in weights.options and grid[0] != grid[1] and is_square(grid):
        done.append(f"taken for a grid of {by_sides(grid)}, which the file does not tell")
    patches = resample_pos_embed(patches, grid, here_grid)
    if net.no_embed_class:
        moved = [name for name, old in there.items() if old.shape == shape_of(getattr(net, name))]
        done += [f"{name}'s row moved into it" for name in moved]
        done += [f"{name}'s row left out" for name in there if name not in moved]
        return patches, ", ".join(done)
    kept = []
    for name, fresh in split_rows(ours, tokens_of(net)).items():
        old = there.get(name)
        if old is not None and old.shape == fresh.shape:
            kept.append(old)
            continue
        loaded = old is None and shape_of(weights.state.get(name)) == fresh.shape
        done.append(f"{name}'s row {'zero' if loaded else 'made anew'}")
        kept.append(torch.zeros_like(fresh) if loaded else fresh)
    done += [f"{name}'s row left out" for name in there if getattr(net, name) is None]
    return torch.cat([*kept, patches], dim=1), ", ".join(done)


def prefix_rows(table: Tensor, net: VisionTransformer, weights: Weights) -> dict[str, Tensor]:
    """The rows of their position table that belong to each of their prefix tokens."""
    if table.ndim != 3 or not grid_of_table(table.shape[1], net, weights)[1]:
        return {}
    return split_rows(table, counted(weights.state))


def split_rows(table: Tensor, lengths: Mapping[str, int]) -> dict[str, Tensor]:
    """Its first rows, by the tokens that they belong to."""
    rows = table[:, : sum(lengths.values())].split(list(lengths.values()), dim=1)
    return {name: part for name, part in zip(lengths, rows, strict=True) if part.shape[1]}


def tokens_of(net: VisionTransformer) -> dict[str, int]:
    tokens = {name: getattr(net, name) for name in PREFIXES}
    return counted({name: token for name, token in tokens.items() if token is not None})


def counted(state: Mapping[str, Tensor]) -> dict[str, int]:
    """How many prefix tokens of each kind there are."""
    there = {name: state[name] for name in PREFIXES if name in state}
    return {name: token.shape[1] for name, token in there.items() if token.ndim == 3}


def shape_of(tensor: Tensor | None) -> tuple[int, ...] | None:
    return None if tensor is None else tensor.shape


def is_square(grid: tuple[int, int]) -> bool:
    """Whether as many patches would fill a square too."""
    return isqrt(grid[0] * grid[1]) ** 2 == grid[0] * grid[1]


def grid_of_table(
    length: int, net: VisionTransformer, weights: Weights
) -> tuple[tuple[int, int], int]:
    """The grid that a table of `length` rows was made for, and its rows for prefix tokens.

    Raises:
        ConfigError: it is no grid that the source tells, nor the net's, nor a square.
    """
    known, prefix = weights.options, sum(counted(weights.state).values())
    grids = [net.patch_embed.grid_size]
    if "img_size" in known and "patch_size" in known:
        stride = known.get("patch_stride")
        stride = None if stride is None else as_pair(stride)
        image, patch = as_pair(known["img_size"]), as_pair(known["patch_size"])
        with suppress(ValueError):  # theirs may leave out pixels that fill no patch
            grids.insert(0, grid_of(image, patch, stride))
    for grid in grids:
        for rows in dict.fromkeys((prefix, 0)):
            if length - rows == grid[0] * grid[1]:
                return grid, rows
    for rows in dict.fromkeys((prefix, 0)):
        try:
            return guess_grid(length - rows), rows
        except ValueError:
            continue
    raise ConfigError(
        f"{weights.source}: pos_embed has {length} rows, which are no square grid with or without "
        f"{prefix} prefix tokens; for what image size it was made cannot be told"
    )
