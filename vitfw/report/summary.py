"""The figures of a run: tiles for those that matter most, tables for the rest."""

import math
from collections.abc import Mapping
from html import escape
from typing import Any

from vitfw.plots import number, percent

TOLD_ELSEWHERE = ("pruned", "device", "precision", "git_commit", "versions")


def duration(seconds: float) -> str:
    if not 60 <= seconds < math.inf:
        return f"{number(round(seconds, 1))} s"
    if seconds < 3600:
        return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
    return f"{int(seconds) // 3600:,} h {int(seconds) // 60 % 60:02d} min"


def magnitude(count: float) -> str:
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            share = count / size
            return f"{share:.3g} {unit}" if share < 999.5 else f"{share:,.0f} {unit}"
    return number(count)


def rate(per_second: float) -> str:
    return f"{per_second:,.0f}" if per_second >= 10 else number(per_second)


HEADLINES = {
    "test/accuracy": ("test accuracy", percent),
    "val/accuracy_best": ("best val accuracy", percent),
    "fit_seconds": ("training time", duration),
    "train/images_per_second": ("training images/s", rate),
    "params": ("parameters", magnitude),
    "flops_per_image": ("FLOPs per image", magnitude),
}


def tiles(summary: Mapping[str, Any]) -> str:
    shown = [
        f'<div class="tile" title="{escape(f"{key}: {summary[key]}")}">'
        f"<b>{escape(show(summary[key]))}</b><small>{escape(label)}</small></div>"
        for key, (label, show) in HEADLINES.items()
        if summary.get(key) is not None
    ]
    return f'<div class="tiles">{"".join(shown)}</div>' if shown else ""


def tables(summary: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    """What the tiles do not show of metrics.json, and what the run ran on, side by side."""
    rest = {k: v for k, v in summary.items() if k not in HEADLINES and k not in TOLD_ELSEWHERE}
    shown = [
        f"<div><h2>{heading}</h2><table><tbody>{_rows(values)}</tbody></table></div>"
        for heading, values in (("Figures", rest), ("Environment", environment))
        if any(value is not None for value in values.values())
    ]
    return f'<section class="columns">{"".join(shown)}</section>' if shown else ""


def _rows(values: Mapping[str, Any]) -> str:
    return "".join(
        f'<tr><th scope="row">{escape(key)}</th><td>{escape(_show(key, value))}</td></tr>'
        for key, value in values.items()
        if value is not None
    )


def _show(key: str, value: Any) -> str:
    if isinstance(value, bool | str) or key == "seed" or not isinstance(value, int | float):
        return str(value)
    if "accuracy" in key:
        return percent(value)
    return duration(value) if key.endswith("_seconds") else number(value)
