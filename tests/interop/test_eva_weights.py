"""Timm's Eva class against ours with the same weights, and every model of it that timm names."""

import re
from functools import partial

import pytest
import timm
import torch
from timm.layers import LayerNorm, RmsNorm
from timm.models.eva import Eva
from torch import nn

from vitfw.errors import ConfigError
from vitfw.interop.eva import from_vitfw, options_of, recognises, to_vitfw
from vitfw.models.vit import VisionTransformer

SMALL = {"depth": 2, "embed_dim": 48, "num_heads": 3, "num_classes": 5}
TINY = {**SMALL, "img_size": 32, "patch_size": 8}

# What our model lacks, and the names that need it.
POST_NORM = "use_post_norm"
POOL = "attention pool"
ATTENTION_ONLY = "attn_only_layer_scale"
WITHOUT = {
    "eva02_enormous_patch14_clip_224": POST_NORM,
    "vit_5b_patch16_sapiens2": ATTENTION_ONLY,
    "vit_base_patch16_sapiens2": ATTENTION_ONLY,
    "vit_giant_patch16_sapiens2": ATTENTION_ONLY,
    "vit_huge_patch16_sapiens2": ATTENTION_ONLY,
    "vit_large_patch16_sapiens2": ATTENTION_ONLY,
    "vit_pe_core_base_patch16_224": POOL,
    "vit_pe_core_gigantic_patch14_448": POOL,
    "vit_pe_core_large_patch14_336": POOL,
    "vit_pe_core_small_patch16_384": POOL,
    "vit_pe_core_tiny_patch16_384": POOL,
}
NAMES = timm.list_models(module="eva")
WITH = [name for name in NAMES if name not in WITHOUT]


def randomised(model: nn.Module) -> nn.Module:
    """Moved off its initialisation everywhere, biases and LayerScale too, in float64."""
    model = model.double().eval()
    for name, parameter in model.named_parameters():
        scale = 1.0 if "gamma" in name else 0.1
        parameter.data += scale * torch.randn_like(parameter)
    return model


def assert_same_logits(theirs: nn.Module, images: torch.Tensor):
    """Ours with all of their weights, nothing left over on either side, computes the same."""
    translated = to_vitfw(theirs.state_dict())
    assert not translated.unknown and not translated.ignored
    ours = VisionTransformer(**options_of(theirs)).double().eval()
    ours.load_state_dict(translated.state, strict=True)
    with torch.no_grad():
        expected = theirs(images)
        assert expected.std() > 0.1
        torch.testing.assert_close(ours(images), expected, rtol=0, atol=1e-5)


# ── all names ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", NAMES)
def test_every_name_of_timm_has_all_its_tensors_here_or_a_reason(name):
    with torch.device("meta"):
        theirs = timm.create_model(name, **({} if "sapiens2" in name else {"depth": 2}))
    if name in WITHOUT:
        with pytest.raises(ConfigError, match=re.escape(WITHOUT[name])):
            options_of(theirs)
        return
    translated = to_vitfw(theirs.state_dict())
    assert not translated.unknown and not translated.ignored
    with torch.device("meta"):
        ours = VisionTransformer(**options_of(theirs))
    shapes = {name: tensor.shape for name, tensor in ours.state_dict().items()}
    assert {name: tensor.shape for name, tensor in translated.state.items()} == shapes


@pytest.mark.parametrize("name", WITH)
def test_logits_equal_timms_for_every_name(name):
    theirs = timm.create_model(name, img_size=(24, 32), patch_size=8, **SMALL)
    assert_same_logits(randomised(theirs), torch.randn(2, 3, 24, 32, dtype=torch.float64))


@pytest.mark.parametrize("name", ["vit_small_patch16_dinov3", "vit_base_patch16_lingbot"])
def test_logits_equal_timms_on_images_of_another_size(name):
    theirs = timm.create_model(name, img_size=32, patch_size=8, **SMALL)
    assert_same_logits(randomised(theirs), torch.randn(2, 3, 48, 24, dtype=torch.float64))


def test_published_sizes_are_read_off_the_model():
    with torch.device("meta"):
        options = options_of(timm.create_model("eva02_base_patch14_448"))
    assert options["img_size"] == (448, 448) and options["patch_size"] == (14, 14)
    assert options["mlp_layer"] == "swiglu" and int(768 * options["mlp_ratio"]) == 2048
    assert options["rope"] == "axial" and options["rope_ref_grid"] == (16, 16)
    assert options["qkv_bias"] and not options["k_bias"] and not options["fused_qkv"]


# ── all options ───────────────────────────────────────────────────────────────────────────────

AXIAL = {"use_rot_pos_emb": True, "rope_type": "cat"}
OPTIONS = {
    "defaults": {},
    "no bias": {"qkv_bias": False},
    "separate qkv": {"qkv_fused": False},
    "separate qkv without bias": {"qkv_fused": False, "qkv_bias": False},
    "attention of AttentionRope": {"attn_type": "rope"},
    "AttentionRope, separate": {"attn_type": "rope", "qkv_fused": False, **AXIAL},
    "qk norm": {"qk_norm": True, "attn_type": "rope"},
    "inner norms": {"scale_attn_inner": True, "scale_mlp": True},
    "swiglu with norm": {"swiglu_mlp": True, "scale_mlp": True},
    "swiglu aligned": {"swiglu_mlp": True, "swiglu_align_to": 32, "mlp_ratio": 8 / 3},
    "swiglu packed": {"swiglu_mlp": True, "mlp_ratio": 8 / 3},
    "registers": {"num_reg_tokens": 3, "init_values": 0.1},
    "no embed class": {"no_embed_class": True, "num_reg_tokens": 2},
    "no norm at all": {"use_post_transformer_norm": False, "use_fc_norm": False},
    "norm before the mean": {"use_fc_norm": False},
    "pre-norm": {"use_pre_transformer_norm": True, "global_pool": "token"},
    "map": {"class_token": False, "global_pool": "map"},
    "rms": {"norm_layer": partial(RmsNorm, eps=1e-5)},
    "eps": {"norm_layer": partial(LayerNorm, eps=1e-3)},
    "axial": AXIAL,
    "axial by columns": {**AXIAL, "rope_grid_indexing": "xy", "rope_temperature": 50.0},
    "axial, grid of pre-training": {**AXIAL, "ref_feat_shape": (7, 5), "rope_grid_offset": 1.0},
    "axial by halves": {**AXIAL, "rope_rotate_half": True},
    "dinov3": {"use_rot_pos_emb": True, "rope_type": "dinov3", "rope_rotate_half": True},
    "dinov3, interleaved": {"use_rot_pos_emb": True, "rope_type": "dinov3"},
    "mixed": {"use_rot_pos_emb": True, "rope_type": "mixed", "rope_grid_indexing": "xy"},
    "mixed by rows": {"use_rot_pos_emb": True, "rope_type": "mixed"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_option_computes_what_timms_does(options):
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert_same_logits(randomised(Eva(**{**TINY, **options})), images)


def test_dropout_rates_are_carried_over():
    rates = {f"{part}_rate": 0.1 * i for i, part in enumerate(["drop", "pos_drop", "patch_drop"])}
    rates |= {"attn_drop_rate": 0.3, "proj_drop_rate": 0.4, "drop_path_rate": 0.5}
    assert options_of(Eva(**TINY, **rates)).items() >= rates.items()


def test_augmentation_of_places_is_carried_over():
    drawn = {"rope_shift_coords": 0.5, "rope_jitter_coords": 1.1, "rope_rescale_coords": 2.0}
    options = options_of(Eva(**TINY, use_rot_pos_emb=True, rope_type="dinov3", **drawn))
    assert options.items() >= drawn.items()


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"use_post_norm": True}, "use_post_norm"),
        ({"attn_type": "rope", "qkv_fused": False, "num_kv_heads": 1}, "num_kv_heads"),
        ({"init_values": 0.1, "attn_only_layer_scale": True}, "attn_only_layer_scale"),
        ({"use_rot_pos_emb": True, "rope_type": "mrope"}, "RotaryEmbeddingMRope"),
        ({"global_pool": "avgmax"}, "avgmax"),
        ({"use_fc_norm": True, "use_post_transformer_norm": True}, "before and after"),
        ({"global_pool": "map"}, "over the class token"),
        ({"global_pool": "map", "attn_pool_num_heads": 8}, "attn_pool_num_heads"),
        ({"global_pool": "map", "attn_pool_mlp_ratio": 2.0}, "attn_pool_mlp_ratio"),
        ({"dynamic_img_size": True, "dynamic_img_pad": True}, "dynamic_img_pad"),
    ],
)
def test_what_our_model_lacks_is_said(options, reason):
    with pytest.raises(ConfigError, match=f"VisionTransformer has no .*{reason}"):
        options_of(Eva(**{**TINY, **options}))


# ── names ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_there_and_back_gives_the_same_bits(options):
    state = Eva(**{**TINY, **options}).state_dict()
    back = from_vitfw(to_vitfw(state).state)
    assert list(back) == list(state)
    for name, tensor in state.items():
        assert torch.equal(back[name], tensor), name


def test_other_tensors_are_named_and_not_lost():
    state = Eva(**TINY).state_dict()
    state["blocks.0.attn.gate.weight"] = torch.zeros(48, 48)
    assert to_vitfw(state).unknown == ["blocks.0.attn.gate.weight"]


def test_what_the_class_has_no_place_for_is_named():
    ours = VisionTransformer(**TINY, dist_token=True).state_dict()
    with pytest.raises(ConfigError, match="no place for .*dist_token.*head_dist"):
        from_vitfw(ours)


@pytest.mark.parametrize("name", ["eva_giant_patch14_224", "vit_small_patch16_dinov3"])
def test_the_class_is_recognised_by_its_marks(name):
    with torch.device("meta"):
        assert recognises(timm.create_model(name, **SMALL).state_dict())
        assert not recognises(timm.create_model("vit_small_patch16_224", **SMALL).state_dict())


@pytest.mark.parametrize("options", [{"init_values": 0.1}, {"dist_token": True}], ids=str)
def test_a_model_of_ours_without_key_bias_is_not_taken_for_the_class(options):
    names = VisionTransformer(**TINY, k_bias=False, **options).state_dict()
    assert not recognises(names)
