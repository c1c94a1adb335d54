"""Smaller images first: what is refused is what the net itself could not take."""

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from vitfw.cli.main import main
from vitfw.data.augment.batch_augment import BatchAugment
from vitfw.data.augment.progressive import Progressive, scaled_to
from vitfw.data.datamodule import ImageData
from vitfw.errors import ConfigError
from vitfw.models.vit import VisionTransformer
from vitfw.progressive_check import check_progressive, check_smaller_images
from vitfw.target import target_of

TIMMS = {"_target_": "vitfw.interop.timm_model.create", "img_size": 64}
SMALL = {"depth": 1, "img_size": 64, "num_classes": 2}
STAGES = {"depths": (1, 1, 1, 1), "img_size": 64, "num_classes": 2}


def takes(net: nn.Module, height: int, width: int) -> bool:
    try:
        net.eval()(torch.zeros(1, 3, height, width))
    except Exception:
        return False
    return True


# ── ours, by the config ───────────────────────────────────────────────────────────────────────


def asked(sizes: list[int], img_size: Any, /, **model: Any) -> dict[str, Any]:
    model = {"_target_": target_of(VisionTransformer), "dynamic_img_size": True, **model}
    return {
        "model": model,
        "data": {"img_size": img_size, "native_size": 28},
        "augment": {"progressive": {"sizes": sizes}},
    }


def refuses(cfg: dict[str, Any]) -> bool:
    try:
        check_progressive(cfg)
    except ConfigError:
        return True
    return False


@pytest.mark.parametrize(
    "options",
    [
        {"img_size": 16, "patch_size": 4},
        {"img_size": 32, "patch_size": 4, "patch_stride": 2},
        {"img_size": 31, "patch_size": 4, "patch_stride": 3},
        {"img_size": [16, 24], "patch_size": [2, 4]},
        {"img_size": 16, "patch_size": 4, "embed_layer": "conv_stem"},
        {"img_size": 16, "patch_size": 4, "embed_layer": "pool_stem"},
        {"img_size": 16, "patch_size": 4, "embed_layer": "linear", "patch_stride": 2},
    ],
    ids=str,
)
def test_sizes_that_our_model_cannot_take_are_refused_and_no_others(options):
    small = {"embed_dim": 16, "depth": 1, "num_heads": 1, "num_classes": 2}
    net = VisionTransformer(**options, **small, dynamic_img_size=True)
    full = net.patch_embed.img_size
    sizes = range(1, min(full) + 1)
    taken = {size for size in sizes if takes(net, *scaled_to(size, full))}
    assert taken == {size for size in sizes if not refuses(asked([size], list(full), **options))}
    assert 1 < len(taken) < len(sizes)


def test_no_progressive_sizes_at_all_are_the_full_size():
    check_progressive({"augment": {"progressive": None}, "model": {}, "data": {}})
    augment = BatchAugment(progressive=None)
    assert augment.sizes == [] and augment.size_at(0.0, (28, 32)) == (28, 32)


def test_the_nearest_sizes_that_are_named_fit():
    options = {"patch_size": 4, "patch_stride": 3}
    with pytest.raises(ConfigError, match="20×20 are no whole number of patches of 4 ") as caught:
        check_progressive(asked([20], 31, **options))
    nearest = re.findall(r"\d+", str(caught.value).partition("nearest sizes")[2])
    assert nearest == ["19", "22"]
    check_progressive(asked([19, 22], 31, **options))


def test_sizes_are_measured_by_the_images_of_the_data():
    check_progressive(asked([40], 48, img_size=32, patch_size=8))
    check_progressive(asked([20], None, img_size=32, patch_size=4))
    with pytest.raises(ConfigError, match="images have 28 pixels; give smaller sizes"):
        check_progressive(asked([32], None, img_size=32, patch_size=4))
    with pytest.raises(ConfigError, match="images have 48 pixels; give smaller sizes"):
        check_progressive({**asked([64], 48), "model": TIMMS})


@pytest.mark.parametrize("sizes", [16, ["small"], [16.5]], ids=str)
def test_what_is_no_list_of_sizes_is_refused(sizes):
    with pytest.raises(ConfigError, match=r"is not a list of whole pixels, such as \[16,20\]"):
        check_progressive(asked(sizes, 32, patch_size=4))


def test_a_model_of_ours_for_one_size_is_refused():
    with pytest.raises(ConfigError, match=r"model\.dynamic_img_size=true"):
        check_progressive(asked([8], 16, patch_size=4, dynamic_img_size=False))


# ── others, by a blank image ──────────────────────────────────────────────────────────────────


def data_of(*sizes: int) -> ImageData:
    until = [(number + 1) / len(sizes) for number in range(len(sizes))]
    augment = BatchAugment(progressive=Progressive(sizes, until))
    return ImageData("fake", num_classes=2, channels=3, native_size=64, augment=augment)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_tiny_patch16_224", SMALL),
        ("deit_tiny_distilled_patch16_224", SMALL),
        ("eva02_tiny_patch14_224", {**SMALL, "patch_size": 16}),
        ("swin_tiny_patch4_window7_224", STAGES),
        ("swinv2_tiny_window8_256", STAGES),
    ],
)
def test_what_is_to_be_typed_for_a_transformer_of_timms_makes_it_take_them(name, options):
    with pytest.raises(ConfigError, match=r"32×32 .*type \+model\.dynamic_img_size=true$"):
        check_smaller_images(timm.create_model(name, **options), TIMMS, data_of(32))
    net = timm.create_model(name, **options, dynamic_img_size=True)
    check_smaller_images(net, {**TIMMS, "dynamic_img_size": True}, data_of(32))
    assert takes(net, 32, 32) and takes(net, 64, 64)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mixer_s32_224", {"img_size": 64}),
        ("vit_tiny_patch16_224", {**SMALL, "dynamic_img_size": True}),
    ],
)
def test_where_no_option_helps_other_sizes_are_asked_for(name, options):
    net = timm.create_model(name, **options)
    with pytest.raises(ConfigError, match=r"40×40 \(.+\); give sizes that it takes"):
        check_smaller_images(net, TIMMS, data_of(40))


def test_a_net_that_takes_them_is_left_as_it_was():
    net = timm.create_model("resnet10t", num_classes=2)
    net.bn1.eval()
    modes = [module.training for module in net.modules()]
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    random = torch.get_rng_state()
    check_smaller_images(net, TIMMS, data_of(32, 48))
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("command", ["find_lr", "train"])
def test_a_command_says_it_in_one_line_and_does_what_that_says(
    command, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    words = ["data=fake", "data.native_size=32", "data.num_images=64", "data.batch_size=16"]
    words += ["model=timm", "model.name=vit_tiny_patch16_224", "+model.depth=1"]
    words += ["augment.progressive.sizes=[16]", "augment.progressive.until=[0.5]"]
    assert main([command, *words]) == 2
    error = capfd.readouterr().err.strip()
    assert error.startswith("error: augment.progressive.sizes=[16]") and "\n" not in error
    assert list(Path(tmp_path).iterdir()) == []
    (option,) = re.findall(r"type (\S+)$", error)
    limits = {"find_lr": ["steps=20"], "train": ["trainer=debug"]}[command]
    assert main([command, *words, option, *limits]) == 0
