"""Commands, as a person would start them."""

import atexit
import multiprocessing
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

TRAIN = Path(__file__).parents[2] / "train.py"
TINY = ["model.embed_dim=32", "model.depth=2", "model.num_heads=2"]
SECONDS = 400

# Importing all this takes most of a small run's time: `run` forks off a process that has done it.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["timm", "torchvision", "tensorboard", "sklearn.datasets", "onnx", "vitfw.cli.train"]
)


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """Lines on standard error that are ours; a wrong request has exactly one."""
        return [line for line in self.err.splitlines() if line.strip()]


def run(*words: str, cwd: Path) -> Outcome:
    """A command from beginning to end, in a process of its own."""
    with TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        told = words, cwd, surroundings(), (out, err)
        process = SERVER.Process(target=as_command, args=told)
        process.start()
        process.join(SECONDS)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(f"{words}: {out.read_text()}\n{err.read_text()}")
        return Outcome(process.exitcode, out.read_text(), err.read_text())


def as_command(
    words: tuple[str, ...], cwd: Path, env: dict[str, str], streams: tuple[Path, Path]
) -> None:
    """Make this process the one of a command; `streams` take what it prints and its errors."""
    for number, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = [str(TRAIN if words[0] == "train.py" else "vitfw"), *words]
    try:
        from vitfw.cli.main import main

        sys.exit(main(["train", *words[1:]] if words[0] == "train.py" else words))
    finally:
        atexit._run_exitfuncs()  # a forked process ends without


def start(*words: str, cwd: Path, env: dict[str, str] | None = None) -> subprocess.Popen:
    """A command that the test will stop, kill, or look at as it runs."""
    return subprocess.Popen(
        command_of(words),
        cwd=cwd,
        env=surroundings(env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def command_of(words: tuple[str, ...]) -> list[str]:
    if words[0] == "train.py":
        return [sys.executable, str(TRAIN), *words[1:]]
    return [sys.executable, "-m", "vitfw", *words]


def run_from_start(*words: str, cwd: Path, env: dict[str, str] | None = None) -> Outcome:
    """The same as `run` with an interpreter of its own: what is imported, and how, counts."""
    process = start(*words, cwd=cwd, env=env)
    out, err = process.communicate(timeout=SECONDS)
    return Outcome(process.returncode, out, err)


def surroundings(env: dict[str, str] | None = None) -> dict[str, str]:
    return {**os.environ, "COLUMNS": "80", **(env or {})}


@dataclass(frozen=True)
class Run:
    """A finished run: the folder the command was typed in, its run directory, what it printed."""

    folder: Path
    path: Path
    outcome: Outcome

    @property
    def best(self) -> Path:
        return self.path / "checkpoints" / "best.ckpt"
