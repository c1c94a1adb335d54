"""What the model's larger options do, and every option against every other."""

import pytest
import timm.layers
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from vitfw.models.position import sincos_2d
from vitfw.models.profile import count_flops
from vitfw.models.resample import resample_pos_embed
from vitfw.models.vit import VisionTransformer

TINY = {
    "img_size": 16,
    "patch_size": 4,
    "num_classes": 5,
    "embed_dim": 24,
    "depth": 2,
    "num_heads": 3,
}
PREFIXES = [{}, {"reg_tokens": 2}, {"dist_token": True}, {"no_embed_class": True, "reg_tokens": 1}]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def moved(**options) -> VisionTransformer:
    """A model in float64 that is not at its initialisation, where little matters."""
    net = VisionTransformer(**TINY | options).double().eval()
    for parameter in net.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return net


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def timms_positions(net: VisionTransformer, grid: tuple[int, int]) -> Tensor:
    prefix = 0 if net.no_embed_class else net.num_prefix_tokens
    return timm.layers.resample_abs_pos_embed(
        net.pos_embed.detach(), list(grid), list(net.patch_embed.grid_size), prefix
    )


# ── images of any size ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("size", [(24, 24), (8, 8), (20, 12), (16, 64)], ids=str)
@pytest.mark.parametrize("prefix", PREFIXES, ids=str)
def test_another_image_size_is_a_model_of_that_size_with_timms_positions(size, prefix):
    net = moved(**prefix, dynamic_img_size=True)
    fixed = VisionTransformer(**TINY | prefix | {"img_size": size}).double().eval()
    grid = fixed.patch_embed.grid_size
    fixed.load_state_dict(net.state_dict() | {"pos_embed": timms_positions(net, grid)})
    x = images(2, 3, *size)
    expected = fixed(x)
    assert expected.std() > 0.1
    torch.testing.assert_close(net(x), expected, rtol=0, atol=1e-5)  # timm resamples in float32


@pytest.mark.parametrize(
    "options",
    [
        {"rope": "axial"},
        {"rope": "axial", "rope_ref_grid": 4},
        {"rope": "dinov3", "qk_norm": True},
        {"rope": "mixed"},
        {"embed_layer": "linear", "patch_stride": 2},
        {"embed_layer": "conv_stem"},
    ],
    ids=str,
)
def test_without_a_table_another_image_size_needs_no_resampling_at_all(options):
    options |= {"pos_embed": "none"}
    net = moved(**options, dynamic_img_size=True)
    fixed = VisionTransformer(**TINY | options | {"img_size": (8, 24)}).double().eval()
    fixed.load_state_dict(net.state_dict(), strict=True)
    x = images(2, 3, 8, 24)
    torch.testing.assert_close(net(x), fixed(x), rtol=0, atol=1e-12)
    upright = VisionTransformer(**TINY | options | {"img_size": (24, 8)}).double().eval()
    upright.load_state_dict(net.state_dict(), strict=True)
    torch.testing.assert_close(net(x.mT), upright(x.mT), rtol=0, atol=1e-12)


def test_another_size_that_is_not_allowed_is_refused_with_the_hint():
    with pytest.raises(ValueError, match=r"24×16.*built for 16×16.*model.dynamic_img_size=true"):
        moved()(images(1, 3, 24, 16))
    with pytest.raises(ValueError, match=r"img_size 18 .*patch_size 4; nearest img_size: 16, 20"):
        moved(dynamic_img_size=True)(images(1, 3, 16, 18))


# ── patches of any size ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("prefix", PREFIXES, ids=str)
@pytest.mark.parametrize("size", [2, 3, 4, 6, 12])
def test_a_training_step_at_a_patch_size_is_a_model_of_it_resampled_by_timm(size, prefix):
    options = prefix | {"img_size": 24}
    net = moved(**options, flexi_patch_sizes=[size]).train()
    fixed = VisionTransformer(**TINY | options | {"patch_size": size}).double()
    state = net.state_dict()
    state["pos_embed"] = timms_positions(net, fixed.patch_embed.grid_size)
    kernel = state["patch_embed.proj.weight"]
    resampled = timm.layers.resample_patch_embed(kernel, [size, size])
    state["patch_embed.proj.weight"] = resampled
    fixed.load_state_dict(state, strict=True)
    x = images(2, 3, 24, 24)
    expected = fixed(x)
    assert expected.std() > 0.05
    torch.testing.assert_close(net(x), expected, rtol=0, atol=2e-5)  # timm resamples in float32
    net(x).square().sum().backward()
    assert net.patch_embed.proj.weight.grad.norm() > 0


def lengths_seen(net: VisionTransformer, x: Tensor, steps: int) -> list[int]:
    seen: list[int] = []
    hook = net.blocks[0].register_forward_hook(lambda _, i, out: seen.append(out.shape[1]))
    with torch.no_grad():
        for _ in range(steps):
            net(x)
    hook.remove()
    return seen


@pytest.mark.parametrize("embed_layer", ["conv", "conv_rearrange"])
def test_training_draws_every_patch_size_as_torch_is_seeded(embed_layer):
    options = TINY | {"img_size": (24, 12), "depth": 1, "embed_layer": embed_layer}
    net = VisionTransformer(**options, flexi_patch_sizes=[3, 4, 6], class_token=False,
                            global_pool="avg")  # fmt: skip
    x = torch.randn(1, 3, 24, 12)
    torch.manual_seed(5)
    first = lengths_seen(net, x, 90)
    assert set(first) == {32, 18, 8}
    assert all(15 <= first.count(length) <= 45 for length in (32, 18, 8))
    torch.manual_seed(5)
    assert lengths_seen(net, x, 90) == first
    assert set(lengths_seen(net.eval(), x, 5)) == {18}


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"flexi_patch_sizes": [4, 5]},
            "flexi_patch_sizes 5 does not divide img_size 16.*2, 4, 8, 16",
        ),
        ({"flexi_patch_sizes": [0]}, "flexi_patch_sizes 0 does not divide"),
        ({"flexi_patch_sizes": [32]}, "flexi_patch_sizes 32 does not divide"),
        ({"flexi_patch_sizes": 8}, r"flexi_patch_sizes 8 must be a list of patch sizes: \[8, 16"),
        ({"flexi_patch_sizes": [8], "dynamic_img_size": True}, "leave dynamic_img_size=true out"),
        ({"flexi_patch_sizes": [4], "embed_layer": "linear"}, "flexi_patch_sizes .*not linear"),
        ({"flexi_patch_sizes": [4], "patch_stride": 2}, "flexi_patch_sizes .*patch_stride"),
    ],
)
def test_patch_sizes_that_cannot_be_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        VisionTransformer(**TINY | options)


# ── less memory, fewer samples, fewer tokens ──────────────────────────────────────────────────


@pytest.mark.parametrize(
    "options",
    [
        {"attn_drop_rate": 0.2, "proj_drop_rate": 0.2, "drop_path_rate": 0.3},
        {"drop_path_rate": 0.5, "drop_path_subset": True, "rope": "mixed"},
        {"patch_drop_rate": 0.5, "rope": "axial", "block_layer": "pair", "proj_drop_rate": 0.2},
        {"flexi_patch_sizes": [2, 4, 8], "block_layer": "parallel", "drop_path_rate": 0.3},
    ],
    ids=str,
)
def test_checkpointed_gradients_are_bit_identical_and_recomputed(options):
    nets = [VisionTransformer(**TINY | options, grad_checkpointing=c) for c in (False, True)]
    nets[1].load_state_dict(nets[0].state_dict())
    x = torch.randn(4, 3, 16, 16)
    results = []
    for net in nets:
        calls = [0]
        net.blocks[1].register_forward_pre_hook(lambda *_, c=calls: c.__setitem__(0, c[0] + 1))
        torch.manual_seed(7)
        loss = net(x).square().sum()
        before = calls[0]
        loss.backward()
        assert (before, calls[0]) == (1, 2 if net.grad_checkpointing else 1)
        results.append({n: p.grad for n, p in net.named_parameters()} | {"loss": loss})
    assert results[0].keys() == results[1].keys()
    for name, expected in results[0].items():
        if expected is None:
            assert results[1][name] is None
        else:
            assert torch.equal(results[1][name], expected), name


def test_drop_path_subset_computes_fewer_samples_in_later_blocks():
    options = TINY | {"depth": 3, "drop_path_rate": 0.5}
    net = VisionTransformer(**options, drop_path_subset=True)
    sizes = []
    for block in net.blocks:
        for part in (block.attn, block.mlp):
            part.register_forward_hook(lambda _, inputs, out: sizes.append(len(out)))
    x = torch.randn(8, 3, 16, 16)
    net(x)
    assert sizes == [8, 8, 6, 6, 4, 4]
    plain = VisionTransformer(**options)
    plain.load_state_dict(net.state_dict())
    assert torch.equal(net.eval()(x), plain.eval()(x))


@pytest.mark.parametrize("global_pool", ["token", "avg", "map", "seq"])
def test_merging_keeps_the_number_of_tokens_and_saves_flops(global_pool):
    options = {"global_pool": global_pool, "depth": 4, "reg_tokens": 1}
    nets = {r: VisionTransformer(**TINY | options, tome_r=r) for r in (0, 2, 4)}
    for net in nets.values():
        net.load_state_dict(nets[0].state_dict())
    x = torch.randn(2, 3, 16, 16)
    plain = nets[0](x)
    assert torch.equal(nets[2](x), plain)  # in training nothing merges
    for net in nets.values():
        assert net.eval().forward_features(x).shape == (2, 2 + 16, 24)
    assert not torch.equal(nets[4](x), nets[0](x))
    flops = {r: count_flops(net, (3, 16, 16)) for r, net in nets.items()}
    assert flops[4] < flops[2] < flops[0]


# ── attention maps ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "options, heads",
    [
        ({}, 3),
        ({"fused_qkv": False, "qk_norm": True, "qk_scale": 0.7}, 3),
        ({"rope": "mixed", "reg_tokens": 2, "pos_embed": "none"}, 3),
        ({"block_layer": "parallel", "rope": "axial"}, 3),
        ({"block_layer": "pair", "k_bias": False}, 6),
        ({"pre_norm": True, "dynamic_img_size": True, "embed_layer": "linear"}, 3),
        ({"tome_r": 4}, 3),
    ],
    ids=str,
)
def test_attention_maps_are_the_weights_that_each_block_applies(monkeypatch, options, heads):
    """Against every softmax that the forward pass itself takes, caught where it attends."""
    net = moved(**options)
    caught = []

    def written_out(query, key, value, mask=None, dropout=0.0, scale=None):
        weights = torch.softmax(torch.einsum("bhnd,bhmd->bhnm", query, key) * scale, dim=-1)
        caught.append(weights)
        return weights @ value

    x = images(2, 3, 16, 16)
    maps = net.attention_maps(x)
    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", written_out)
    net.tome_r = 0
    net(x)
    assert len(maps) == len(net.blocks) == 2
    tokens = net.num_prefix_tokens + 16
    for i, weights in enumerate(maps):
        used = caught[2 * i : 2 * i + 2] if heads == 6 else caught[i : i + 1]
        assert weights.shape == (2, heads, tokens, tokens)
        torch.testing.assert_close(weights, torch.cat(used, dim=1), rtol=0, atol=1e-12)
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))


# ── any options together ──────────────────────────────────────────────────────────────────────

RATE = st.sampled_from([0.0, 0.1, 0.7])
INDEPENDENT = {
    "qkv_bias": st.booleans(),
    "qk_scale": st.sampled_from([None, 0.1, 1.0]),
    "qk_norm": st.booleans(),
    "proj_bias": st.booleans(),
    "drop_rate": RATE,
    "pos_drop_rate": RATE,
    "patch_drop_rate": RATE,
    "attn_drop_rate": RATE,
    "proj_drop_rate": RATE,
    "drop_path_rate": RATE,
    "init_values": st.sampled_from([None, 1e-4]),
    "reg_tokens": st.integers(0, 2),
    "pos_embed": st.sampled_from(["learn", "sincos2d", "none"]),
    "no_embed_class": st.booleans(),
    "pre_norm": st.booleans(),
    "final_norm": st.booleans(),
    "fc_norm": st.sampled_from([None, False, True]),
    "embed_norm": st.booleans(),
    "norm_layer": st.sampled_from(["layernorm", "rmsnorm"]),
    "norm_eps": st.sampled_from([1e-6, 1e-5]),
    "weight_init": st.sampled_from(["timm", "vit", "big_vision", "moco"]),
    "zero_head": st.booleans(),
    "dynamic_img_size": st.booleans(),
    "grad_checkpointing": st.booleans(),
    "in_chans": st.integers(1, 4),
    "num_classes": st.sampled_from([0, 1, 7]),
    "depth": st.integers(1, 3),
}


@st.composite
def patch_options(draw) -> dict:
    embed_layer = draw(
        st.sampled_from(["conv", "conv_rearrange", "linear", "conv_stem", "pool_stem"])
    )
    stem = embed_layer.endswith("stem")
    flexi = embed_layer in ("conv", "conv_rearrange") and draw(st.booleans())
    grid = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    stride = None
    if stem or flexi:
        side = draw(st.sampled_from([2, 4]))
        patch = (side, side)
    else:
        side = patch = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
        stride = draw(st.none() | st.tuples(*[st.integers(1, p) for p in patch]))
    return {
        "img_size": tuple(
            p + (g - 1) * s for p, g, s in zip(patch, grid, stride or patch, strict=True)
        ),
        "patch_size": side,
        "patch_stride": stride,
        "embed_layer": embed_layer,
        "flexi_patch_sizes": draw(st.sampled_from([[1, 2], [2], [side, 1]])) if flexi else None,
    }


@st.composite
def rope_options(draw) -> dict:
    rope = draw(st.sampled_from(["none", "axial", "dinov3", "mixed"]))
    mixed = rope == "mixed"
    if rope == "none":
        return {"rope": rope}
    return {
        "rope": rope,
        "rope_temperature": draw(st.sampled_from([None, 50.0])),
        "rope_ref_grid": draw(st.sampled_from([None, 4, (2, 3)])) if rope == "axial" else None,
        "rope_grid_offset": 0.0 if mixed else draw(st.sampled_from([0.0, 0.5])),
        "rope_indexing": draw(st.sampled_from(["ij", "xy"])),
        "rope_rotate_half": None if mixed else draw(st.sampled_from([None, True, False])),
        "rope_shift_coords": draw(st.sampled_from([None, 0.5])),
        "rope_jitter_coords": draw(st.sampled_from([None, 1.2])),
        "rope_rescale_coords": draw(st.sampled_from([None, 2.0])),
    }


@st.composite
def block_options(draw) -> dict:
    block_layer = draw(st.sampled_from(["serial", "parallel", "pair"]))
    parallel, serial = block_layer == "parallel", block_layer == "serial"
    mlp_layer = "mlp" if parallel else draw(st.sampled_from(["mlp", "swiglu", "swiglu_packed"]))
    acts = ["gelu", "silu"]
    acts += ["gelu_tanh", "quick_gelu", "relu"] if mlp_layer == "mlp" else []
    ratios = [0.5, 1.0, 2.0] if mlp_layer == "swiglu_packed" else [0.5, 1.0, 2.7]
    return {
        "block_layer": block_layer,
        "mlp_layer": mlp_layer,
        "act_layer": draw(st.sampled_from(acts)),
        "mlp_ratio": draw(st.sampled_from(ratios)),
        "swiglu_align_to": draw(st.sampled_from([0, 8])) if mlp_layer == "swiglu" else 0,
        "k_bias": parallel or draw(st.booleans()),
        "fused_qkv": parallel or draw(st.booleans()),
        "scale_attn_norm": not parallel and draw(st.booleans()),
        "scale_mlp_norm": not parallel and draw(st.booleans()),
        "drop_path_subset": serial and draw(st.booleans()),
    }


@st.composite
def valid_options(draw) -> dict:
    options = {name: draw(values) for name, values in INDEPENDENT.items()}
    options |= draw(patch_options()) | draw(rope_options()) | draw(block_options())
    options["num_heads"] = draw(st.integers(1, 3))
    options["embed_dim"] = options["num_heads"] * draw(st.sampled_from([4, 8]))
    options["class_token"] = draw(st.booleans())
    pools = ["token", "token_avg"] if options["class_token"] else []
    options["global_pool"] = draw(st.sampled_from([*pools, "avg", "map", "seq"]))
    options["dist_token"] = options["global_pool"] == "token" and draw(st.booleans())
    merges = options["block_layer"] == "serial" and options["rope"] == "none"
    options["tome_r"] = draw(st.sampled_from([0, 1, 5])) if merges else 0
    if not options["final_norm"]:
        options["fc_norm"] = None
    if options["flexi_patch_sizes"]:
        options["dynamic_img_size"] = False
    return options


few = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)


@few
@given(valid_options(), st.booleans())
def test_any_valid_options_train_and_survive_a_state_dict_round_trip(options, distilled):
    net = VisionTransformer(**options)
    net.distilled_training = distilled and options["dist_token"]
    x = torch.randn(2, options["in_chans"], *options["img_size"])
    out = net(x)
    outs = out if net.distilled_training else (out,)
    features = options["embed_dim"] * (2 if options["global_pool"] == "token_avg" else 1)
    assert all(o.shape == (2, options["num_classes"] or features) for o in outs)
    sum(o.square().sum() + o.sum() for o in outs).backward()
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name

    again = VisionTransformer(**options)
    again.load_state_dict(net.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(again.eval()(x), net.eval()(x))


@few
@given(valid_options(), st.tuples(st.integers(1, 4), st.integers(1, 4)))
def test_any_valid_options_resample_to_another_grid(options, grid):
    """Loaded into a model of that grid it is the same function as the dynamic model's own."""
    options |= {"dynamic_img_size": True, "flexi_patch_sizes": None}
    net = VisionTransformer(**options).eval()
    old, embed = net.patch_embed.grid_size, net.patch_embed
    sizes = zip(embed.patch_size, grid, embed.stride, strict=True)
    size = tuple(patch + (side - 1) * step for patch, side, step in sizes)
    other = VisionTransformer(**options | {"img_size": size, "dynamic_img_size": False}).eval()
    assert other.patch_embed.grid_size == grid
    state = net.state_dict()
    if net.pos_embed is not None:
        prefix = 0 if net.no_embed_class else net.num_prefix_tokens
        state["pos_embed"] = resample_pos_embed(net.pos_embed, old, grid, prefix)
        if options["pos_embed"] == "sincos2d":
            own = sincos_2d(grid, options["embed_dim"])
            assert torch.equal(other.pos_embed[0, prefix:], own.to(other.pos_embed.dtype))
    other.load_state_dict(state, strict=True)
    x = torch.randn(2, options["in_chans"], *size)
    with torch.no_grad():
        out = other(x)
        assert out.isfinite().all()
        torch.testing.assert_close(net(x), out, rtol=1e-4, atol=1e-5)


# Other options that the mistakes need, or that would be refused before them.
SERIAL = {"block_layer": "serial", "mlp_layer": "mlp", "act_layer": "gelu"}
SERIAL |= {"swiglu_align_to": 0, "drop_path_subset": False}
PARALLEL = {**SERIAL, "block_layer": "parallel", "k_bias": True, "fused_qkv": True, "tome_r": 0}
PARALLEL |= {"scale_attn_norm": False, "scale_mlp_norm": False}
PATCH = {"img_size": 16, "patch_size": 4, "patch_stride": None, "flexi_patch_sizes": None}
PATCH |= {"embed_layer": "conv"}
NO_ROPE = {"rope": "none"}
ROPE = {"rope": "dinov3", "rope_ref_grid": None, "rope_grid_offset": 0.0, "tome_r": 0}
TOKEN = {"class_token": True, "global_pool": "token"}
NO_TOKEN = {"class_token": False, "dist_token": False}
MISTAKES = [
    # sizes and rates
    ("img_size", PATCH | {"img_size": 0}),
    ("img_size", PATCH | {"img_size": 22}),
    ("patch_size", PATCH | {"patch_size": 0}),
    ("patch_size", PATCH | {"patch_size": 17}),
    ("in_chans", {"in_chans": 0}),
    ("num_classes", {"num_classes": -1}),
    ("embed_dim", {"embed_dim": 0}),
    ("embed_dim", {"embed_dim": -8}),
    ("depth", {"depth": 0}),
    ("num_heads", {"num_heads": 0}),
    ("num_heads", {"num_heads": 5}),
    ("num_heads", {"num_heads": 1000}),
    ("mlp_ratio", {"mlp_ratio": 0.0}),
    ("mlp_ratio", {"mlp_ratio": -1.0}),
    (
        "mlp_ratio",
        SERIAL
        | {"mlp_layer": "swiglu_packed", "embed_dim": 12, "mlp_ratio": 0.75}
        | {"num_heads": 1},
    ),
    ("drop_rate", {"drop_rate": 1.0}),
    ("pos_drop_rate", {"pos_drop_rate": -0.1}),
    ("patch_drop_rate", {"patch_drop_rate": 1.5}),
    ("attn_drop_rate", {"attn_drop_rate": float("nan")}),
    ("proj_drop_rate", {"proj_drop_rate": 2}),
    ("drop_path_rate", {"drop_path_rate": 1.0}),
    ("reg_tokens", {"reg_tokens": -1}),
    ("tome_r", {"tome_r": -1}),
    # names
    ("global_pool", {"global_pool": "max"}),
    ("pos_embed", {"pos_embed": "rotary"}),
    ("rope", {"rope": "1d"}),
    ("rope_indexing", ROPE | {"rope_indexing": "yx"}),
    ("embed_layer", {"embed_layer": "conv3d"}),
    ("norm_layer", {"norm_layer": "batchnorm"}),
    ("act_layer", {"act_layer": "GELU"}),
    ("mlp_layer", {"mlp_layer": "glu"}),
    ("block_layer", {"block_layer": "sequential"}),
    ("weight_init", {"weight_init": "jax"}),
    # tokens and pools
    ("global_pool", NO_TOKEN | {"global_pool": "token"}),
    ("global_pool", NO_TOKEN | {"global_pool": "token_avg"}),
    ("dist_token", NO_TOKEN | {"global_pool": "avg", "dist_token": True}),
    ("dist_token", {"class_token": True, "global_pool": "avg", "dist_token": True}),
    ("pos_embed", {"pos_embed": "sincos2d", "embed_dim": 6, "num_heads": 1}),
    # patches
    ("patch_stride", PATCH | {"patch_stride": 5}),
    ("patch_stride", PATCH | {"patch_stride": 0}),
    ("patch_stride", PATCH | {"img_size": 17, "patch_stride": 2}),
    ("patch_stride", PATCH | {"embed_layer": "conv_stem", "patch_stride": 2}),
    ("patch_stride", PATCH | {"embed_layer": "pool_stem", "patch_stride": 2}),
    ("embed_layer", PATCH | {"embed_layer": "conv_stem", "patch_size": 3, "img_size": 9}),
    ("embed_layer", PATCH | {"embed_layer": "pool_stem", "patch_size": (2, 4)}),
    ("flexi_patch_sizes", PATCH | {"flexi_patch_sizes": [4, 5]}),
    ("flexi_patch_sizes", PATCH | {"flexi_patch_sizes": [0, 4]}),
    ("flexi_patch_sizes", PATCH | {"flexi_patch_sizes": [4], "embed_layer": "linear"}),
    ("flexi_patch_sizes", PATCH | {"flexi_patch_sizes": [4], "embed_layer": "conv_stem"}),
    ("flexi_patch_sizes", PATCH | {"flexi_patch_sizes": [4], "patch_stride": 2}),
    # rope
    ("rope", ROPE | {"embed_dim": 10, "num_heads": 2, "pos_embed": "none"}),
    ("rope", ROPE | {"rope": "axial", "embed_dim": 12, "num_heads": 2, "pos_embed": "none"}),
    ("rope_jitter_coords", ROPE | {"rope_jitter_coords": 0.5}),
    ("rope_rescale_coords", ROPE | {"rope_rescale_coords": 0.0}),
    ("rope_shift_coords", ROPE | {"rope_shift_coords": -1.0}),
    ("rope_temperature", ROPE | {"rope_temperature": 0.0}),
    ("rope_ref_grid", ROPE | {"rope_ref_grid": 4}),
    ("rope_grid_offset", ROPE | {"rope": "mixed", "rope_grid_offset": 0.5}),
    ("rope_rotate_half", ROPE | {"rope": "mixed", "rope_rotate_half": True}),
    # blocks
    ("tome_r", SERIAL | ROPE | {"tome_r": 2}),
    ("tome_r", PARALLEL | NO_ROPE | {"tome_r": 2}),
    ("block_layer", PARALLEL | {"mlp_layer": "swiglu"}),
    ("block_layer", PARALLEL | {"k_bias": False}),
    ("block_layer", PARALLEL | {"fused_qkv": False}),
    ("block_layer", PARALLEL | {"scale_attn_norm": True}),
    ("block_layer", PARALLEL | {"scale_mlp_norm": True}),
    ("drop_path_subset", PARALLEL | {"drop_path_subset": True}),
    ("drop_path_subset", SERIAL | {"block_layer": "pair", "tome_r": 0, "drop_path_subset": True}),
    ("swiglu_align_to", SERIAL | {"swiglu_align_to": 8}),
    ("qk_scale", {"qk_scale": 0.0}),
    ("init_values", {"init_values": -1.0}),
    ("init_values", {"init_values": "small"}),
    ("fc_norm", {"final_norm": False, "fc_norm": True}),
    ("embed_dim", {"embed_dim": 8.5}),
    ("img_size", {"img_size": (16, 16, 16)}),
    ("patch_size", PATCH | {"patch_size": (4, 4, 4)}),
    ("swiglu_align_to", SERIAL | {"mlp_layer": "swiglu", "swiglu_align_to": -8}),
    ("mlp_layer", SERIAL | {"mlp_layer": "swiglu", "act_layer": "relu"}),
    ("mlp_layer", SERIAL | {"mlp_layer": "swiglu_packed", "act_layer": "quick_gelu"}),
]


@pytest.mark.parametrize("option, mistake", MISTAKES, ids=str)
@settings(few, max_examples=3)
@given(valid_options())
def test_one_wrong_option_among_any_valid_ones_is_refused_by_name(option, mistake, options):
    with pytest.raises(ValueError, match=rf"\b{option}\b"):
        VisionTransformer(**options | mistake)


def test_an_unknown_option_is_refused():
    with pytest.raises(TypeError, match="num_head"):
        VisionTransformer(num_head=3)
