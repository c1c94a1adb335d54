"""A checkpoint used with nothing else at hand: what its config may ask, and what may be changed."""

from pathlib import Path

import pytest
import timm
import torch

from vitfw.checkpoint import AtomicCheckpointIO, Passport
from vitfw.errors import ConfigError
from vitfw.inference import load_net
from vitfw.models.vit import VisionTransformer

TINY = {"img_size": 16, "patch_size": 4, "in_chans": 1, "num_classes": 3, "embed_dim": 16}
TINY |= {"depth": 2, "num_heads": 2}
OURS = {"_target_": "vitfw.models.vit.VisionTransformer", **TINY}
TIMM = {"_target_": "vitfw.interop.timm_model.create", "name": "resnet10t", "num_classes": 3}
TIMM |= {"in_chans": 1, "img_size": 16}


def save(path: Path, net: torch.nn.Module, model: dict) -> Path:
    passport = Passport({"model": model}, ["a", "b", "c"], 1, [16, 16], 1.0, [0.5], [0.5], {})
    weights = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
    AtomicCheckpointIO().save_checkpoint({"state_dict": weights, "vitfw": vars(passport)}, path)
    return path


def test_a_net_is_used_at_another_size_with_its_table_resampled(tmp_path):
    net = VisionTransformer(**TINY)
    path = save(tmp_path / "a.ckpt", net, OURS)
    larger, passport = load_net(path, {"img_size": 24, "patch_size": None})
    assert passport.img_size == [24, 24]
    table = timm.layers.resample_abs_pos_embed(net.pos_embed, (6, 6), num_prefix_tokens=1)
    assert torch.equal(larger.state_dict()["pos_embed"], table)
    finer, _ = load_net(path, {"patch_size": 2})
    assert finer(torch.zeros(1, 1, 16, 16)).shape == (1, 3)


def test_tokens_are_merged_if_asked(tmp_path):
    path = save(tmp_path / "a.ckpt", VisionTransformer(**TINY), OURS)
    net, _ = load_net(path, {"tome_r": 3})
    assert net.tome_r == 3


def test_a_size_that_no_machine_could_attend_over_is_refused(tmp_path):
    path = save(tmp_path / "a.ckpt", VisionTransformer(**TINY), OURS)
    with pytest.raises(ConfigError, match="at most 8,192 are taken"):
        load_net(path, {"img_size": 2000})


def test_a_net_of_timms_is_not_fetched_again_and_not_resampled(tmp_path, monkeypatch):
    net = timm.create_model("resnet10t", num_classes=3, in_chans=1)
    path = save(tmp_path / "a.ckpt", net, {**TIMM, "pretrained": True})

    def fetch(*_, **__):
        raise AssertionError("fetched")

    monkeypatch.setattr("timm.models._builder.load_pretrained", fetch)
    loaded, _ = load_net(path)
    assert torch.equal(loaded.state_dict()["conv1.0.weight"], net.state_dict()["conv1.0.weight"])
    with pytest.raises(ConfigError, match=r"only vitfw's VisionTransformer takes model\.tome_r=2"):
        load_net(path, {"tome_r": 2})


@pytest.mark.parametrize(
    "model",
    [
        {"_target_": "timm.models.load_state_dict", "checkpoint_path": "evil.pth"},
        {"_target_": "timm.models.load_checkpoint", "checkpoint_path": "evil.pth"},
        {"_target_": "timm.create_model", "model_name": "resnet10t"},
        {"_target_": "torch.nn.init.normal_"},
        {"_target_": "lightning.pytorch.LightningModule.load_from_checkpoint"},
        {**TIMM, "checkpoint_path": "evil.pth"},
        {**TIMM, "pretrained_cfg": {"url": "http://localhost/evil.pth"}},
    ],
    ids=lambda model: model["_target_"],
)
def test_a_config_inside_a_checkpoint_cannot_make_anything_be_read_or_fetched(tmp_path, model):
    path = save(tmp_path / "a.ckpt", VisionTransformer(**TINY), model)
    with pytest.raises(ConfigError, match=r"not allowed|no option of an architecture"):
        load_net(path)
