"""`vitfw benchmark`: what is measured, beside other libraries; a table, and JSON to keep."""

import re
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from vitfw.assemble import prepare_process
from vitfw.benchmarks import (
    attention,
    data,
    fit,
    monitoring,
    patch_embed,
    step_overhead,
    token_merging,
)
from vitfw.benchmarks.record import default_path, store
from vitfw.cli.app import output_path, run
from vitfw.config import to_plain
from vitfw.console import console
from vitfw.errors import ConfigError, nearest
from vitfw.training.precision import resolve_accelerator

SUITES: dict[str, ModuleType] = {
    "data": data,
    "step": step_overhead,
    "attention": attention,
    "patch_embed": patch_embed,
    "token_merging": token_merging,
    "fit": fit,
    "monitoring": monitoring,
}
WORD_LISTS = ("step.overrides", "fit.overrides", "monitoring.overrides")
MAY_BE_0 = ("workers", "seeds")
NO_COUNTS = (  # of suite=fit, which checks them: minutes, seconds, rates and the like
    "cap_minutes",
    "validate_every",
    "peer_minutes",
    "peer_epochs",
    "probe_seconds",
    "lr",
    "weight_decay",
    "warmup_share",
)


def main(argv: Sequence[str] | None = None) -> int:
    return run("benchmark", benchmark, [quote_items(word) for word in argv or []])


def quote_items(word: str) -> str:
    """`step.overrides=[model=vit_b16,data=fake]` with each item in quotes: they hold `=`."""
    key, _, value = word.partition("=")
    if key not in WORD_LISTS or not re.fullmatch(r"\[[^'\"]*\]", value):
        return word
    items = re.split(r",\s*(?=[\w.@/+~]+=)", value[1:-1])
    quoted = [f'"{item}"' for item in items if item]
    return f"{key}=[{','.join(quoted)}]"


def benchmark(config: DictConfig, overrides: list[str]) -> dict[str, Any]:
    """Run a suite, show its table, store and return its figures.

    Raises:
        ConfigError: there is no such suite; an option belongs to another one; output is no file.
    """
    prepare_process()
    suite = suite_of(config, overrides)
    cfg = to_plain(config)
    output = output_path(cfg["output"])
    device = torch.device(resolve_accelerator(str(cfg["accelerator"])))
    check_counts(suite, cfg[suite])
    module = SUITES[suite]
    path = output or default_path(module.RESULT, device)
    parts = {"output": path} if module is fit else {}  # hours: stored part by part
    figures = module.measure(device, **cfg[suite], **parts)
    store(figures, device, path)
    console.print(module.table(figures))
    console.print(f"stored in {path}", markup=False, soft_wrap=True)
    return figures


def suite_of(config: DictConfig, overrides: list[str]) -> str:
    known = ", ".join(SUITES)
    if OmegaConf.is_missing(config, "suite"):
        raise ConfigError(f"suite is needed: give suite=NAME, one of: {known}")
    suite = str(config.suite)
    if suite not in SUITES:
        hint = nearest(suite, SUITES) or ";"
        raise ConfigError(f"suite={suite} does not exist{hint} known: {known}")
    for text in overrides:
        section = text.lstrip("+~").split(".")[0]
        if section in SUITES and section != suite:
            raise ConfigError(f"{text} is an option of suite={section}, not of suite={suite}")
    return suite


def check_counts(suite: str, options: dict[str, Any], inside: str = "") -> None:
    """Raises ConfigError for a number of turns, images or the like that is below 1."""
    for name, value in options.items():
        key = f"{inside or suite}.{name}"
        if isinstance(value, dict):
            check_counts(suite, value, key)
        if name in NO_COUNTS:
            continue
        least = 0 if name in MAY_BE_0 else 1
        numbers = value if isinstance(value, list) and name in MAY_BE_0 else [value]
        if any(isinstance(n, int) and n < least for n in numbers):
            raise ConfigError(f"{key}={value} must be at least {least}")
