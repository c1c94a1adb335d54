"""Blocks with branches side by side against timm's, with timm's weights and no key map."""

import pytest
import torch
from timm.models.vision_transformer import ParallelScalingBlock, ParallelThingsBlock
from torch import Tensor, nn
from twins import assert_same

from vitfw.models.attention import Attention
from vitfw.models.block import Mlp
from vitfw.models.parallel import PairBlock, ParallelBlock
from vitfw.models.rotary import RotaryEmbedding


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def tokens() -> Tensor:
    return torch.randn(2, 5, 24, dtype=torch.float64)


def pair(biases: bool = True, init_values: float | None = None, **options) -> PairBlock:
    return PairBlock(
        24,
        48,
        lambda dim: Attention(dim, 3, qkv_bias=biases, proj_bias=biases, **options),
        lambda dim, hidden: Mlp(dim, hidden, bias=biases),
        init_values,
    )


@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("init_values", [None, 0.3])
@pytest.mark.parametrize("options", [{}, {"qk_norm": True}, {"proj_bias": False}], ids=str)
def test_parallel_block_equals_timms_scaling_block(qkv_bias, init_values, options):
    options = {"qkv_bias": qkv_bias, "init_values": init_values} | options
    theirs = ParallelScalingBlock(24, 3, mlp_ratio=2, norm_layer=nn.LayerNorm, **options)
    assert_same(theirs, ParallelBlock(24, 48, 3, **options), tokens())


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("init_values", [None, 0.3])
@pytest.mark.parametrize("qk_norm", [True, False])
def test_pair_block_equals_timms_things_block(biases, init_values, qk_norm):
    theirs = ParallelThingsBlock(
        24,
        3,
        mlp_ratio=2,
        qkv_bias=biases,
        proj_bias=biases,
        qk_norm=qk_norm,
        norm_layer=nn.LayerNorm,
        init_values=init_values,
    )
    assert_same(theirs, pair(biases, init_values, qk_norm=qk_norm), tokens())


@pytest.mark.parametrize("qk_scale", [None, 0.7])
def test_parallel_weights_are_the_softmax_of_the_formula(qk_scale):
    layer = ParallelBlock(24, 48, 3, qk_scale=qk_scale).double()
    nn.init.normal_(layer.in_proj.weight, std=0.3)
    x = tokens()
    y = layer.in_norm(x)
    weight, bias = layer.in_proj.weight[48:], layer.in_proj.bias[48:]
    q, k, v = (
        (y @ w.T + b).reshape(2, 5, 3, 8).transpose(1, 2)
        for w, b in zip(weight.chunk(3), bias.chunk(3), strict=True)
    )
    scores = torch.einsum("bhnd,bhmd->bhnm", q, k) * (8**-0.5 if qk_scale is None else qk_scale)
    weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
    torch.testing.assert_close(layer.weights(x), weights, rtol=0, atol=1e-12)
    mixed = layer.attn_out_proj((weights @ v).transpose(1, 2).flatten(2))
    hidden = nn.functional.gelu(y @ layer.in_proj.weight[:48].T + layer.in_proj.bias[:48])
    torch.testing.assert_close(layer(x), x + mixed + layer.mlp_out_proj(hidden))


def test_pair_weights_are_pytorchs_for_both_attentions():
    layer, x = pair().double(), tokens()
    maps = layer.weights(x)
    assert maps.shape == (2, 6, 5, 5)
    for branch, weights in zip(layer.attns, maps.chunk(2, dim=1), strict=True):
        theirs = nn.MultiheadAttention(24, 3, batch_first=True, dtype=torch.float64)
        theirs.in_proj_weight.data = branch.attn.qkv.weight.data
        theirs.in_proj_bias.data = branch.attn.qkv.bias.data
        y = branch.norm(x)
        expected = theirs(y, y, y, need_weights=True, average_attn_weights=False)[1]
        torch.testing.assert_close(weights, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["axial", "mixed"])
def test_both_turn_their_queries_and_keys(kind):
    """Permuted with their places the tokens come out permuted; without their places they do not."""
    rotation = RotaryEmbedding(kind, 8, 3)((1, 5), dtype=torch.float64)[0]
    order = torch.tensor([3, 1, 4, 0, 2])
    moved = rotation.take(order.expand(2, -1))
    x = tokens()
    for layer in (ParallelBlock(24, 48, 3), pair()):
        layer = layer.double()
        for parameter in layer.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.3)
        out = layer(x, rotation)
        torch.testing.assert_close(layer(x[:, order], moved), out[:, order])
        torch.testing.assert_close(
            layer.weights(x[:, order], moved),
            layer.weights(x, rotation)[:, :, order][:, :, :, order],
        )
        assert not torch.allclose(layer(x[:, order], rotation), out[:, order], atol=1e-3)


@pytest.mark.parametrize("rate", [{"attn_drop": 0.5}, {"proj_drop": 0.5}, {"drop_path": 0.5}])
def test_a_parallel_blocks_rates_act_in_training_only_and_keep_the_mean(rate):
    layer, plain = ParallelBlock(24, 48, 3, **rate), ParallelBlock(24, 48, 3)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(1, 5, 24).expand(8000, -1, -1)
    out = layer(x)
    assert not torch.equal(out[0], out[1])
    torch.testing.assert_close(layer.eval()(x), plain(x))
    error = (out.mean(0) - plain(x[:1])[0]).abs()
    assert (error < 6 * out.std(0) / 8000**0.5 + 1e-6).all()


def test_heads_that_do_not_divide_are_refused_by_name():
    with pytest.raises(ValueError, match="num_heads 5 .*embed_dim 24"):
        ParallelBlock(24, 48, 5)
