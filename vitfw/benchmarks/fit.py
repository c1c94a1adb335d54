"""Time to accuracy: `vitfw train` and other libraries' trainings on the same images.

One after the other, each in a process of its own. All are validated on the same images, at fixed
intervals, by a clock that stands while they are.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.table import Table
from torch import Tensor

from vitfw.assemble import build_data
from vitfw.benchmarks.fit_images import check_same_images, images_of, order_of
from vitfw.benchmarks.fit_peers import Order, prepare
from vitfw.benchmarks.fit_process import PEERS, run_ours, run_peer
from vitfw.benchmarks.fit_request import Request
from vitfw.benchmarks.fit_result import OURS, compare, read_earlier
from vitfw.benchmarks.record import store
from vitfw.config import compose, to_plain
from vitfw.environment import git_commit

RESULT = "fit"


def measure(device: torch.device, output: Path, **options: Any) -> dict[str, Any]:
    """Seconds to each accuracy of `levels`, for each of `only`, beside what `output` holds already.

    `options` are those of `Request`. `output` is written after each contestant.

    Raises:
        ConfigError: an option that cannot be; images that are not held in memory, or are not the
            same in all experiments.
    """
    request = Request(**options).completed(device)
    configs = {
        name: to_plain(compose("train", request.words(name, request.seeds[0])))
        for name in request.experiments or [None]
    }
    (first, cfg), *others = configs.items()
    data = build_data(cfg)
    images = images_of(data)
    for name, other in others:
        check_same_images(str(name), images_of(build_data(other)), str(first), images)
    order = order_of(data, device, request)
    levels = sorted(float(level) for level in request.levels)
    settings = {
        "data": data.dataset_name,
        "train_images": len(images["train_labels"]),
        "val_images": len(images["val_labels"]),
        "levels": levels,
        **request.clock,
    }
    asked = {name: request.asked_of(name) for name in (OURS, *PEERS)}
    contestants = read_earlier(output, settings, asked, device)
    figures: dict[str, Any] = {}
    for name in request.only:
        if name == OURS:
            runs = our_runs(request, configs, device)
        else:
            runs = peer_runs(name, request, order, images)
        contestants[name] = {
            "asked": asked[name],
            "date": date.today().isoformat(),
            "commit": git_commit(),
            "runs": list(runs),
        }
        figures = {
            "what": "seconds of training to each validation accuracy, and over vitfw's",
            "settings": settings,
            "rows": compare(contestants, levels),
            "contestants": contestants,
        }
        store(figures, device, output)
    return figures


def our_runs(
    request: Request, configs: dict[str | None, dict[str, Any]], device: torch.device
) -> Iterator[dict[str, Any]]:
    """`vitfw train`: each experiment with each seed."""
    for (experiment, cfg), seed in product(configs.items(), request.seeds):
        with tempfile.TemporaryDirectory() as folder:
            words = request.words(experiment, seed)
            run = run_ours(Path(folder), words, cfg, device, request.clock)
        yield {"schedule": experiment or "no experiment", "seed": seed, **run}


def peer_runs(
    name: str, request: Request, order: Order, images: dict[str, Tensor]
) -> Iterator[dict[str, Any]]:
    """A peer's training: each length of its schedule."""
    for schedule, length in request.lengths:
        with tempfile.TemporaryDirectory() as folder:
            of_this_length = replace(order, **length)
            prepare(Path(folder), of_this_length, images)
            run = run_peer(name, Path(folder), of_this_length)
        yield {"schedule": schedule, "seed": order.seed, **run}


def table(figures: dict[str, Any]) -> Table:
    table = Table(box=box.HORIZONTALS, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("level", "", "best run"):
        table.add_column(heading, overflow="fold")
    for heading in ("seconds", "ratio", "from launch", "ratio"):
        table.add_column(heading, justify="right")
    for row in figures["rows"]:
        sign, bound = ("", "") if row["reached"] else ("> ", "≥ ")
        ratio, whole = (
            f"{bound}{row[key]:.1f}" if key in row else ""
            for key in ("ratio", "ratio_with_startup")
        )
        spread = f" ± {shown(row['deviation'], row['seconds'])}" if "deviation" in row else ""
        table.add_row(
            f"{row['level']:.2%}".replace(".00", ""),
            row["contestant"],
            row["schedule"],
            f"{sign}{shown(row['seconds'])}{spread}",
            row.get("no_ratio", ratio),
            f"{sign}{shown(row['with_startup'])}",
            whole,
        )
    return table


def shown(seconds: float, beside: float = 0.0) -> str:
    """With as many digits as the greater of it and what stands `beside` it."""
    return f"{seconds:,.0f}" if max(seconds, beside) >= 100 else f"{seconds:.1f}"
