"""The contestants of `suite=fit` as processes, and what they leave behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from vitfw.benchmarks.fit_clock import ClockLog, read_clock
from vitfw.benchmarks.fit_peers import CLOCK, Order
from vitfw.benchmarks.fit_result import OURS, limit_of
from vitfw.building import TARGETS_VARIABLE
from vitfw.console import log

PEERS = {"timm": "vitfw.benchmarks.fit_timm", "huggingface": "vitfw.benchmarks.fit_huggingface"}
LOOK_EVERY = 1.0  # seconds
LAST_LINES = 20  # of what a contestant that broke has printed


def run_ours(
    folder: Path,
    words: Sequence[str],
    cfg: dict[str, Any],
    device: torch.device,
    clock: dict[str, float],
) -> dict[str, Any]:
    """`vitfw train` with `words`, a clock in it and no test."""
    callback = {
        "_target_": "vitfw.benchmarks.fit_callback.ValidationClock",
        "path": f"'{folder / CLOCK}'",
        "monitor": (cfg["callbacks"]["best"] or {}).get("monitor", "val/accuracy"),
        "cap": clock["cap"],
        "stop_at": clock["stop_at"],
    }
    inside = ",".join(f"{key}:{value}" for key, value in callback.items())
    command = [
        *(sys.executable, "-m", "vitfw", "train", *words),
        f"run_dir={folder / 'run'}",
        f"trainer.accelerator={device.type}",
        f"++trainer.val_check_interval={{seconds:{clock['validate_every']}}}",
        f"+callbacks.validation_clock={{{inside}}}",
        "test_after_fit=false",
    ]
    targets = f"{os.environ.get(TARGETS_VARIABLE, '')},vitfw.benchmarks."
    found, startup = watch(OURS, command, folder, {TARGETS_VARIABLE: targets.lstrip(",")})
    metrics = json.loads((folder / "run" / "metrics.json").read_text(encoding="utf-8"))
    return {
        "command": ["vitfw", "train", *words],
        "parameters": metrics["params"],
        "epochs": cfg["trainer"]["max_epochs"],
        "batch_size": cfg["data"]["batch_size"],
        "precision": metrics["precision"],
        "images_per_second": metrics["train/images_per_second"],
        "startup_s": startup,
        "limit_s": limit_of(found.curve, clock["cap"]),
        "curve": found.curve,
    }


def run_peer(name: str, folder: Path, order: Order) -> dict[str, Any]:
    """What `prepare` has put into `folder`, trained by the library called `name`."""
    command = [sys.executable, "-m", PEERS[name], str(folder)]
    found, startup = watch(name, command, folder, {})
    last = found.curve[-1]
    return {
        **found.about,
        "precision": "bf16-mixed" if order.bf16 else "32-true",
        "images_per_second": round(last["step"] * order.batch_size / last["seconds"], 1),
        "startup_s": startup,
        "limit_s": limit_of(found.curve, order.cap),
        "curve": found.curve,
    }


def watch(
    name: str, command: Sequence[str], folder: Path, variables: Mapping[str, str]
) -> tuple[ClockLog, float]:
    """Run `command` to its end; what its clock wrote, and the seconds of its start-up.

    Each validation is told as it comes.

    Raises:
        RuntimeError: it broke; has its last lines.
    """
    log.info(f"{name}: training")
    printed = folder / "printed.txt"
    environment = {"CUDA_VISIBLE_DEVICES": "0", **os.environ, **variables}
    spawned = time.time()
    with running(command, printed, environment) as process:
        told = 0
        while process.poll() is None:
            told = tell(name, folder, told)
            time.sleep(LOOK_EVERY)
        tell(name, folder, told)
    found = read_clock(folder / CLOCK)
    if process.returncode or found.began is None or not found.curve:
        lines = printed.read_text(encoding="utf-8", errors="replace").splitlines()
        raise RuntimeError(
            f"{name} broke with exit code {process.returncode}:\n" + "\n".join(lines[-LAST_LINES:])
        )
    startup = found.began - spawned - found.about.get("probe_s", 0.0)
    return found, round(startup, 3)


def tell(name: str, folder: Path, told: int) -> int:
    """Log the validations after the first `told`; how many have been told then."""
    curve = read_clock(folder / CLOCK).curve
    for point in curve[told:]:
        log.info(f"{name}: {point['seconds']:,.1f} s  {point['accuracy']:.2%}")
    return len(curve)


@contextmanager
def running(
    command: Sequence[str], printed: Path, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen]:
    """A process that does not outlive this one, whether that is interrupted or told to stop."""

    def stop(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with (
            open(printed, "wb") as sink,
            subprocess.Popen(
                command, stdout=sink, stderr=subprocess.STDOUT, env=environment
            ) as process,
        ):
            try:
                yield process
            finally:
                process.terminate()
    finally:
        signal.signal(signal.SIGTERM, before)
