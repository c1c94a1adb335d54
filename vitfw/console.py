"""What a person sees: one rich console, and a log that goes there and into `train.log`."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column

console = Console(highlight=False)
log = logging.getLogger("vitfw")

# True of every run of ours, and nothing a person can act on.
_NOISE = (
    ".*does not have many workers.*",
    ".*isinstance.treespec, LeafSpec.*",
    ".*is smaller than the logging interval.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*LightningDeprecationWarning.*",
    ".*in eval mode at the start of training.*",  # averaged weights, teachers, frozen norms
)


FILE_ONLY = "file_only"  # log.info(…, extra={FILE_ONLY: True}) is for train.log alone


class ConsoleHandler(logging.Handler):
    """Prints above a progress bar, where there is one; long lines are left to the terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, FILE_ONLY, False):
            return
        style = "yellow" if record.levelno >= logging.WARNING else None
        console.print(record.getMessage(), style=style, markup=False, soft_wrap=True)


def progress_bars() -> Progress:
    """Bars with description, share, the field `rate` and the time left; on terminals only."""
    return Progress(
        TextColumn("{task.description}", table_column=Column(no_wrap=True, max_width=40)),
        BarColumn(bar_width=None),
        TaskProgressColumn("{task.percentage:>3.0f}%"),  # none where the total is unknown
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
        refresh_per_second=4,
        expand=True,
        disable=not console.is_terminal,
    )


@contextmanager
def messages_on_stderr() -> Iterator[None]:
    """For as long as standard output belongs to something else, such as a command's result."""
    before, console.stderr = console.stderr, True
    try:
        yield
    finally:
        console.stderr = before


def setup_logging() -> None:
    """Our messages to the console, plain; libraries only where they warn."""
    log.handlers = [ConsoleHandler()]
    log.setLevel(logging.INFO)
    log.propagate = False
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for pattern in _NOISE:
        warnings.filterwarnings("ignore", pattern)


def log_to(path: Path) -> logging.Handler:
    """Write our messages to a file as well, with the time; returns the handler, to be closed."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    return handler


def stop_logging_to(handler: logging.Handler) -> None:
    log.removeHandler(handler)
    handler.close()
