"""What all commands share: Hydra's command line, and errors as one line with an exit code.

0 done; 2 the request is wrong; 1 it broke while running; 130 and 143 stopped after saving.
"""

import argparse
import itertools
import json
import os
import re
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vitfw import config as configs
from vitfw.data.bad_images import TooManyBadImages
from vitfw.data.transforms import UnreadableImage
from vitfw.errors import ConfigError

Task = Callable[[DictConfig, list[str]], object]

WRONG_REQUEST, BROKE = 2, 1
NOTHING = object()  # no part of a config, not even null
PATH_KEYS = (
    *("checkpoint", "input", "output", "verify"),
    *("run_dir", "init_from", "resume", "method.teacher", "data.root", "data.cache_dir"),
)


def run(config_name: str, task: Task, argv: Sequence[str]) -> int:
    """Run a command on the config that `argv` asks for; returns the exit code.

    Plain overrides are composed here, and so is what `--cfg job` prints. `-m` and Hydra's other
    flags go through `hydra.main`, which calls the task once a job.
    """
    if "-h" in argv or "--help" in argv:
        print(help_text(config_name))
        return 0
    with exit_code() as outcome:
        flags = parse_flags(argv)
        words = [quote_path(word, flags.multirun) for word in argv]
        overrides = [quote_path(word, flags.multirun) for word in flags.overrides]
        if len(overrides) == len(argv):  # no flags
            task(configs.compose(config_name, overrides), overrides)
        elif shows_config(flags):
            print_config(config_name, overrides, flags.package, flags.resolve)
        else:
            if flags.multirun:
                configs.check_sweep(config_name, overrides)
            run_hydra(config_name, task, words)
    return outcome.code


def parse_flags(argv: Sequence[str]) -> argparse.Namespace:
    """Hydra's flags and the overrides.

    Raises:
        ConfigError: a flag that Hydra does not have.
    """
    parser = get_args_parser()
    flags, unknown = parser.parse_known_args(list(argv))
    if unknown:
        raise ConfigError(
            f"there is no flag {unknown[0]}; what is to be set is written key=value, "
            "such as optimizer.lr=1e-3"
        )
    return flags


def shows_config(flags: argparse.Namespace) -> bool:
    """Whether one run's config is to be printed; Hydra's own, and another folder's, it prints."""
    elsewhere = flags.config_path or flags.config_name or flags.config_dir
    others = flags.multirun or flags.run or flags.info
    return flags.cfg == "job" and not others and not elsewhere


def print_config(
    config_name: str, overrides: Sequence[str], package: str | None, resolve: bool
) -> None:
    """Print the config, or the part of it that is called `package`, as the command would take it.

    Raises:
        ConfigError: there is no such part, or no config.
    """
    config = configs.compose(config_name, overrides)
    part: Any = config
    try:
        if package not in (None, "_global_"):
            part = OmegaConf.select(config, str(package), default=NOTHING)
        if part is NOTHING:
            groups = [str(key) for key in config if OmegaConf.is_config(config._get_node(key))]
            raise ConfigError(
                f"--package {package}: no part of the config; {', '.join(groups)} are"
            )
        if OmegaConf.is_config(part):
            print(OmegaConf.to_yaml(part, resolve=resolve), end="")
        else:
            print(json.dumps(part, ensure_ascii=False))
    except OmegaConfBaseException as error:
        raise ConfigError(configs.explain_failure(config_name, overrides, error)) from error


def quote_path(override: str, sweep: bool = False) -> str:
    """Quote the value of a key that takes a path, so that it may hold `=`, blanks and brackets.

    In a `sweep` commas stand between values, and `choice(…)` and its like stay what they are.
    """
    key, _, value = override.partition("=")
    if key not in PATH_KEYS or value[:1] in "'\"":
        return override
    if sweep:
        is_call = re.match(r"\w+\(", value)
        return override if is_call else f"{key}={','.join(map(quote, value.split(',')))}"
    return f"{key}={quote(value)}"


def quote(value: str) -> str:
    """In single quotes, where Hydra would read it as something else than a name."""
    if not set(value) & set("=,()[]{}:'\" "):
        return value
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


class Outcome:
    code = 0


class JobFailed(Exception):
    """A job within Hydra's command failed, and has said why; other jobs of a sweep go on."""

    def __init__(self, code: int):
        super().__init__(f"ended with exit code {code}")
        self.code = code


@contextmanager
def exit_code() -> Iterator[Outcome]:
    """Turn what a command raises into an exit code, and say it in one line where it is the user's.

    `HYDRA_FULL_ERROR=1` shows the traceback of a wrong request, too.
    """
    outcome = Outcome()
    try:
        yield outcome
    except ConfigError as error:
        outcome.code = WRONG_REQUEST
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            traceback.print_exc()
        say_error(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        outcome.code = WRONG_REQUEST
        say_error(str(error))
    except JobFailed as error:
        outcome.code = error.code
    except (UnreadableImage, TooManyBadImages) as error:
        outcome.code = BROKE
        say_error(str(error).strip().splitlines()[-1])  # a worker's message begins with its trace
    except SystemExit as error:
        outcome.code = error.code if isinstance(error.code, int) else int(bool(error.code))
    except KeyboardInterrupt:
        outcome.code = 130
        say_error("interrupted")
    except Exception as error:
        outcome.code = BROKE
        traceback.print_exc()
        say_error(f"{type(error).__name__}: {error}")


def output_path(text: str | None) -> Path | None:
    """Where results are to go, before any work is done.

    Raises:
        ConfigError: it is a folder, or cannot be written.
    """
    if text is None:
        return None
    path = Path(text).expanduser()
    if path.is_dir():
        raise ConfigError(f"output={text} is a folder; give the name of a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"output={text} cannot be written: {error.strerror}") from error
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"output={text} cannot be written: no permission")
    return path


def say_error(message: str) -> None:
    """One line on standard error, unwrapped so that it can be searched and copied."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)


def run_hydra(config_name: str, task: Task, argv: Sequence[str]) -> None:
    """Hydra's own entry point: sweeps, and the flags that only show something."""

    typed, shown = sys.argv, os.environ.get("HYDRA_FULL_ERROR")

    def job(config: DictConfig) -> object:
        overrides = list(HydraConfig.get().overrides.task)
        config = configs.prefer_typed_groups(config_name, overrides, config)
        made = None
        with as_typed(typed, shown), exit_code() as outcome:
            made = task(config, overrides)
        if outcome.code in (WRONG_REQUEST, BROKE) and in_a_batch():
            raise JobFailed(outcome.code)
        if outcome.code:
            raise SystemExit(outcome.code)
        return made

    configs.register_resolvers()
    folder = str(configs.config_folder().resolve())
    main = hydra.main(config_path=folder, config_name=config_name, version_base="1.3")(job)
    overrides = [word for word in argv if "=" in word and not word.startswith("-")]
    try:
        with as_typed([typed[0], *argv], "1"):  # Hydra then raises its errors, and prints none
            main()
    except (HydraException, OmegaConfBaseException) as error:
        message = configs.explain_failure(config_name, overrides, error)
        raise ConfigError(message) from error


def in_a_batch() -> bool:
    """Whether this is a job of a launcher that runs several at once, where all are waited for."""
    config = HydraConfig.get()
    basic = str(config.launcher._target_).endswith("BasicLauncher")
    return config.mode == RunMode.MULTIRUN and not basic


@contextmanager
def as_typed(words: list[str], full_error: str | None) -> Iterator[None]:
    """`sys.argv` and `HYDRA_FULL_ERROR` as given, for a while."""

    def put(words: list[str], full_error: str | None) -> None:
        sys.argv = words
        if full_error is None:
            os.environ.pop("HYDRA_FULL_ERROR", None)
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_error

    before = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    put(words, full_error)
    try:
        yield
    finally:
        put(*before)


def help_text(config_name: str) -> str:
    """The head of the command's YAML file, and the options of every group it has."""
    folder = configs.config_folder()
    text = (folder / f"{config_name}.yaml").read_text(encoding="utf-8")
    above = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    lines = [*(line.lstrip("# ") for line in above), ""]
    for group in sorted(p for p in folder.iterdir() if p.is_dir()):
        if f"- {group.name}:" in text:
            options = textwrap.wrap(" ".join(configs.options_of(group)), width=66)
            lines.append(f"  {group.name:<11} " + "\n              ".join(options))
    keys = [line for line in text.splitlines() if re.match(r"[a-z]\w*: .*", line)]
    return "\n".join([*lines, "", *keys, "", f"All keys: vitfw {config_name} --cfg job"])
