"""Runs that are stopped and taken up again end as if nothing had happened."""

import signal
import time
from pathlib import Path

import pytest
import torch
from commands import TINY, run, start

from vitfw.callbacks.last_checkpoint import LastCheckpoint
from vitfw.cli.train import main

# Dropout and stochastic depth, so that the random state matters; a save in mid-epoch.
WORDS = [
    *TINY,
    "model.proj_drop_rate=0.1",
    "model.drop_path_rate=0.1",
    "trainer.max_epochs=6",
    "callbacks.last.every_n_steps=7",
    "callbacks.last.min_seconds=0",
]


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return torch.load(run_dir / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    outcome = run("train", *WORDS, "run_dir=r", cwd=folder)
    assert outcome.code == 0, outcome.err
    return weights(folder / "r")


def stop_when_saved(folder: Path, number: int, later: float) -> tuple[int, str]:
    """Start the run, send it a signal some time after its first checkpoint; exit code, output."""
    process = start("train", *WORDS, "run_dir=r", cwd=folder)
    checkpoint = folder / "r/checkpoints/last.ckpt"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(later)
    process.send_signal(number)
    out, _ = process.communicate(timeout=120)
    return process.returncode, out


@pytest.mark.parametrize("later", [0.0, 0.9])
def test_killed_run_resumes_bit_identical(tmp_path, uninterrupted, later):
    code, _ = stop_when_saved(tmp_path, signal.SIGKILL, later)
    assert code == -signal.SIGKILL
    assert not (tmp_path / "r/metrics.json").exists()
    outcome = run("train", *WORDS, "run_dir=r", cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    assert "going on from r/checkpoints/last.ckpt" in outcome.out
    resumed = weights(tmp_path / "r")
    assert all(torch.equal(resumed[name], uninterrupted[name]) for name in uninterrupted)


def test_sigterm_saves_exits_143_and_resumes_bit_identical(tmp_path, uninterrupted):
    code, out = stop_when_saved(tmp_path, signal.SIGTERM, 0.5)
    assert code == 143
    assert "The same command goes on from there" in out
    assert run("train", *WORDS, "run_dir=r", cwd=tmp_path).code == 0
    resumed = weights(tmp_path / "r")
    assert all(torch.equal(resumed[name], uninterrupted[name]) for name in uninterrupted)


def test_ctrl_c_saves_and_exits_130(tmp_path):
    code, out = stop_when_saved(tmp_path, signal.SIGINT, 0.2)
    assert code == 130
    assert "stopping after this batch" in out
    assert (tmp_path / "r/checkpoints/last.ckpt").exists()


def test_resuming_with_another_learning_rate_is_refused(digits_run):
    last = digits_run.path / "checkpoints/last.ckpt"
    outcome = run(
        "train", *TINY, "trainer.max_epochs=3", f"resume={last}", "optimizer.lr=0.1",
        "run_dir=refused", cwd=digits_run.folder,
    )  # fmt: skip
    assert outcome.code == 2
    assert "optimizer.lr: 0.003 → 0.1" in outcome.err
    assert not (digits_run.folder / "refused").exists()


# what else a run can be made of, in this process; 10 steps an epoch

SHORT = [
    "data.limit=0.5",
    *TINY,
    "model.proj_drop_rate=0.1",
    "model.drop_path_rate=0.1",
    "trainer.max_epochs=2",
    "trainer.benchmark=false",
    "callbacks.last.every_n_steps=4",
    "callbacks.last.min_seconds=0",
    "callbacks.data_preview=null",
    "logger=csv",
    "test_after_fit=false",
]
KINDS = {
    "ema": ["average=ema", "average.decay=0.9"],
    "swa": ["average=swa", "average.start=25%", "average.every=3"],
    "sam": ["optimizer=sam"],
    "schedule_free": ["optimizer=schedule_free", "scheduler=constant"],
    "frozen_norm": ["model.embed_layer=conv_stem", "freeze=['patch_embed.*']"],
    "accumulation": ["trainer.accumulate_grad_batches=2"],
    "progressive": [
        "model.dynamic_img_size=true",
        "augment.progressive.sizes=[4,6]",
        "augment.progressive.until=[0.3,0.7]",
    ],
}


RARE = ("swa", "progressive")


class PowerCut(BaseException):
    """Ends a run as a kill would: nothing more is saved or reported."""


def cut_off(monkeypatch: pytest.MonkeyPatch, at_step: int, *words: str) -> None:
    """Run the command up to the end of that optimizer step."""
    as_ever = LastCheckpoint.on_train_batch_end

    def batch_end(self, trainer, *rest):
        if trainer.global_step == at_step:
            raise PowerCut
        as_ever(self, trainer, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(LastCheckpoint, "on_train_batch_end", batch_end)
        with pytest.raises(PowerCut):
            main(list(words))


def steps_saved(run_dir: Path) -> int:
    return torch.load(run_dir / "checkpoints/last.ckpt", weights_only=True)["global_step"]


def saved(run_dir: Path) -> dict[str, torch.Tensor]:
    """Weights, averages and what the optimizer keeps, by name."""
    content = torch.load(run_dir / "checkpoints/last.ckpt", weights_only=True)
    (optimizer,) = content["optimizer_states"]
    kept = {
        f"optimizer.{place}.{name}": value
        for place, state in optimizer["state"].items()
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
    }
    return {**content["state_dict"], **kept}


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[pytest.mark.slow] * (k in RARE)) for k in KINDS]
)
def test_a_run_of_any_kind_that_is_killed_resumes_bit_identical(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    words = [*SHORT, *KINDS[kind]]
    assert main([*words, "run_dir=whole"]) == 0
    cut_off(monkeypatch, 9, *words, "run_dir=parts")
    assert steps_saved(tmp_path / "parts") == 8
    assert main([*words, "run_dir=parts"]) == 0
    expected, found = saved(tmp_path / "whole"), saved(tmp_path / "parts")
    assert found.keys() == expected.keys()
    if kind == "schedule_free":  # what it trains is computed from what was saved
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    else:
        assert [name for name in found if not torch.equal(found[name], expected[name])] == []


def test_a_cooldown_that_is_killed_resumes_bit_identical(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*SHORT, "scheduler=constant", "trainer.max_epochs=1", "run_dir=trunk"]) == 0
    branch = [*SHORT, "scheduler=cooldown", "scheduler.length=8", "resume=trunk"]
    assert main([*branch, "run_dir=whole"]) == 0
    cut_off(monkeypatch, 13, *branch, "run_dir=parts")
    assert steps_saved(tmp_path / "parts") == 12
    (tmp_path / "trunk").rename(tmp_path / "elsewhere")
    assert main([*branch, "run_dir=parts"]) == 0
    assert steps_saved(tmp_path / "parts") == 18
    expected, found = saved(tmp_path / "whole"), saved(tmp_path / "parts")
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []


@pytest.mark.slow
def test_a_cooldown_killed_before_its_first_save_starts_again_from_the_trunk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [*SHORT, "callbacks.last.every_n_steps=100"]
    assert main([*words, "scheduler=constant", "trainer.max_epochs=1", "run_dir=trunk"]) == 0
    branch = [*words, "scheduler=cooldown", "scheduler.length=3", "resume=trunk"]
    assert main([*branch, "run_dir=whole"]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(LastCheckpoint, "_save", lambda self, trainer: None)
        cut_off(monkeypatch, 11, *branch, "run_dir=parts")
    assert not (tmp_path / "parts/checkpoints/last.ckpt").exists()
    assert main([*branch, "run_dir=parts"]) == 0
    expected, found = saved(tmp_path / "whole"), saved(tmp_path / "parts")
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []
