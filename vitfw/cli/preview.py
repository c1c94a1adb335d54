"""`vitfw preview`: a data set and its augmentation on one page, as a PNG."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich import box
from rich.table import Table
from rich.text import Text
from torch import Tensor

from vitfw.assemble import build_data, prepare_process
from vitfw.atomic import replacing
from vitfw.cli.app import output_path, run
from vitfw.config import to_plain
from vitfw.console import console
from vitfw.data.augment.progressive import Progressive
from vitfw.data.catalog import facts_of
from vitfw.data.classification_data import ClassificationData
from vitfw.errors import ConfigError
from vitfw.preview import (
    MIN_WIDTH,
    Section,
    captions_of,
    class_count_chart,
    preview_page,
    sample_grid,
    writable,
)

MOST_ROWS = 24  # classes listed whole; of more, the most and the least frequent
PHRASES = {  # of an option of BatchAugment or Mixing that is not at its default
    "crop_scale": "random crop of {} of the area",
    "crop_ratio": "{} times as wide as high",
    "shift": "shifted by up to {} px",
    "translate": "moved by up to {} of a side",
    "hflip": "mirrored with probability {}",
    "vflip": "turned upside down with probability {}",
    "policy": "{}",
    "progressive": "small images first, {} of training",
    "jitter": "colour jitter {}",
    "grayscale": "grey with probability {}",
    "cutout": "a square of {} px cut out",
    "erase": "a rectangle erased with probability {}",
    "erase_scale": "of {} of the area",
    "erase_ratio": "{} times as high as wide",
    "mixing": "{}",
    "off_share": "not mixed for the last {} of training",
    "switch_probability": "cutmix rather than mixup with probability {}",
    "mode": "mixed by {}",
    "per_image": "{}",
    "repeats": "each image {} times in a batch",
}
PART_OF = {  # options that say nothing where another one is off
    "crop_ratio": "crop_scale",
    "erase_scale": "erase",
    "erase_ratio": "erase",
    "erase_mode": "erase",
    "switch_probability": "cutmix",
}


def main(argv: Sequence[str] | None = None) -> int:
    return run("preview", preview, argv or [])


def preview(config: DictConfig, overrides: list[str]) -> Path:
    """Read the data set, draw the page, show the class counts; returns where the page is.

    Raises:
        ConfigError: the data cannot be read, the picture not written, `count` is no count.
    """
    prepare_process()
    cfg = to_plain(config)
    output = png_path(cfg)
    if not isinstance(cfg["count"], int) or cfg["count"] < 1:
        raise ConfigError(f"count={cfg['count']} is a number of images: count=64")
    data = build_data(cfg)
    train, val = data.class_counts("train").cpu(), data.class_counts("val").cpu()
    title, *facts = page_head(data, str(cfg["data"].get("root")), int(train.sum()), int(val.sum()))
    page = preview_page(title, facts, page_sections(data, cfg["count"], train, val))
    try:
        with replacing(output) as partial:
            page.save(partial, format="PNG", optimize=True)
    except OSError as error:
        raise ConfigError(f"output={output} cannot be written: {error.strerror}") from error
    console.print(class_table(data.classes, train, val))
    console.print(Text(f"preview: {printable(str(output))}"), soft_wrap=True)
    return output


def png_path(cfg: dict[str, Any]) -> Path:
    path = output_path(cfg["output"] or f"preview-{cfg['data']['name']}.png")
    assert path is not None
    if path.suffix.lower() != ".png":
        raise ConfigError(f"output={path} is not a PNG; output={path.with_suffix('.png')}")
    return path


def page_head(data: ClassificationData, root: str, train: int, val: int) -> list[str]:
    """The title of the page and the lines below it; data of the user's are called as their root."""
    facts = facts_of(data.dataset_name)
    theirs = not facts.splits and data.dataset_name != "fake"
    title = [Path(root).name or root, facts.title] if theirs else [facts.title]
    height, width = data.img_size
    colour = {1: "grey", 3: "colour"}.get(data.channels, f"{data.channels} channels")
    size = f"{height} x {width} px, {colour}"  # the font has no ×
    number = f"{train:,} training and {val:,} validation images"
    return [
        *title,
        f"{number}  ·  {len(data.classes):,} classes  ·  {size}",
        f"Augmentation: {in_words(data.augment)}",
    ]


def page_sections(
    data: ClassificationData, count: int, train: Tensor, val: Tensor
) -> list[Section]:
    sections = []
    shown = {"train": min(count, int(train.sum())), "val": min((count + 1) // 2, int(val.sum()))}
    training = "Training" if in_words(data.augment) == "none" else "Training, augmented"
    for split, heading in (("train", training), ("val", "Validation")):
        if shown[split]:
            images, targets = data.preview_batch(split, shown[split])
            grid = sample_grid(images, captions_of(targets, data.classes))
            total = int((train if split == "train" else val).sum())
            note = f"{len(images):,} of {total:,} images, as the model sees them"
            sections.append(Section(heading, note, grid))
    width = max((section.picture.width for section in sections), default=0)
    chart = class_count_chart(train, val, data.classes, width or MIN_WIDTH)
    return [*sections, Section("Images of each class", balance(train), chart)]


def balance(train: Tensor) -> str:
    """`Training: 5,400 a class`, or how uneven the classes are."""
    least, most = int(train.min()), int(train.max())
    if least == most:
        return f"Training: {most:,} of each class"
    text = f"Training: {least:,} to {most:,} of a class"
    if missing := int((train == 0).sum()):
        return f"{text}; {missing:,} without any"
    return f"{text}, a ratio of 1 to {most / least:.3g}"


def in_words(options: Any) -> str:
    """The options of a dataclass that are not at their default, as a person would say them."""
    said = []
    for option in dataclasses.fields(options):
        name, value = option.name, getattr(options, option.name)
        unused = name in PART_OF and not getattr(options, PART_OF[name], None)
        if unused or value_in_words(value) in (value_in_words(option.default), "none"):
            continue
        phrase = PHRASES.get(name, name.replace("_", " ") + " {}")
        said.append(phrase.format(value_in_words(value)))
    return ", ".join(said) or "none"


def value_in_words(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, int | float):
        return f"{value:.3g}"
    if isinstance(value, list | tuple):
        pair = len(value) == 2 and all(isinstance(part, int | float) for part in value)
        return (" to " if pair else ", ").join(map(value_in_words, value))
    if isinstance(value, str) or value is None:
        return str(value)
    if isinstance(value, Progressive):
        steps = zip(value.sizes, value.until, strict=True)
        return ", ".join(f"{size} px until {share:.3g}" for size, share in steps) or "none"
    if dataclasses.is_dataclass(value):
        inside = in_words(value)
        if type(value).__name__ == "Mixing":
            return inside
        return type(value).__name__ + (f" ({inside})" if inside != "none" else "")
    return type(value).__name__


def class_table(classes: Sequence[str], train: Tensor, val: Tensor) -> Table:
    """A row a class; of many, sorted, those at the ends. Totals below; made for 80 columns."""
    table = Table(box=box.HORIZONTALS, padding=(0, 2, 0, 0), pad_edge=False, show_footer=True)
    total = int(train.sum())
    table.add_column("class", f"{len(classes):,} classes", overflow="ellipsis", max_width=44)
    table.add_column("training", f"{total:,}", justify="right")
    table.add_column("share", justify="right")
    table.add_column("validation", f"{int(val.sum()):,}", justify="right")
    rows = list(range(len(classes)))
    left_out = len(rows) - MOST_ROWS
    if left_out > 0:
        rows.sort(key=lambda i: (-int(train[i]), i))
    for place, i in enumerate(rows):
        if left_out > 0 and place == MOST_ROWS // 2:
            table.add_row(f"… {left_out:,} more …")
        if left_out > 0 and MOST_ROWS // 2 <= place < len(rows) - MOST_ROWS // 2:
            continue
        count = int(train[i])
        share = f"{count / total:.1%}" if total else ""
        table.add_row(listed(classes[i], i), f"{count:,}", share, f"{int(val[i]):,}")
    return table


def listed(name: str, number: int) -> Text:
    """The name, and what the page calls the class where it cannot write it."""
    alias = writable(name, number)
    numbered = alias != name and alias == f"class {number}"
    return Text(printable(name) + (f" ({alias})" if numbered else ""), no_wrap=True)


def printable(name: str) -> str:
    """Names of folders may hold bytes that are no UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()
