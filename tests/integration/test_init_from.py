"""`init_from=`: a run begins with somebody's weights, and says what became of them."""

import csv
import io

import pytest
import safetensors.torch
import timm
import torch
from commands import Run, run
from PIL import Image

from vitfw.cli.main import main

CONV = ["model.embed_dim=32", "model.depth=2", "model.num_heads=2", "model.embed_layer=conv"]
ONE_STEP = ["trainer=debug", "trainer.limit_train_batches=1", "run_dir=r"]
FROZEN = ["optimizer.lr=1e-12", "optimizer.weight_decay=0"]


@pytest.fixture(scope="module")
def timms(tmp_path_factory: pytest.TempPathFactory):
    """A file of timm's for colour images of 64 px, 1000 classes and the class token."""
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=64, patch_size=8, embed_dim=32, depth=2, num_heads=2
    )
    path = tmp_path_factory.mktemp("timm") / "timm.safetensors"
    safetensors.torch.save_file(model.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def started(timms, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One step, begun with that file, for grey images of 8 px and 10 classes."""
    folder = tmp_path_factory.mktemp("started")
    outcome = run("train.py", *CONV, *ONE_STEP, *FROZEN, f"init_from={timms}", cwd=folder)
    assert outcome.code == 0, outcome.err
    return Run(folder, folder / "r", outcome)


def test_a_run_begins_with_timms_weights_for_other_images_and_says_what_it_did(timms, started):
    out = started.outcome.out.splitlines()
    start = next(i for i, line in enumerate(out) if line.startswith("loaded "))
    assert out[start].startswith("loaded 29 of 31 tensors from")
    report = " ".join(" ".join(out[start:]).split())
    for said in (
        "changed: pos_embed (resampled from 8×8 to 4×4, cls_token's row left out)",
        "changed: patch_embed.proj.weight (from 3 to 1 channels, patches resized from 8×8 to 2×2)",
        "changed: fc_norm.weight, fc_norm.bias (the final norm, moved after the pooling)",
        "made anew: head.weight, head.bias (1000 classes there, 10 here)",
        "ignored: cls_token (the model has no class token)",
        "taken as here: num_heads=2 act_layer=gelu norm_eps=1e-06 rope=none",
    ):
        assert said in report
    assert all(len(line) <= 80 or str(timms) in line for line in out[start : start + 10])
    assert "made anew: head.weight" in (started.path / "train.log").read_text()
    after = torch.load(started.best)["state_dict"]
    before = safetensors.torch.load_file(timms)
    name = "blocks.1.mlp.fc1.weight"
    torch.testing.assert_close(after[f"net.{name}"], before[name], rtol=0, atol=1e-6)


def test_what_cannot_start_a_run_is_told_in_one_line_and_nothing_is_written(
    timms, started, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cut.safetensors").write_bytes(timms.read_bytes()[:1000])
    for source, override, said in (
        ("cut.safetensors", "seed=1", "cut.safetensors is not a safetensors file, or was cut off"),
        (timms, "model.depth=3", "to match them: model.depth=2"),
        (timms, "model.embed_layer=conv_stem", "to match them: model.embed_layer=conv"),
        (started.best, "model.num_heads=4", "2 there and 4 here; to match it: model.num_heads=2"),
        ("torchvison:vit_b_16", "seed=1", "neither a file nor one of"),
        ("timm:vit_tinny_patch16_224", "seed=1", "did you mean vit_tiny_patch16_224"),
    ):
        assert main(["train", *CONV, *ONE_STEP, override, f"init_from={source}"]) == 2
        err = capfd.readouterr().err
        assert said in err and len(err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["cut.safetensors"]


def test_an_architecture_of_timms_trains_and_its_checkpoint_is_used_like_any(tmp_path, capfd):
    outcome = run("train.py", "model=timm", "model.name=resnet10t", *ONE_STEP, cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    checkpoint = f"checkpoint={tmp_path}/r/checkpoints/last.ckpt"
    assert main(["evaluate", checkpoint]) == 0
    assert "test/accuracy" in capfd.readouterr().out
    Image.new("L", (8, 8), 90).save(tmp_path / "a.png")
    assert main(["predict", checkpoint, f"input={tmp_path}/a.png"]) == 0
    (row,) = csv.DictReader(io.StringIO(capfd.readouterr().out))
    assert row["class_1"] in "0123456789"
