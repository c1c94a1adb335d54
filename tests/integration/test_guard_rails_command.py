"""The check before training, as a person sees it: a warning goes on, `strict=true` does not."""

import pytest
from commands import TINY, run

from vitfw.cli.main import main

DEBUG = [*TINY, "trainer=debug", "run_dir=run"]


def test_a_warning_is_printed_and_logged_and_the_run_goes_on(tmp_path):
    outcome = run("train.py", *DEBUG, "optimizer.lr=0.3", cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    assert "warning (unusual_lr)" in outcome.out
    assert "optimizer.lr=0.003" in outcome.out
    assert "warning (unusual_lr)" in (tmp_path / "run" / "train.log").read_text()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["optimizer.lr=0.3"], "optimizer.lr=0.003"),
        (["optimizer.lr=0.3", "data.val_share=0"], "data.val_share=0.1"),
        (["model.patch_size=4"], "model.patch_size=2"),
    ],
    ids=lambda value: str(value),
)
def test_strict_refuses_in_one_line_and_leaves_nothing(
    overrides, said, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "strict=true", *DEBUG, *overrides]) == 2
    err = capfd.readouterr().err
    assert err.startswith("error: ") and said in err
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_default_run_is_not_warned_of(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "trainer=debug", "run_dir=run", "strict=true"]) == 0
    assert "warning" not in capfd.readouterr().out


def test_an_automatic_batch_size_that_fits_changes_nothing(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *DEBUG, "auto_batch_size=true"]) == 0
    config = (tmp_path / "run" / "config.yaml").read_text()
    assert "batch_size: 64" in config and "accumulate_grad_batches: 1" in config
    assert "does not fit into memory" not in capfd.readouterr().out
