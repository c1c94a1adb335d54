"""The whole model against timm and published counts, and every option against every other."""

import math

import pytest
import timm
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from timm.layers import SwiGLU as TimmSwiGLU
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import nn

from vitfw.models.block import DropPath
from vitfw.models.pooling import SequencePool
from vitfw.models.profile import count_parameters
from vitfw.models.vit import VisionTransformer

SMALL = {"patch_size": 32, "embed_dim": 384, "num_heads": 6}
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
        ("vit_base_patch16_224", {}, {}),
        ("vit_tiny_patch16_224", {}, {"embed_dim": 192, "num_heads": 3}),
        ("vit_small_patch32_224", {}, SMALL),
        (
            "vit_small_patch32_224",
            {"global_pool": "avg", "class_token": False},
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
]
TRANSLATED_OPTIONS = [
    ({"act_layer": "relu"}, {"act_layer": nn.ReLU}),
    ({"act_layer": "silu"}, {"act_layer": nn.SiLU}),
    ({"act_layer": "gelu_tanh"}, {"act_layer": "gelu_tanh"}),
    ({"mlp_layer": "swiglu"}, {"mlp_layer": TimmSwiGLU, "act_layer": nn.SiLU}),
]


@pytest.mark.parametrize(
    "options, timm_options",
    [(options, options) for options in SHARED_OPTIONS] + TRANSLATED_OPTIONS,
    ids=str,
)
def test_logits_and_gradients_equal_timms_for_every_option_timm_has(options, timm_options):
    theirs, ours = twins(TimmVisionTransformer(**TINY | timm_options), **TINY | options)
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
    names = {name for name, _ in VisionTransformer(**TINY, reg_tokens=1).named_parameters()}
    assert VisionTransformer(**TINY).no_weight_decay() <= names


# ── pooling ───────────────────────────────────────────────────────────────────────────────────


def test_sequence_pool_is_a_softmax_weighted_mean():
    pool, x = SequencePool(6), torch.randn(3, 10, 6)
    for image, pooled in zip(x, pool(x), strict=True):
        scores = [math.exp(pool.score(token).item()) for token in image]
        mean = sum(score * token for score, token in zip(scores, image, strict=True)) / sum(scores)
        torch.testing.assert_close(pooled, mean)


@pytest.mark.parametrize("global_pool", ["avg", "seq"])
def test_pools_over_patches_do_not_see_class_and_register_tokens(global_pool):
    net = VisionTransformer(**TINY, global_pool=global_pool, reg_tokens=2)
    x = torch.randn(2, 3 + 16, 24)
    pooled = net.pool(x)
    x[:, :3] = 100.0
    assert torch.equal(net.pool(x), pooled)


# ── what happens in training only ─────────────────────────────────────────────────────────────


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    drop = DropPath(0.3)
    out = drop(torch.ones(20_000, 2, 3))
    assert torch.equal(out, out[:, :1, :1].expand_as(out))
    torch.testing.assert_close(out.unique(), torch.tensor([0.0, 1 / 0.7]))
    assert abs(out.mean() - 1) < 0.02
    assert abs((out == 0).float().mean() - 0.3) < 0.02
    x = torch.randn(4, 2, 3)
    assert torch.equal(drop.eval()(x), x)


def test_drop_path_rises_linearly_to_the_last_block():
    net = VisionTransformer(**TINY | {"depth": 5}, drop_path_rate=0.2)
    rates = [(block.drop_path1.rate, block.drop_path2.rate) for block in net.blocks]
    assert rates == [(pytest.approx(r), pytest.approx(r)) for r in (0, 0.05, 0.1, 0.15, 0.2)]


@pytest.mark.parametrize("rate, kept", [(0.5, 8), (0.25, 12), (0.99, 1), (0.0, 16)])
def test_patch_drop_keeps_its_share_and_every_prefix_token(rate, kept):
    net = VisionTransformer(**TINY, patch_drop_rate=rate, reg_tokens=2)
    x = torch.arange(19.0).reshape(1, 19, 1).expand(50, -1, 24)  # each token is its own number
    numbers = net.drop_patches(x)[:, :, 0]
    assert numbers.shape == (50, 3 + kept)
    assert torch.equal(numbers[:, :3], x[:, :3, 0])
    assert all(len(set(row.tolist())) == 3 + kept for row in numbers)
    assert torch.equal(net.eval().drop_patches(x), x)


def test_patch_drop_chooses_every_patch_equally_often():
    net = VisionTransformer(**TINY, patch_drop_rate=0.5)
    x = torch.arange(17.0).reshape(1, 17, 1).expand(4000, -1, 24)
    chosen = net.drop_patches(x)[:, 1:, 0].long().flatten().bincount(minlength=17)[1:]
    assert ((chosen / 4000 - 0.5).abs() < 0.05).all()


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
def test_each_rate_acts_in_training_and_not_in_evaluation(rate):
    net = VisionTransformer(**TINY, **{rate: 0.5})
    plain = VisionTransformer(**TINY)
    plain.load_state_dict(net.state_dict())
    x = torch.randn(8, 3, 16, 16)
    assert not torch.equal(net(x), net(x))
    assert torch.equal(net.eval()(x), plain.eval()(x))


# ── any options together ──────────────────────────────────────────────────────────────────────

RATE = st.sampled_from([0.0, 0.1, 0.7])


@st.composite
def valid_options(draw) -> dict:
    embed_layer = draw(st.sampled_from(["conv", "conv_stem"]))
    patch_size = draw(st.sampled_from([2, 4, 8] if embed_layer == "conv_stem" else [1, 3, 4, 7]))
    grid = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    num_heads = draw(st.integers(1, 3))
    mlp_layer = draw(st.sampled_from(["mlp", "swiglu"]))
    acts = ["gelu", "silu"] if mlp_layer == "swiglu" else ["gelu", "gelu_tanh", "relu", "silu"]
    class_token = draw(st.booleans())
    pools = ["token", "avg", "seq"] if class_token else ["avg", "seq"]
    return {
        "img_size": (grid[0] * patch_size, grid[1] * patch_size),
        "patch_size": patch_size,
        "in_chans": draw(st.integers(1, 4)),
        "num_classes": draw(st.sampled_from([0, 1, 7])),
        "embed_dim": num_heads * draw(st.sampled_from([4, 8])),
        "depth": draw(st.integers(1, 3)),
        "num_heads": num_heads,
        "mlp_ratio": draw(st.sampled_from([0.5, 1.0, 2.7])),
        "qkv_bias": draw(st.booleans()),
        "qk_scale": draw(st.sampled_from([None, 0.1, 1.0])),
        "qk_norm": draw(st.booleans()),
        "drop_rate": draw(RATE),
        "pos_drop_rate": draw(RATE),
        "patch_drop_rate": draw(RATE),
        "attn_drop_rate": draw(RATE),
        "proj_drop_rate": draw(RATE),
        "drop_path_rate": draw(RATE),
        "init_values": draw(st.sampled_from([None, 1e-4])),
        "class_token": class_token,
        "reg_tokens": draw(st.integers(0, 2)),
        "pos_embed": draw(st.sampled_from(["learn", "sincos2d", "none"])),
        "global_pool": draw(st.sampled_from(pools)),
        "embed_layer": embed_layer,
        "norm_layer": draw(st.sampled_from(["layernorm", "rmsnorm"])),
        "act_layer": draw(st.sampled_from(acts)),
        "mlp_layer": mlp_layer,
    }


few = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)


@few
@given(valid_options())
def test_any_valid_options_train_and_survive_a_state_dict_round_trip(options):
    net = VisionTransformer(**options)
    x = torch.randn(2, options["in_chans"], *options["img_size"])
    out = net(x)
    assert out.shape == (2, options["num_classes"] or options["embed_dim"])
    out.square().sum().backward()
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name

    again = VisionTransformer(**options)
    again.load_state_dict(net.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(again.eval()(x), net.eval()(x))


MISTAKES = [
    {"img_size": 0},
    {"img_size": 22, "patch_size": 4},
    {"patch_size": 0},
    {"patch_size": 17, "img_size": 16},
    {"in_chans": 0},
    {"num_classes": -1},
    {"embed_dim": 0},
    {"embed_dim": -8},
    {"depth": 0},
    {"num_heads": 0},
    {"num_heads": 5},
    {"num_heads": 1000},
    {"mlp_ratio": 0.0},
    {"mlp_ratio": -1.0},
    {"drop_rate": 1.0},
    {"pos_drop_rate": -0.1},
    {"patch_drop_rate": 1.5},
    {"attn_drop_rate": float("nan")},
    {"proj_drop_rate": 2},
    {"drop_path_rate": 1.0},
    {"reg_tokens": -1},
    {"class_token": False, "global_pool": "token"},
    {"global_pool": "max"},
    {"pos_embed": "sincos2d", "embed_dim": 6, "num_heads": 1},
    {"pos_embed": "rotary"},
    {"embed_layer": "conv_stem", "patch_size": 3, "img_size": 9},
    {"embed_layer": "linear"},
    {"norm_layer": "batchnorm"},
    {"act_layer": "GELU"},
    {"mlp_layer": "glu"},
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=str)
@settings(few, max_examples=3)
@given(valid_options())
def test_one_wrong_option_among_any_valid_ones_is_refused_by_name(mistake, options):
    option = next(iter(mistake))
    with pytest.raises(ValueError, match=option):
        VisionTransformer(**options | mistake)


def test_an_unknown_option_is_refused():
    with pytest.raises(TypeError, match="num_head"):
        VisionTransformer(num_head=3)
