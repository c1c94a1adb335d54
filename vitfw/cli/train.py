"""`vitfw train`: from a config to a trained, tested model. The whole story, top to bottom."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig
from torch import nn
from torch.optim import Optimizer

from vitfw.assemble import (
    build_data,
    build_each,
    build_learner,
    build_net,
    build_trainer,
    effective_batch_size,
    is_first_process,
    make_passport,
    optimizer_steps_per_epoch,
    prepare_process,
    resolve_trainer,
    try_optimizer,
)
from vitfw.batch_size import fit_to_memory
from vitfw.callbacks.loggers import log_config
from vitfw.callbacks.run_config import RunConfig
from vitfw.callbacks.skipped_images import SkippedImages
from vitfw.callbacks.whereabouts import Whereabouts
from vitfw.checkpoint import AtomicCheckpointIO, PassportCallback
from vitfw.cli.app import run
from vitfw.config import as_yaml, flatten, to_plain
from vitfw.console import console, log, log_to, stop_logging_to
from vitfw.cooldown import find_branch, words_of_branch
from vitfw.data.classification_data import ClassificationData
from vitfw.errors import ConfigError
from vitfw.features import data_to_fit
from vitfw.finish import Run, close_run, report_failure, report_stop
from vitfw.guard_rails.plan import plan_of
from vitfw.guard_rails.rules import Concern, check_plan, refuse, warn
from vitfw.models.profile import count_parameters
from vitfw.progressive_check import check_smaller_images
from vitfw.request_check import check_request
from vitfw.run_directory import RunDirectory, choose_run_directory
from vitfw.start import find_start
from vitfw.training.adaptation import check_names
from vitfw.training.group_table import group_table
from vitfw.training.learner import Learner
from vitfw.training.schedules import is_cooldown

RUN_DIR_VARIABLE = "VITFW_RUN_DIR"  # tells the processes of a run where the first one writes


def main(argv: Sequence[str] | None = None) -> int:
    return run("train", train, argv or [])


def train(config: DictConfig, overrides: list[str]) -> dict[str, Any]:
    """Train, keep the best, test it once. Returns what `metrics.json` holds."""
    prepare_process()
    directory = run_directory_of(config, overrides)
    config.run_dir = str(directory.path)
    branch = find_branch(to_plain(config), directory)
    cfg = branch.config

    start = find_start(directory, branch.resume, cfg["init_from"])
    trainer_options = resolve_trainer(cfg["trainer"])
    check_request(cfg, trainer_options)
    if cfg["auto_batch_size"]:
        cfg, trainer_options = fit_to_memory(cfg, trainer_options, start.config())
    L.seed_everything(cfg["seed"], workers=True, verbose=False)
    net = build_net(cfg)
    check_names(cfg, net)
    data = build_data(cfg)
    per_epoch = optimizer_steps_per_epoch(data, trainer_options)
    trainer_options = branch.limits(trainer_options, per_epoch)
    check_smaller_images(net, cfg["model"], data)
    weights = start.begin(net, cfg, data)
    learner = build_learner(cfg, net, data, trainer_options)
    optimizer = try_optimizer(learner)
    start.check(cfg, net, branch.may_differ)
    concerns = concerns_about(cfg, overrides, learner, data, trainer_options)
    if cfg["strict"]:
        refuse(concerns)
    if cfg["compile"]:
        learner.compile_nets()
    callbacks = build_each(cfg["callbacks"])
    if isinstance(shown := callbacks.get("run_config"), RunConfig):
        shown.tell(as_yaml(cfg), overrides, flatten(cfg))
    trainer = build_trainer(
        trainer_options,
        default_root_dir=str(directory.path),
        callbacks=[
            *callbacks.values(),
            SkippedImages(data.bad_images),
            PassportCallback(make_passport(cfg, data)),
            Whereabouts(),
        ],
        logger=list(build_each(cfg["logger"]).values()),
        plugins=[AtomicCheckpointIO()],
        use_distributed_sampler=False,  # our samplers share out the data themselves
        enable_model_summary=False,
    )
    begun = start.checkpoint is not None and directory.last_checkpoint.exists()
    log_file = open_run(directory, cfg, overrides, anew=not begun)
    this = Run(trainer, learner, data, callbacks, cfg, overrides, directory)
    try:
        if trainer.is_global_zero:
            origin = [f"{start.story}, in {directory.path}", *(weights.lines() if weights else ())]
            tell(this, origin, optimizer, concerns)
            log_config(trainer.loggers, flatten(cfg))
        fitted = data_to_fit(learner, data, directory.path / "features", cfg["data"], cfg["model"])
        trainer.fit(learner, datamodule=fitted, ckpt_path=start.checkpoint)
        return close_run(this)
    except SIGTERMException:
        if trainer.is_global_zero:
            report_stop(this)
        interrupted = getattr(callbacks.get("last"), "interrupted", False)
        raise SystemExit(130 if interrupted else 143) from None
    except Exception as error:
        if trainer.is_global_zero:
            report_failure(this, error)
        raise
    finally:
        if log_file is not None:
            stop_logging_to(log_file)
        directory.close()


def run_directory_of(config: DictConfig, overrides: list[str]) -> RunDirectory:
    """`run_dir`, a sweep's job folder, or runs/<experiment>/<name>."""
    if not is_first_process() and RUN_DIR_VARIABLE in os.environ:
        return RunDirectory(Path(os.environ[RUN_DIR_VARIABLE]))
    sweeping = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    if sweeping:
        refuse_processes_in_sweep(config)
        config.run_dir = config.run_dir or HydraConfig.get().runtime.output_dir
    typed = dict(text.split("=", 1) for text in overrides if "=" in text)
    experiment = typed.get("experiment")
    if experiment is None:  # then the folder is called by the model and the data instead
        experiment = f"{typed.get('model', 'vit_nano')}-{typed.get('data', 'digits')}"
        overrides = [text for text in overrides if not text.startswith(("model=", "data="))]
    cooling = is_cooldown(config.scheduler)
    if cooling:
        overrides = words_of_branch(overrides, config.resume)
    directory = choose_run_directory(
        config.run_dir, experiment, overrides, go_on=cooling or config.resume == "auto"
    )
    os.environ[RUN_DIR_VARIABLE] = str(directory.path.absolute())
    return directory


def refuse_processes_in_sweep(config: DictConfig) -> None:
    """The processes of a run are started by typing its command again, which is the sweep's."""
    devices = config.trainer.devices
    if "RANK" not in os.environ and "SLURM_PROCID" not in os.environ and devices not in (1, "1"):
        raise ConfigError(
            f"-m with trainer.devices={devices}: the processes of one job would each start the "
            "whole sweep; use torchrun, a launcher that starts them (SLURM), or trainer.devices=1"
        )


def open_run(directory: RunDirectory, cfg: dict[str, Any], overrides: list[str], anew: bool) -> Any:
    """From here on there is a run: its folder, its lock, its log and its config."""
    if not is_first_process():
        return None
    directory.open()
    if anew and directory.last_checkpoint.exists():
        directory.close()
        raise ConfigError(f"another process has just trained in {directory.path}; type that again")
    try:
        if anew:
            directory.clear()
        (directory.path / "report.html").unlink(missing_ok=True)  # of where it was stopped before
        directory.write_config(cfg, overrides)
        return log_to(directory.path / "train.log")
    except BaseException:
        directory.close()
        raise


def concerns_about(
    cfg: dict[str, Any],
    overrides: list[str],
    learner: Learner,
    data: ClassificationData,
    trainer_options: dict[str, Any],
) -> list[Concern]:
    """What in this run will probably not work."""
    batch_size = effective_batch_size(data.batch_size, trainer_options)
    steps = learner.total_steps, learner.steps_per_epoch
    return check_plan(plan_of(cfg, learner.net, data, batch_size, *steps, overrides))


def tell(this: Run, origin: list[str], optimizer: Optimizer, concerns: list[Concern]) -> None:
    """What is about to be trained, where it begins, and what is odd about it."""
    trainer, data, net = this.trainer, this.data, this.learner.net
    log.info(
        f"{data.dataset_name}: {data.train_images:,} training images of "
        f"{len(data.classes)} classes; "
        f"model of {count_parameters(net):,} parameters{trained_part(net)}; "
        f"{trainer.strategy.root_device.type}, {trainer.precision}"
    )
    for line in origin:
        log.info(line)
    console.print(group_table(optimizer))
    warn(concerns)
    data.bad_images.retell()


def trained_part(net: nn.Module) -> str:
    """`, 12,345 of them trained` where some are frozen."""
    trained = sum(p.numel() for p in net.parameters() if p.requires_grad)
    return f", {trained:,} of them trained" if trained < count_parameters(net) else ""
