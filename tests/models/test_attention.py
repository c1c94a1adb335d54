"""Attention against float64 written out, against PyTorch's own module, and against statistics."""

import pytest
import torch
from torch import nn

from vitfw.models import attention
from vitfw.models.attention import Attention, explicit_is_faster


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
