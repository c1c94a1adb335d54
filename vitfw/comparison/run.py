"""One run as a comparison sees it, read from the files in its folder."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vitfw.atomic import is_held
from vitfw.callbacks.csv_logger import read_metrics
from vitfw.config import flatten
from vitfw.run_directory import RunDirectory

FINISHED, PRUNED, FAILED, RUNNING = "finished", "pruned", "failed", "running"
STOPPED, ORPHANED, WAITING = "stopped", "orphaned", "waiting"
DEEPEST = 3  # levels of folders below the one that is named
REPORTED_FAILURE = b'class="banner failed"'  # of vitfw.report.ending
CURVE, BEST = "val/accuracy", "val/accuracy_best"

Point = tuple[float, float]


class UnreadableRun(Exception):
    """A file of a run is damaged; the message names it."""


@dataclass(frozen=True)
class Run:
    """A run or a trial.

    `config` has dotted keys; `typed` are its overrides, `drawn` the parameters that a sweeper
    drew, if one did. `metrics` is metrics.json, or the best so far; `curve` is val/accuracy by
    optimizer step. A trial that never got a folder has none.
    """

    name: str
    folder: Path | None
    state: str
    config: Mapping[str, Any] = field(default_factory=dict)
    typed: Sequence[str] = ()
    metrics: Mapping[str, Any] = field(default_factory=dict)
    curve: Sequence[Point] = ()
    drawn: Mapping[str, Any] | None = None

    def figure(self, metric: str) -> float | None:
        """A metric that is a number; None where it was not measured or is not finite."""
        value = self.metrics.get(metric)
        known = isinstance(value, int | float) and not isinstance(value, bool)
        return float(value) if known and math.isfinite(value) else None


def find_runs(folder: Path, depth: int = DEEPEST) -> list[Path]:
    """The folder itself, where it is a run, or those inside it, in the order 0, 1, 2, 10."""
    directory = RunDirectory(folder)
    if directory.is_run or directory.finished:
        return [folder]
    if depth == 0:
        return []
    inner = [p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")]
    inner.sort(key=lambda p: (not p.name.isdecimal(), int(p.name) if p.name.isdecimal() else 0, p))
    return [run for path in inner for run in find_runs(path, depth - 1)]


def read_run(folder: Path, name: str) -> Run:
    """Raises UnreadableRun: a file of the run is damaged."""
    config = read_yaml(folder / "config.yaml")
    typed = read_yaml(folder / "overrides.yaml")
    curve = read_curve(folder / "metrics.csv")
    metrics = read_json(folder / "metrics.json")
    state = PRUNED if metrics and metrics.get("pruned") else FINISHED
    if metrics is None:
        state = state_of(folder)
        metrics = {BEST: max(y for _, y in curve)} if curve else {}
    return Run(
        name,
        folder,
        state,
        config=flatten(config) if isinstance(config, dict) else {},
        typed=[str(word) for word in typed] if isinstance(typed, list) else (),
        metrics=metrics,
        curve=curve,
    )


def state_of(folder: Path) -> str:
    """How a run ended that did not write `metrics.json`: its process holds it, or it reported."""
    if is_held(folder):
        return RUNNING
    report = folder / "report.html"
    broke = report.is_file() and REPORTED_FAILURE in report.read_bytes()
    return FAILED if broke else STOPPED


def read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UnreadableRun(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise UnreadableRun(f"{path} cannot be read: it holds no figures by name")
    return content


def read_yaml(path: Path) -> Any:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the former is ten times as fast
    try:
        return yaml.load(path.read_text(encoding="utf-8"), loader)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UnreadableRun(f"{path} cannot be read: {' '.join(str(error).split())}") from error


def read_curve(path: Path) -> list[Point]:
    try:
        rows = read_metrics(path)
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise UnreadableRun(f"{path} cannot be read: {error}") from error
    points = {row["step"]: row[CURVE] for row in rows if "step" in row and CURVE in row}
    return sorted((x, y) for x, y in points.items() if math.isfinite(y))
