"""Benchmark results as JSON: what, on which machine, when, with which versions."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import torch

from vitfw.environment import device_name, git_commit, versions

RESULTS = Path(__file__).parent / "results"


def store(name: str, figures: dict[str, Any], device: torch.device) -> Path:
    """Write `figures` and where they are from to `results/NAME_cpu.json`, or `_cuda`."""
    RESULTS.mkdir(exist_ok=True)
    result = {
        **figures,
        "device": device_name(device),
        "date": date.today().isoformat(),
        "git_commit": git_commit(),
        "versions": versions(),
    }
    path = RESULTS / f"{name}_{device.type}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    return path
