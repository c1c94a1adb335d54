"""Runs that are stopped and taken up again end as if nothing had happened."""

import signal
import time
from pathlib import Path

import pytest
import torch
from commands import TINY, run, start

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
