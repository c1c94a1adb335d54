"""Fine-tuning by command: what each recipe moves, and what it leaves to the bit."""

import csv
import io
import json
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from commands import TINY
from PIL import Image

from vitfw.cli.main import main

FAKE = ["data=fake", "data.num_images=96", "data.batch_size=32", "model=vit_nano", *TINY]
SHORT = ["model.embed_layer=conv", "trainer=debug", "trainer.limit_train_batches=2"]
FEW, MORE = "data.num_classes=4", "data.num_classes=6"


def best(run: Path) -> Path:
    return run / "checkpoints" / "best.ckpt"


def weights_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint)["state_dict"]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of two steps on four classes."""
    path = tmp_path_factory.mktemp("pretrained") / "run"
    assert main(["train", *FAKE, *SHORT, FEW, f"run_dir={path}"]) == 0
    return path


@pytest.fixture(scope="module")
def tuned(pretrained: Path):
    """Two steps of a recipe that begin with those weights, on other classes."""

    def tune(recipe: str) -> Path:
        path = pretrained.parent / recipe
        words = [f"recipe={recipe}", f"init_from={best(pretrained)}", f"run_dir={path}"]
        assert main(["train", *FAKE, *SHORT, MORE, *words]) == 0
        assert "made anew: head.weight, head.bias" in (path / "train.log").read_text()
        return path

    return tune


@pytest.fixture(scope="module")
def lora(tuned) -> Path:
    return tuned("lora")


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    """Names without `net.` of tensors that are not bit-identical."""
    return {
        name.removeprefix("net.")
        for name, tensor in before.items()
        if name in after and not torch.equal(after[name], tensor)
    }


def test_finetune_moves_everything(pretrained: Path, tuned):
    before = weights_of(best(pretrained))
    names = {name.removeprefix("net.") for name in before if name.startswith("net.")}
    assert moved(before, weights_of(best(tuned("finetune")))) == names


def test_bitfit_moves_biases_and_the_head(pretrained: Path, tuned):
    before = weights_of(best(pretrained))
    biases = {name.removeprefix("net.") for name in before if name.endswith("bias")}
    assert moved(before, weights_of(best(tuned("bitfit")))) == biases | {"head.weight"}


def test_lora_moves_adapters_and_the_head_and_leaves_the_weights_to_the_bit(
    pretrained: Path, lora: Path
):
    after = weights_of(best(lora))
    adapters = [name for name in after if ".lora_B." in name]
    assert len(adapters) == 8 and all(after[name].any() for name in adapters)
    plain = {name.replace(".base_layer.", "."): tensor for name, tensor in after.items()}
    assert moved(weights_of(best(pretrained)), plain) == {"head.weight", "head.bias"}
    trained = [t for name, t in after.items() if ".lora_" in name or "net.head." in name]
    metrics = json.loads((lora / "metrics.json").read_text())
    assert metrics["params_trained"] == sum(tensor.numel() for tensor in trained)


def test_a_lora_checkpoint_is_evaluated_predicts_and_is_exported_like_any(
    lora: Path, tmp_path, capfd, monkeypatch
):
    """Without peft: the adapters are in the weights by then."""
    monkeypatch.setitem(sys.modules, "peft", None)
    checkpoint = f"checkpoint={best(lora)}"
    assert main(["evaluate", checkpoint, f"output={tmp_path}/m.json"]) == 0
    logged = json.loads((lora / "metrics.json").read_text())
    again = json.loads((tmp_path / "m.json").read_text())
    assert again["test/loss"] == pytest.approx(logged["test/loss"], rel=1e-2)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    capfd.readouterr()
    assert main(["predict", checkpoint, f"input={tmp_path}/a.png", "weights=raw"]) == 0
    (row,) = csv.DictReader(io.StringIO(capfd.readouterr().out))
    assert float(row["probability_1"]) >= 1 / 6
    out = tmp_path / "x.safetensors"
    assert main(["export", checkpoint, "format=safetensors", f"output={out}"]) == 0
    names = {
        name.removeprefix("net.").replace(".base_layer.", ".") for name in weights_of(best(lora))
    }
    assert set(safetensors.torch.load_file(out)) == {n for n in names if ".lora_" not in n}


def test_a_lora_checkpoint_begins_a_run_without_adapters(lora: Path, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    words = [*FAKE, *SHORT, MORE, f"init_from={best(lora)}", "run_dir=r"]
    assert main(["train", *words, "optimizer.lr=1e-12", "optimizer.weight_decay=0"]) == 0
    assert "low-rank adapters folded into the weights" in capfd.readouterr().out
    before, after = weights_of(best(lora)), weights_of(tmp_path / "r/checkpoints/last.ckpt")
    layer = "net.blocks.0.mlp.fc1"
    delta = before[f"{layer}.lora_B.default.weight"] @ before[f"{layer}.lora_A.default.weight"]
    expected = before[f"{layer}.base_layer.weight"] + 16 / 8 * delta
    torch.testing.assert_close(after[f"{layer}.weight"], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("recipe", ["finetune", "lora", "bitfit"])
def test_without_weights_a_recipe_says_that_they_are_needed(recipe, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert main(["train", f"recipe={recipe}"]) == 2
    assert capfd.readouterr().err == "error: init_from is needed: give init_from=…\n"
    assert main(["train", f"recipe={recipe}", "--cfg", "job"]) == 0
    assert "init_from" in capfd.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["freeze=[blocks.0]"], "did you mean blocks.0.*?"),
        (["train_only=['*.bais']"], "no parameter is called *.bais"),
        (
            ["lora.rank=4", "lora.targets=[qvk]"],
            "no linear layer is called qvk; there are attn.qkv",
        ),
    ],
)
def test_names_that_are_none_are_refused_before_a_run_directory_is_made(
    words, said, pretrained, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    start = [FEW, f"init_from={best(pretrained)}"]
    capfd.readouterr()
    assert main(["train", *FAKE, *SHORT, *start, *words]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert said in line
    assert not list(tmp_path.iterdir())
