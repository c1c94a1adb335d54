"""Every scheme of initialisation against closed forms, and against timm's own models."""

import math

import pytest
import torch
from timm.layers import AttentionPoolLatent
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import Tensor, nn

from vitfw.models.block import SwiGLUPacked
from vitfw.models.initialisation import SCHEMES, initialise
from vitfw.models.parallel import ParallelBlock
from vitfw.models.patch_embed import LinearPatchEmbed
from vitfw.models.vit import VisionTransformer

C, HIDDEN, PATCH, CLASSES, DEPTH = 384, 1536, 16, 200, 2
WIDE = {
    "img_size": 7 * PATCH,
    "patch_size": PATCH,
    "embed_dim": C,
    "depth": DEPTH,
    "num_heads": 6,
    "num_classes": CLASSES,
    "reg_tokens": 4,
}
TINY = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}
QKV = [f"blocks.{i}.attn.qkv.weight" for i in range(DEPTH)]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def drawn(scheme: str, **options) -> dict[str, Tensor]:
    net = VisionTransformer(**{**WIDE, **options})
    initialise(net, scheme)
    return dict(net.named_parameters())


def holding(**children: nn.Module) -> nn.Module:
    """A net of nothing but `children`, under the names they have in the model."""
    net = nn.Module()
    for name, child in children.items():
        net.add_module(name, child)
    return net


def assert_std(tensor: Tensor, std: float, tolerance: float = 0.03) -> None:
    """Mean about 0, and this std."""
    assert tensor.std().item() == pytest.approx(std, rel=tolerance)
    assert abs(tensor.mean().item()) < 5 * std / tensor.numel() ** 0.5


def assert_uniform(tensor: Tensor, bound: float) -> None:
    """Fills ±bound, and as evenly as a uniform does."""
    assert 0.99 * bound < tensor.abs().max().item() <= bound * (1 + 1e-6)
    assert_std(tensor, bound / math.sqrt(3))


def glorot(fan_in: int, fan_out: int) -> float:
    return math.sqrt(6 / (fan_in + fan_out))


# ── closed forms ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("scheme", ["vit", "big_vision", "moco"])
def test_linear_layers_are_xavier_uniform_with_q_k_and_v_each_a_matrix(scheme):
    p = drawn(scheme)
    for i in range(DEPTH):
        for part in p[f"blocks.{i}.attn.qkv.weight"].chunk(3):
            assert_uniform(part, glorot(C, C))
        assert_uniform(p[f"blocks.{i}.attn.proj.weight"], glorot(C, C))
        assert_uniform(p[f"blocks.{i}.mlp.fc1.weight"], glorot(C, HIDDEN))
        assert_uniform(p[f"blocks.{i}.mlp.fc2.weight"], glorot(HIDDEN, C))


def test_timm_linear_layers_are_normal_with_std_002():
    p = drawn("timm")
    layers = [f"blocks.{i}.{name}.weight" for i in range(DEPTH) for name in ("mlp.fc1", "mlp.fc2")]
    for name in [*QKV, *layers, "head.weight"]:
        assert_std(p[name], 0.02)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_biases_are_zero_but_for_google_mlps(scheme):
    p = drawn(scheme)
    biases = {k: v for k, v in p.items() if k.endswith("bias") and "patch_embed" not in k}
    mlp = torch.cat([v for k, v in biases.items() if ".mlp." in k])
    if scheme in ("vit", "big_vision"):
        assert_std(mlp, 1e-6)
    else:
        assert not mlp.any()
    assert not any(v.any() for k, v in biases.items() if ".mlp." not in k)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_heads(scheme):
    p = drawn(scheme)
    if scheme == "timm":
        assert_std(p["head.weight"], 0.02)
    elif scheme == "moco":
        assert_uniform(p["head.weight"], glorot(C, CLASSES))
    else:
        assert not p["head.weight"].any()
    assert not p["head.bias"].any()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_zero_head_zeroes_both_heads_and_nothing_else(scheme):
    torch.manual_seed(1)
    net, zeroed = VisionTransformer(**TINY), VisionTransformer(**TINY)
    zeroed.load_state_dict(net.state_dict())
    net.head_dist, zeroed.head_dist = nn.Linear(24, 10), nn.Linear(24, 10)
    for model, zero_head in ((net, False), (zeroed, True)):
        torch.manual_seed(2)
        initialise(model, scheme, zero_head)
    for name, parameter in zeroed.named_parameters():
        if name.startswith("head"):
            assert not parameter.any()
        else:
            assert torch.equal(parameter, net.get_parameter(name))


@pytest.mark.parametrize("in_chans", [1, 3])
@pytest.mark.parametrize("kind", ["conv", "linear"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_patch_projection_is_drawn_alike_as_convolution_and_as_linear_layer(scheme, kind, in_chans):
    if kind == "conv":
        net = VisionTransformer(**{**WIDE, "in_chans": in_chans})
    else:
        net = holding(patch_embed=LinearPatchEmbed(7 * PATCH, PATCH, in_chans, C))
    initialise(net, scheme)
    weight, bias = net.patch_embed.proj.weight, net.patch_embed.proj.bias
    fan_in = in_chans * PATCH * PATCH
    if scheme == "timm":
        assert_uniform(weight, fan_in**-0.5)
        assert 0 < bias.abs().max() <= fan_in**-0.5
    elif scheme == "moco":
        assert_uniform(weight, glorot(fan_in, C))
    else:
        assert_std(weight, fan_in**-0.5)
        assert weight.abs().max() <= 2 * fan_in**-0.5 / 0.8796  # cut at ±2 before scaling
    assert scheme == "timm" or not bias.any()


@pytest.mark.parametrize(
    "scheme, std", [("timm", 0.02), ("vit", 0.02), ("big_vision", C**-0.5), ("moco", 0.02)]
)
def test_learned_positions(scheme, std):
    assert_std(drawn(scheme)["pos_embed"], std)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_fixed_positions_stay(scheme):
    net = VisionTransformer(**TINY, pos_embed="sincos2d")
    before = net.pos_embed.clone()
    initialise(net, scheme)
    assert torch.equal(net.pos_embed, before)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_tokens(scheme):
    p = drawn(scheme)
    if scheme in ("vit", "big_vision"):
        assert not p["cls_token"].any()
    else:
        assert_std(p["cls_token"], 1e-6, tolerance=0.15)  # of C numbers only
    assert_std(p["reg_token"], 1e-6, tolerance=0.08)
    net = holding()
    net.dist_token = nn.Parameter(torch.zeros(1, 1, 4096))
    initialise(net, scheme)
    assert_std(net.dist_token, 0.02, tolerance=0.06)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_pooling_by_attention(scheme):
    wide = 2048
    pool = AttentionPoolLatent(wide, num_heads=8, mlp_ratio=0.5)
    initialise(holding(attn_pool=pool), scheme)
    if scheme in ("timm", "moco"):
        assert pool.latent.abs().max() <= 2 * wide**-0.5
        assert_std(pool.latent, 0.8796 * wide**-0.5, tolerance=0.06)
    else:  # Flax counts a probe [1, 1, C] as a matrix from 1 to C
        bound = glorot(1, wide)
        assert 0.99 * bound < pool.latent.abs().max() <= bound
        assert_std(pool.latent, bound / 3**0.5, tolerance=0.06)
    for part in [pool.q.weight, *pool.kv.weight.chunk(2)]:
        if scheme == "timm":
            assert_std(part, 0.02)
        else:
            assert_uniform(part, glorot(wide, wide))


def test_packed_swiglu_is_drawn_as_two_matrices():
    mlp = SwiGLUPacked(C, 2 * HIDDEN)
    initialise(holding(mlp=mlp), "vit")
    for part in mlp.fc1.weight.chunk(2):
        assert_uniform(part, glorot(C, HIDDEN))


def test_parallel_block_projection_is_drawn_as_four_matrices():
    layer = ParallelBlock(C, HIDDEN, num_heads=6)
    initialise(holding(blocks=nn.Sequential(layer)), "vit")
    hidden, *qkv = layer.in_proj.weight.split([HIDDEN, C, C, C])
    assert_uniform(hidden, glorot(C, HIDDEN))
    for part in qkv:
        assert_uniform(part, glorot(C, C))


@pytest.mark.parametrize("scheme", ["vit", "big_vision", "moco"])
def test_fused_and_separate_qkv_are_drawn_alike(scheme):
    separate = drawn(scheme, fused_qkv=False)
    for name in ("q_proj", "k_proj", "v_proj"):
        assert_uniform(separate[f"blocks.0.attn.{name}.weight"], glorot(C, C))


# ── timm's own models ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "scheme, mode, differing",
    [
        ("timm", "", []),
        ("moco", "moco", ["patch_embed.proj.weight"]),  # timm leaves it, "minus fixed PatchEmbed"
        ("vit", "jax", QKV),  # timm draws the three as one matrix, Flax does not
    ],
)
def test_weights_have_the_spread_of_timms_models(scheme, mode, differing):
    theirs = TimmVisionTransformer(**WIDE, no_embed_class=False, weight_init=mode)
    ours, compared = drawn(scheme), 0
    for name, tensor in theirs.named_parameters():
        if tensor.ndim > 1 and tensor.numel() > 10_000 and name not in differing:
            assert ours[name].std().item() == pytest.approx(tensor.std().item(), rel=0.03), name
            compared += 1
    assert compared == 3 + 4 * DEPTH - len(differing)
    if scheme == "vit":
        ratio = ours[QKV[0]].std() / theirs.get_parameter(QKV[0]).std()
        assert ratio.item() == pytest.approx(math.sqrt(2), rel=0.03)


# ── seeds, and what is left alone ─────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "options", [{}, {"reg_tokens": 3, "global_pool": "avg"}, {"embed_layer": "conv_stem"}]
)
def test_timm_scheme_draws_in_the_order_it_always_did(options):
    # Linear layers as they stand in the module, class token, registers, positions: any other
    # order gives every seeded run of before other weights.
    net, expected = VisionTransformer(**TINY, **options), VisionTransformer(**TINY, **options)
    expected.load_state_dict(net.state_dict())
    torch.manual_seed(7)
    for module in expected.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    nn.init.normal_(expected.cls_token, std=1e-6)
    if expected.reg_token is not None:
        nn.init.normal_(expected.reg_token, std=1e-6)
    nn.init.trunc_normal_(expected.pos_embed, std=0.02)
    torch.manual_seed(7)
    initialise(net, "timm")
    for name, tensor in expected.state_dict().items():
        assert torch.equal(tensor, net.state_dict()[name]), name


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_seed_gives_the_same_weights_whatever_was_there(scheme):
    first, second = VisionTransformer(**TINY), VisionTransformer(**TINY)
    second.patch_embed.load_state_dict(first.patch_embed.state_dict())
    for net in (first, second):
        torch.manual_seed(3)
        initialise(net, scheme)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


@pytest.mark.parametrize("scheme", SCHEMES)
def test_norms_layer_scale_and_convolution_stems_stay(scheme):
    net = VisionTransformer(**TINY, embed_layer="conv_stem", init_values=0.1, qk_norm=True)
    before = {
        f"{name}.{key}": parameter.clone()
        for name, module in net.named_modules()
        if name and not isinstance(module, nn.Linear)
        for key, parameter in module.named_parameters(recurse=False)
    }
    assert {"patch_embed.proj.weight", "norm.weight", "blocks.0.ls1.gamma"} <= set(before)
    initialise(net, scheme)
    for name, tensor in before.items():
        assert torch.equal(net.get_parameter(name), tensor), name


@pytest.mark.parametrize("scheme", SCHEMES)
def test_meta_device_and_headless_models_are_fine(scheme):
    with torch.device("meta"):
        net = VisionTransformer(**TINY, num_classes=0, pos_embed="none")
    initialise(net, scheme, zero_head=True)
    assert {parameter.device.type for parameter in net.parameters()} == {"meta"}


def test_unknown_schemes_are_refused_by_name():
    with pytest.raises(ValueError, match="weight_init 'x' is not one of: timm, vit, big_vision"):
        initialise(nn.Module(), "x")
