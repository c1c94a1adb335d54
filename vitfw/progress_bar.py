"""How far a long piece of work is, for the person who waits for it."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from types import TracebackType

from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch.utils.data import get_worker_info

from vitfw.console import console, log, progress_bars

SECONDS_BEFORE_BAR = 2.0
SECONDS_BETWEEN_BARS = 0.25
SECONDS_BEFORE_LINES = 10.0  # and between two lines
SHARE_BETWEEN_LINES = 0.1
SECONDS_WITHOUT_LINE = 60.0  # at most, of work that is slow
SHORT = {"images": "img"}  # for rates


class LongWork:
    """Shows how much of `total` is done, while the block runs: a bar on a terminal, else lines.

    Nothing is shown of work that is done in a moment, nor by worker processes, nor by any but the
    first process of a run. `unit` is what is counted, "bytes" are shown as kB, MB or GB; where
    `total` is None, nobody knows how much there is to do. `update` is called as tqdm's.
    """

    def __init__(self, what: str, total: int | None = None, unit: str = "images"):
        self.what, self.total, self.unit = what, total, unit
        self.done = 0
        self._began = monotonic()
        self._said: list[tuple[float, int]] = []  # when, and how much was done
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "LongWork":
        self.begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end(broken=kind is not None)

    def begin(self) -> None:
        self._began = monotonic()
        first = getattr(rank_zero_only, "rank", 0) == 0
        if first and get_worker_info() is None:
            self._watcher.start()

    def end(self, broken: bool = False) -> None:
        """Take the bar away; where there were lines, a last one says what was done."""
        self._over.set()
        if self._watcher.is_alive():
            self._watcher.join()
        if not broken and self._said and self._said[-1][1] != self.done:
            self._say()

    def update(self, count: int = 1) -> None:
        self.done += count

    def _watch(self) -> None:
        if console.is_terminal:
            self._draw()
            return
        while not self._over.wait(SECONDS_BEFORE_LINES):
            if self._is_due():
                self._say()

    def _draw(self) -> None:
        if self._over.wait(SECONDS_BEFORE_BAR):
            return
        with progress_bars() as bars:
            task = bars.add_task(self.what, total=self.total, rate="")
            while True:
                bars.update(task, completed=self.done, total=self.total, rate=self.rate())
                if self._over.wait(SECONDS_BETWEEN_BARS):
                    return

    def _is_due(self) -> bool:
        if not self._said:
            return True
        when, done = self._said[-1]
        share = (self.done - done) / self.total if self.total else 0.0
        return share >= SHARE_BETWEEN_LINES or monotonic() - when >= SECONDS_WITHOUT_LINE

    def _say(self) -> None:
        self._said.append((monotonic(), self.done))
        log.info(self.line())

    def line(self) -> str:
        """`packing train: 24,000/60,000 (40 %), 1,203 img/s, 0:30 left`"""
        parts = [self.rate()]
        if self.total:
            amount = f"{counted(self.done, self.unit)}/{counted(self.total, self.unit)}"
            parts.insert(0, f"{amount} ({self.done / self.total:.0%})".replace("%", " %"))
            if 0 < self.done < self.total:
                seconds = self._seconds() * (self.total - self.done) / self.done
                parts.append(f"{clock(seconds)} left")
        return f"{self.what}: {', '.join(part for part in parts if part)}"

    def rate(self) -> str:
        """`1,203 img/s`, `5.1 MB/s`; where nothing is counted, how long it has taken so far."""
        if not self.done:
            return f"{clock(self._seconds())} so far" if self.total is None else ""
        speed = self.done / self._seconds()
        if self.unit == "bytes":
            return f"{counted(int(speed), 'bytes')}/s"
        digits = 0 if speed >= 10 else 1
        return f"{speed:,.{digits}f} {SHORT.get(self.unit, self.unit)}/s"

    def _seconds(self) -> float:
        return max(monotonic() - self._began, 1e-6)


def counted(amount: int, unit: str) -> str:
    """`24,000`; of bytes `170.5 MB`"""
    if unit != "bytes":
        return f"{amount:,}"
    for factor, name in ((10**9, "GB"), (10**6, "MB")):
        if amount >= factor:
            return f"{amount / factor:.1f} {name}"
    return f"{amount / 1000:.0f} kB"


def clock(seconds: float) -> str:
    """`0:05`, `12:30`, `3:00:00`"""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def fetching(what: str) -> Iterator[None]:
    """Around a download by a library that draws bars itself: on a terminal they are left to it.

    Elsewhere they would fill a log; lines that it goes on take their place.
    """
    if sys.stderr.isatty():
        yield
        return
    from huggingface_hub.utils import disable_progress_bars  # slow to import

    disable_progress_bars()
    with LongWork(f"fetching {what}"):
        yield
