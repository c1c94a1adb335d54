"""A cooldown from a checkpoint, `scheduler=cooldown resume=PATH`: a branch of a longer run.

The branch goes on from PATH with optimizer and all, in a run directory of its own. What it begins
with is kept in its config, so the same command, typed again after the branch was stopped, goes on
from the branch's own last.ckpt, whatever has become of PATH since.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitfw.checkpoint import load_file, read_passport
from vitfw.errors import ConfigError
from vitfw.run_directory import RunDirectory
from vitfw.target import target_of
from vitfw.training.schedules import cooldown_steps, is_cooldown
from vitfw.training.weight_average import swa

SWA = target_of(swa)
Config = dict[str, Any]


@dataclass(frozen=True)
class Branch:
    """How a run goes on: `config` and `resume`, and what may differ from the checkpoint's config.

    Of a run that is no cooldown it is what was asked, and nothing may differ.
    """

    config: Config
    resume: str | None
    may_differ: tuple[str, ...] = ()  # keys, or groups of keys that end in a dot

    def limits(self, trainer_options: Config, steps_per_epoch: int) -> Config:
        """The trainer's options; those of a cooldown end where the cooldown does.

        Raises:
            ConfigError: its length is no step, or not understood.
        """
        scheduler = self.config["scheduler"]
        if not is_cooldown(scheduler):
            return trainer_options
        begin = scheduler["start_step"]
        try:
            steps = cooldown_steps(scheduler["length"], begin, steps_per_epoch)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        return {**trainer_options, "max_epochs": None, "max_steps": begin + steps}


def words_of_branch(overrides: Sequence[str], resume: str | None) -> list[str]:
    """What the branch's directory is named after: cooldowns of two checkpoints are two runs."""
    return [*overrides, f"from={resume}"]


def find_branch(cfg: Config, directory: RunDirectory) -> Branch:
    """Where a run with `scheduler=cooldown` begins: where it was stopped, or at `resume`.

    Raises:
        ConfigError: `resume` is no checkpoint of ours, the schedule there has ended, or
            `directory` holds another run.
    """
    if not is_cooldown(cfg["scheduler"]):
        return Branch(cfg, cfg["resume"])
    if cfg["average"].get("_target_") == SWA:
        raise ConfigError(
            "average=swa takes the place of a cooldown, and counts the weights it averages from a "
            "start in its own run; cool down a run with average=none or average=ema"
        )
    resume = cfg["resume"]
    if resume in (None, "auto"):
        raise ConfigError(
            f"scheduler=cooldown begins at a checkpoint, and resume={resume or 'null'} names none: "
            "give resume=PATH of a run directory or its last.ckpt; scheduler=wsd cools down at the "
            "end of a run of its own"
        )
    if directory.last_checkpoint.exists():
        begin = own_beginning(directory, resume)
        return Branch(begun(cfg, *begin), "auto")
    path = Path(resume).expanduser()
    path = RunDirectory(path).last_checkpoint if path.is_dir() else path
    step, factor = beginning_at(path)
    if factor <= cfg["scheduler"]["final"]:
        raise ConfigError(
            f"the learning rate in {path} stands at {factor:.3g} of its peak, not above "
            f"scheduler.final={cfg['scheduler']['final']}; give an earlier checkpoint"
        )
    may_differ = ("scheduler.", "trainer.max_epochs", "trainer.max_steps")
    return Branch(begun(cfg, step, factor), resume, may_differ)


def begun(cfg: Config, step: int, factor: float) -> Config:
    begin = {"start_step": step, "start_factor": factor}
    return {**cfg, "scheduler": {**cfg["scheduler"], **begin}}


def own_beginning(directory: RunDirectory, resume: str) -> tuple[int, float]:
    """Step and factor that the cooldown in `directory` began with.

    Raises:
        ConfigError: it is no cooldown, or one from another checkpoint than `resume`.
    """
    path = directory.last_checkpoint
    before = read_passport(load_file(path), path)[0].config
    scheduler = before.get("scheduler", {})
    if not is_cooldown(scheduler):
        raise ConfigError(
            f"{directory.path} holds the run itself; a cooldown needs another run_dir=…, or none"
        )
    theirs = str(before.get("resume"))
    if absolute(theirs) != absolute(resume):
        raise ConfigError(
            f"{directory.path} holds a cooldown from {theirs}, not from {resume}; give another "
            "run_dir=…"
        )
    return int(scheduler["start_step"]), float(scheduler["start_factor"])


def absolute(path: str) -> Path:
    return Path(path).expanduser().resolve()


def beginning_at(path: Path) -> tuple[int, float]:
    """Steps made up to a checkpoint, and the share of its peak that the learning rate stands at.

    Raises:
        ConfigError: it cannot be read, vitfw did not write it, or it has no schedule.
    """
    content = load_file(path)
    read_passport(content, path)
    try:
        (schedule, *_) = content["lr_schedulers"]
        rates = zip(schedule["_last_lr"], schedule["base_lrs"], strict=True)
        factor = next(float(rate) / float(peak) for rate, peak in rates if peak)
        return int(content["global_step"]), factor
    except (KeyError, TypeError, ValueError, StopIteration) as error:
        raise ConfigError(
            f"{path} has no learning-rate schedule inside to cool down from; last.ckpt has one"
        ) from error
