"""Jobs as processes of their own: `python -m vitfw train …`."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any

from vitfw.console import log

PR_SET_PDEATHSIG = 1
STOPPED = {signal.SIGTERM: 143, signal.SIGINT: 130}


@dataclass(frozen=True)
class Job:
    """A run of `vitfw train` in a folder. `output`: a file that keeps what it prints, or None."""

    words: Sequence[str]
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    output: Path | None = None

    @property
    def command(self) -> list[str]:
        own = (
            []
            if any(word.startswith("run_dir=") for word in self.words)
            else [f"run_dir={self.folder}"]
        )
        return [sys.executable, "-m", "vitfw", "train", *self.words, *own]


@dataclass(frozen=True)
class Ended:
    """How a job ended: its exit code, its `metrics.json`, its last word where it failed."""

    code: int
    metrics: dict[str, Any] | None = None
    error: str | None = None


class Jobs:
    """Runs jobs, some at a time. They die with this process, and are stopped with it.

    SIGTERM and Ctrl-C are passed on as SIGTERM: each job saves, and the same command goes on with
    it. A second Ctrl-C kills them.
    """

    def __init__(self) -> None:
        self.exit_code: int | None = None  # of this process, once it was asked to stop
        self._running: set[subprocess.Popen[bytes]] = set()
        self._starting = threading.Lock()

    def run(self, jobs: Sequence[Job], at_once: int, ended: Callable[[Job, Ended], None]) -> None:
        """Run them all; `ended` is called with each as it ends.

        Raises:
            SystemExit: 130 or 143, this process was asked to stop.
        """
        with self.stoppable(), ThreadPoolExecutor(at_once) as pool:
            for _ in pool.map(lambda job: ended(job, self.run_one(job)), jobs):
                pass
        if self.exit_code is not None:
            raise SystemExit(self.exit_code)

    def run_one(self, job: Job) -> Ended:
        """Run a job to its end, from any thread."""
        job.folder.parent.mkdir(parents=True, exist_ok=True)
        with open(job.output, "ab") if job.output else nullcontext() as sink:
            process = self._start(job, sink)
            if process is None:
                return Ended(self.exit_code or 1, error="stopped before it began")
            tail = last_line(process.stderr, sink or sys.stderr.buffer)
            code = process.wait()
            self._running.discard(process)
        metrics = job.folder / "metrics.json"
        if code == 0 and metrics.is_file():
            return Ended(code, metrics=json.loads(metrics.read_text(encoding="utf-8")))
        if code < 0:
            return Ended(code, error=f"killed by {signal.Signals(-code).name}")
        return Ended(code, error=tail.removeprefix("error: ") or f"ended with exit code {code}")

    def _start(self, job: Job, sink: IO[bytes] | None) -> "subprocess.Popen[bytes] | None":
        with self._starting:
            if self.exit_code is not None:
                return None
            process = subprocess.Popen(
                job.command,
                env={**inherited_environment(), **job.environment},
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.PIPE,
                process_group=0,  # Ctrl-C comes from us, once
                preexec_fn=die_with(os.getpid()),
            )
            self._running.add(process)
            return process

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """Pass signals on to the jobs for a while; only of the main thread, where they arrive."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._on_signal) for number in STOPPED}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        again, self.exit_code = self.exit_code is not None, STOPPED[signal.Signals(number)]
        if again and number == signal.SIGTERM:
            return
        log.info("killing the jobs" if again else "stopping; the jobs save first")
        for process in list(self._running):
            process.send_signal(signal.SIGKILL if again else signal.SIGTERM)


def inherited_environment() -> dict[str, str]:
    """Ours, without what a sweep sets for itself."""
    own = ("HYDRA_FULL_ERROR", "VITFW_RUN_DIR")
    return {name: value for name, value in os.environ.items() if name not in own}


def last_line(source: IO[bytes] | None, sink: IO[bytes]) -> str:
    """Copy to the end; returns the last line with something on it."""
    last = b""
    for line in source or ():
        sink.write(line)
        sink.flush()
        last = line.strip() or last
    return last.decode(errors="replace")


def die_with(parent: int) -> Callable[[], None] | None:
    """For the child, before it becomes another program: the kernel kills it when we end (Linux)."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def tie() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended in between
            os._exit(1)

    return tie
