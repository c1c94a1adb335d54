"""`metrics.csv`: one row per logged step, kept over restarts."""

import csv
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from vitfw.atomic import replacing

Row = dict[str, Any]


class CsvLogger(Logger):
    """Appends to one file: what is logged at the same step shares a row, a new metric is a column.

    A resumed run goes on in the same file: rows of steps that are done again are dropped.
    (Lightning's own logger starts the file anew.)
    """

    def __init__(self, path: str):
        super().__init__()
        self.path = Path(path)
        self._columns: list[str] = []
        self._pending: Row = {}
        self._pending_is_written = False

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, params: Row | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the config has a file of its own."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if not self._columns:
            self._take_up(step or 0)
        if self._pending.get("step", step) != step:
            self.write()
            self._pending, self._pending_is_written = {}, False
        self._pending.update({**metrics, "step": step})
        if self._pending_is_written:
            earlier = read_rows(self.path)[:-1]
            self._columns += [key for key in self._pending if key not in self._columns]
            self._rewrite([*earlier, self._pending])

    @rank_zero_only
    def write(self) -> None:
        """Write the row that is not complete yet, too: a checkpoint will not make it again."""
        if self._pending and not self._pending_is_written:
            self._append(self._pending)
            self._pending_is_written = True

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.write()
        self._pending, self._pending_is_written = {}, False

    def _take_up(self, step: int) -> None:
        self._columns = ["step"]
        if self.path.exists():
            rows = read_rows(self.path)
            earlier = [row for row in rows if float(row.get("step", 0)) < step]
            self._columns = list(dict.fromkeys(["step", *(key for row in rows for key in row)]))
            self._rewrite(earlier)
            self._pending = {
                k: v for row in rows if float(row.get("step", 0)) == step for k, v in row.items()
            }
            self._pending.pop("step", None)

    def _append(self, row: Row) -> None:
        new = [key for key in row if key not in self._columns]
        if new or not self.path.exists():
            earlier = read_rows(self.path) if self.path.exists() else []
            self._columns += new
            self._rewrite([*earlier, row])
            return
        with open(self.path, "a", newline="", encoding="utf-8") as sink:
            csv.DictWriter(sink, self._columns).writerow(row)

    def _rewrite(self, rows: list[Row]) -> None:
        with (
            replacing(self.path) as partial,
            open(partial, "w", newline="", encoding="utf-8") as sink,
        ):
            writer = csv.DictWriter(sink, self._columns)
            writer.writeheader()
            writer.writerows(rows)


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows as they were written; a cell that was not logged is no key, half a line no row."""
    with open(path, newline="", encoding="utf-8") as source:
        whole = (line for line in source if line.endswith("\n"))
        rows = csv.DictReader(whole)
        return [{key: cell for key, cell in row.items() if key and cell} for row in rows]


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a `metrics.csv` as numbers."""
    return [{key: float(cell) for key, cell in row.items()} for row in read_rows(path)]
