"""Attention as pictures: maps laid over the images, and how far the heads of each block look.

B images, C channels, H heads, L blocks, G grid side.
"""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from vitfw.preview import (
    GAP,
    INK,
    LINE,
    MUTED,
    PAPER,
    SMALL,
    TEXT,
    TRAIN,
    VAL,
    font,
    shortened,
    tick_step,
    width_of,
)

# From least to most attention, ever lighter, also for eyes that see no red.
COLOURS = (
    (14, 12, 44),
    (84, 24, 110),
    (176, 42, 98),
    (236, 110, 52),
    (250, 190, 70),
    (255, 250, 205),
)
FAINT, STRONG = 0.5, 0.95  # how much of the image a map covers, where it is least and most
SIDE = 128  # pixels of a tile
FLAT = 0.01  # maps whose least is within this share of their most are shown as without contrast
WIDTH, HEIGHT = 760, 440  # of the plot of distances
LEFT, RIGHT, TOP, BOTTOM = 70, 24, 70, 64


@cache
def colour_table() -> np.ndarray:
    """[256, 3] uint8, straight lines between `COLOURS`."""
    places = np.linspace(0, 255, len(COLOURS))
    channels = [np.interp(np.arange(256), places, values) for values in zip(*COLOURS, strict=True)]
    return np.stack(channels, axis=1).round().astype(np.uint8)


def tiles_of(images: Tensor, side: int) -> list[Image.Image]:
    """Images [B, C, H, W] float in [0, 1] in RGB, the longer side about `side` pixels.

    Small ones are enlarged by a whole factor and keep their pixels as squares. Grey or the first
    three channels are shown.
    """
    images = images[:, :3] if images.shape[1] >= 3 else images[:, :1].expand(-1, 3, -1, -1)
    height, width = images.shape[-2:]
    scale = side / max(height, width)
    scale = round(scale) if scale >= 2 else scale
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS
    arrays = (images.float() * 255).round().clamp(0, 255).to(torch.uint8)
    arrays = arrays.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return [Image.fromarray(array).resize(size, how) for array in arrays]


def laid_over(picture: Image.Image, attention: Tensor) -> Image.Image:
    """A map [G, G], stretched over the picture in grey: dark where least, light where most.

    NaN, which a net that has diverged gives, is dark.
    """
    attention = attention.nan_to_num(0.0)
    least, most = attention.aminmax()
    shares = (attention - least) / (most - least).clamp(min=FLAT * float(most) or 1.0)
    size = (picture.height, picture.width)
    smooth = F.interpolate(shares[None, None].float(), size=size, mode="bilinear")[0, 0].numpy()
    colours = colour_table()[(smooth * 255).round().astype(int)]  # [H, W, 3]
    cover = (FAINT + (STRONG - FAINT) * smooth)[:, :, None]
    grey = np.asarray(picture.convert("L"))[:, :, None]
    return Image.fromarray((grey * (1 - cover) + colours * cover).round().astype(np.uint8))


def marked(picture: Image.Image, patch: Sequence[int], grid: Sequence[int]) -> Image.Image:
    """The picture with a frame around the patch at [row, column]."""
    picture = picture.copy()
    (row, column), (down, across) = patch, grid
    height, width = picture.height / down, picture.width / across
    frame = (column * width, row * height, (column + 1) * width - 1, (row + 1) * height - 1)
    ImageDraw.Draw(picture).rectangle(frame, outline=VAL, width=2)
    return picture


def range_of(attention: Tensor) -> str:
    """The least and the most that a patch gets of all attention: `0.2 - 14 %`."""
    least, most = (100 * float(value) for value in attention.aminmax())
    return f"{share(least)} - {share(most)} %"


def share(percent: float) -> str:
    return f"{percent:.0f}" if percent >= 9.95 or percent < 0.05 else f"{percent:.1f}"


def grid_of_tiles(
    title: str, tiles: Sequence[Image.Image], captions: Sequence[str], columns: int
) -> Image.Image:
    """A title, and tiles of one size row by row, each above its caption."""
    columns = min(columns, len(tiles))
    width, height = tiles[0].size
    pitch_x, pitch_y = width + GAP, height + 6 + SMALL + GAP
    rows, top = -(-len(tiles) // columns), GAP + TEXT + GAP
    size = (columns * pitch_x + GAP, top + rows * pitch_y)
    page = Image.new("RGB", (max(size[0], int(width_of(title, TEXT)) + 2 * GAP), size[1]), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((GAP, GAP - 4), title, INK, font(TEXT))
    for i, (tile, caption) in enumerate(zip(tiles, captions, strict=True)):
        x, y = GAP + i % columns * pitch_x, top + i // columns * pitch_y
        page.paste(tile, (x, y))
        text = shortened(caption, width + GAP - 4, SMALL)
        draw.text((x, y + height + 5), text, MUTED, font(SMALL))
    return page


def heads_title(what: str, block: int, blocks: int) -> str:
    """Of whom and where a picture of heads is; `block` may count from the end."""
    place = block % blocks
    where = (
        f"the last block, {place}" if place == blocks - 1 else f"block {place} of 0-{blocks - 1}"
    )
    return f"Attention of {what} in {where}"


def heads_picture(
    images: Tensor,
    heads: Tensor,
    names: Sequence[str],
    title: str,
    numbers: Sequence[int] | None = None,
    side: int = SIDE,
    columns: int | None = None,
    patch: Sequence[int] | None = None,
) -> Image.Image:
    """Each image [B, C, H, W], float in [0, 1], and beside it the map of each head, [B, H, G, G].

    `names` are the images' captions, `numbers` the heads'. There is a row an image, or where
    `columns` are given, rows of about equally many tiles and no more than that. The `patch` at
    [row, column] is framed in the images.
    """
    tiles, captions = [], []
    for picture, maps, name in zip(tiles_of(images, side), heads, names, strict=True):
        first = picture if patch is None else marked(picture, patch, maps.shape[-2:])
        tiles += [first, *(laid_over(picture, attention) for attention in maps)]
        captions.append(name)
        for number, attention in zip(numbers or range(len(maps)), maps, strict=True):
            captions.append(f"head {number}: {range_of(attention)}")
    rows = -(-len(tiles) // columns) if columns else len(images)
    return grid_of_tiles(title, tiles, captions, -(-len(tiles) // rows))


def rollout_picture(
    images: Tensor,
    rollouts: Tensor,
    names: Sequence[str],
    title: str,
    side: int = SIDE,
    patch: Sequence[int] | None = None,
) -> Image.Image:
    """Each image [B, C, H, W], float in [0, 1], beside its rollout, [B, G, G]; two to a row."""
    tiles, captions = [], []
    for picture, attention, name in zip(tiles_of(images, side), rollouts, names, strict=True):
        first = picture if patch is None else marked(picture, patch, attention.shape)
        tiles += [first, laid_over(picture, attention)]
        captions += [name, f"rollout: {range_of(attention)}"]
    return grid_of_tiles(title, tiles, captions, columns=4)


def distance_picture(distances: Tensor, uniform: float, title: str) -> Image.Image:
    """Mean attention distances [L, H], in pixels: a dot a head, a line through the blocks' means.

    `uniform` is what a head has that attends to all patches alike. Heads that are NaN, those of a
    net that has diverged, have no dot, and their blocks no mean.
    """
    page = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw = ImageDraw.Draw(page)
    blocks = len(distances)
    most = max(float(distances.nan_to_num(0.0).max()), uniform)
    step = tick_step(max(round(most), 1))
    highest = step * (int(most / step) + 1)

    def px(block: int) -> float:
        return LEFT + (block + 0.5) / blocks * (WIDTH - LEFT - RIGHT)

    def py(pixels: float) -> float:
        return HEIGHT - BOTTOM - pixels / highest * (HEIGHT - BOTTOM - TOP)

    draw.text((GAP, GAP - 4), title, INK, font(TEXT))
    for level in range(0, highest + 1, step):
        draw.line([(LEFT, py(level)), (WIDTH - RIGHT, py(level))], LINE)
        draw.text((LEFT - 10, py(level)), f"{level}", MUTED, font(SMALL), anchor="rm")
    for block in range(0, blocks, tick_step(blocks // 4)):
        draw.text((px(block), HEIGHT - BOTTOM + 12), f"{block}", MUTED, font(SMALL), anchor="ma")
    middle = (LEFT + WIDTH - RIGHT) / 2
    draw.text((middle, HEIGHT - 26), "block", MUTED, font(SMALL), anchor="ma")
    draw.text((LEFT - 10, TOP - 18), "px", MUTED, font(SMALL), anchor="rm")
    for x in range(LEFT, WIDTH - RIGHT, 10):
        draw.line([(x, py(uniform)), (x + 4, py(uniform))], MUTED)
    means = enumerate(distances.mean(dim=1).tolist())
    line = [(px(block), py(mean)) for block, mean in means if math.isfinite(mean)]
    draw.line(line, VAL, width=3, joint="curve")
    for block, heads in enumerate(distances.tolist()):
        for pixels in heads:
            if math.isfinite(pixels):
                dot(draw, px(block), py(pixels))
    legend(draw, WIDTH - RIGHT, TOP - 18)
    return page


def dot(draw: ImageDraw.ImageDraw, x: float, y: float) -> None:
    draw.ellipse([(x - 5, y - 5), (x + 5, y + 5)], TRAIN, PAPER)


def legend(draw: ImageDraw.ImageDraw, right: float, y: float) -> None:
    """What dots, line and dashes are, ending at `right`."""
    for name in ("all patches alike", "mean", "head"):
        right -= width_of(name, SMALL)
        draw.text((right, y), name, INK, font(SMALL), anchor="lm")
        right -= 28
        if name == "head":
            dot(draw, right + 14, y)
        elif name == "mean":
            draw.line([(right, y), (right + 20, y)], VAL, width=3)
        else:
            for x in (right, right + 10):
                draw.line([(x, y), (x + 4, y)], MUTED)
        right -= 18
