"""`trainer.precision=bf16-true`: net, batches and teacher in one number format, in all methods."""

import json
from pathlib import Path

import pytest
import torch
from commands import TINY
from PIL import Image

from vitfw.cli.main import main

FAKE = ["data=fake", "data.num_images=96", "data.batch_size=32", "data.num_classes=4"]
NET = ["model=vit_nano", *TINY, "model.embed_layer=conv"]
SHORT = ["trainer=debug", "trainer.limit_train_batches=2", "trainer.precision=bf16-true"]


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory):
    """Runs the command; gives the run directory."""
    folder = tmp_path_factory.mktemp("half")

    def run(name: str, *words: str) -> Path:
        path = folder / name
        assert main(["train", *FAKE, *NET, *SHORT, f"run_dir={path}", *words]) == 0
        weights = torch.load(path / "checkpoints/last.ckpt")["state_dict"]
        assert weights["net.blocks.0.attn.qkv.weight"].dtype == torch.bfloat16
        assert all(tensor.isfinite().all() for tensor in weights.values())
        return path

    return run


@pytest.fixture(scope="module")
def classifier(train) -> Path:
    mixed = ["data.class_weights=balanced", "augment.mixing.mixup=0.2"]
    return train("classify", *mixed) / "checkpoints/last.ckpt"


def test_a_classifier_learns_and_is_evaluated_as_it_was_tested(classifier: Path, tmp_path):
    logged = json.loads((classifier.parents[1] / "metrics.json").read_text())
    best, out = classifier.with_name("best.ckpt"), tmp_path / "m.json"
    assert main(["evaluate", f"checkpoint={best}", f"output={out}"]) == 0
    assert json.loads(out.read_text())["test/loss"] == logged["test/loss"]
    assert main(["evaluate", f"checkpoint={best}", "knn=5"]) == 0


def test_a_classifier_predicts(classifier: Path, tmp_path, capfd):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    capfd.readouterr()
    assert main(["predict", f"checkpoint={classifier}", f"input={tmp_path}"]) == 0
    assert "a.png" in capfd.readouterr().out


def test_a_student_learns_from_a_teacher_that_wants_another_size(classifier: Path, train):
    words = ["method=distill", "method.token=false", f"method.teacher={classifier}"]
    train("distill", *words, "data.img_size=12", "model.img_size=12")


def test_a_masked_autoencoder_learns(train):
    small = ["method.decoder_dim=16", "method.decoder_depth=1", "method.decoder_num_heads=2"]
    train("mae", "recipe=mae", *NET, "model.global_pool=avg", *small)


def test_a_linear_probe_learns(classifier: Path, train):
    train("probe", "recipe=linear_probe", f"init_from={classifier}")
