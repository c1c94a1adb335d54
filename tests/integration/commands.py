"""Commands as processes, as a person would start them."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

TRAIN = Path(__file__).parents[2] / "train.py"
TINY = ["model.embed_dim=32", "model.depth=2", "model.num_heads=2"]


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """Lines on standard error that are ours; a wrong request has exactly one."""
        return [line for line in self.err.splitlines() if line.strip()]


def start(*words: str, cwd: Path, env: dict[str, str] | None = None) -> subprocess.Popen:
    return subprocess.Popen(
        command_of(words),
        cwd=cwd,
        env={**os.environ, "COLUMNS": "80", **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def command_of(words: tuple[str, ...]) -> list[str]:
    if words[0] == "train.py":
        return [sys.executable, str(TRAIN), *words[1:]]
    return [sys.executable, "-m", "vitfw", *words]


def run(*words: str, cwd: Path, env: dict[str, str] | None = None) -> Outcome:
    process = start(*words, cwd=cwd, env=env)
    out, err = process.communicate(timeout=400)
    return Outcome(process.returncode, out, err)


@dataclass(frozen=True)
class Run:
    """A finished run: the folder the command was typed in, its run directory, what it printed."""

    folder: Path
    path: Path
    outcome: Outcome

    @property
    def best(self) -> Path:
        return self.path / "checkpoints" / "best.ckpt"
