"""Where a run lives on disk: its name, its lock, and the small files in it."""

import errno
import fcntl
import json
import os
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vitfw.atomic import write_text
from vitfw.config import as_yaml
from vitfw.errors import ConfigError

LONGEST_NAME = 100


def run_name(overrides: Sequence[str]) -> str:
    """A folder name that follows from what was typed, so that the same command finds its run.

    Where a run is put and whether it resumes are no part of it, nor is the experiment, which names
    the folder above.
    """
    left_out = ("run_dir=", "resume=", "experiment=", "hydra")
    kept = sorted(text for text in overrides if not text.startswith(left_out))
    name = ",".join(kept).replace("=", "-")  # an `=` in a path could not be typed as an override
    name = re.sub(r"[^\w.\-]+", "_", name).strip("._-") or "default"
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[: LONGEST_NAME - 9]}_{zlib.crc32(name.encode()):08x}"


class RunDirectory:
    """A run's folder, held by a lock while the run writes to it.

    Nothing is created before `open`. `finished` is told by `metrics.json`, which is written last.
    """

    def __init__(self, path: Path):
        self.path = path
        self._lock: int | None = None  # descriptor of the folder itself

    @property
    def last_checkpoint(self) -> Path:
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def best_checkpoint(self) -> Path:
        return self.path / "checkpoints" / "best.ckpt"

    @property
    def finished(self) -> bool:
        return (self.path / "metrics.json").is_file()

    @property
    def is_run(self) -> bool:
        """Whether a run of ours was begun here."""
        return (self.path / "config.yaml").is_file() or self.last_checkpoint.is_file()

    def open(self) -> None:
        """Create the folder and lock it.

        Raises:
            ConfigError: another process is writing to it, or it cannot be created.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.path, os.O_RDONLY)
            if not os.access(self.path, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            raise ConfigError(f"run_dir {self.path} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise ConfigError(
                f"another process is training in {self.path}; wait for it, or give run_dir=…"
            ) from error
        except OSError as error:
            os.close(lock)
            raise ConfigError(
                f"run_dir {self.path} cannot be locked: {error.strerror}; give a folder of a file "
                "system that has flock"
            ) from error
        self._lock = lock
        if self.finished:
            self.close()
            raise ConfigError(f"another process has just finished the run in {self.path}")

    def close(self) -> None:
        if self._lock is not None:
            fcntl.flock(self._lock, fcntl.LOCK_UN)  # also for workers that were forked meanwhile
            os.close(self._lock)
            self._lock = None

    def clear(self) -> None:
        """Remove what an earlier start of a run left that never reached its first last.ckpt."""
        if not self.is_run:
            return
        written = ("events.out.*", "metrics.csv", "train.log", "report.html", "*.id", "*/best.ckpt")
        for pattern in written:
            for file in self.path.glob(pattern):
                file.unlink()

    def write_config(self, config: dict[str, Any], overrides: Sequence[str]) -> None:
        write_text(self.path / "config.yaml", as_yaml(config))
        write_text(self.path / "overrides.yaml", as_yaml(list(overrides)))

    def write_metrics(self, metrics: dict[str, Any]) -> None:
        write_text(self.path / "metrics.json", json.dumps(metrics, indent=2) + "\n")


def choose_run_directory(
    run_dir: str | None, experiment: str, overrides: Sequence[str], go_on: bool
) -> RunDirectory:
    """The folder of this run: `run_dir`, or the first fit of `runs/<experiment>/<name>[-N]`.

    With `go_on`, a folder whose run is not finished is taken up again; a finished one, or any
    that exists without `go_on`, is left alone and the next number tried.

    Raises:
        ConfigError: `run_dir` holds a finished run, or without `go_on` any run.
    """
    if run_dir is not None:
        chosen = RunDirectory(Path(run_dir).expanduser())
        if chosen.finished:
            raise ConfigError(
                f"{chosen.path} holds a finished run; give another run_dir, or remove it"
            )
        if chosen.path.is_dir() and any(chosen.path.iterdir()) and not chosen.is_run:
            raise ConfigError(f"run_dir={run_dir} holds files of something else; give a new folder")
        if not go_on and chosen.last_checkpoint.exists():
            raise ConfigError(
                f"{chosen.path} holds an unfinished run; resume=auto goes on with it, another "
                "run_dir starts anew"
            )
        return chosen
    base = Path("runs") / experiment / run_name(overrides)
    number = 1
    while True:
        path = base if number == 1 else base.with_name(f"{base.name}-{number}")
        chosen = RunDirectory(path)
        free = not chosen.finished and (go_on or not chosen.last_checkpoint.exists())
        if free:
            return chosen
        number += 1
