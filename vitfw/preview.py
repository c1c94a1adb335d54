"""Pictures of a data set: the samples a model is shown, and how many there are of each class.

Drawn with PIL and the font inside it. That font writes little more than ASCII: names lose their
accents, and a name in another script becomes `class 7`.
N samples, C channels, H height, W width, K classes.
"""

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

PAPER, INK, MUTED, LINE = "#ffffff", "#16191f", "#626b79", "#e1e5ea"
TRAIN, VAL = "#2563eb", "#f0a35e"

ENLARGED_TO = 120  # small images are enlarged by a whole factor to about so many pixels
REDUCED_TO = 144  # larger ones are reduced to it
GAP = 16
SMALL, TEXT, HEADING, TITLE = 14, 17, 22, 34  # sizes of type
MARGIN = 56
MIN_WIDTH = 8 * ENLARGED_TO + 7 * GAP
MAX_BARS = 40  # with more classes the counts are a curve
ONE_COLUMN = 14  # bars up to so many classes stand in one column
NAMED = 8  # classes named below the curve, at either end

SPELT = str.maketrans(  # Latin letters and signs that Unicode does not take apart
    {"ß": "ss", "Æ": "Ae", "æ": "ae", "Œ": "Oe", "œ": "oe", "Ø": "O", "ø": "o", "Ł": "L", "ł": "l"}
    | {"Đ": "D", "đ": "d", "ı": "i", "þ": "th", "ð": "d", "×": "x", "–": "-", "—": "-", "’": "'"}
)


class Section(NamedTuple):
    """A picture on the page, what it shows, and a word more."""

    heading: str
    note: str
    picture: Image.Image


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def width_of(text: str, size: int) -> float:
    return font(size).getlength(text)


@cache
def has_glyph(letter: str) -> bool:
    """Whether the font draws `letter` as anything but the box of what it lacks."""
    return letter.isprintable() and drawn(letter) != drawn("\uffff")


def drawn(letter: str) -> bytes:
    image = Image.new("L", (3 * SMALL, 2 * SMALL))
    ImageDraw.Draw(image).text((0, 0), letter, 255, font(SMALL))
    return image.tobytes()


def writable(name: str, number: int) -> str:
    """`name` in letters the font has, without accents where it must; else `class NUMBER`."""
    name = " ".join(name.split()).translate(SPELT)
    if not all(map(has_glyph, name)):
        parts = unicodedata.normalize("NFKD", name)
        name = "".join(part for part in parts if not unicodedata.combining(part))
    return name if name and all(map(has_glyph, name)) else f"class {number}"


def shortened(text: str, width: float, size: int) -> str:
    """Cut with … to `width` pixels; a share at the end (` 0.7`) is kept."""
    if width_of(text, size) <= width:
        return text
    share = re.search(r" \d\.\d$", text)
    tail = share[0] if share else ""
    name = text.removesuffix(tail)[: int(width)]  # no letter is narrower than a pixel
    while name and width_of(f"{name}…{tail}", size) > width:
        name = name[:-1].rstrip()
    return f"{name}…{tail}"


def wrapped(text: str, width: float, size: int) -> list[str]:
    """Lines of at most `width` pixels, broken between words."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if lines[-1] and width_of(longer, size) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return [shortened(line, width, size) for line in lines]


def captions_of(targets: Tensor, classes: Sequence[str]) -> list[str]:
    """The label of each sample in words: [N] int64 or [N, K] soft.

    Soft labels name the two largest shares, `cat 0.7 · dog 0.3`; a share below 0.05 is left out.
    """
    if targets.dim() == 1:
        return [writable(classes[label], label) for label in targets.tolist()]
    shares, labels = targets.topk(min(2, targets.shape[1]), dim=1)  # [N, 2], [N, 2]
    captions = []
    for sample_shares, sample_labels in zip(shares.tolist(), labels.tolist(), strict=True):
        names = [writable(classes[label], label) for label in sample_labels]
        if sample_shares[0] >= 0.95:
            captions.append(names[0])
            continue
        pairs = zip(names, sample_shares, strict=True)
        captions.append(" · ".join(f"{name} {share:.1f}" for name, share in pairs if share >= 0.05))
    return captions


def tile_size(height: int, width: int) -> tuple[int, int]:
    """Height and width at which an image is shown."""
    longer = max(height, width)
    scale = REDUCED_TO / longer if longer > REDUCED_TO else max(1, round(ENLARGED_TO / longer))
    return max(1, round(height * scale)), max(1, round(width * scale))


def as_pictures(images: Tensor) -> list[Image.Image]:
    """[N, C, H, W] uint8 or float in [0, 1] → N tiles; small ones keep their pixels as squares.

    Grey or the first three channels are shown.
    """
    if images.dtype != torch.uint8:
        images = (images.float() * 255).round().clamp(0, 255).to(torch.uint8)
    images = images[:, :3] if images.shape[1] >= 3 else images[:, :1].expand(-1, 3, -1, -1)
    height, width = tile_size(*images.shape[-2:])
    smaller = height < images.shape[-2] or width < images.shape[-1]
    how = Image.Resampling.LANCZOS if smaller else Image.Resampling.NEAREST
    arrays = images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return [Image.fromarray(array).resize((width, height), how) for array in arrays]


def sample_grid(images: Tensor, captions: Sequence[str], columns: int = 8) -> Image.Image:
    """Images [N, C, H, W], uint8 or float in [0, 1], row by row, each above its caption.

    A caption too long for its tile goes on in a second line after ` · `, and is cut with ….
    """
    pictures = as_pictures(images)
    columns = min(columns, max(len(pictures), 1))
    height, width = tile_size(*images.shape[-2:])
    cell = max(width, ENLARGED_TO)
    labels = [caption_lines(caption, cell) for caption in captions]
    lines = max((len(label) for label in labels), default=0)
    pitch_x, pitch_y = cell + GAP, height + 6 + lines * (SMALL + 4) + GAP
    rows = -(-len(pictures) // columns)
    size = (columns * pitch_x - GAP, max(rows * pitch_y - GAP, 1))
    grid = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(grid)
    for i, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        x, y = i % columns * pitch_x, i // columns * pitch_y
        grid.paste(picture, (x, y))
        for number, line in enumerate(label):
            where = (x, y + height + 6 + number * (SMALL + 4))
            draw.text(where, line, INK, font(SMALL))
    return grid


def caption_lines(caption: str, width: int) -> list[str]:
    parts = [caption] if width_of(caption, SMALL) <= width else caption.split(" · ")
    return [shortened(part, width, SMALL) for part in parts]


def class_count_chart(
    train: Tensor, val: Tensor, classes: Sequence[str], width: int = MIN_WIDTH
) -> Image.Image:
    """Training and validation images of each class, both [K]: bars, or with many classes a curve.

    The curve is sorted, and names the most and the least frequent classes.
    """
    counts = list(zip(train.tolist(), val.tolist(), strict=True))
    names = [writable(name, number) for number, name in enumerate(classes)]
    body = bars(counts, names, width) if len(names) <= MAX_BARS else curve(counts, names, width)
    chart = Image.new("RGB", (width, body.height + 40), PAPER)
    draw = ImageDraw.Draw(chart)
    x = 0.0
    for colour, what in ((TRAIN, "training"), (VAL, "validation")):
        draw.rectangle((x, 5, x + 12, 17), colour)
        draw.text((x + 20, 11), what, INK, font(SMALL), anchor="lm")
        x += 20 + width_of(what, SMALL) + 28
    chart.paste(body, (0, 40))
    return chart


def bars(counts: list[tuple[int, int]], names: list[str], width: int) -> Image.Image:
    """A pair of bars a class, in the order of the classes, in one column or two."""
    columns = 1 if len(names) <= ONE_COLUMN else 2
    rows = -(-len(names) // columns)
    thick, pitch = 13, 42
    column = (width - (columns - 1) * 48) // columns
    longest = max((width_of(name, TEXT) for name in names), default=0)
    left = int(min(longest, column * 0.4)) + 18
    most = max((max(pair) for pair in counts), default=0)
    space = column - left - width_of(f"{most:,}", SMALL) - 8
    chart = Image.new("RGB", (width, max(rows * pitch, 1)), PAPER)
    draw = ImageDraw.Draw(chart)
    for i, (pair, name) in enumerate(zip(counts, names, strict=True)):
        x, y = i // rows * (column + 48), i % rows * pitch
        name = shortened(name, left - 18, TEXT)
        draw.text((x + left - 14, y + thick + 1), name, INK, font(TEXT), anchor="rm")
        for count, colour in zip(pair, (TRAIN, VAL), strict=True):
            length = round(space * count / most) if most else 0
            if count:
                draw.rectangle((x + left, y, x + left + max(length, 1), y + thick - 1), colour)
            where = (x + left + length + 8, y + thick / 2)
            draw.text(where, f"{count:,}", MUTED, font(SMALL), anchor="lm")
            y += thick + 2
    return chart


def curve(counts: list[tuple[int, int]], names: list[str], width: int) -> Image.Image:
    """Counts from the most to the least frequent class; if they differ, who is at the ends."""
    order = sorted(range(len(names)), key=lambda i: (-counts[i][0], -counts[i][1], i))
    most = max(max(pair) for pair in counts)
    tick = tick_step(most)
    uneven = counts[order[0]][0] != counts[order[-1]][0]
    height, list_height = 300, (NAMED + 1) * 24 + 12 if uneven else 0
    left = int(width_of(f"{most:,}", SMALL)) + 16
    chart = Image.new("RGB", (width, height + 48 + list_height), PAPER)
    draw = ImageDraw.Draw(chart)
    scale = (height - 12) / max(most, 1)
    for value in range(0, most + 1, tick):
        y = height - value * scale
        draw.line((left, y, width, y), LINE)
        draw.text((left - 10, y), f"{value:,}", MUTED, font(SMALL), anchor="rm")
    for rank, i in enumerate(order):
        start, end = (left + (width - left) * at / len(order) for at in (rank, rank + 1))
        for count, colour in sorted(zip(counts[i], (TRAIN, VAL), strict=True), reverse=True):
            if top := round(count * scale):
                draw.rectangle((start, height - top, max(end - 1, start), height - 1), colour)
    draw.text((left, height + 10), "most frequent class", MUTED, font(SMALL))
    last = f"class {len(order):,} by frequency"
    draw.text((width, height + 10), last, MUTED, font(SMALL), anchor="ra")
    room = (width - left - 48) // 2
    ends = (("Most frequent", order[:NAMED]), ("Least frequent", order[: -NAMED - 1 : -1]))
    for column, (heading, ranked) in enumerate(ends if uneven else ()):
        x, y = left + column * (room + 48), height + 60
        draw.text((x, y - 4), heading, INK, font(TEXT), anchor="lm")
        for i in ranked:
            y += 24
            amount = "{:,} + {:,}".format(*counts[i])
            name = shortened(names[i], room - width_of(amount, SMALL) - 24, SMALL)
            draw.text((x, y), name, INK, font(SMALL), anchor="lm")
            draw.text((x + room, y), amount, MUTED, font(SMALL), anchor="rm")
    return chart


def tick_step(most: int) -> int:
    """1, 2 or 5 times a power of ten, at most five of which reach `most`."""
    step = 1
    while step * 5 < most:
        step = step * 5 // 2 if str(step).startswith("2") else step * 2
    return step


def preview_page(title: str, facts: Sequence[str], sections: Sequence[Section]) -> Image.Image:
    """One page: the title, a line for each fact, and the sections below each other."""
    width = max([MIN_WIDTH, *(section.picture.width for section in sections)])
    lines = [line for fact in facts for line in wrapped(fact, width, TEXT)]
    top = MARGIN + TITLE + 22 + len(lines) * (TEXT + 9)
    above, below = 100, 16  # of each section: rule, heading and note; space
    height = top + sum(above + section.picture.height + below for section in sections)
    page = Image.new("RGB", (width + 2 * MARGIN, height + MARGIN - below), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, MARGIN), shortened(title, width, TITLE), INK, font(TITLE))
    for number, line in enumerate(lines):
        where = (MARGIN, MARGIN + TITLE + 22 + number * (TEXT + 9))
        draw.text(where, line, MUTED, font(TEXT))
    y = top
    for section in sections:
        draw.line((MARGIN, y + 16, MARGIN + width - 1, y + 16), LINE)
        draw.text((MARGIN, y + 36), section.heading, INK, font(HEADING))
        note = shortened(section.note, width, SMALL)
        draw.text((MARGIN, y + 36 + HEADING + 8), note, MUTED, font(SMALL))
        page.paste(section.picture, (MARGIN, y + above))
        y += above + section.picture.height + below
    return page
