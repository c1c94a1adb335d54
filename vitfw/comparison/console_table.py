"""Runs in a table for the console, with as many of their differences as have room."""

from rich import box
from rich.table import Table
from rich.text import Text

from vitfw.comparison.gather import Comparison
from vitfw.comparison.words import ABSENT, clipped, shown, sized

LONGEST_NAME, LONGEST_VALUE = 24, 16
GAP, EDGES = 2, 1  # columns between two cells, and what the box takes at both ends
SHORT = {"val/accuracy_best": "best val", "test/accuracy": "test"}

Column = tuple[str, list[str]]


def console_table(comparison: Comparison, width: int) -> tuple[Table, list[str]]:
    """The table at `width` columns, and the parameters that had no room."""
    first, last = fixed_columns(comparison)
    room = width - EDGES - sum(width_of(column) + GAP for column in [*first, *last])
    between, left_out = [], []
    for key, values in comparison.parameters.items():
        cells = [clipped(shown(value), LONGEST_VALUE) for value in values]
        column = (clipped(comparison.names[key], LONGEST_VALUE), cells)
        if width_of(column) + GAP <= room:
            room -= width_of(column) + GAP
            between.append(column)
        else:
            left_out.append(key)
    table = Table(box=box.HORIZONTALS, padding=(0, GAP - 1, 0, 0), pad_edge=False)
    columns = [*first, *between, *last]
    for head, _ in columns:
        left = head in ("run", "state")
        table.add_column(Text(head), justify="left" if left else "right", no_wrap=True)
    for i in range(len(comparison.runs)):
        table.add_row(*(Text(cells[i]) for _, cells in columns))
    return table, left_out


def fixed_columns(comparison: Comparison) -> tuple[list[Column], list[Column]]:
    """What stands before the differences, and after them."""
    runs = comparison.runs
    first = [
        ("#", [str(i + 1) for i in range(len(runs))]),
        ("run", [clipped_left(run.name) for run in runs]),
    ]
    metrics = [comparison.metric]
    if comparison.metric != "test/accuracy" and any(r.figure("test/accuracy") for r in runs):
        metrics.append("test/accuracy")
    last: list[Column] = [
        (SHORT.get(metric, metric), [figure(run.figure(metric)) for run in runs])
        for metric in metrics
    ]
    if comparison.metric != "fit_seconds":
        last.append(("seconds", [seconds(run.figure("fit_seconds")) for run in runs]))
    last.append(("params", [sized(run.figure("params")) for run in runs]))
    last.append(("state", [run.state for run in runs]))
    return first, last


def width_of(column: Column) -> int:
    head, cells = column
    return max(map(len, [head, *cells]))


def clipped_left(name: str) -> str:
    """The end of a path tells runs apart."""
    return name if len(name) <= LONGEST_NAME else f"…{name[1 - LONGEST_NAME :]}"


def figure(value: float | None) -> str:
    return ABSENT if value is None else f"{value:,.4f}" if abs(value) < 1000 else f"{value:,.0f}"


def seconds(value: float | None) -> str:
    return ABSENT if value is None else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"
