"""Values, metrics and durations as a person reads them."""

from typing import Any

from vitfw.plots import number, percent
from vitfw.report.summary import duration, magnitude

ABSENT = "–"


def exact(value: Any) -> str:
    """A value of a config, as it could be typed."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(exact, value))}]"
    return str(value)


def shown(value: Any) -> str:
    """A value of a config in little room."""
    return f"{value:.3g}" if isinstance(value, float) else exact(value)


def clipped(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def is_share(metric: str) -> bool:
    return "accuracy" in metric


def measured(metric: str, value: float | None) -> str:
    if value is None:
        return ABSENT
    if metric.endswith("seconds"):
        return duration(value)
    return percent(value) if is_share(metric) else number(value)


def sized(count: float | None) -> str:
    return ABSENT if count is None else magnitude(count)


def counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
