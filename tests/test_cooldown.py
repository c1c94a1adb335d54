"""A cooldown from a checkpoint: where it begins and ends, and that it is the same training."""

import copy
from functools import partial
from pathlib import Path

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from vitfw.checkpoint import AtomicCheckpointIO, Passport
from vitfw.config import compose, to_plain
from vitfw.cooldown import Branch, find_branch, words_of_branch
from vitfw.errors import ConfigError
from vitfw.run_directory import RunDirectory, run_name
from vitfw.training.schedules import constant, cooldown, wsd

PEAKS = [0.2, 0.02]


def configured(*words: str) -> dict:
    return to_plain(compose("train", ["run_dir=somewhere", *words]))


@pytest.fixture
def directory(tmp_path) -> RunDirectory:
    return RunDirectory(tmp_path / "branch")


@pytest.fixture
def save(tmp_path):
    """Write a checkpoint at a step, whose rates stand at `factor` of their peaks."""

    def write(path: Path, config: dict, step: int = 400, factor: float = 0.8) -> Path:
        passport = Passport(config, ["a", "b"], 1, [8, 8], 1.0, [0.5], [0.5], {})
        schedule = {"_last_lr": [factor * peak for peak in PEAKS], "base_lrs": PEAKS}
        content = {
            "state_dict": {"net.weight": torch.zeros(1)},
            "global_step": step,
            "lr_schedulers": [schedule],
            "vitfw": vars(passport),
        }
        AtomicCheckpointIO().save_checkpoint(content, path)
        return path

    return write


@pytest.fixture
def trunk(save, tmp_path) -> Path:
    return save(tmp_path / "trunk" / "checkpoints" / "last.ckpt", configured("scheduler=constant"))


def cooling(trunk: Path, *words: str) -> dict:
    return configured("scheduler=cooldown", f"resume='{trunk}'", *words)


# ── where it begins ───────────────────────────────────────────────────────────────────────────


def test_any_other_schedule_is_left_as_it_is(directory):
    cfg = configured("scheduler=wsd")
    branch = find_branch(cfg, directory)
    assert branch == Branch(cfg, "auto")
    options = {"max_epochs": 3, "max_steps": -1}
    assert branch.limits(options, steps_per_epoch=10) == options


def test_snapshots_of_the_trunk_are_not_counted_again(trunk, directory):
    with pytest.raises(ConfigError, match="average=none or average=ema"):
        find_branch(cooling(trunk, "average=swa"), directory)


def test_it_begins_at_the_step_and_the_rate_of_the_checkpoint(trunk, directory):
    cfg = cooling(trunk)
    branch = find_branch(cfg, directory)
    assert branch.resume == str(trunk)
    assert branch.config["scheduler"]["start_step"] == 400
    assert branch.config["scheduler"]["start_factor"] == pytest.approx(0.8)
    assert cfg["scheduler"]["start_step"] is None  # what was given is not changed


def test_a_run_directory_stands_for_its_last_checkpoint(trunk, directory):
    branch = find_branch(cooling(trunk.parents[1]), directory)
    assert branch.config["scheduler"]["start_step"] == 400


@pytest.mark.parametrize("length, end", [("20%", 480), (50, 450), ("3ep", 430)])
def test_the_run_ends_with_the_cooldown(trunk, directory, length, end):
    branch = find_branch(cooling(trunk, f"scheduler.length={length}"), directory)
    options = branch.limits({"max_epochs": 40, "max_steps": -1, "devices": 1}, steps_per_epoch=10)
    assert options == {"max_epochs": None, "max_steps": end, "devices": 1}


def test_only_the_schedule_and_the_length_of_the_run_may_differ(trunk, directory):
    cfg = cooling(trunk)
    branch = find_branch(cfg, directory)
    before = configured("scheduler=constant")
    assert all(key.startswith(("scheduler.", "trainer.max_")) for key in branch.may_differ)
    changed = {key for key in before if before[key] != branch.config[key]}
    assert changed == {"scheduler", "resume"}


def test_cooldowns_of_two_checkpoints_have_two_run_directories():
    words = ["scheduler=cooldown", "scheduler.length=20%", "model=vit_nano"]
    names = {
        run_name(words_of_branch(words, path)) for path in ("a/last.ckpt", "b/last.ckpt", "a/b")
    }
    assert len(names | {run_name(["model=vit_nano"])}) == 4


# ── going on with it ──────────────────────────────────────────────────────────────────────────


@pytest.fixture
def stopped(save, trunk, directory) -> dict:
    """The config of a cooldown that was stopped after 30 of its 80 steps."""
    cfg = find_branch(cooling(trunk), directory).config
    save(directory.last_checkpoint, cfg, step=430, factor=0.3)
    return cfg


@pytest.mark.parametrize("since", ["as it was", "trained on", "deleted"])
def test_the_same_command_goes_on_whatever_became_of_the_trunk(
    stopped, save, trunk, directory, since
):
    if since == "trained on":
        save(trunk, configured("scheduler=constant"), step=9000, factor=1.0)
    elif since == "deleted":
        trunk.unlink()
    branch = find_branch(cooling(trunk), directory)
    assert branch == Branch(stopped, "auto")
    assert branch.limits({}, steps_per_epoch=10)["max_steps"] == 480


def test_a_stopped_cooldown_is_not_gone_on_with_from_another_checkpoint(
    stopped, save, directory, tmp_path
):
    other = save(tmp_path / "other.ckpt", configured("scheduler=constant"))
    with pytest.raises(ConfigError, match=r"holds a cooldown from .*, not from .*other\.ckpt"):
        find_branch(cooling(other), directory)


def test_the_run_itself_is_not_overwritten_by_its_cooldown(trunk):
    with pytest.raises(ConfigError, match="holds the run itself; a cooldown needs another run_dir"):
        find_branch(cooling(trunk), RunDirectory(trunk.parents[1]))


# ── bad input ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("resume", ["auto", "null"])
def test_without_a_checkpoint_it_is_refused(directory, resume):
    with pytest.raises(ConfigError, match=f"resume={resume} names none: give resume=PATH"):
        find_branch(configured("scheduler=cooldown", f"resume={resume}"), directory)


def test_a_checkpoint_that_is_not_there_is_told(directory, tmp_path):
    with pytest.raises(ConfigError, match=r"nothing\.ckpt"):
        find_branch(cooling(tmp_path / "nothing.ckpt"), directory)


def test_a_run_whose_schedule_has_ended_cannot_cool_down(save, directory, tmp_path):
    ended = save(tmp_path / "ended.ckpt", configured("scheduler=cosine"), factor=0.0)
    with pytest.raises(ConfigError, match=r"stands at 0 of its peak, not above scheduler.final=0"):
        find_branch(cooling(ended), directory)


def test_a_checkpoint_without_a_schedule_is_told(save, directory, tmp_path):
    path = save(tmp_path / "bare.ckpt", configured("scheduler=constant"))
    content = torch.load(path, weights_only=True)
    content["lr_schedulers"] = []
    AtomicCheckpointIO().save_checkpoint(content, path)
    with pytest.raises(ConfigError, match="has no learning-rate schedule inside"):
        find_branch(cooling(path), directory)


@pytest.mark.parametrize("length", ["0", "0.01%", "soon"])
def test_a_length_that_is_no_step_is_told(trunk, directory, length):
    branch = find_branch(cooling(trunk, f"scheduler.length={length}"), directory)
    with pytest.raises(ConfigError, match=r"is no step|is not understood"):
        branch.limits({}, steps_per_epoch=10)


# ── the same training ─────────────────────────────────────────────────────────────────────────


class Regression(L.LightningModule):
    """A line fitted with momentum, and the rate of every step."""

    def __init__(self, schedule):
        super().__init__()
        self.line = torch.nn.Linear(3, 1)
        torch.nn.init.constant_(self.line.weight, 0.5)
        torch.nn.init.zeros_(self.line.bias)
        self.schedule = schedule
        self.rates: list[float] = []

    def training_step(self, batch, batch_idx):
        self.rates.append(self.optimizers().param_groups[0]["lr"])
        return (self.line(batch[0]) - batch[1]).square().mean()

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        return [optimizer], [{"scheduler": self.schedule(optimizer), "interval": "step"}]


def fit(schedule, steps: int, folder: Path, resume: Path | None = None) -> Regression:
    random = torch.Generator().manual_seed(1)
    images, targets = torch.randn(4, 3, generator=random), torch.randn(4, 1, generator=random)
    batches = TensorDataset(images.repeat(10, 1), targets.repeat(10, 1))  # ten times the same one
    learner = Regression(partial(schedule, steps_per_epoch=10))
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=None,
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(learner, DataLoader(batches, batch_size=4), ckpt_path=resume, weights_only=True)
    trainer.save_checkpoint(folder / f"{steps}.ckpt")
    return learner


@pytest.mark.parametrize("begin", [20, 25])  # between two epochs, and within one
def test_a_constant_run_cooled_down_is_a_wsd_run_bit_for_bit(tmp_path, begin):
    end = begin + 12
    whole = fit(partial(wsd, total_steps=end, warmup=5, cooldown=12), end, tmp_path)
    before = fit(partial(constant, total_steps=1000, warmup=5), begin, tmp_path)
    decay = partial(cooldown, total_steps=end, length=12, start_step=begin)
    after = fit(decay, end, tmp_path, resume=tmp_path / f"{begin}.ckpt")
    assert before.rates + after.rates == pytest.approx(whole.rates)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(after.state_dict()[name], tensor), name
    assert not torch.equal(before.line.weight, after.line.weight)


def test_a_cooldown_stopped_on_its_way_ends_the_same(tmp_path):
    decay = partial(cooldown, total_steps=32, length=12, start_step=20)
    fit(partial(constant, total_steps=1000, warmup=5), 20, tmp_path)
    whole = fit(decay, 32, tmp_path, resume=tmp_path / "20.ckpt")
    fit(copy.copy(decay), 27, tmp_path, resume=tmp_path / "20.ckpt")
    rest = fit(decay, 32, tmp_path, resume=tmp_path / "27.ckpt")
    assert rest.rates == pytest.approx(whole.rates[-5:])
    assert torch.equal(rest.line.weight, whole.line.weight)
