"""Images per second of training batches, beside what torchvision and timm make of the same images.

Three parts: small images held in memory, JPEG files decoded by worker processes, and each
augmentation policy by itself. Ratios are medians of the ratios turn by turn.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.table import Table

from vitfw.benchmarks.image_files import measure_files
from vitfw.benchmarks.photographs import QUALITY, SIZE, write_photographs
from vitfw.benchmarks.resident_images import augment_called, measure_policies, measure_resident
from vitfw.errors import ConfigError

RESULT = "data"
Options = dict[str, Any]


def measure(
    device: torch.device,
    turns: int,
    resident: Options | None,
    files: Options | None,
    policies: Options | None,
) -> dict[str, Any]:
    """The parts that are not None.

    Raises:
        ConfigError: nothing is asked for, the images do not fill a batch, or an augmentation does
            not exist.
    """
    check(resident=resident, files=files, policies=policies)
    what = "images/s of training batches, medians of turns; ratios: medians of the turns' ratios"
    figures: dict[str, Any] = {"what": what, "turns": turns}
    if resident:
        figures["resident"] = measure_resident(device, turns, **resident)
    if files:
        figures["files"] = measure_on_photographs(device, turns, **files)
    if policies:
        figures["policies"] = measure_policies(device, turns, **policies)
    return figures


def check(**parts: Options | None) -> None:
    """Raises ConfigError before anything is measured: a run takes minutes."""
    if not any(parts.values()):
        raise ConfigError("data.resident, data.files and data.policies are all off; leave one on")
    for part, options in parts.items():
        if options is not None and not isinstance(options, dict):
            raise ConfigError(f"data.{part}={options} should be null, or have options inside")
        workers = (options or {}).get("workers", [])
        if part == "files" and not isinstance(workers, list):
            raise ConfigError(f"data.files.workers={workers} is a list of numbers: [{workers}]")
        if options and options.get("images", options["batch_size"]) < options["batch_size"]:
            raise ConfigError(
                f"data.{part}.images={options['images']} do not fill one batch of "
                f"data.{part}.batch_size={options['batch_size']}"
            )
    for name in (parts["policies"] or {}).get("names", []):
        augment_called(name)


def measure_on_photographs(
    device: torch.device,
    turns: int,
    images: int,
    img_size: int,
    batch_size: int,
    workers: Sequence[int],
) -> dict[str, Any]:
    """Files that are written for this, measured once for each number of workers."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        content = write_photographs(root, images)
        sizes = [path.stat().st_size for path in root.glob("train/*/*.jpg")]
        rows = [
            measure_files(device, turns, root, img_size, batch_size, count) for count in workers
        ]
    return {
        "images": images,
        "content": content,
        "size": list(SIZE),
        "quality": QUALITY,
        "mean_bytes": round(sum(sizes) / len(sizes)),
        "img_size": img_size,
        "batch_size": batch_size,
        "rows": rows,
    }


def table(figures: dict[str, Any]) -> Table:
    table = Table(box=box.HORIZONTALS, pad_edge=False)
    table.add_column("")
    table.add_column("images / s", justify="right")
    table.add_column("vitfw / it", justify="right")
    if part := figures.get("resident"):
        workers = part["workers_of_peers"]
        add_part(table, f"in memory, 32 × 32; peers with {workers} workers", part)
    for row in figures.get("files", {}).get("rows", []):
        width, height = figures["files"]["size"]
        title = f"JPEG of {width} × {height} to {figures['files']['img_size']}"
        add_part(table, f"{title}, {row['workers']} workers", row)
    if part := figures.get("policies"):
        add_part(table, "augment=, in memory, 32 × 32", part)
    return table


def add_part(table: Table, title: str, part: dict[str, Any]) -> None:
    """A heading, and a row a contestant."""
    table.add_row(title, style="bold")
    for name, speed in part["images_per_second"].items():
        ratio = part.get("ratios", {}).get(name)
        table.add_row(f"  {name}", f"{speed:,.0f}", "" if ratio is None else f"{ratio:.2f}")
    table.add_section()
