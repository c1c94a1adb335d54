"""How a run ends: what it tells to do next, and what it leaves behind."""

import shlex
from pathlib import Path

import pytest

from vitfw.cli.main import main

TINY = "model=vit_mini4 model.embed_dim=16 model.depth=1 model.num_heads=2 trainer.accelerator=cpu"
FAKE = "data=fake data.num_classes=3 data.num_images=96 data.native_size=8 data.batch_size=32"
SHORT = f"{TINY} {FAKE} trainer.max_epochs=1 logger=csv data.val_share=0.4".split()


def closing_words(out: str, name: str) -> list[str]:
    """The command that the closing lines call `name`."""
    (line,) = [line for line in out.splitlines() if line.startswith(name)]
    return shlex.split(line.removeprefix(name), comments=True)


@pytest.fixture
def train(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("vitfw.cli.train.prepare_process", lambda: None)

    def run(*words: str) -> tuple[str, Path]:
        folder = tmp_path / "a run"
        assert main(["train", *words, *SHORT, f"run_dir={folder}"]) == 0, capsys.readouterr().err
        return capsys.readouterr().out, folder

    return run


def test_a_masked_autoencoder_is_not_told_to_predict_and_what_it_tells_works(train, capsys):
    out, folder = train("recipe=mae")
    assert "vitfw predict" not in out
    program, command, *words = closing_words(out, "its features")
    assert (program, command) == ("vitfw", "evaluate")
    assert f"checkpoint={folder}/checkpoints/last.ckpt" in words
    assert main([command, *words, "data.num_workers=0"]) == 0
    assert "accuracy_knn_20" in capsys.readouterr().out
    program, command, *words = closing_words(out, "fine-tune it")
    assert (program, command, words[0]) == ("vitfw", "train", "recipe=scratch_small")
    assert words[-1] == f"init_from={folder}/checkpoints/last.ckpt"


def test_a_probe_leaves_no_features_and_an_ordinary_checkpoint(train):
    _, first = train("trainer.max_epochs=1")
    start = first.rename(first.with_name("first")) / "checkpoints" / "last.ckpt"
    words = ["method=linear_probe", "augment=none", "scheduler=cosine", f"init_from={start}"]
    out, folder = train(*words)
    assert (folder / "metrics.json").is_file() and not (folder / "features").exists()
    _, command, *words = closing_words(out, "once more")
    assert command == "evaluate" and words == [f"checkpoint={folder}/checkpoints/best.ckpt"]
    assert closing_words(out, "your images")[-1] == "input=FILE_OR_FOLDER"
