"""`vitfw explain` for the options of a model, and for networks that are not ours."""

import pytest
import timm
import torch

from vitfw.cli.explain import main

TIMM = ["model=timm"]


@pytest.fixture
def explained(capsys, monkeypatch):
    """What the command prints at 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("vitfw.cli.explain.console.width", 80)

    def explained(*words: str, code: int = 0) -> str:
        assert main(words) == code
        captured = capsys.readouterr()
        return captured.err if code else captured.out

    return explained


@pytest.mark.parametrize(
    "words, shown",
    [
        ("model.rope=dinov3", ["turn q and k by", "2 × [B,12,197,64]"]),
        ("model.embed_layer=linear model.patch_size=32", ["cut into 32×32", "[B,49,3072]"]),
        ("model.fused_qkv=false", ["attn.q_proj", "attn.k_proj", "attn.v_proj"]),
        ("model.block_layer=pair", ["blocks.0.attns.1", "blocks.0.ffns.1"]),
        ("model.block_layer=parallel", ["attn_out_proj", "mlp_out_proj"]),
        ("model.dist_token=true", ["dist_token", "head_dist", "mean of both heads"]),
        ("model.tome_r=8", ["[B,189,768]", "[B,101,768]", "outside of training"]),
        ("model.patch_drop_rate=0.5", ["In training 50% of the patches are left out."]),
        ("model.flexi_patch_sizes=[8,16,32]", ["patch size from 8, 16, 32."]),
    ],
)
def test_an_option_shows_in_the_steps(explained, words, shown):
    page = explained("model=vit_b16", *words.split())
    assert all(text in page for text in shown)
    assert all(len(line) <= 80 for line in page.splitlines())


def test_a_dynamic_size_is_that_of_the_data_and_keeps_a_thousand_classes(explained):
    page = explained("model=vit_b16", "model.dynamic_img_size=true", "data.img_size=256")
    assert "[B,257,768]" in page and "stretched from" in page and "[B,1000]" in page


def test_an_image_that_patches_do_not_fill_is_refused_in_one_line(explained):
    words = ["model=vit_b16", "model.dynamic_img_size=true", "data.img_size=100"]
    error = explained(*words, code=2)
    assert "takes no images of 100×100" in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "name", ["resnet18", "deit_tiny_distilled_patch16_224", "swin_tiny_patch4_window7_224"]
)
def test_a_model_of_timm_shows_its_modules_and_its_parameters(explained, name):
    page = explained(*TIMM, f"model.name={name}", "model.img_size=224", "data.num_classes=10")
    with torch.device("meta"):
        net = timm.create_model(name, num_classes=10)
    assert f"{sum(p.numel() for p in net.parameters()):,}" in page
    assert "[B,3,224,224]" in page and "[B,10]" in page


def test_explaining_downloads_no_weights(explained, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    words = [*TIMM, "model.name=resnet18", "model.pretrained=true", "model.img_size=64"]
    assert "[B,512,2,2]" in explained(*words)


def test_a_model_that_does_not_know_its_image_size_is_asked_for_it(explained):
    error = explained("~model", "+model._target_=torch.nn.Flatten", code=2)
    assert "data.img_size=224" in error
