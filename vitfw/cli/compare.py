"""`vitfw compare RUN_DIR…`: runs or a sweep as a table, and as a page of plots."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from vitfw.cli.app import exit_code, output_path
from vitfw.comparison.console_table import console_table
from vitfw.comparison.gather import Comparison, compare
from vitfw.comparison.page import write_page
from vitfw.comparison.sweep_end import PAGE
from vitfw.console import console
from vitfw.errors import ConfigError, nearest

USAGE = """usage: vitfw compare RUN_DIR… [sort=METRIC] [output=FILE.html]

  RUN_DIR   the folder of a run, a folder of runs, or of a sweep
  sort      a metric of metrics.json; val/accuracy_best or the sweep's objective
  output    the page; sweep_report.html in the sweep's folder, else ./compare.html

vitfw compare runs/sweeps/2026-01-31_12-00-00
vitfw compare runs/vit_nano-digits sort=test/accuracy
vitfw compare runs/a runs/b output=a_and_b.html"""
OPTIONS = ("sort", "output")


def main(argv: Sequence[str] | None = None) -> int:
    words = list(argv or [])
    if "-h" in words or "--help" in words:
        print(USAGE)
        return 0
    with exit_code() as outcome:
        folders, options = parse(words)
        output = output_path(options.get("output"))
        comparison = compare(folders, options.get("sort"))
        show(comparison)
        path = write_page(comparison, output or default_page(comparison))
        console.print(f"the page      {shlex.quote(str(path))}", soft_wrap=True, markup=False)
    return outcome.code


def parse(words: Sequence[str]) -> tuple[list[Path], dict[str, str]]:
    """The folders, each once, and the options.

    Raises:
        ConfigError: no folder, or an option that does not exist.
    """
    options: dict[str, str] = {}
    folders: dict[Path, Path] = {}
    for word in words:
        path = Path(word).expanduser()
        key, equals, value = word.partition("=")
        if word.startswith("-") and not path.exists():
            raise ConfigError(f"there is no flag {word}; vitfw compare --help shows what there is")
        if re.fullmatch(r"[a-z_]+", key) and equals and not path.exists():
            if key not in OPTIONS:
                hint = nearest(key, OPTIONS) or f"; known: {', '.join(OPTIONS)}"
                raise ConfigError(f"compare has no option {key!r}{hint}")
            options[key] = value
        else:
            folders.setdefault(path.resolve(), path)
    if not folders:
        raise ConfigError("compare what? Give folders of runs: vitfw compare runs/sweeps/NAME")
    return list(folders.values()), options


def default_page(comparison: Comparison) -> Path:
    path = comparison.sweep / PAGE if comparison.sweep else Path("compare.html")
    checked = output_path(str(path))
    assert checked is not None
    return checked


def show(comparison: Comparison) -> None:
    """The table, what it left out, and what was skipped."""
    table, left_out = console_table(comparison, console.width)
    console.print(table)
    if left_out:
        names = ", ".join(comparison.names[key] for key in left_out)
        console.print(
            Text(f"{len(left_out)} more that differ are on the page: {names}"), soft_wrap=True
        )
    for problem in comparison.problems:
        console.print(Text(problem, style="yellow"), soft_wrap=True)
