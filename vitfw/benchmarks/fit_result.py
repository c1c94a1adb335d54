"""What a time to accuracy is, and how contestants compare in it.

A contestant has `runs`, each with the name of its `schedule`, its `seed`, its `curve`, the seconds
of its start-up and the `limit_s` that a level counts for which it did not reach.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import torch

from vitfw.config import flatten
from vitfw.console import log
from vitfw.environment import device_name, versions

Curve = Sequence[dict[str, Any]]  # seconds, accuracy, step; in order
Runs = Sequence[dict[str, Any]]
OURS = "vitfw"
NEARLY = 0.9  # of the cap


def first_time(curve: Curve, level: float) -> float | None:
    """Seconds at the first validation that shows `level` or more, not interpolated."""
    return next((point["seconds"] for point in curve if point["accuracy"] >= level), None)


def limit_of(curve: Curve, cap: float) -> float:
    """The seconds that a level counts for which was not reached.

    The cap, if the run filled it, or nearly; else what was trained: more would be made up.
    """
    trained = curve[-1]["seconds"] if curve else 0.0
    return cap if trained >= NEARLY * cap else trained


class TimeTo(NamedTuple):
    """Seconds to a level, without and with start-up: the mean over seeds, and their deviation."""

    schedule: str
    reached: bool
    seconds: float
    with_startup: float
    deviation: float | None


def time_with(schedule: str, runs: Runs, level: float) -> TimeTo:
    """Of the runs of one schedule, which differ by their seeds.

    The level is reached if all of them did; else the longest that one tried in vain is the time.
    """
    startup = fmean(run["startup_s"] for run in runs)
    times = [first_time(run["curve"], level) for run in runs]
    seconds = [time for time in times if time is not None]
    if len(seconds) < len(runs):
        in_vain = [run["limit_s"] for run, time in zip(runs, times, strict=True) if time is None]
        longest = max(in_vain)
        return TimeTo(schedule, False, longest, longest + startup, None)
    deviation = stdev(seconds) if len(seconds) > 1 else None
    return TimeTo(schedule, True, fmean(seconds), fmean(seconds) + startup, deviation)


def time_to(runs: Runs, level: float) -> TimeTo:
    """Of the schedule that gets there first; of the longest where none does."""
    of: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        of.setdefault(run["schedule"], []).append(run)
    times = [time_with(schedule, some, level) for schedule, some in of.items()]
    reached = [time for time in times if time.reached]
    if reached:
        return min(reached, key=lambda time: time.seconds)
    return max(times, key=lambda time: time.seconds)


def compare(contestants: dict[str, Any], levels: Sequence[float]) -> list[dict[str, Any]]:
    """A row for each level and contestant: seconds, and the ratio to vitfw's.

    `seconds` are of training, `with_startup` from the start of the process; where the level was not
    reached they are the limit and `reached` is false: then the ratio is a lower bound. `no_ratio`
    says why there is none.
    """
    rows = []
    for level in levels:
        ours = time_to(contestants[OURS]["runs"], level) if OURS in contestants else None
        for name, result in contestants.items():
            time = time_to(result["runs"], level)
            row: dict[str, Any] = {
                "level": level,
                "contestant": name,
                "schedule": time.schedule,
                "reached": time.reached,
                "seconds": round(time.seconds, 3),
                "with_startup": round(time.with_startup, 3),
            }
            if time.deviation is not None:
                row["deviation"] = round(time.deviation, 3)
            if name != OURS and ours is None:
                row["no_ratio"] = "vitfw was not run"
            elif ours is not None and not ours.reached:
                row["no_ratio"] = "vitfw did not get there"
            elif name != OURS and ours is not None:
                row["ratio"] = round(time.seconds / ours.seconds, 2)
                row["ratio_with_startup"] = round(time.with_startup / ours.with_startup, 2)
            rows.append(row)
    return rows


def read_earlier(
    path: Path,
    settings: dict[str, Any],
    asked: Mapping[str, dict[str, Any]],
    device: torch.device,
) -> dict[str, Any]:
    """The contestants that a file holds already, if they can stand beside new ones.

    They can if machine, versions and settings are the same, and if each was asked for what `asked`
    says of it. A warning tells which are left out, and why.
    """
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        log.warning(f"{path} cannot be read: it will be replaced")
        return {}
    same = (
        earlier.get("device") == device_name(device)
        and earlier.get("versions") == versions()
        and earlier.get("settings") == settings
    )
    if not same:
        log.warning(f"{path} is of another machine, version or setting: it will be replaced")
        return {}
    kept = {}
    for name, result in earlier.get("contestants", {}).items():
        other = differing(result.get("asked", {}), asked.get(name, {}))
        if other:
            log.warning(f"{path}: {name} was run with another {', '.join(other)}: left out now")
        else:
            kept[name] = result
    return kept


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The keys, dotted, at which two nested mappings differ."""
    a, b = flatten(one), flatten(other)
    return sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))
