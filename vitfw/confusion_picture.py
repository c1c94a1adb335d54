"""The confusion matrix as a picture.

K classes.
"""

from collections.abc import Sequence

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
    font,
    shortened,
    width_of,
    writable,
)

RIGHT, WRONG = (37, 99, 235), (200, 60, 20)  # colour of what was recognised, and of what was not
MOST_NAMED = 25  # classes whose names and counts are written
SIDE = 560  # pixels of a matrix without names, at most
LONGEST_NAME = 150  # pixels
ROWS, COLUMN = 22, 380  # of a list beside the matrix: its length, and pixels
NOTE = "Rows: the truth, columns: the guess. Darker: a larger share of the row."


def confusion_picture(confusion: Tensor, classes: Sequence[str]) -> Image.Image:
    """Counts [K, K], rows the truth. With many classes a heat map, and who is mixed up most."""
    names = [writable(classes[i] if i < len(classes) else "", i) for i in range(confusion.shape[0])]
    draw = named_matrix if len(names) <= MOST_NAMED else large_matrix
    return draw(confusion, names)


def shares_of(confusion: Tensor) -> Tensor:
    """Each row as shares of its sum, [K, K] float; zero where a class has no images."""
    return confusion.float() / confusion.sum(dim=1, keepdim=True).clamp(min=1)


def colours_of(shares: Tensor) -> np.ndarray:
    """[K, K] → [K, K, 3] uint8. By the root of the share: a few mistakes in a hundred show."""
    depth = shares.sqrt().numpy()[:, :, None]
    diagonal = np.eye(len(shares), dtype=bool)[:, :, None]
    right, wrong = 255 - np.array([RIGHT, WRONG], dtype=np.float32)
    return (255 - depth * np.where(diagonal, right, wrong)).round().astype(np.uint8)


def named_matrix(confusion: Tensor, names: Sequence[str]) -> Image.Image:
    """Every count in its cell; at the right of a row the share that was recognised."""
    classes, size = len(names), SMALL if len(names) <= 15 else SMALL - 3
    widest = max(width_of(f"{count:,}", size) for count in confusion.flatten().tolist())
    cell = max(round(widest) + 8, 44 if classes <= 15 else 30)
    room = min(LONGEST_NAME, round(max(width_of(name, SMALL) for name in names)) + 1)
    left, top = GAP + room + 10, GAP + TEXT + GAP + room + 10
    last = "recognised"
    width = left + classes * cell + 12 + round(width_of(last, SMALL)) + GAP
    page = Image.new("RGB", (max(width, round(width_of(NOTE, SMALL)) + 2 * GAP), 0), PAPER)
    page = page.resize((page.width, top + classes * cell + GAP))
    draw = ImageDraw.Draw(page)
    draw.rectangle((0, 0, *page.size), PAPER)
    draw.text((GAP, GAP), NOTE, MUTED, font(SMALL))
    shares = shares_of(confusion)
    colours = colours_of(shares)
    for i, name in enumerate(names):
        name, y = shortened(name, room, SMALL), top + i * cell
        draw.text((left - 10, y + cell // 2), name, INK, font(SMALL), anchor="rm")
        upright = turned(name)
        page.paste(
            upright, (left + i * cell + (cell - upright.width) // 2, top - 8 - upright.height)
        )
        for j, count in enumerate(confusion[i].tolist()):
            x = left + j * cell
            draw.rectangle((x, y, x + cell - 2, y + cell - 2), tuple(colours[i, j]))
            if count:
                ink = PAPER if shares[i, j] > 0.3 else INK
                middle = (x + cell // 2 - 1, y + cell // 2 - 1)
                draw.text(middle, f"{count:,}", ink, font(size), anchor="mm")
        if confusion[i].sum():
            where = (left + classes * cell + 12, y + cell // 2)
            draw.text(where, f"{100 * shares[i, i]:.1f} %", INK, font(SMALL), anchor="lm")
    draw.text((left + classes * cell + 12, top - 8), last, MUTED, font(SMALL), anchor="ls")
    return page


def turned(text: str) -> Image.Image:
    """A word that is read from below."""
    image = Image.new("RGB", (round(width_of(text, SMALL)) + 2, SMALL + 4), PAPER)
    ImageDraw.Draw(image).text((1, 0), text, INK, font(SMALL))
    return image.rotate(90, expand=True)


def large_matrix(confusion: Tensor, names: Sequence[str]) -> Image.Image:
    """A heat map, the pairs that are mixed up most often, and the classes recognised least."""
    shares = shares_of(confusion)
    colours = colours_of(shares)
    classes = len(names)
    if classes > SIDE:  # the darkest of the cells that share a pixel
        dark = torch.from_numpy(255 - colours).permute(2, 0, 1)[None].float()
        pooled = F.adaptive_max_pool2d(dark, SIDE)[0].permute(1, 2, 0)
        colours = (255 - pooled.numpy()).astype(np.uint8)
    scale = max(1, SIDE // classes)
    side = scale * len(colours)
    heat = Image.fromarray(colours).resize((side, side), Image.Resampling.NEAREST)
    top = GAP + TEXT + GAP
    height = max(side, 2 * (SMALL + 8) + ROWS * (SMALL + 7))
    page = Image.new("RGB", (GAP + side + 2 * (28 + COLUMN) + GAP, top + height + GAP), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((GAP, GAP), NOTE, MUTED, font(SMALL))
    page.paste(heat, (GAP, top))
    draw.rectangle((GAP - 1, top - 1, GAP + side, top + side), outline=LINE)
    lists = (
        ("Mixed up most often", mixed_up(confusion, names)),
        (
            "Recognised least",
            least_recognised(confusion, names),
        ),
    )
    for number, (heading, rows) in enumerate(lists):
        x, y = GAP + side + 28 + number * (COLUMN + 28), top
        draw.text((x, y), heading, INK, font(TEXT))
        y += TEXT + 12
        for text, value in rows:
            space = COLUMN - width_of(value, SMALL) - 12
            draw.text((x, y), shortened(text, space, SMALL), INK, font(SMALL))
            draw.text((x + COLUMN, y), value, MUTED, font(SMALL), anchor="ra")
            y += SMALL + 7
    return page


def mixed_up(confusion: Tensor, names: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs of highest counts off the diagonal: `maple as oak`, and how many of how many."""
    wrong = confusion.clone().fill_diagonal_(0)
    counts, places = wrong.flatten().topk(min(ROWS, wrong.numel()))
    totals = confusion.sum(dim=1).tolist()
    rows = []
    for count, place in zip(counts.tolist(), places.tolist(), strict=True):
        truth, guess = divmod(place, len(names))
        if count:
            value = f"{count:,} of {totals[truth]:,}"
            room = (COLUMN - width_of(f" as {value}", SMALL) - 16) / 2
            said, meant = (shortened(names[i], room, SMALL) for i in (truth, guess))
            rows.append((f"{said} as {meant}", value))
    return rows


def least_recognised(confusion: Tensor, names: Sequence[str]) -> list[tuple[str, str]]:
    """The classes of which the smallest share was recognised, among those with images."""
    totals, right = confusion.sum(dim=1), confusion.diagonal()
    shares = (right / totals.clamp(min=1)).masked_fill(totals == 0, 2.0)
    order = shares.argsort(stable=True)[:ROWS].tolist()
    return [
        (names[i], f"{int(right[i]):,} of {int(totals[i]):,}, {100 * float(shares[i]):.0f} %")
        for i in order
        if totals[i]
    ]
