"""`vitfw COMMAND`: which command it is; each has a file of its own here."""

import importlib
import sys
from collections.abc import Sequence

from vitfw.errors import nearest

COMMANDS = {
    "train": "train a model; -m sweeps",
    "find_lr": "try rising learning rates for some steps, and suggest one",
    "evaluate": "metrics of a checkpoint on a split",
    "predict": "top-k classes of any image file or folder, from a checkpoint alone",
    "attend": "what a checkpoint attends to in any image file or folder, as PNG",
    "export": "a checkpoint for timm, torchvision, Hugging Face, ONNX and others",
    "explain": "walk one batch through a model: shapes, parameters, FLOPs",
    "compare": "rank runs or a sweep: a table, and a page with plots",
    "preview": "a picture of what a model is trained on: augmented samples, class counts",
    "pack": "write a data set once into shards, for disks and object stores",
    "benchmark": "images per second of data, step and attention, beside other libraries",
}


def usage() -> str:
    lines = ["usage: vitfw COMMAND [key=value …]", ""]
    lines += [f"  {name:<12}{what}" for name, what in COMMANDS.items()]
    return "\n".join([*lines, "", "vitfw COMMAND --help lists what can be set."])


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if words else 2
    if words[0] == "--version":
        from vitfw import __version__

        print(f"vitfw {__version__}")
        return 0
    command, rest = words[0], words[1:]
    if command not in COMMANDS:
        hint = nearest(command, COMMANDS) or f"; known: {', '.join(COMMANDS)}"
        print(f"error: no command is called {command!r}{hint}", file=sys.stderr)
        return 2
    return importlib.import_module(f"vitfw.cli.{command}").main(rest)


def script() -> None:
    sys.exit(main())
