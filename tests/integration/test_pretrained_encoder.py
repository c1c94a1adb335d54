"""The checkpoint of a masked autoencoder: what takes it, and what says that it knows no classes."""

import json
from pathlib import Path

import pytest
import torch
from commands import TINY
from safetensors.torch import load_file

from vitfw.checkpoint import passport_of
from vitfw.cli.main import main
from vitfw.errors import ConfigError
from vitfw.inference import check_probed_pooling, load_net
from vitfw.interop.source import pretrained_by_masking
from vitfw.models.mae import PatchMean
from vitfw.teacher import load_teacher

FAKE = ["data=fake", "data.num_images=96", "data.num_classes=4", "data.batch_size=32"]
SMALL = ["method.decoder_dim=16", "method.decoder_depth=1", "method.decoder_num_heads=2"]
SHORT = ["trainer=debug", "trainer.limit_train_batches=2"]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last checkpoint of `recipe=mae`, two steps of it; its model pools by a learned mean."""
    path = tmp_path_factory.mktemp("mae") / "run"
    assert main(["train", "recipe=mae", *FAKE, *TINY, *SMALL, *SHORT, f"run_dir={path}"]) == 0
    return path / "checkpoints" / "last.ckpt"


@pytest.mark.parametrize(
    "words",
    [["evaluate"], ["predict", "input=."], ["export", "format=torch_export"]],
    ids=lambda words: words[0],
)
def test_what_looks_at_logits_refuses_it(words, pretrained, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").touch()
    capfd.readouterr()
    assert main([words[0], f"checkpoint={pretrained}", *words[1:]]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "learns no classes" in line
    assert f"recipe=scratch_small model=THE_SAME data=YOURS init_from={pretrained}" in line
    assert not list(pretrained.parent.glob("*.pt2"))


def test_it_is_no_teacher(pretrained):
    passport, _ = passport_of(pretrained)
    with pytest.raises(ConfigError, match="learns no classes"):
        load_teacher(str(pretrained), passport.classes, passport.mean, passport.std)


def test_its_weights_are_exported_with_a_warning(pretrained, tmp_path, capfd):
    out = tmp_path / "x.safetensors"
    words = [f"checkpoint={pretrained}", "format=safetensors", f"output={out}"]
    assert main(["export", *words]) == 0
    assert "its pooling and head are untrained" in "".join(capfd.readouterr())
    state = torch.load(pretrained)["state_dict"]
    assert torch.equal(load_file(out)["norm.weight"], state["net.norm.weight"])


def test_its_neighbours_are_those_of_the_mean_of_its_patches(pretrained, tmp_path):
    """With weights of the pooling that would spoil every feature, were they asked."""
    content = torch.load(pretrained)
    score = "net.seq_pool.score.weight"
    content["state_dict"][score].fill_(torch.inf)
    spoiled, out = tmp_path / "spoiled.ckpt", tmp_path / "out.json"
    torch.save(content, spoiled)
    found = []
    for checkpoint in (pretrained, spoiled):
        assert main(["evaluate", f"checkpoint={checkpoint}", "knn=[1,5]", f"output={out}"]) == 0
        found.append(json.loads(out.read_text()))
    assert found[0] == found[1]
    net, passport = load_net(pretrained)
    assert pretrained_by_masking(passport)
    images = torch.randn(2, 3, *passport.img_size)
    expected = net.forward_features(images).mean(dim=1)  # neither class token nor registers
    torch.testing.assert_close(PatchMean(net)(images), expected)


def test_a_probe_of_a_pooling_that_was_not_trained_is_told_what_to_type(pretrained, tmp_path):
    passport, before = passport_of(pretrained)
    with pytest.raises(ConfigError, match="model.global_pool=avg model.fc_norm=false"):
        check_probed_pooling(str(pretrained), passport.config["model"])
    check_probed_pooling(str(pretrained), {"global_pool": "avg"})
    check_probed_pooling("timm:vit_base_patch16_siglip_224", {"global_pool": "map"})
    remedy = ["model.global_pool=avg", "model.fc_norm=false"]
    words = ["recipe=linear_probe", "model=vit_mini4", *FAKE, *TINY, *SHORT, *remedy]
    probe = tmp_path / "probe"
    assert main(["train", *words, f"init_from={pretrained}", f"run_dir={probe}"]) == 0
    _, after = passport_of(probe / "checkpoints" / "last.ckpt")
    assert set(before) - set(after) == {"seq_pool.score.weight", "seq_pool.score.bias"}
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert moved == {"head.weight", "head.bias"}


def test_masked_pre_training_goes_on_from_a_masked_checkpoint(pretrained, tmp_path):
    words = ["recipe=mae", *FAKE, *TINY, *SMALL, *SHORT, f"init_from={pretrained}"]
    assert main(["train", *words, f"run_dir={tmp_path / 'run'}"]) == 0


def test_a_pooling_that_was_not_trained_is_drawn_anew_and_not_frozen(pretrained, tmp_path, capfd):
    words = ["model=vit_mini4", *FAKE, *TINY, *SHORT, f"init_from={pretrained}"]
    run = [f"run_dir={tmp_path / 'run'}"]
    assert main(["train", *words, *run, "train_only=[head.*]"]) == 2
    assert "loaded into seq_pool.*: drawn at random, and frozen" in capfd.readouterr().err
    assert main(["train", *words, *run, "train_only=[head.*,seq_pool.*]"]) == 0
    said = (tmp_path / "run" / "train.log").read_text()
    assert "made anew: seq_pool.score.weight, seq_pool.score.bias, head.weight and 1 more\n" in said
    assert "ignored:" not in said
    _, before = passport_of(pretrained)
    _, after = passport_of(tmp_path / "run" / "checkpoints" / "last.ckpt")
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    parts = ("seq_pool.score", "head")
    assert moved == {f"{part}.{kind}" for part in parts for kind in ("weight", "bias")}
