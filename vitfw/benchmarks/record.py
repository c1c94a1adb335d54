"""Benchmark results as JSON: what, on which machine, when, with which versions."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import torch

from vitfw.atomic import write_text
from vitfw.environment import device_name, git_commit, versions

CHECKOUT = Path(__file__).resolve().parents[2]


def default_path(name: str, device: torch.device, checkout: Path = CHECKOUT) -> Path:
    """`NAME_cpu.json` or `_cuda` among the results of a checkout, else in the current folder."""
    is_checkout = (checkout / "pyproject.toml").is_file() and (checkout / "configs").is_dir()
    folder = checkout / "benchmarks" / "results" if is_checkout else Path()
    return folder / f"{name}_{device.type}.json"


def store(figures: dict[str, Any], device: torch.device, path: Path) -> None:
    """Write `figures` and where they are from."""
    result = {
        **figures,
        "device": device_name(device),
        "date": date.today().isoformat(),
        "git_commit": git_commit(),
        "versions": versions(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(result, indent=2) + "\n")
