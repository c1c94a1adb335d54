"""What a run ran on: versions, device, commit."""

import platform
import subprocess
from pathlib import Path

import lightning
import numpy
import timm
import torch
import torchvision

import vitfw


def versions() -> dict[str, str]:
    return {
        "vitfw": vitfw.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
        "lightning": lightning.__version__,
        "timm": timm.__version__,
        "numpy": numpy.__version__,
    }


def device_name(device: torch.device) -> str:
    """The GPU's name, or the CPU's and how many threads torch uses of it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = torch.cpu.get_capabilities().get("cpu_name") or platform.processor() or "CPU"
    return f"{name}, {torch.get_num_threads()} threads"


def git_commit() -> str | None:
    """The commit of the checkout vitfw runs from; None for an installed wheel."""
    root = Path(__file__).resolve().parents[1]
    command = ["git", "-C", str(root), "rev-parse", "--show-toplevel", "HEAD"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return None
    top, commit = answer.stdout.split("\n")[:2]
    return commit if Path(top).resolve() == root else None  # else a wheel in another's checkout
