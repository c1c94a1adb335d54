"""The whole model against timm and published counts, and what happens in training only."""

from functools import partial

import pytest
import timm
import torch
from timm.layers import GluMlp
from timm.layers import SwiGLU as TimmSwiGLU
from timm.models.vision_transformer import ParallelScalingBlock, ParallelThingsBlock
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import nn

from vitfw.models.attention import split_qkv
from vitfw.models.patch_embed import kernel_to_linear
from vitfw.models.profile import count_parameters
from vitfw.models.vit import VisionTransformer

SMALL = {"patch_size": 32, "embed_dim": 384, "num_heads": 6, "depth": 4}
TINY = {
    "img_size": 16,
    "patch_size": 4,
    "num_classes": 5,
    "embed_dim": 24,
    "depth": 2,
    "num_heads": 3,
}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def twins(theirs: nn.Module, **options) -> tuple[nn.Module, VisionTransformer]:
    """Timm's model moved off its initialisation, and ours with the same weights, in float64."""
    theirs = theirs.double().eval()
    for parameter in theirs.parameters():
        parameter.data += 0.03 * torch.randn_like(parameter)
    with torch.device("meta"):
        ours = VisionTransformer(**options)
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    return theirs, ours.eval()


# ── timm ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "name, timm_options, options",
    [
        ("vit_base_patch16_224", {"depth": 4}, {"depth": 4}),
        ("vit_tiny_patch16_224", {}, {"embed_dim": 192, "num_heads": 3}),
        ("vit_small_patch32_224", {"depth": 4}, SMALL),
        (
            "vit_small_patch32_224",
            {"global_pool": "avg", "class_token": False, "depth": 4},
            {**SMALL, "global_pool": "avg", "class_token": False},
        ),
    ],
    ids=["b16", "ti16", "s32", "s32 without class token"],
)
def test_logits_equal_timms_with_timms_weights_and_no_key_map(name, timm_options, options):
    theirs, ours = twins(timm.create_model(name, **timm_options), **options)
    x = torch.randn(1, 3, 224, 224, dtype=torch.float64)
    with torch.no_grad():
        expected = theirs(x)
        assert expected.std() > 0.1
        torch.testing.assert_close(ours(x), expected, rtol=0, atol=1e-5)


SHARED_OPTIONS = [
    {},
    {"global_pool": "avg"},
    {"global_pool": "avg", "class_token": False, "reg_tokens": 2},
    {"reg_tokens": 3},
    {"init_values": 0.1, "qk_norm": True},
    {"qkv_bias": False, "mlp_ratio": 2.5},
    {"pos_embed": "none"},
    {"norm_layer": "rmsnorm", "qk_norm": True, "global_pool": "avg"},
    {"img_size": (8, 24), "patch_size": (4, 6), "in_chans": 1},
    {"num_classes": 0},
    {"depth": 1, "num_heads": 1},
    {"no_embed_class": True, "reg_tokens": 2},
    {"no_embed_class": True, "global_pool": "avg", "class_token": False},
    {"pre_norm": True, "norm_layer": "rmsnorm"},
    {"final_norm": False},
    {"fc_norm": True},
    {"fc_norm": False, "global_pool": "avg"},
    {"final_norm": False, "global_pool": "avg"},
    {"global_pool": "map", "class_token": False},
    {"global_pool": "map", "fc_norm": True, "reg_tokens": 1, "mlp_ratio": 2.0},
    {"scale_attn_norm": True, "scale_mlp_norm": True},
    {"proj_bias": False, "init_values": 0.5},
    {"dynamic_img_size": True},
    {"grad_checkpointing": True},
]
# ours, and what timm calls it
TRANSLATED_OPTIONS = [
    ({"act_layer": "relu"}, {"act_layer": nn.ReLU}),
    ({"act_layer": "silu"}, {"act_layer": nn.SiLU}),
    ({"act_layer": "gelu_tanh"}, {"act_layer": "gelu_tanh"}),
    ({"act_layer": "quick_gelu"}, {"act_layer": "quick_gelu"}),
    ({"mlp_layer": "swiglu"}, {"mlp_layer": TimmSwiGLU, "act_layer": nn.SiLU}),
    (
        {"mlp_layer": "swiglu_packed", "scale_mlp_norm": True},
        {"mlp_layer": partial(GluMlp, gate_last=False), "act_layer": nn.SiLU}
        | {"scale_mlp_norm": True},
    ),
    (
        {"mlp_layer": "swiglu", "swiglu_align_to": 64},
        {"mlp_layer": partial(TimmSwiGLU, align_to=64), "act_layer": nn.SiLU},
    ),
    ({"norm_eps": 1e-2}, {"norm_layer": partial(nn.LayerNorm, eps=1e-2)}),
    ({"embed_norm": True}, {"embed_norm_layer": "layernorm"}),
    (
        {"block_layer": "parallel", "init_values": 0.5},
        {"block_fn": ParallelScalingBlock} | {"init_values": 0.5},
    ),
    (
        {"block_layer": "parallel", "qkv_bias": False},
        {"block_fn": ParallelScalingBlock} | {"qkv_bias": False},
    ),
    ({"block_layer": "pair", "qk_norm": True}, {"block_fn": ParallelThingsBlock, "qk_norm": True}),
]


@pytest.mark.parametrize(
    "options, timm_options",
    [(options, options) for options in SHARED_OPTIONS] + TRANSLATED_OPTIONS,
    ids=str,
)
def test_logits_and_gradients_equal_timms_for_every_option_timm_has(options, timm_options):
    timm_options = {k: v for k, v in timm_options.items() if k != "grad_checkpointing"}
    theirs, ours = twins(TimmVisionTransformer(**TINY | timm_options), **TINY | options)
    ours.train(ours.grad_checkpointing)  # no rate is set: training differs in nothing else
    images = (2, ours.patch_embed.in_chans, *ours.patch_embed.img_size)
    x = torch.randn(images, dtype=torch.float64)
    expected, logits = theirs(x), ours(x)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-10)

    direction = torch.randn_like(expected)
    (expected * direction).sum().backward()
    (logits * direction).sum().backward()
    gradients = {name: p.grad for name, p in ours.named_parameters()}
    assert gradients["patch_embed.proj.weight"].norm() > 0
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=0, atol=1e-9, msg=name)


@pytest.mark.parametrize(
    "name", ["deit_tiny_distilled_patch16_224", "deit_small_distilled_patch16_224"]
)
def test_distillation_token_and_both_heads_equal_timms_deit(name):
    theirs = timm.create_model(name, depth=2, img_size=32, num_classes=7)
    size = {"img_size": 32, "depth": 2, "num_classes": 7, "embed_dim": theirs.embed_dim}
    size["num_heads"] = theirs.embed_dim // 64
    theirs, ours = twins(theirs, **size, dist_token=True)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-10)
    for training in (True, False):
        theirs.train(training).set_distilled_training(True)
        ours.train(training).distilled_training = True
        expected, out = theirs(x), ours(x)
        assert isinstance(out, tuple) == training
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-10)
    ours.train().distilled_training = False
    torch.testing.assert_close(ours(x), theirs.eval()(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "options",
    [
        {"fused_qkv": False},
        {"fused_qkv": False, "block_layer": "pair"},
        {"fused_qkv": False, "global_pool": "map"},
        {"embed_layer": "conv_rearrange"},
        {"embed_layer": "linear"},
        {"embed_layer": "linear", "patch_stride": 2, "embed_norm": True},
        {"embed_layer": "conv_rearrange", "patch_stride": (3, 4), "patch_size": (4, 8)},
        {"grad_checkpointing": True},
        {"dynamic_img_size": True},
        {"drop_path_rate": 0.5, "drop_path_subset": True},
        {"tome_r": 0},
        {"flexi_patch_sizes": []},
    ],
    ids=str,
)
def test_another_way_to_the_same_function_gives_the_same_logits(options):
    alike = ("global_pool", "block_layer", "embed_norm", "patch_stride", "patch_size")
    plain = VisionTransformer(**TINY | {k: v for k, v in options.items() if k in alike})
    plain = plain.double().eval()
    other = VisionTransformer(**TINY | options).double().eval()
    state = plain.state_dict()
    if "fused_qkv" in options:
        state = split_qkv(state)
    if options.get("embed_layer") == "linear":
        kernel = state["patch_embed.proj.weight"]
        state["patch_embed.proj.weight"] = kernel_to_linear(kernel)
    other.load_state_dict(state, strict=True)
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(other(x), plain(x), rtol=0, atol=1e-12)
    if other.state_dict().keys() == plain.state_dict().keys() and "embed_layer" not in options:
        assert torch.equal(other(x), plain(x))


# ── sizes ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "name, patch_size, embed_dim, depth, num_heads, published",
    [
        ("vit_tiny_patch16_224", 16, 192, 12, 3, 5_717_416),
        ("vit_small_patch16_224", 16, 384, 12, 6, 22_050_664),
        ("vit_base_patch16_224", 16, 768, 12, 12, 86_567_656),
        ("vit_base_patch32_224", 32, 768, 12, 12, 88_224_232),
        ("vit_large_patch16_224", 16, 1024, 24, 16, 304_326_632),
        ("vit_large_patch32_224", 32, 1024, 24, 16, 306_535_400),
        ("vit_huge_patch14_224", 14, 1280, 32, 16, 632_045_800),
    ],
)
def test_every_size_has_the_published_parameters_and_timms_shapes(
    name, patch_size, embed_dim, depth, num_heads, published
):
    with torch.device("meta"):
        ours = VisionTransformer(
            patch_size=patch_size, embed_dim=embed_dim, depth=depth, num_heads=num_heads
        )
        theirs = timm.create_model(name, num_classes=1000)  # some are published without a head
    assert count_parameters(ours) == count_parameters(theirs) == published
    shapes = {key: tensor.shape for key, tensor in ours.state_dict().items()}
    assert shapes == {key: tensor.shape for key, tensor in theirs.state_dict().items()}


# ── initialisation ────────────────────────────────────────────────────────────────────────────


def test_initialisation_is_the_one_tabulated():
    net = VisionTransformer(img_size=64, patch_size=8, embed_dim=192, depth=2, num_heads=3)
    for linear in (m for m in net.modules() if isinstance(m, nn.Linear)):
        assert abs(linear.weight.std() - 0.02) < 1e-3
        assert linear.bias.count_nonzero() == 0
    assert abs(net.pos_embed.std() - 0.02) < 1e-3
    assert 0 < net.cls_token.abs().max() < 1e-5


def test_sincos_positions_are_fixed_and_leave_the_prefix_alone():
    net = VisionTransformer(**TINY, pos_embed="sincos2d", reg_tokens=2)
    assert not net.pos_embed.requires_grad
    assert net.pos_embed[0, :3].count_nonzero() == 0
    assert len(net.pos_embed[0, 3:].unique(dim=0)) == 16


def test_no_weight_decay_names_tokens_and_positions():
    net = VisionTransformer(**TINY, reg_tokens=1, dist_token=True, rope="mixed")
    assert net.no_weight_decay() == {
        "cls_token",
        "dist_token",
        "reg_token",
        "pos_embed",
        "rope.freqs",
    }
    net = VisionTransformer(**TINY, class_token=False, global_pool="map", pos_embed="none")
    assert net.no_weight_decay() == {"attn_pool.latent"}


# ── what happens in training only ─────────────────────────────────────────────────────────────


def test_drop_path_rises_linearly_to_the_last_block():
    net = VisionTransformer(**TINY | {"depth": 5}, drop_path_rate=0.2)
    rates = [(block.drop_path1.rate, block.drop_path2.rate) for block in net.blocks]
    assert rates == [(pytest.approx(r), pytest.approx(r)) for r in (0, 0.05, 0.1, 0.15, 0.2)]


@pytest.mark.parametrize("prefix", [{}, {"reg_tokens": 2}, {"dist_token": True}], ids=str)
@pytest.mark.parametrize("rate, kept", [(0.5, 8), (0.25, 12), (0.99, 1), (0.0, 16)])
def test_patch_drop_keeps_its_share_and_every_prefix_token(rate, kept, prefix):
    net = VisionTransformer(**TINY, patch_drop_rate=rate, **prefix)
    first = net.num_prefix_tokens
    indices = net.kept_tokens(torch.empty(50, first + 16, 24))
    assert indices.shape == (50, first + kept)
    assert (indices[:, :first] == torch.arange(first)).all()
    assert all(len(set(row.tolist())) == first + kept for row in indices)
    assert indices.max() < first + 16
    lengths = []
    net.blocks[0].register_forward_hook(lambda _, inputs, out: lengths.append(out.shape[1]))
    for training in (True, False):
        net.train(training)(torch.randn(2, 3, 16, 16))
    assert lengths == [first + kept, first + 16]


def test_patch_drop_chooses_every_patch_equally_often():
    net = VisionTransformer(**TINY, patch_drop_rate=0.5)
    indices = net.kept_tokens(torch.empty(4000, 17, 24))[:, 1:]
    chosen = indices.flatten().bincount(minlength=17)[1:]
    assert ((chosen / 4000 - 0.5).abs() < 0.05).all()


@pytest.mark.parametrize("rope", ["none", "axial", "dinov3", "mixed"])
def test_dropped_patches_are_as_if_they_had_never_been_there(rope):
    """The kept tokens carry their positions with them: a net without rates, given only them."""
    options = TINY | {"rope": rope, "num_heads": 3, "reg_tokens": 1}
    net = VisionTransformer(**options, patch_drop_rate=0.5).double()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    chosen = torch.tensor([[0, 1, 9, 4, 12, 6, 3, 16, 2, 7], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]])
    net.kept_tokens = lambda x: chosen
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    out = net.forward_features(x)
    tokens = net.add_tokens(net.patch_embed(x), (4, 4))
    rotations = [None] * 2 if rope == "none" else net.rope((4, 4), dtype=torch.float64)
    for i in range(2):
        y = tokens[i : i + 1, chosen[i]]
        for block, rotation in zip(net.blocks, rotations, strict=True):
            here = None
            if rotation is not None:
                sin, cos = rotation.sin[:, :, chosen[i]], rotation.cos[:, :, chosen[i]]
                here = rotation._replace(sin=sin, cos=cos)
            y = block(y, here)
        torch.testing.assert_close(out[i : i + 1], net.norm(y), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "rate",
    [
        "drop_rate",
        "pos_drop_rate",
        "patch_drop_rate",
        "attn_drop_rate",
        "proj_drop_rate",
        "drop_path_rate",
    ],
)
@pytest.mark.parametrize("block_layer", ["serial", "parallel", "pair"])
def test_each_rate_acts_in_training_and_not_in_evaluation(rate, block_layer):
    net = VisionTransformer(**TINY, **{rate: 0.5}, block_layer=block_layer)
    plain = VisionTransformer(**TINY, block_layer=block_layer)
    plain.load_state_dict(net.state_dict())
    x = torch.randn(8, 3, 16, 16)
    assert not torch.equal(net(x), net(x))
    assert torch.equal(net.eval()(x), plain.eval()(x))
