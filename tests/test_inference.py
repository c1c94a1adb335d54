"""A checkpoint used with nothing else at hand: what its config may ask, and what may be changed."""

import sys
from functools import partial
from pathlib import Path

import pytest
import timm
import torch

from vitfw.checkpoint import AtomicCheckpointIO, Passport
from vitfw.errors import ConfigError
from vitfw.inference import load_net
from vitfw.models.vit import VisionTransformer
from vitfw.training.adaptation import adapt

TINY = {"img_size": 16, "patch_size": 4, "in_chans": 1, "num_classes": 3, "embed_dim": 16}
TINY |= {"depth": 2, "num_heads": 2}
OURS = {"_target_": "vitfw.models.vit.VisionTransformer", **TINY}
TIMM = {"_target_": "vitfw.interop.timm_model.create", "name": "resnet10t", "num_classes": 3}
TIMM |= {"in_chans": 1, "img_size": 16}


def save(
    path: Path,
    net: torch.nn.Module,
    model: dict,
    averaged: torch.nn.Module | None = None,
    **config,
) -> Path:
    config = {"model": model, **config}
    passport = Passport(config, ["a", "b", "c"], 1, [16, 16], 1.0, [0.5], [0.5], {})
    weights = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
    if averaged is not None:
        state = averaged.state_dict().items()
        weights |= {f"average.net.{name}": tensor for name, tensor in state}
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


# ── low-rank adapters ─────────────────────────────────────────────────────────────────────────


def with_adapters(net: torch.nn.Module, options: dict) -> torch.nn.Module:
    """`net` with adapters that do something."""
    adapt(net, lora=options)
    for name, parameter in net.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter)
    return net.eval()


@pytest.mark.parametrize("kind", ["ours", "timm"])
def test_a_checkpoint_with_adapters_gives_the_plain_net_that_computes_the_same(tmp_path, kind):
    options = {"rank": 2, "alpha": 6, "dropout": 0.1, "targets": ["blocks.*"]}
    name = "vit_tiny_patch16_224"
    timms = {"_target_": "vitfw.interop.timm_model.create", "name": name, **TINY}
    make = {"ours": VisionTransformer, "timm": partial(timm.create_model, name)}[kind]
    net = with_adapters(make(**TINY), options)
    path = save(tmp_path / "a.ckpt", net, OURS if kind == "ours" else timms, lora=options)
    loaded, _ = load_net(path)
    assert set(loaded.state_dict()) == set(make(**TINY).state_dict())
    images = torch.randn(4, 1, 16, 16)
    torch.testing.assert_close(loaded(images), net(images), rtol=1e-4, atol=1e-5)


def test_peft_is_not_needed_to_use_a_checkpoint_with_adapters(tmp_path, monkeypatch):
    net = with_adapters(VisionTransformer(**TINY), {"rank": 2})
    path = save(tmp_path / "a.ckpt", net, OURS, lora={"rank": 2, "alpha": 16})
    monkeypatch.setitem(sys.modules, "peft", None)
    assert load_net(path)[0](torch.zeros(1, 1, 16, 16)).shape == (1, 3)


def test_a_net_with_adapters_is_used_at_another_size(tmp_path):
    net = with_adapters(VisionTransformer(**TINY), {"rank": 2})
    path = save(tmp_path / "a.ckpt", net, OURS, lora={"rank": 2, "alpha": 16})
    larger, _ = load_net(path, {"img_size": 24})
    assert larger(torch.zeros(1, 1, 24, 24)).shape == (1, 3)
    kept = load_net(path)[0].state_dict()["blocks.0.attn.qkv.weight"]
    assert torch.equal(larger.state_dict()["blocks.0.attn.qkv.weight"], kept)


@pytest.mark.parametrize("lora", [None, {}, {"rank": 2, "alpha": "much"}, [1]])
def test_adapters_of_unknown_scale_are_refused(tmp_path, lora):
    net = with_adapters(VisionTransformer(**TINY), {"rank": 2})
    path = save(tmp_path / "a.ckpt", net, OURS, lora=lora)
    with pytest.raises(ConfigError, match=r"a\.ckpt: it has low-rank adapters, and lora\.alpha="):
        load_net(path)


# ── which weights ─────────────────────────────────────────────────────────────────────────────


def test_averaged_weights_are_used_where_they_are_there_unless_the_raw_ones_are_asked_for(tmp_path):
    raw, averaged = VisionTransformer(**TINY).eval(), VisionTransformer(**TINY).eval()
    path = save(tmp_path / "a.ckpt", raw, OURS, averaged)
    images = torch.randn(2, 1, 16, 16)
    for weights, net in (("auto", averaged), ("average", averaged), ("raw", raw)):
        assert torch.equal(load_net(path, weights=weights)[0](images), net(images))
        resampled, _ = load_net(path, {"img_size": 24}, weights)
        assert torch.equal(resampled.state_dict()["cls_token"], net.cls_token)
    plain = save(tmp_path / "b.ckpt", raw, OURS)
    assert torch.equal(load_net(plain)[0](images), raw(images))
    with pytest.raises(ConfigError, match="has no averaged weights"):
        load_net(plain, weights="average")
    with pytest.raises(ConfigError, match="weights=best is not one of: auto"):
        load_net(plain, weights="best")
