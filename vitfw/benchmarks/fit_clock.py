"""A clock that runs while a contestant trains and stands while it is validated.

It writes a file of JSON lines, so that a run that is stopped leaves what it had reached. Imports
nothing but torch: the peers' start-up is theirs alone.
"""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


class TrainingClock:
    """Says when to validate, and when it is over: at `stop_at` accuracy, or after `cap` seconds.

    `validate_every` and `cap` are seconds of training.
    """

    def __init__(self, path: str | Path, validate_every: float, cap: float, stop_at: float):
        self.path = Path(path)
        self.validate_every = validate_every
        self.cap = cap
        self.stop_at = stop_at
        self.reached = False
        self._trained = 0.0
        self._mark: float | None = None

    def write(self, line: dict[str, Any]) -> None:
        with open(self.path, "a", encoding="utf-8") as sink:
            sink.write(json.dumps(line) + "\n")

    def begin(self) -> None:
        """Training begins: what was before is start-up."""
        self.write({"began": time.time()})
        self._mark = time.perf_counter()

    @property
    def since_validation(self) -> float:
        return 0.0 if self._mark is None else time.perf_counter() - self._mark

    @property
    def seconds(self) -> float:
        return self._trained + self.since_validation

    @property
    def over(self) -> bool:
        return self.reached or self.seconds >= self.cap

    @property
    def due(self) -> bool:
        return self.since_validation >= self.validate_every or self.seconds >= self.cap

    def stop(self) -> None:
        """Before a validation, when the device has done all that it was given."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._trained, self._mark = self.seconds, None

    def resume(self, accuracy: float, step: int) -> None:
        """After a validation, which gave `accuracy` at optimizer step `step`."""
        self.write({"seconds": round(self._trained, 3), "accuracy": accuracy, "step": step})
        self.reached = self.reached or accuracy >= self.stop_at
        self._mark = time.perf_counter()


@dataclass
class ClockLog:
    """What a clock has written: when training began, facts of the run, and its validations."""

    began: float | None = None
    about: dict[str, Any] = field(default_factory=dict)
    curve: list[dict[str, Any]] = field(default_factory=list)  # seconds, accuracy, step


def read_clock(path: Path) -> ClockLog:
    """The lines that are whole; none of a file that is not there yet."""
    found = ClockLog()
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    for line in text.splitlines(keepends=True):
        if not line.endswith("\n"):
            break
        entry = json.loads(line)
        if "began" in entry:
            found.began = entry["began"]
        elif "about" in entry:
            found.about = entry["about"]
        else:
            found.curve.append(entry)
    return found
