"""Pools against timm's attention pool and against means written out."""

import math

import pytest
import torch
from timm.layers import AttentionPoolLatent
from torch import nn

from vitfw.models.pooling import AttentionPool, SequencePool
from vitfw.models.vit import VisionTransformer

TINY = {"img_size": 16, "patch_size": 4, "num_classes": 5, "embed_dim": 24, "depth": 2}
TINY |= {"num_heads": 3}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_sequence_pool_is_a_softmax_weighted_mean():
    pool, x = SequencePool(6), torch.randn(3, 10, 6)
    for image, pooled in zip(x, pool(x), strict=True):
        scores = [math.exp(pool.score(token).item()) for token in image]
        mean = sum(score * token for score, token in zip(scores, image, strict=True)) / sum(scores)
        torch.testing.assert_close(pooled, mean)


def test_sequence_pool_of_equal_scores_is_the_mean():
    pool, x = SequencePool(6), torch.randn(3, 10, 6)
    nn.init.zeros_(pool.score.weight)
    torch.testing.assert_close(pool(x), x.mean(1))


@pytest.mark.parametrize("norm_layer", [nn.LayerNorm, nn.RMSNorm])
@pytest.mark.parametrize("act_layer", [nn.GELU, nn.ReLU])
@pytest.mark.parametrize("num_heads, ratio", [(3, 2.0), (1, 4.0)])
def test_attention_pool_equals_timms_with_timms_weights(norm_layer, act_layer, num_heads, ratio):
    layers = {"norm_layer": norm_layer, "act_layer": act_layer}
    theirs = AttentionPoolLatent(24, num_heads=num_heads, mlp_ratio=ratio, **layers).double()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    ours = AttentionPool(24, num_heads, int(24 * ratio), **layers).double()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 7, 24, dtype=torch.float64)
    expected, out = theirs(x), ours(x)
    assert out.shape == (2, 24)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-10)
    expected.square().sum().backward()
    out.square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in ours.named_parameters()}
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-9, atol=1e-9, msg=name)


def test_attention_pool_refuses_heads_by_name():
    with pytest.raises(ValueError, match="num_heads 5 .*embed_dim 24"):
        AttentionPool(24, 5, 48)


@pytest.mark.parametrize("global_pool", ["avg", "seq", "map"])
def test_pools_over_patches_do_not_see_class_and_register_tokens(global_pool):
    net = VisionTransformer(**TINY, global_pool=global_pool, reg_tokens=2)
    x = torch.randn(2, 3 + 16, 24)
    pooled = net.pool(x)
    x[:, :3] = 100.0
    assert torch.equal(net.pool(x), pooled)


@pytest.mark.parametrize("global_pool", ["avg", "seq", "map"])
def test_pools_over_patches_do_not_see_their_order(global_pool):
    net = VisionTransformer(**TINY, global_pool=global_pool)
    x = torch.randn(2, 1 + 16, 24)
    order = torch.cat([torch.zeros(1, dtype=torch.long), 1 + torch.randperm(16)])
    torch.testing.assert_close(net.pool(x[:, order]), net.pool(x))


def test_token_avg_is_both_side_by_side():
    net = VisionTransformer(**TINY, global_pool="token_avg", reg_tokens=2)
    x = torch.randn(2, 3 + 16, 24)
    class_token, mean = net.pool(x).chunk(2, dim=1)
    assert torch.equal(class_token, x[:, 0])
    torch.testing.assert_close(mean, sum(x[:, i] for i in range(3, 19)) / 16)
    assert net.head.in_features == 48
