"""Every shipped model is what it is named for: timm's, torchvision's, or as large as published."""

from functools import cache
from typing import Any

import model_table as table
import pytest
import timm
import torch
import torchvision
from torch import nn

from vitfw.building import build
from vitfw.config import compose, to_plain
from vitfw.errors import ConfigError
from vitfw.interop.timm_model import create
from vitfw.models.profile import count_flops

NAMES = table.names()
PEERS = {name: table.told(name).peers for name in NAMES}
OF_TIMM = [(name, peers["timm"]) for name, peers in PEERS.items() if "timm" in peers]
OF_TORCHVISION = [(n, peers["torchvision"]) for n, peers in PEERS.items() if "torchvision" in peers]
WIDTHS = {  # embed_dim, depth, hidden channels of the MLP, as the papers' tables give them
    "ti": (192, 12, 768),
    "s": (384, 12, 1536),
    "b": (768, 12, 3072),
    "l": (1024, 24, 4096),
    "h": (1280, 32, 5120),
    "g": (1408, 40, 6144),
    "bigg": (1664, 48, 8192),
    "so400m": (1152, 27, 4304),
}
PLAIN = [(size, patch) for size in WIDTHS for patch in (8, 14, 16, 32)]
SIMPLE = ["ti", "s", "b", "l"]
MILLIONS = {  # Hassani et al.'s table for CIFAR-10
    "vit_lite7_4": 3.717,
    "cvt7_4": 3.717,
    "cct7_3x1": 3.760,
    "cct7_3x2": 3.853,
}
OUR_OWN = {"vit_ti4", "vit_s4", "vit_b4", "vit_nano", "vit_nano4"} | {
    "vit_mini4",
    "vit_mini4_conv",
    "vit_mini4_hybrid",
}
SHRUNK = {"depth": 2, "embed_dim": 96, "num_heads": 3}


@cache
def of_timm(name: str, **options: Any) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name, num_classes=1000, **options)


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


def closed_form(size: str, patch: int, class_token: bool = True, positions: bool = True) -> int:
    width, depth, hidden = WIDTHS[size]
    tokens = (224 // patch) ** 2 + class_token
    attention = 3 * width * (width + 1) + width * (width + 1)
    mlp = hidden * (width + 1) + width * (hidden + 1)
    block = attention + mlp + 2 * 2 * width
    embedding = (3 * patch * patch + 1) * width + class_token * width
    return embedding + positions * tokens * width + depth * block + 2 * width + 1000 * (width + 1)


# ── sizes ─────────────────────────────────────────────────────────────────────────────────────


def test_every_model_is_compared_with_something_that_is_not_ours():
    plain = {f"vit_{size}{patch}" for size, patch in PLAIN} | {f"simple_{s}16" for s in SIMPLE}
    compared = {*plain, *MILLIONS, *dict(OF_TIMM), *dict(OF_TORCHVISION)}
    assert set(NAMES) == compared | OUR_OWN


def test_no_two_files_differ_by_case_only():
    files = [path.name.casefold() for path in table.FOLDER.iterdir()]
    assert len(set(files)) == len(files)


@pytest.mark.parametrize("size, patch", PLAIN)
def test_a_plain_vit_is_as_large_as_its_paper_makes_it(size, patch):
    assert table.learned(f"vit_{size}{patch}") == closed_form(size, patch)


@pytest.mark.parametrize("size", SIMPLE)
def test_a_plain_baseline_learns_neither_class_token_nor_positions(size):
    counted = table.learned(f"simple_{size}16")
    assert counted == closed_form(size, 16, class_token=False, positions=False)


@pytest.mark.parametrize("name, millions", MILLIONS.items())
def test_a_compact_transformer_is_as_large_as_its_paper_says(name, millions):
    assert round(table.learned(name) / 1e6, 3) == millions


@pytest.mark.parametrize("name, peer", OF_TORCHVISION)
def test_it_is_as_large_as_torchvisions(name, peer):
    with torch.device("meta"):
        theirs = torchvision.models.get_model(peer)
    assert table.learned(name) == parameters(theirs)


@pytest.mark.parametrize("name, peer", OF_TIMM)
def test_it_has_timms_parameters_by_name_and_shape(name, peer):
    ours = table.net_of(name)
    theirs = of_timm(peer, img_size=table.options(name)["img_size"])
    shapes = {key: tuple(p.shape) for key, p in theirs.named_parameters()}
    assert {key: tuple(p.shape) for key, p in ours.named_parameters()} == shapes
    assert table.learned(name) == parameters(theirs)


@pytest.mark.parametrize("name, peer", OF_TIMM)
def test_made_small_it_computes_what_timms_does(name, peer):
    """Two narrow blocks on a grid of 2 × 2, with the same large weights."""
    options = table.options(name)
    shrunk = {**SHRUNK, "img_size": 2 * options["patch_size"]}
    ours = build({**options, **shrunk}).double().eval()
    theirs = timm.create_model(peer, num_classes=1000, **shrunk).double().eval()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_(std=0.2)
        theirs.load_state_dict(ours.state_dict())
        images = torch.randn(2, 3, shrunk["img_size"], shrunk["img_size"], dtype=torch.float64)
        expected = theirs(images)
        # timm keeps rotary angles in single precision
        far = 1e-4 if "eva" in name else 1e-9
        torch.testing.assert_close(ours(images), expected, rtol=far, atol=far)


@pytest.mark.parametrize("name", ["deit_b16", "deit_b16_distilled", "deit3_l16", "siglip_b16"])
def test_another_image_size_gives_timms_model_of_that_size(name):
    peer = PEERS[name]["timm"].replace("224", "384")
    ours = table.on_meta({**table.options(name), "img_size": 384})
    assert parameters(ours) == parameters(of_timm(peer))


def test_a_combination_that_is_not_shipped_can_be_typed():
    words = ["model=deit3_b16", "model.patch_size=14", "data=cifar10", "model.reg_tokens=4"]
    net = table.on_meta(to_plain(compose("train", words))["model"])
    assert net.patch_embed.grid_size == (16, 16)
    assert net.reg_token.shape == (1, 4, 768)
    assert net.blocks[0].ls1.init_values == 1e-6
    assert net.head.out_features == 10


# ── the page ──────────────────────────────────────────────────────────────────────────────────


def test_the_page_says_what_the_script_would_write():
    assert table.PAGE.read_text(encoding="utf-8") == table.page(), "run scripts/model_table.py"


def test_flops_taken_from_two_blocks_are_those_of_the_whole_net():
    options = table.options("vit_ti16")
    assert table.flops(options) == count_flops(table.on_meta(options), (3, 224, 224))


# ── any of timm's ─────────────────────────────────────────────────────────────────────────────


def refused(**options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        create(**options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_cnn_of_timms_is_configured_by_its_name():
    words = ["model=timm", "model.name=resnet18", "data=fashion_mnist"]
    model = to_plain(compose("train", words))["model"]
    net = build(model)
    theirs = timm.create_model("resnet18", num_classes=10, in_chans=1)
    assert parameters(net) == parameters(theirs)
    assert net(torch.randn(2, 1, 28, 28)).shape == (2, 10)


def test_an_architecture_for_one_size_is_told_the_size():
    net: Any = create("vit_tiny_patch16_224", num_classes=3, img_size=32, drop_path_rate=0.1)
    assert net(torch.randn(1, 3, 32, 32)).shape == (1, 3)
    assert net.blocks[-1].drop_path1.drop_prob == pytest.approx(0.1)


def test_without_a_name_the_name_is_asked_for():
    with pytest.raises(ConfigError, match=r"model\.name is needed"):
        to_plain(compose("train", ["model=timm"]))


def test_what_timm_does_not_know_is_answered_in_one_line():
    message = refused(name="resnet_18")
    assert message.startswith("model.name=resnet_18 is no architecture of timm's; did you mean")
    assert "resnet18" in message
    assert "timm.list_models()" in refused(name="?")
    message = refused(name="resnet18", patch=3)
    assert message.startswith("timm's resnet18 has no option 'patch'; leave model.patch out")
    assert message.endswith("~model.patch")


def test_patches_that_leave_pixels_out_are_refused():
    message = refused(name="vit_tiny_patch16_224", img_size=28)
    assert message.startswith("img_size 28 is not a multiple of patch_size 16")


def test_weights_that_cannot_be_fetched_are_said_to_be_missing(monkeypatch, tmp_path):
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", offline)
    message = refused(name="resnet18", pretrained=True)
    assert message.startswith("the weights of resnet18 cannot be had: no route to host")
    assert "model.pretrained=false" in message
    assert "cannot be had" in refused(name="resnet18.no_such_weights", pretrained=True)


def offline(*_: object, **__: object) -> None:
    raise OSError("no route to host")
