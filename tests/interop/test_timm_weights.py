"""timm's Vision Transformers and ours: the same logits and gradients from the same tensors."""

import re

import pytest
import timm
import torch

from vitfw.errors import ConfigError
from vitfw.interop import eva
from vitfw.interop import timm as timm_vit
from vitfw.interop.source import to_vitfw
from vitfw.models.vit import VisionTransformer

# Two blocks of each, at full width: the depth repeats what one block does.
SPAN = [
    "vit_tiny_patch16_224",
    "vit_small_patch8_224",
    "vit_small_patch16_384",
    "vit_small_patch32_224",
    "vit_base_patch8_224",
    "vit_base_patch16_224",
    "vit_base_patch16_224_miil",
    "vit_base_patch32_384",
    "vit_large_patch14_224",
    "vit_large_patch32_224",
    "vit_huge_patch14_224",
    "vit_giant_patch14_224",
    "vit_gigantic_patch14_224",
    "vit_base_patch16_gap_224",
    "vit_medium_patch16_gap_256",
    "vit_base_patch16_reg4_gap_256",
    "vit_so150m_patch16_reg4_map_256",
    "vit_betwixt_patch16_reg1_gap_256",
    "vit_base_patch32_clip_224",
    "vit_base_patch16_clip_quickgelu_224",
    "vit_base_patch16_plus_clip_240",
    "vit_base_patch16_siglip_224",
    "vit_base_patch32_siglip_gap_256",
    "vit_so400m_patch14_siglip_224",
    "vit_so400m_patch14_siglip_gap_224",
    "vit_base_patch16_xp_224",
    "vit_small_patch16_18x2_224",
    "vit_small_patch14_dinov2",
    "vit_base_patch14_reg4_dinov2",
    "vit_giant_patch14_reg4_dinov2",
    "aimv2_large_patch14_224",
    "beit3_base_patch16_224",
    "flexivit_small",
    "eva_large_patch14_196",
    "deit_tiny_distilled_patch16_224",
    "deit_base_distilled_patch16_384",
    "deit3_small_patch16_224",
    "deit3_large_patch16_384",
    "deit3_huge_patch14_224",
]
EVAS = [
    "eva_giant_patch14_224",
    "eva02_tiny_patch14_224",
    "eva02_base_patch14_224",
    "eva02_large_patch14_448",
    "eva02_base_patch16_clip_224",
    "vit_small_patch16_dinov3",
    "vit_small_plus_patch16_dinov3_qkvb",
    "vit_base_patch16_rope_224",
    "vit_base_patch16_rope_ape_224",
    "vit_small_patch16_rope_mixed_ape_224",
    "vit_medium_patch16_rope_reg1_gap_256",
    "vit_pe_spatial_tiny_patch16_512",
]
WHOLE = [*SPAN[:6], "deit3_base_patch16_224", "vit_base_patch14_dinov2", "eva02_base_patch14_224"]
UNMAPPED = {  # name → what the reason must speak of
    "test_vit3": "prefix tokens",
    "vit_base_patch16_rpn_224": "ResPostBlock",
    "vit_dlittle_patch16_reg1_gap_256": "DiffAttention",
    "vit_dpwee_patch16_reg1_gap_256": "DiffParallelScalingBlock",
    "vit_dwee_patch16_reg1_gap_256": "DiffAttention",
    "vit_so400m_patch14_siglip_384": "img_size 384 is not a multiple of patch_size 14",
    "vit_so400m_patch14_siglip_gap_384": "img_size 384 is not a multiple of patch_size 14",
    "eva02_enormous_patch14_clip_224": "use_post_norm",
    "vit_5b_patch16_sapiens2": "num_kv_heads",
    "vit_base_patch16_sapiens2": "attn_only_layer_scale",
    "vit_giant_patch16_sapiens2": "num_kv_heads",
    "vit_huge_patch16_sapiens2": "num_kv_heads",
    "vit_large_patch16_sapiens2": "num_kv_heads",
    "vit_pe_core_base_patch16_224": "attn_pool_num_heads",
    "vit_pe_core_gigantic_patch14_448": "attn_pool_num_heads",
    "vit_pe_core_large_patch14_336": "attn_pool_num_heads",
    "vit_pe_core_small_patch16_384": "attn_pool_num_heads",
    "vit_pe_core_tiny_patch16_384": "attn_pool_num_heads",
}


def peer_of(name: str, **changes):
    """timm's model with every tensor random, so that none can be left out unnoticed."""
    torch.manual_seed(0)
    depth = {"num_kv_heads": None} if "sapiens" in name else {}
    model = timm.create_model(name, num_classes=7, **depth, **changes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return model.double().eval()


def images_for(model, batch: int = 1):
    return torch.randn(batch, 3, *model.patch_embed.img_size, dtype=torch.float64)


LARGE = re.compile("large|huge|giant|gigantic|so400m")  # seconds each


@pytest.mark.parametrize("name", [name for name in SPAN + EVAS if not LARGE.search(name)])
def test_the_logits_are_timms(name):
    patch = timm.create_model(name, depth=1).patch_embed.patch_size[0]
    theirs = peer_of(name, depth=2, img_size=4 * patch)
    ours = to_vitfw(theirs)
    assert type(ours) is VisionTransformer
    x = images_for(theirs)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", SPAN + EVAS)
def test_the_logits_are_timms_at_their_own_resolution(name):
    theirs = peer_of(name, depth=2)
    x = images_for(theirs)
    with torch.no_grad():
        torch.testing.assert_close(to_vitfw(theirs)(x), theirs(x), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE)
def test_the_logits_are_timms_at_full_depth(name):
    theirs = peer_of(name)
    x = images_for(theirs)
    with torch.no_grad():
        torch.testing.assert_close(to_vitfw(theirs)(x), theirs(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224",
        "deit_tiny_distilled_patch16_224",
        "vit_base_patch16_siglip_224",
        "eva02_tiny_patch14_224",
        "vit_small_patch16_dinov3",
    ],
)
def test_the_gradients_are_timms(name):
    theirs = peer_of(name, depth=2)
    ours = to_vitfw(theirs)
    x = images_for(theirs)
    for model in (theirs, ours):
        model(x).square().sum().backward()
    given = {k: p.grad for k, p in theirs.named_parameters() if p.grad is not None}
    back = eva.to_vitfw(given).state if name in EVAS else given
    for name_, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, back[name_], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", SPAN[:3] + SPAN[-9:-4])
def test_a_round_trip_changes_no_bit(name):
    theirs = peer_of(name, depth=2)
    ours = to_vitfw(theirs)
    again = timm_vit.build_peer(ours.options)
    again.load_state_dict(timm_vit.from_vitfw(ours.state_dict()))
    before, after = theirs.state_dict(), again.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[key], after[key].double()) for key in before)
    x = images_for(theirs)
    with torch.no_grad():
        torch.testing.assert_close(again.double().eval()(x), theirs(x), rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("module", ["vision_transformer", "deit", "eva"])
def test_every_name_of_timm_is_built_with_its_tensors_or_has_a_reason(module):
    read = eva if module == "eva" else timm_vit
    for name in timm.list_models(module=module):
        with torch.device("meta"):
            theirs = timm.create_model(name)
            if name in UNMAPPED:
                with pytest.raises((ConfigError, ValueError), match=UNMAPPED[name]):
                    VisionTransformer(**read.options_of(theirs))
                continue
            ours = VisionTransformer(**read.options_of(theirs))
        shapes = {key: value.shape for key, value in ours.state_dict().items()}
        expected = read.to_vitfw(theirs.state_dict()).state
        assert shapes == {key: value.shape for key, value in expected.items()}, name


def test_another_architecture_is_refused_by_name():
    with pytest.raises(ConfigError, match="ResNet"):
        to_vitfw(timm.create_model("resnet18"))
    with pytest.raises(ConfigError, match="ResNet is not timm's VisionTransformer"):
        timm_vit.options_of(timm.create_model("resnet18"))


@pytest.mark.parametrize(
    "options, named",
    [
        ({"global_pool": "seq"}, "global_pool=seq"),
        ({"embed_layer": "conv_stem"}, "embed_layer=conv_stem"),
        ({"rope": "axial"}, "rope=axial"),
        ({"patch_stride": 8}, "patch_stride=8"),
        ({"tome_r": 4}, "tome_r=4"),
        ({"qk_scale": 0.3}, "qk_scale=0.3"),
    ],
)
def test_what_timm_has_not_is_refused_by_option(options, named):
    with pytest.raises(ConfigError, match=named):
        timm_vit.build_peer(options)
