"""`vitfw find_lr`: a few hundred steps at rising learning rates, and the rate to begin with."""

import json
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from omegaconf import DictConfig
from rich import box
from rich.table import Table

from vitfw.assemble import (
    build_data,
    build_each,
    build_learner,
    build_net,
    build_trainer,
    prepare_process,
    resolve_trainer,
    try_optimizer,
)
from vitfw.atomic import replacing, write_text
from vitfw.batch_size import fit_to_memory
from vitfw.callbacks.lr_range_test import (
    DIVERGENCE,
    LEAST_STEPS,
    STEEPEST,
    Findings,
    LRRangeTest,
    exponential_rise,
)
from vitfw.callbacks.skipped_images import SkippedImages
from vitfw.cli.app import output_path, run
from vitfw.config import to_plain
from vitfw.console import console, log
from vitfw.data.classification_data import ClassificationData
from vitfw.errors import ConfigError
from vitfw.progressive_check import check_smaller_images
from vitfw.range_test_plot import range_test_plot
from vitfw.request_check import check_request
from vitfw.run_directory import run_name
from vitfw.start import Start
from vitfw.target import comes_from, target_of
from vitfw.training import linear_probe
from vitfw.training.learner import Learner

OPTIONS = ("min_lr", "max_lr", "steps", "stop_factor", "smoothing")
TRAINING_CALLBACKS = ("step_seed", "schedule_free")  # the others only watch, or save
NEVER = 1_000_000_000  # steps between lines of a log that nobody keeps


def main(argv: Sequence[str] | None = None) -> int:
    return run("find_lr", find_lr, argv or [])


def find_lr(config: DictConfig, overrides: list[str]) -> dict[str, Any]:
    """Run the test as the run itself would begin; show, draw and store what it found.

    Raises:
        ConfigError: as for training; the range is none; the loss is no number at the first step.
    """
    prepare_process()
    folder = Path(config.run_dir or Path("runs") / "find_lr" / run_name(overrides)).expanduser()
    config.run_dir = str(folder)
    cfg = to_plain(config)
    check_options(cfg)
    test = LRRangeTest(**{name: cfg[name] for name in OPTIONS})
    trainer, learner, data = prepare(cfg, test)
    figures, picture = output_path(f"{folder}/find_lr.json"), output_path(f"{folder}/find_lr.png")
    assert figures is not None and picture is not None
    if trainer.is_global_zero:
        span = f"{cfg['min_lr']:g} to {cfg['max_lr']:g}"
        log.info(f"{title(cfg)}: {cfg['steps']:,} steps at optimizer.lr={span}")
    trainer.fit(learner, datamodule=data)
    findings = test.findings
    if not findings.losses:
        raise ConfigError(
            f"the loss is no number at the first step, at a learning rate of {cfg['min_lr']}: look "
            "at the data and the weights, or try trainer.precision=32-true"
        )
    told = describe(findings, command(overrides, findings))
    if trainer.is_global_zero:
        write_text(figures, json.dumps(told, indent=2) + "\n")
        with replacing(picture) as partial:
            range_test_plot(findings, f"Range test of {title(cfg)}").save(partial, format="PNG")
        show(findings, told, cfg, folder)
    return told


def check_options(cfg: dict[str, Any]) -> None:
    """Raises ConfigError for a range that is none, or what cannot be tested."""
    low, high, steps = cfg["min_lr"], cfg["max_lr"], cfg["steps"]
    if not 0 < low < high or not math.isfinite(high):
        raise ConfigError(
            f"min_lr={low} max_lr={high} is no range: 0 < min_lr < max_lr, such as min_lr=1e-6 "
            "max_lr=10"
        )
    if not isinstance(steps, int) or steps < LEAST_STEPS:
        raise ConfigError(f"steps={steps} are too few to see a slope: {LEAST_STEPS} or more")
    if not cfg["stop_factor"] > 1:
        raise ConfigError(f"stop_factor={cfg['stop_factor']} must be more than 1, such as 4")
    if not 0 <= cfg["smoothing"] < 1:
        raise ConfigError(f"smoothing={cfg['smoothing']} is a weight: 0 (none) to less than 1")
    peak = cfg["optimizer"].get("lr")
    if not isinstance(peak, int | float) or not peak > 0:
        raise ConfigError(
            f"optimizer.lr={peak}: the rates of the groups are shares of it, so it must be a "
            "number above 0, such as optimizer.lr=1e-3"
        )
    if comes_from(cfg["method"], linear_probe):
        raise ConfigError(
            "method=linear_probe tries many learning rates at once by itself; widen "
            "method.lr_factors instead"
        )
    if cfg["resume"] not in ("auto", None):
        raise ConfigError(
            f"resume={cfg['resume']}: the test begins a run; init_from=PATH begins with weights"
        )


def prepare(
    cfg: dict[str, Any], test: LRRangeTest
) -> tuple[L.Trainer, Learner, ClassificationData]:
    """All that `vitfw train` would train with, but for the schedule and for what leaves a trace.

    Images are augmented as in the first step of a run throughout: the loss shall not fall because
    mixing ends or images grow.
    """
    cfg = {**cfg, "scheduler": rising(cfg), "average": {"_target_": None}}
    trainer_options = resolve_trainer(
        {**cfg["trainer"], "max_epochs": None, "max_steps": cfg["steps"]}
    )
    check_request(cfg, trainer_options)
    if cfg["auto_batch_size"]:
        cfg, trainer_options = fit_to_memory(cfg, trainer_options)
    data = build_data(cfg)
    data.stays_at_start = True
    L.seed_everything(cfg["seed"], workers=True, verbose=False)
    net = build_net(cfg)
    check_smaller_images(net, cfg["model"], data)
    Start(weights=cfg["init_from"]).begin(net, cfg, data)
    learner = build_learner(cfg, net, data, trainer_options)
    try_optimizer(learner)
    if cfg["compile"]:
        learner.compile_nets()
    needed = {name: cfg["callbacks"].get(name) for name in TRAINING_CALLBACKS}
    trainer = build_trainer(
        trainer_options,
        default_root_dir=cfg["run_dir"],
        callbacks=[test, SkippedImages(data.bad_images), *build_each(needed).values()],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        limit_val_batches=0,
        log_every_n_steps=NEVER,
        use_distributed_sampler=False,
    )
    return trainer, learner, data


def rising(cfg: dict[str, Any]) -> dict[str, Any]:
    """The schedule: shares of optimizer.lr, so that lr_scaling and the groups' ratios stay."""
    peak = cfg["optimizer"]["lr"]
    return {
        "_target_": target_of(exponential_rise),
        "_partial_": True,
        "lowest": cfg["min_lr"] / peak,
        "highest": cfg["max_lr"] / peak,
    }


def title(cfg: dict[str, Any]) -> str:
    words = [cfg["model"]["_target_"], cfg["optimizer"]["_target_"]]
    model, optimizer = (word.rpartition(".")[2] for word in words)
    return f"{model} on {cfg['data']['name']}, {optimizer}"


def command(overrides: Sequence[str], findings: Findings) -> str | None:
    """What to type to train with the suggested rate."""
    if findings.suggestion is None:
        return None
    own = (*OPTIONS, "run_dir", "optimizer.lr")
    kept = [text for text in overrides if text.partition("=")[0].lstrip("+~") not in own]
    return shlex.join(["vitfw", "train", *kept, f"optimizer.lr={findings.suggestion[0]:.2g}"])


def describe(findings: Findings, command: str | None) -> dict[str, Any]:
    """What `find_lr.json` holds. Rates are values of optimizer.lr."""
    rate, rule = findings.suggestion or (None, None)
    diverged = findings.diverged_at
    lowest = min(range(len(findings.smoothed)), key=findings.smoothed.__getitem__)
    return {
        "suggestion": rate,
        "rule": rule,
        "command": command,
        "steepest_descent": findings.steepest,
        "divergence": diverged,
        "tenth_of_divergence": None if diverged is None else diverged / 10,
        "lowest_loss": {"lr": findings.rates[lowest], "loss": findings.smoothed[lowest]},
        "lr": findings.rates,
        "loss": findings.losses,
        "smoothed_loss": findings.smoothed,
    }


def show(findings: Findings, told: dict[str, Any], cfg: dict[str, Any], folder: Path) -> None:
    """The rates in a table, the suggestion in words, and where the figures are."""
    table = Table(box=box.HORIZONTALS)
    table.add_column("", style="bold")
    table.add_column("optimizer.lr", justify="right")
    table.add_column("loss", justify="right")
    at = dict(zip(findings.rates, findings.smoothed, strict=True))
    rows = (
        (STEEPEST, findings.steepest),
        ("lowest loss", told["lowest_loss"]["lr"]),
        (DIVERGENCE, told["tenth_of_divergence"]),
        ("divergence", findings.diverged_at),
    )
    for name, rate in rows:
        if rate is not None:
            nearby = at[min(at, key=lambda known: abs(math.log(known / rate)))]
            table.add_row(name, f"{rate:.2g}", f"{nearby:.4g}")
    console.print(table)
    lines = [in_words(findings, cfg)]
    if told["command"]:
        lines.append(f"type          {told['command']}")
    lines.append(f"the curve     {shlex.quote(str(folder))}/find_lr.png")
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)


def in_words(findings: Findings, cfg: dict[str, Any]) -> str:
    """The suggestion and the rule behind it, or why there is none."""
    if findings.suggestion is None:
        return (
            f"no suggestion: the loss neither falls nor diverges from {cfg['min_lr']:g} to "
            f"{cfg['max_lr']:g}; give a wider range (max_lr=…) or more steps"
        )
    rate, rule = findings.suggestion
    text = f"suggestion    optimizer.lr={rate:.2g}, {rule}"
    if findings.diverged_at is None:
        return f"{text}; the loss did not diverge up to {cfg['max_lr']:g}"
    return text if findings.steepest is not None else f"{text}; the loss never falls steadily"
