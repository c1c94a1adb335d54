"""Attention against float64 written out, PyTorch's and timm's own modules, and statistics."""

import pytest
import torch
from timm.layers import Attention as TimmAttention
from torch import nn

from vitfw.models import attention
from vitfw.models.attention import (
    Attention,
    attention_weights,
    explicit_is_faster,
    fuse_qkv,
    split_qkv,
)
from vitfw.models.rotary import RotaryEmbedding
from vitfw.models.vit import VisionTransformer


def reference(module: Attention, x: torch.Tensor, scale: float) -> torch.Tensor:
    """softmax(q kᵀ · scale) v in float64, straight from Vaswani et al. 2017, eq. 1."""
    weight, bias = module.qkv.weight.double(), module.qkv.bias.double()
    heads = module.num_heads
    q, k, v = (
        torch.einsum("bnc,hdc->bhnd", x.double(), w.unflatten(0, (heads, -1)))
        + b.reshape(1, heads, 1, -1)
        for w, b in zip(weight.chunk(3), bias.chunk(3), strict=True)
    )
    weights = torch.softmax(torch.einsum("bhnd,bhmd->bhnm", q, k) * scale, dim=-1)
    merged = torch.einsum("bhnm,bhmd->bnhd", weights, v).flatten(2)
    return merged @ module.proj.weight.double().T + module.proj.bias.double()


def randomised(dim: int = 24, num_heads: int = 3, **options) -> Attention:
    module = Attention(dim, num_heads, **options).eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def take_path(monkeypatch, explicit: bool) -> None:
    monkeypatch.setattr(attention, "explicit_is_faster", lambda q: explicit)


@pytest.mark.parametrize("explicit", [False, True], ids=["sdpa", "explicit"])
@pytest.mark.parametrize("qk_scale", [None, 0.05, 1.0])
def test_output_and_gradient_equal_the_formula_in_float64(monkeypatch, explicit, qk_scale):
    take_path(monkeypatch, explicit)
    module = randomised(qk_scale=qk_scale).double()
    x = torch.randn(2, 7, 24, dtype=torch.float64, requires_grad=True)
    expected = reference(module, x, scale=8**-0.5 if qk_scale is None else qk_scale)
    out = module(x)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)

    direction = torch.randn_like(out)
    (grad,) = torch.autograd.grad((out * direction).sum(), x)
    (expected_grad,) = torch.autograd.grad((expected * direction).sum(), x)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-9, atol=1e-9)


def test_equals_pytorchs_multihead_attention():
    module = randomised()
    theirs = nn.MultiheadAttention(24, 3, batch_first=True).eval()
    theirs.load_state_dict(
        {
            "in_proj_weight": module.qkv.weight,
            "in_proj_bias": module.qkv.bias,
            "out_proj.weight": module.proj.weight,
            "out_proj.bias": module.proj.bias,
        }
    )
    x = torch.randn(2, 7, 24)
    torch.testing.assert_close(module(x), theirs(x, x, x)[0])


def test_explicit_path_equals_sdpa_within_bfloat16(monkeypatch):
    module = randomised().bfloat16()
    x = torch.randn(2, 50, 24, dtype=torch.bfloat16)
    outputs = {}
    for explicit in (True, False):
        take_path(monkeypatch, explicit)
        outputs[explicit] = module(x)
        assert outputs[explicit].dtype == torch.bfloat16
    exact = reference(module, x, scale=8**-0.5)
    tolerance = 2e-2 * exact.abs().max()  # bfloat16 carries 8 bits
    assert (outputs[True] - outputs[False]).abs().max() < tolerance
    assert (outputs[True].double() - exact).abs().max() < tolerance


def test_explicit_path_is_taken_for_short_sequences_in_bfloat16_on_a_cpu_only():
    shape = (1, 1, 197, 8)
    assert explicit_is_faster(torch.empty(shape, dtype=torch.bfloat16))
    assert not explicit_is_faster(torch.empty(shape, dtype=torch.float32))
    assert not explicit_is_faster(torch.empty(shape, dtype=torch.bfloat16, device="meta"))
    assert not explicit_is_faster(torch.empty((1, 1, 4097, 8), dtype=torch.bfloat16))


@pytest.mark.parametrize("explicit", [False, True], ids=["sdpa", "explicit"])
def test_qk_norm_runs_under_autocast_and_trains(monkeypatch, explicit):
    take_path(monkeypatch, explicit)
    module = Attention(24, 3, qk_norm=True)
    x = torch.randn(2, 7, 24)
    expected = module(x)
    with torch.autocast("cpu", torch.bfloat16):
        out = module(x)
    torch.testing.assert_close(out.float(), expected, rtol=0.05, atol=0.02)
    out.float().sum().backward()
    assert all(p.grad is not None for p in module.parameters())


def test_qk_norm_normalises_each_head():
    q_norm = Attention(24, 3, qk_norm=True).q_norm
    q = q_norm(5 * torch.randn(2, 3, 7, 8))
    torch.testing.assert_close(q.mean(-1), torch.zeros(2, 3, 7), atol=1e-5, rtol=0)
    torch.testing.assert_close(q.var(-1, unbiased=False), torch.ones(2, 3, 7), atol=1e-3, rtol=0)


@pytest.mark.parametrize("explicit", [False, True], ids=["sdpa", "explicit"])
def test_attn_drop_drops_attention_weights_and_keeps_the_mean(monkeypatch, explicit):
    """With q = k = 0 each weight is 1/N, and with v = 1 the output is the sum of the weights."""
    take_path(monkeypatch, explicit)
    rate, tokens = 0.3, 64
    module = Attention(8, 2, attn_drop=rate)
    nn.init.zeros_(module.qkv.weight)
    module.qkv.bias.data = torch.cat([torch.zeros(16), torch.ones(8)])
    nn.init.eye_(module.proj.weight)
    nn.init.zeros_(module.proj.bias)
    x = torch.randn(50, tokens, 8)
    sums = module.train()(x)[:, :, ::4]  # one channel of each head
    assert abs(sums.mean() - 1) < 0.01
    assert abs(sums.std() - (rate / (1 - rate) / tokens) ** 0.5) < 0.005
    torch.testing.assert_close(module.eval()(x), torch.ones_like(x))


def test_proj_drop_drops_outputs_and_scales_the_rest_up():
    module = randomised(proj_drop=0.25)
    x = torch.randn(200, 10, 24)
    whole, dropped = module(x), module.train()(x)
    kept = dropped != 0
    assert abs(kept.float().mean() - 0.75) < 0.01
    torch.testing.assert_close(dropped[kept], whole[kept] / 0.75)


@pytest.mark.parametrize("num_heads", [5, 0, -1, 25])
def test_heads_that_do_not_divide_are_refused_by_name(num_heads):
    with pytest.raises(ValueError, match=f"num_heads {num_heads} .*embed_dim 24.* 8, 12, 24"):
        Attention(24, num_heads)


# ── one projection or three ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("explicit", [False, True], ids=["sdpa", "explicit"])
@pytest.mark.parametrize("biases", [{}, {"k_bias": False}, {"qkv_bias": False}], ids=str)
@pytest.mark.parametrize("options", [{}, {"qk_norm": True, "scale_norm": True}], ids=str)
def test_fused_qkv_equals_three_linears(monkeypatch, explicit, biases, options):
    take_path(monkeypatch, explicit)
    fused = randomised(**biases, **options).double()
    separate = Attention(24, 3, fused_qkv=False, **biases, **options).double()
    separate.load_state_dict(split_qkv(fused.state_dict()), strict=True)
    x = torch.randn(2, 7, 24, dtype=torch.float64)
    direction = torch.randn_like(x)
    for module in (fused, separate):
        (module(x) * direction).sum().backward()
    torch.testing.assert_close(separate(x), fused(x), rtol=0, atol=1e-12)
    gradients = split_qkv({name: p.grad for name, p in fused.named_parameters()})
    assert set(gradients) == {name for name, _ in separate.named_parameters()}
    for name, parameter in separate.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=0, atol=1e-11, msg=name)


@pytest.mark.parametrize("biases", [{}, {"k_bias": False}, {"qkv_bias": False}], ids=str)
@pytest.mark.parametrize("global_pool", ["token", "map"])
@pytest.mark.parametrize("block_layer", ["serial", "pair"])
def test_splitting_and_fusing_a_whole_models_state_are_inverse_bit_for_bit(
    biases, global_pool, block_layer
):
    options = {"img_size": 8, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}
    options |= {"global_pool": global_pool, "block_layer": block_layer, "init_values": 0.1}
    state = VisionTransformer(**options, **biases).state_dict()
    state = {name: torch.randn_like(tensor) for name, tensor in state.items()}
    split = split_qkv(state)
    separate = VisionTransformer(**options, **biases, fused_qkv=False)
    separate.load_state_dict(split, strict=True)
    again = fuse_qkv(separate.state_dict())
    assert set(again) == set(state)
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())
    others = [name for name in state if name.split(".")[-2:-1] not in (["qkv"], ["attn"])]
    assert any("attn_pool.kv" in name for name in others) == (global_pool == "map")
    assert all(split[name] is state[name] for name in others)


def test_a_bias_of_the_key_changes_nothing_that_softmax_sees():
    with_bias = randomised().double()
    without = Attention(24, 3, k_bias=False).double()
    state = with_bias.state_dict()
    q_bias, _, v_bias = state.pop("qkv.bias").chunk(3)
    without.load_state_dict(state | {"q_bias": q_bias, "v_bias": v_bias}, strict=True)
    x = torch.randn(2, 7, 24, dtype=torch.float64)
    torch.testing.assert_close(without(x), with_bias(x), rtol=0, atol=1e-12)
    with_bias(x).square().sum().backward()
    gradient = with_bias.qkv.bias.grad.unflatten(0, (3, -1))
    assert gradient[1].abs().max() < 1e-10 < 1e-2 < gradient[0].abs().max()


# ── the weights themselves ────────────────────────────────────────────────────────────────────


def their_weights(module: Attention, x: torch.Tensor) -> torch.Tensor:
    """Per-head weights [B, H, N, N] of PyTorch's module with the same parameters."""
    theirs = nn.MultiheadAttention(24, 3, batch_first=True, dtype=x.dtype).eval()
    state = module.state_dict() if module.fused_qkv else fuse_qkv(module.state_dict())
    names = {"qkv.weight": "in_proj_weight", "qkv.bias": "in_proj_bias"}
    theirs.load_state_dict(
        {names.get(name, f"out_{name}"): tensor.to(x.dtype) for name, tensor in state.items()}
    )
    return theirs(x, x, x, need_weights=True, average_attn_weights=False)[1]


@pytest.mark.parametrize("fused_qkv", [True, False], ids=["fused", "separate"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_weights_equal_pytorchs_and_their_output_the_plain_one(fused_qkv, training):
    module = randomised(fused_qkv=fused_qkv, attn_drop=0.5 if training else 0.0).double()
    x = torch.randn(2, 7, 24, dtype=torch.float64)
    plain = module.eval()(x)
    _, weights = module.train(training)(x, need_weights=True)
    torch.testing.assert_close(weights, their_weights(module, x), rtol=0, atol=1e-12)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    out, _ = module.eval()(x, need_weights=True)
    torch.testing.assert_close(out, plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("fused_qkv", [True, False], ids=["fused", "separate"])
def test_weights_in_bfloat16_are_rounded_ones(fused_qkv):
    module = randomised(fused_qkv=fused_qkv).bfloat16()
    x = torch.randn(2, 7, 24, dtype=torch.bfloat16)
    out, weights = module(x, need_weights=True)
    assert out.dtype == weights.dtype == torch.bfloat16
    assert (weights.double().sum(-1) - 1).abs().max() < 0.02
    assert (weights.double() - their_weights(module, x.double())).abs().max() < 0.05
    torch.testing.assert_close(out, module(x), rtol=0.05, atol=0.05)


def test_with_weights_the_dropout_still_drops_weights():
    module = randomised(attn_drop=0.4).train()
    x = torch.randn(2, 7, 24)
    torch.manual_seed(3)
    out, weights = module(x, need_weights=True)
    torch.manual_seed(3)
    _, _, v = module.project(x)
    expected = module.output(nn.functional.dropout(weights, 0.4) @ v)
    assert torch.equal(out, expected)
    assert not torch.allclose(out, module.eval()(x), atol=1e-2)


def test_a_bias_on_the_scores_is_added_before_softmax(monkeypatch):
    q, k, v = torch.randn(3, 2, 3, 7, 8, dtype=torch.float64)
    bias = torch.randn(2, 1, 1, 7, dtype=torch.float64)
    scores = torch.einsum("bhnd,bhmd->bhnm", q, k) * 0.3 + bias
    expected = scores.exp() / scores.exp().sum(-1, keepdim=True)
    torch.testing.assert_close(attention_weights(q, k, 0.3, bias), expected)
    for explicit in (True, False):
        take_path(monkeypatch, explicit)
        torch.testing.assert_close(attention.attend(q, k, v, 0.3, bias=bias), expected @ v)


# ── timm's norms ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("norm_layer", [nn.LayerNorm, nn.RMSNorm])
@pytest.mark.parametrize(
    "options",
    [
        {"qk_norm": True},
        {"scale_norm": True},
        {"qk_norm": True, "scale_norm": True, "qkv_bias": False, "proj_bias": False},
    ],
    ids=str,
)
def test_norms_inside_attention_equal_timms(options, norm_layer):
    theirs = TimmAttention(24, 3, **{"qkv_bias": True} | options, norm_layer=norm_layer).double()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    ours = Attention(24, 3, **options, norm_layer=norm_layer).double()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 7, 24, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", ["axial", "dinov3", "mixed"])
@pytest.mark.parametrize("explicit", [False, True], ids=["sdpa", "explicit"])
def test_qk_norm_with_rope_runs_under_autocast_and_trains(monkeypatch, explicit, kind):
    take_path(monkeypatch, explicit)
    module, rope = Attention(24, 3, qk_norm=True), RotaryEmbedding(kind, 8, 3, num_prefix=1)
    x = torch.randn(2, 7, 24)
    expected = module(x, rope((2, 3))[0])
    with torch.autocast("cpu", torch.bfloat16):
        out = module(x, rope((2, 3))[0])
        _, weights = module(x, rope((2, 3))[0], need_weights=True)
    torch.testing.assert_close(out.float(), expected, rtol=0.05, atol=0.02)
    torch.testing.assert_close(weights.float().sum(-1), torch.ones(2, 3, 7), rtol=0, atol=0.02)
    out.float().square().sum().backward()
    parameters = [*module.parameters(), *rope.parameters()]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in parameters)


def test_bfloat16_weights_with_qk_norm_and_rope_stay_bfloat16():
    module = Attention(24, 3, qk_norm=True).bfloat16()
    rotation = RotaryEmbedding("dinov3", 8, 3)((1, 7))[0]
    q, k, v = module.project(torch.randn(2, 7, 24, dtype=torch.bfloat16), rotation)
    assert q.dtype == k.dtype == v.dtype == torch.bfloat16
