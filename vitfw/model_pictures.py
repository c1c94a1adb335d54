"""What a net's first layers have learned, as pictures: positions and patch kernels.

C channels, D embed_dim, G grid side, P side of a kernel.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor, nn

from vitfw.models.patch_embed import LinearPatchEmbed, linear_to_kernel
from vitfw.preview import GAP, INK, LINE, MUTED, PAPER, SMALL, TEXT, font

MOST_POSITIONS = 14  # tiles down and across
MOST_KERNELS = 64
LEAST_KERNEL = 3  # pixels of a side
COLOURS = ((255, 255, 255), (96, 150, 250), (16, 32, 110))  # from the least similar to the most
LEGEND = 14  # pixels that the scale of colours is wide


def position_table(net: nn.Module) -> Tensor | None:
    """The position embeddings of a net's patches, [G, G, D]; None where it has no such table.

    Those of prefix tokens, which stand before them in vitfw's and timm's nets, are left out.
    """
    table = getattr(net, "pos_embed", None)
    grid = getattr(getattr(net, "patch_embed", None), "grid_size", None)
    if not isinstance(table, Tensor) or table.dim() != 3 or len(table) != 1 or grid is None:
        return None
    prefix = table.shape[1] - grid[0] * grid[1]
    if prefix < 0:
        return None
    return table[0, prefix:].detach().float().cpu().unflatten(0, tuple(grid))


def patch_kernels(net: nn.Module) -> Tensor | None:
    """The kernels of a net's first convolution, or linear patch projection: [D, C, P, P].

    None where it has neither, where they see no picture, or less than 3 × 3 pixels of it.
    """
    embed: Any = getattr(net, "patch_embed", net)
    kernels: Tensor | None = None
    if isinstance(embed, LinearPatchEmbed):
        kernels = linear_to_kernel(embed.proj.weight, embed.patch_size)
    elif first := next((m for m in embed.modules() if isinstance(m, nn.Conv2d)), None):
        kernels = first.weight
    if kernels is None or kernels.shape[1] > 4 or min(kernels.shape[-2:]) < LEAST_KERNEL:
        return None
    return kernels.detach().float().cpu()


def spread(side: int) -> Tensor:
    """All places of a side, or `MOST_POSITIONS` of them at equal distances."""
    return torch.linspace(0, side - 1, min(side, MOST_POSITIONS)).round().long()


def position_similarity(table: Tensor) -> Tensor:
    """Cosine similarity of positions [G, G, D] to all others: [g, g, G, G], g at most 14.

    Source: Dosovitskiy et al. 2021, figure 7.
    """
    directions = F.normalize(table, dim=2)
    rows, columns = (spread(side) for side in table.shape[:2])
    shown = directions[rows][:, columns]  # [g, g, D]
    return torch.einsum("abd,hwd->abhw", shown, directions)


def colours_of(values: Tensor) -> np.ndarray:
    """[…] in 0 to 1 → […, 3] uint8, straight lines between `COLOURS`; NaN is as 0."""
    places = np.linspace(0, 1, len(COLOURS))
    shares = values.nan_to_num(0.0).numpy()
    channels = [np.interp(shares, places, each) for each in zip(*COLOURS, strict=True)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def similarity_picture(table: Tensor) -> Image.Image:
    """A map of each position's similarity to all, in the place that the position has."""
    similarity = position_similarity(table)
    least, most = (float(value) for value in similarity.aminmax())
    shares = (similarity - least) / max(most - least, 1e-6)
    maps = colours_of(shares)  # [g, g, G, G, 3]
    down, across, height, width = maps.shape[:4]
    scale = max(1, 48 // max(height, width))
    tile_x, tile_y = width * scale, height * scale
    gap = 4
    side = (across * (tile_x + gap) - gap, down * (tile_y + gap) - gap)
    top = GAP + TEXT + 8 + SMALL + GAP
    size = (max(GAP + side[0] + 24 + LEGEND + 40, 420), top + max(side[1], 80) + GAP)
    page = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((GAP, GAP - 4), "Position embeddings", INK, font(TEXT))
    note = "a map for each position: how similar all others are to it"
    draw.text((GAP, GAP + TEXT + 4), note, MUTED, font(SMALL))
    draw.rectangle((GAP, top, GAP + side[0] - 1, top + side[1] - 1), LINE)
    for i in range(down):
        for j in range(across):
            tile = Image.fromarray(maps[i, j]).resize((tile_x, tile_y), Image.Resampling.NEAREST)
            page.paste(tile, (GAP + j * (tile_x + gap), top + i * (tile_y + gap)))
    long = min(max(side[1], 80), 200)
    legend = colours_of(torch.linspace(1, 0, long)[:, None].expand(-1, LEGEND))
    x = GAP + side[0] + 24
    page.paste(Image.fromarray(legend), (x, top))
    for value, y in ((most, top + 6), (least, top + long - 6)):
        draw.text((x + LEGEND + 6, y), f"{value:.2f}", MUTED, font(SMALL), anchor="lm")
    return page


def kernels_picture(kernels: Tensor) -> Image.Image:
    """The first kernels [D, C, P, P], each stretched to its own range; a weight of 0 is grey.

    Grey or the first three channels are shown.
    """
    shown = kernels[:MOST_KERNELS]
    shown = shown[:, :3] if shown.shape[1] >= 3 else shown[:, :1].expand(-1, 3, -1, -1)
    most = shown.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)
    arrays = ((shown / most + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    height, width = arrays.shape[1:3]
    scale = max(1, round(48 / max(height, width)))
    columns = min(8, len(arrays))
    pitch_x, pitch_y = width * scale + 6, height * scale + 6
    top = GAP + TEXT + 8 + SMALL + GAP
    size = (2 * GAP + columns * pitch_x - 6, top + -(-len(arrays) // columns) * pitch_y - 6 + GAP)
    page = Image.new("RGB", (max(size[0], 420), size[1]), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((GAP, GAP - 4), "Patch kernels", INK, font(TEXT))
    note = f"{len(arrays)} of {len(kernels)}, each in its own range; a weight of 0 is grey"
    draw.text((GAP, GAP + TEXT + 4), note, MUTED, font(SMALL))
    for i, array in enumerate(arrays):
        tile = Image.fromarray(array).resize(
            (width * scale, height * scale), Image.Resampling.NEAREST
        )
        page.paste(tile, (GAP + i % columns * pitch_x, top + i // columns * pitch_y))
    return page
