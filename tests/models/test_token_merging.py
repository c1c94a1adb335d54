"""Token merging against loops, against the plain block, and against its own arithmetic."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vitfw.models.attention import Attention
from vitfw.models.block import Block
from vitfw.models.token_merging import Tokens, match, merged_block
from vitfw.models.vit import VisionTransformer


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def block(init_values: float | None = None, **attention) -> Block:
    """A block moved off its initialisation, in float64."""
    made = Block(24, 48, partial(Attention, num_heads=3, **attention), init_values=init_values)
    made = made.double().eval()
    for parameter in made.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return made


def match_by_loops(keys: list[list[float]], r: int, num_prefix: int) -> list[int]:
    """Where each token of one image goes, from the paper's five steps one after the other."""

    def cosine(a: list[float], b: list[float]) -> float:
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        return dot / (sum(x * x for x in a) ** 0.5 * sum(y * y for y in b) ** 0.5)

    patches = list(range(num_prefix, len(keys)))
    set_a, set_b = patches[0::2], patches[1::2]
    edges = []
    for a in set_a if set_b else []:
        best = max(set_b, key=lambda b: cosine(keys[a], keys[b]))
        edges.append((cosine(keys[a], keys[best]), a, best))
    edges.sort(reverse=True)
    into = {a: b for _, a, b in edges[: min(r, len(patches) // 2)]}
    order = [token for token in range(len(keys)) if token not in into]
    return [order.index(into.get(token, token)) for token in range(len(keys))]


# ── the matching ──────────────────────────────────────────────────────────────────────────────


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 17), st.integers(0, 12), st.integers(0, 3), st.integers(0, 99)
)
def test_matching_equals_loops_over_every_pair(batch, patches, r, num_prefix, seed):
    keys = torch.randn(
        batch, num_prefix + patches, 5, generator=torch.Generator().manual_seed(seed)
    ).double()
    merge = match(keys, r, num_prefix)
    expected = [match_by_loops(image, r, num_prefix) for image in keys.tolist()]
    assert merge.target.tolist() == expected
    assert merge.length == num_prefix + patches - min(r, patches // 2)


def test_similarity_is_of_directions_not_of_lengths():
    keys = torch.tensor([[[1.0, 0.0], [100.0, 100.0], [0.0, 1.0], [0.0, 0.01]]])
    assert match(keys, 1, 0).target.tolist() == [[0, 1, 2, 2]]


def test_of_equal_similarities_the_earlier_token_merges():
    assert match(torch.ones(1, 6, 4), 2, 0).target.tolist() == [[0, 0, 0, 1, 2, 3]]


def test_the_same_keys_match_the_same_way_twice():
    keys = torch.randn(2, 50, 8)
    assert torch.equal(match(keys, 9, 1).target, match(keys, 9, 1).target)


def test_negative_r_is_refused():
    with pytest.raises(ValueError, match="tome_r -1 must be at least 0"):
        match(torch.randn(1, 4, 2), -1, 0)


# ── merging and spreading ─────────────────────────────────────────────────────────────────────


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 20),
    st.integers(0, 2),
    st.lists(st.integers(0, 6), min_size=1, max_size=4),
)
def test_any_merges_keep_count_mean_prefix_and_order(batch, patches, num_prefix, steps):
    length = num_prefix + patches
    x = torch.randn(batch, length, 4, dtype=torch.float64)
    tokens = Tokens(x, num_prefix)
    for r in steps:
        tokens = tokens.merged(torch.randn(batch, tokens.x.shape[1], 6), r)
        patches -= min(r, patches // 2)
        assert tokens.x.shape == (batch, num_prefix + patches, 4)
        assert tokens.sizes.shape == (batch, num_prefix + patches, 1)
    spread = tokens.spread()
    assert spread.shape == x.shape
    assert torch.equal(tokens.sizes.sum(1), torch.full((batch, 1), length, dtype=torch.float64))
    assert torch.equal(spread[:, :num_prefix], x[:, :num_prefix])
    assert torch.equal(tokens.sizes[:, :num_prefix], torch.ones(batch, num_prefix, 1).double())
    torch.testing.assert_close(spread.mean(1), x.mean(1))  # the weighted mean is the plain one
    for image, source in enumerate(tokens.source.tolist()):
        for place in range(num_prefix + patches):
            members = [token for token, now in enumerate(source) if now == place]
            assert len(members) == tokens.sizes[image, place, 0].item() > 0
            torch.testing.assert_close(tokens.x[image, place], x[image, members].mean(0))


def test_untouched_tokens_keep_their_order():
    x = torch.arange(12.0).reshape(1, 12, 1)
    tokens = Tokens(x, 1).merged(torch.randn(1, 12, 3), 4)
    alone = tokens.x[tokens.sizes == 1.0]
    assert alone.tolist() == sorted(alone.tolist())


def test_half_precision_counts_past_256():
    x = torch.full((1, 1024, 2), 3.0, dtype=torch.bfloat16)
    tokens = Tokens(x)
    for _ in range(10):
        tokens = tokens.merged(torch.ones(1, tokens.x.shape[1], 2), 512)
    assert tokens.sizes.tolist() == [[[1024.0]]]
    assert tokens.x.dtype == torch.bfloat16
    assert torch.equal(tokens.spread(), x)


# ── inside a block ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "options", [{}, {"qk_norm": True}, {"fused_qkv": False}, {"init_values": 0.1}]
)
def test_without_merging_it_is_the_plain_block(options):
    layer, x = block(**options), torch.randn(2, 10, 24, dtype=torch.float64)
    assert torch.equal(merged_block(layer, Tokens(x, 1), 0).spread(), layer(x))


def test_blocks_lose_r_tokens_each_until_two_sets_are_left():
    layer, tokens = block(), Tokens(torch.randn(2, 1 + 16, 24, dtype=torch.float64), 1)
    counts = []
    for _ in range(6):
        tokens = merged_block(layer, tokens, 5)
        counts.append(tokens.x.shape[1])
    assert counts == [12, 7, 4, 3, 2, 2]
    assert tokens.spread().shape == (2, 17, 24)


def test_a_token_of_size_n_attends_and_is_attended_to_like_n_tokens():
    layer = block()
    few = torch.randn(2, 5, 24, dtype=torch.float64)
    sizes = torch.tensor([1, 3, 2, 1, 4])
    source = torch.arange(5).repeat_interleave(sizes).expand(2, -1)
    many = few.repeat_interleave(sizes, dim=1)
    tokens = Tokens(few, 1, sizes.double().reshape(1, 5, 1).expand(2, -1, -1), source)
    out = merged_block(layer, tokens, 0).spread()
    torch.testing.assert_close(out, layer(many), rtol=0, atol=1e-10)


@pytest.mark.parametrize("num_prefix", [0, 1, 3])
def test_merging_identical_pairs_changes_nothing(num_prefix):
    # Order is kept, so the pairs that the first merge leaves still lie one in each set.
    blocks = [block() for _ in range(3)]
    pairs = torch.randn(2, 7, 24, dtype=torch.float64).repeat_interleave(2, dim=1)
    x = torch.cat([torch.randn(2, num_prefix, 24, dtype=torch.float64), pairs], dim=1)
    tokens, expected = Tokens(x, num_prefix), nn.Sequential(*blocks)(x)
    for layer, r in zip(blocks, (4, 3, 0), strict=True):
        tokens = merged_block(layer, tokens, r)
    assert tokens.x.shape[1] == num_prefix + 7
    torch.testing.assert_close(tokens.spread(), expected, rtol=0, atol=1e-10)


def test_merging_runs_in_half_precision_and_under_autocast():
    layer, x = block().float(), torch.randn(2, 17, 24)
    expected = merged_block(layer, merged_block(layer, Tokens(x, 1), 3), 3)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = merged_block(layer, merged_block(layer, Tokens(x, 1), 3), 3)
    half = layer.bfloat16()
    low = merged_block(half, merged_block(half, Tokens(x.bfloat16(), 1), 3), 3)
    assert low.x.dtype == torch.bfloat16
    assert expected.x.shape == mixed.x.shape == low.x.shape == (2, 11, 24)
    assert mixed.x.isfinite().all() and low.x.isfinite().all()


def test_other_blocks_are_refused():
    with pytest.raises(ValueError, match="block_layer=serial"):
        merged_block(nn.Identity(), Tokens(torch.randn(1, 4, 24)), 1)


@pytest.mark.parametrize("global_pool", ["token", "avg", "map", "seq"])
def test_an_image_of_equal_patches_has_the_same_logits_merged(global_pool):
    options = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 3, "num_heads": 3}
    net = VisionTransformer(**options, num_classes=5, global_pool=global_pool, pos_embed="none")
    net = net.double().eval()
    for parameter in net.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    patch = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    images = patch.repeat(1, 1, 4, 4)
    expected = net(images)
    net.tome_r = 6
    assert net.forward_features(images).shape == (2, 17, 24)
    torch.testing.assert_close(net(images), expected, rtol=0, atol=1e-10)
    assert (net(torch.randn_like(images)) - expected).abs().max() > 1e-3
