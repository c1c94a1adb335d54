"""Where attention looks: hand-set weights, closed forms, numpy, PyTorch's and timm's attention."""

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from vitfw.models.attention_rollout import (
    all_patches,
    bytes_of_maps,
    heads_of,
    mean_distance,
    patch_distances,
    patch_query,
    pooling_query,
    query_of,
    rollout,
    seen_by,
    uniform_distance,
)
from vitfw.models.vit import VisionTransformer

TINY = {"img_size": 16, "patch_size": 4, "in_chans": 1, "num_classes": 3, "embed_dim": 8}
TINY |= {"depth": 2, "num_heads": 2}
NO_CLASS = {"class_token": False, "global_pool": "avg"}
IMAGES = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(3))


def looks_at(*patches: int, **options) -> VisionTransformer:
    """A net in whose every block head h attends to the patch of number `patches[h]` alone.

    That patch's position is the only thing in channel h; all queries ask head h for that.
    """
    net = VisionTransformer(**{**TINY, "num_heads": len(patches), **options}).eval()
    for name, parameter in net.named_parameters():
        if "norm" not in name:
            nn.init.zeros_(parameter)
    assert net.pos_embed is not None
    size = net.embed_dim // len(patches)
    for head, patch in enumerate(patches):
        net.pos_embed.data[0, net.num_prefix_tokens + patch, head] = 1.0
        for block in net.blocks:
            block.attn.qkv.bias.data[head * size] = 10.0
            block.attn.qkv.weight.data[net.embed_dim + head * size, head] = 10.0
    return net


def moved(**options) -> VisionTransformer:
    """A net whose every parameter is random."""
    torch.manual_seed(1)
    net = VisionTransformer(**{**TINY, **options}).eval()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.4)
    return net


# ── weights ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "options",
    [{}, {"reg_tokens": 3}, {"dist_token": True}, NO_CLASS, {**NO_CLASS, "global_pool": "seq"}],
    ids=str,
)
def test_the_map_peaks_at_the_patch_that_hand_set_weights_attend_to(options):
    seen = seen_by(net := looks_at(6, 13, **options), IMAGES, pooling_query(net, IMAGES))
    assert seen.heads.shape == (2, 2, 4, 4)
    for head, patch in enumerate((6, 13)):
        assert seen.heads[:, head].flatten(1).argmax(dim=1).tolist() == [patch, patch]
        assert seen.heads[:, head].flatten(1)[:, patch].min() > 0.99
    ends = seen.rollout.flatten(1).topk(2).indices.sort(dim=1).values
    assert ends.tolist() == [[6, 13], [6, 13]]


def test_any_patch_can_ask_on_any_grid():
    options = {"img_size": (8, 12), "patch_size": 2, "reg_tokens": 1}
    net = looks_at(20, 3, **options)
    images = torch.rand(1, 1, 8, 12)
    seen = seen_by(net, images, patch_query(net, (4, 6), 2, 5))
    assert seen.heads.shape == (1, 2, 4, 6)
    assert [divmod(int(m.argmax()), 6) for m in seen.heads[0]] == [(3, 2), (0, 3)]


def blocks_in_float64(net: VisionTransformer, images: torch.Tensor) -> list[torch.Tensor]:
    """softmax(q kᵀ · scale) of every block, from the state dict alone."""
    state = {name: tensor.double() for name, tensor in net.state_dict().items()}
    heads, dim = net.options["num_heads"], net.embed_dim

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        x = x - x.mean(-1, keepdim=True)
        x = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return x * state[f"{name}.weight"] + state[f"{name}.bias"]

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    kernel, bias = state["patch_embed.proj.weight"], state["patch_embed.proj.bias"]
    x = F.conv2d(images.double(), kernel, bias, stride=4).flatten(2).transpose(1, 2)
    prefix = torch.cat([state["cls_token"], state["reg_token"]], dim=1).expand(len(x), -1, -1)
    x = torch.cat([prefix, x], dim=1) + state["pos_embed"]
    found = []
    for i in range(net.options["depth"]):
        qkv = linear(norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv")
        q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        scores = torch.einsum("bhnd,bhmd->bhnm", q, k) * (dim // heads) ** -0.5
        weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
        mixed = torch.einsum("bhnm,bhmd->bnhd", weights, v).flatten(2)
        x = x + linear(mixed, f"blocks.{i}.attn.proj")
        hidden = F.gelu(linear(norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1"))
        x = x + linear(hidden, f"blocks.{i}.mlp.fc2")
        found.append(weights)
    return found


def test_what_is_seen_equals_the_softmax_computed_apart_from_the_state_dict():
    net = moved(reg_tokens=2)
    expected = blocks_in_float64(net, IMAGES)
    for block in (0, 1, -1):
        seen = seen_by(net, IMAGES, pooling_query(net, IMAGES), block)
        row = expected[block][:, :, 0, 3:].unflatten(-1, (4, 4))
        torch.testing.assert_close(seen.heads, row.float(), rtol=1e-4, atol=1e-6)


def test_what_is_seen_equals_timms_own_attention():
    net = moved()
    sizes = {name: TINY[name] for name in ("img_size", "patch_size", "in_chans", "num_classes")}
    sizes |= {"embed_dim": 8, "depth": 2, "num_heads": 2}
    theirs = timm.create_model("vit_tiny_patch16_224", **sizes).eval()
    theirs.load_state_dict(net.state_dict())
    caught = []
    for block in theirs.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda module, given, out: caught.append(out))
    theirs(IMAGES)
    for block, weights in enumerate(caught):
        seen = seen_by(net, IMAGES, patch_query(net, (4, 4), 1, 2), block)
        row = weights[:, :, 1 + 6, 1:].unflatten(-1, (4, 4))
        torch.testing.assert_close(seen.heads, row, rtol=1e-4, atol=1e-6)


# ── who asks ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("pool", ["token", "token_avg"])
def test_the_class_token_asks_where_the_head_sees_it(pool):
    query, what = query_of(net := moved(global_pool=pool, reg_tokens=1), IMAGES)
    assert query.tolist() == [[1.0] + 17 * [0.0]] and what == "the class token"
    assert query_of(net, IMAGES, pooled=False)[0].tolist() == [2 * [0.0] + 16 * [1 / 16]]


def test_a_class_token_that_the_head_does_not_see_is_not_asked():
    query, what = query_of(moved(global_pool="avg"), IMAGES)
    assert query.tolist() == [[0.0] + 16 * [1 / 16]] and what == "the mean of all patches"


def test_sequence_pooling_asks_with_its_own_weights():
    net = moved(class_token=False, global_pool="seq", reg_tokens=1)
    tokens = net.forward_features(IMAGES)
    shares = pooling_query(net, IMAGES)
    pooled = torch.einsum("bn,bnc->bc", shares, tokens)
    torch.testing.assert_close(pooled, net.pool(tokens))
    assert shares.std() > 0.01


def test_attention_pooling_asks_with_the_weights_of_pytorchs_own_attention():
    net = moved(class_token=False, global_pool="map")
    assert net.attn_pool is not None
    pool, patches = net.attn_pool, net.forward_features(IMAGES)
    theirs = nn.MultiheadAttention(8, 2, batch_first=True)
    theirs.in_proj_weight.data = torch.cat([pool.q.weight, pool.kv.weight])
    theirs.in_proj_bias.data = torch.cat([pool.q.bias, pool.kv.bias])
    _, weights = theirs(pool.latent.expand(2, -1, -1), patches, patches, need_weights=True)
    torch.testing.assert_close(pooling_query(net, IMAGES), weights[:, 0])


@pytest.mark.parametrize("row, column", [(4, 0), (0, 4), (-1, 0)])
def test_a_patch_outside_of_the_grid_is_refused_with_the_range(row, column):
    with pytest.raises(ValueError, match=r"outside of the 4 × 4 patches; rows are 0 to 3"):
        patch_query(moved(), (4, 4), row, column)


# ── rollout ───────────────────────────────────────────────────────────────────────────────────


def test_rollout_equals_its_definition():
    random = np.random.default_rng(0)
    maps = random.random((3, 2, 4, 5, 5))  # L, B, H, N, N
    maps /= maps.sum(-1, keepdims=True)
    rolled = rollout([torch.from_numpy(weights) for weights in maps])
    for image in range(2):
        expected = np.eye(5)
        for block in range(3):
            mixed = np.zeros((5, 5))
            for head in range(4):
                mixed += maps[block, image, head] / 4
            mixed = 0.5 * mixed + 0.5 * np.eye(5)
            expected = mixed / mixed.sum(axis=1, keepdims=True) @ expected
        np.testing.assert_allclose(rolled[image], expected, rtol=1e-12)


@pytest.mark.parametrize("depth", [1, 2, 6])
def test_rollout_of_uniform_attention_keeps_half_of_a_token_a_block(depth):
    """(J / N + I)/2 to the power of L is I / 2^L + (1 - 2^-L) J / N, for J of ones."""
    rolled = rollout(depth * [torch.full((1, 2, 4, 4), 0.25)])
    kept = 0.5**depth
    expected = kept * torch.eye(4) + (1 - kept) * torch.full((4, 4), 0.25)
    torch.testing.assert_close(rolled[0], expected)


def test_rollout_of_attention_to_oneself_is_the_identity():
    assert torch.equal(rollout(3 * [torch.eye(5).expand(2, 3, 5, 5)]), torch.eye(5).expand(2, 5, 5))


def test_the_rollout_that_is_seen_is_that_of_all_blocks():
    net = moved(reg_tokens=2)
    whole = rollout(net.attention_maps(IMAGES))
    seen = seen_by(net, IMAGES, all_patches(net, (4, 4)), block=0)
    expected = whole[:, 3:, 3:].mean(dim=1).unflatten(-1, (4, 4))
    torch.testing.assert_close(seen.rollout, expected)


# ── distance ──────────────────────────────────────────────────────────────────────────────────


def test_a_head_that_attends_to_itself_looks_no_distance():
    weights = torch.eye(12).expand(2, 3, 12, 12)
    assert torch.equal(mean_distance(weights, patch_distances((3, 4), (8, 8))), torch.zeros(2, 3))


def test_a_uniform_head_on_four_patches_looks_a_known_distance():
    """Of four patches one is itself, two are a side away and one a diagonal."""
    distance = mean_distance(torch.full((1, 1, 4, 4), 0.25), patch_distances((2, 2), (16, 16)))
    assert distance.item() == pytest.approx(16 * (2 + 2**0.5) / 4)


def test_a_head_that_attends_to_the_next_patch_across_looks_as_far_as_patches_are_apart():
    weights = torch.eye(4).roll(1, dims=1)[None, None]  # in a ring of four
    distance = mean_distance(weights, patch_distances((1, 4), (5, 7)))
    assert distance.item() == pytest.approx((7 + 7 + 7 + 21) / 4)


def test_attention_to_prefix_tokens_does_not_count():
    inner = torch.rand(1, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    inner = inner / inner.sum(dim=-1, keepdim=True)
    between = patch_distances((2, 2), (4, 4))
    weights = torch.zeros(1, 2, 6, 6)
    weights[..., 0] = 0.7
    weights[..., 1] = 0.2
    weights[..., 2:, 2:] = 0.1 * inner
    torch.testing.assert_close(mean_distance(weights, between), mean_distance(inner, between))


def test_a_head_that_sees_prefix_tokens_only_has_a_finite_distance():
    weights = torch.zeros(1, 1, 5, 5)
    weights[..., 0] = 1.0
    assert mean_distance(weights, patch_distances((2, 2), (4, 4))).tolist() == [[0.0]]


@pytest.mark.parametrize("options", [{}, {"patch_stride": 2}, {"reg_tokens": 2}], ids=str)
def test_a_net_that_attends_to_all_alike_has_the_uniform_distance(options):
    net = VisionTransformer(**{**TINY, **options}).eval()
    for block in net.blocks:
        nn.init.zeros_(block.attn.qkv.weight)
    down, across = net.patch_embed.grid_size
    step = options.get("patch_stride", 4)
    places = step * np.stack(np.mgrid[:down, :across], axis=-1).reshape(-1, 2)
    expected = np.sqrt(((places[:, None] - places) ** 2).sum(-1)).mean()
    assert uniform_distance(net, IMAGES) == pytest.approx(expected, rel=1e-5)
    seen = seen_by(net, IMAGES, pooling_query(net, IMAGES))
    assert seen.distances.shape == (2, 2, 2)
    np.testing.assert_allclose(seen.distances, expected, rtol=1e-4)


# ── what it costs ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("options", [{}, {"block_layer": "pair"}, {"reg_tokens": 2}], ids=str)
def test_the_size_of_the_maps_is_known_before_they_are_made(options):
    net = moved(**options)
    maps = net.attention_maps(IMAGES[:1])
    assert bytes_of_maps(net, (4, 4)) == sum(weights.nbytes for weights in maps)
    assert {weights.shape[1] for weights in maps} == {heads_of(net)}


def test_looking_leaves_no_gradients_and_draws_no_numbers():
    net = moved(class_token=False, global_pool="seq")
    state = torch.get_rng_state()
    seen = seen_by(net, IMAGES, pooling_query(net, IMAGES))
    assert not any(part.requires_grad for part in seen)
    assert torch.equal(torch.get_rng_state(), state)
