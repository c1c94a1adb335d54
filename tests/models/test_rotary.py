"""Rotary embeddings against timm's, against transformers', and against what they are for."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import apply_rot_embed_cat
from timm.layers.pos_embed_sincos import (
    RotaryEmbeddingCat,
    RotaryEmbeddingDinoV3,
    RotaryEmbeddingMixed,
    init_random_2d_freqs,
)
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.models.dinov3_vit.configuration_dinov3_vit import DINOv3ViTConfig
from transformers.models.dinov3_vit.modeling_dinov3_vit import DINOv3ViTRopePositionEmbedding

from vitfw.models.rotary import MOST_TABLES, RotaryEmbedding, Rotation, rotate

GRIDS = [(4, 4), (3, 5), (7, 2)]
KINDS = ["axial", "dinov3", "mixed"]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def as_timm(rotation: Rotation) -> torch.Tensor:
    return torch.cat([rotation.sin, rotation.cos], dim=-1)


def assert_turns_alike(rotation: Rotation, theirs: torch.Tensor, half: bool) -> None:
    """The table itself, and queries turned by it in float64."""
    torch.testing.assert_close(as_timm(rotation)[0], theirs.view_as(as_timm(rotation)[0]))
    x = torch.randn(2, 3, theirs.shape[-2], theirs.shape[-1] // 2, dtype=torch.float64)
    expected = apply_rot_embed_cat(x, theirs, half=half)
    torch.testing.assert_close(rotate(x, rotation), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("indexing", ["ij", "xy"])
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(
    "ref_grid, grid_offset, temperature",
    [(None, 0.0, None), ((16, 12), 0.0, 100.0), ((6, 6), 1.0, None)],
)
def test_axial_equals_timms(grid, indexing, half, ref_grid, grid_offset, temperature):
    theirs = RotaryEmbeddingCat(
        16,
        temperature=temperature or 10_000.0,
        in_pixels=False,
        ref_feat_shape=ref_grid,
        grid_offset=grid_offset,
        grid_indexing=indexing,
        rotate_half=half,
    ).get_embed(list(grid))
    ours = RotaryEmbedding(
        "axial",
        16,
        depth=3,
        temperature=temperature,
        ref_grid=ref_grid,
        grid_offset=grid_offset,
        indexing=indexing,
        rotate_half=half,
    )(grid)
    assert len(ours) == 3 and ours[0] is ours[2]
    assert ours[0].half is half
    assert_turns_alike(ours[0], theirs, half)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("indexing", ["ij", "xy"])
@pytest.mark.parametrize("half", [None, False])
@pytest.mark.parametrize("grid_offset, temperature", [(0.0, None), (0.25, 10_000.0)])
def test_dinov3_equals_timms(grid, indexing, half, grid_offset, temperature):
    theirs = RotaryEmbeddingDinoV3(
        16,
        temperature=temperature or 100.0,
        grid_offset=grid_offset,
        grid_indexing=indexing,
        rotate_half=half is None,
    ).get_embed(list(grid))
    ours = RotaryEmbedding(
        "dinov3",
        16,
        temperature=temperature,
        grid_offset=grid_offset,
        indexing=indexing,
        rotate_half=half,
    )(grid)[0]
    assert_turns_alike(ours, theirs, half is None)


def test_dinov3_equals_transformers():
    config = DINOv3ViTConfig(hidden_size=64, num_attention_heads=4, patch_size=8)
    cos, sin = DINOv3ViTRopePositionEmbedding(config).eval()(torch.zeros(1, 3, 24, 40))
    ours = RotaryEmbedding("dinov3", 16)((3, 5))[0]
    torch.testing.assert_close(ours.sin[0, 0], sin)
    torch.testing.assert_close(ours.cos[0, 0], cos)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("indexing", ["ij", "xy"])
def test_mixed_equals_timms_with_the_same_weights(grid, indexing):
    theirs = RotaryEmbeddingMixed(48, depth=2, num_heads=3, grid_indexing=indexing)
    ours = RotaryEmbedding("mixed", 16, num_heads=3, depth=2, indexing=indexing)
    ours.load_state_dict(theirs.state_dict())
    expected = theirs.get_embed(list(grid))
    rotations = ours(grid)
    assert len(rotations) == 2
    for rotation, block in zip(rotations, expected, strict=True):
        assert_turns_alike(rotation, block, half=False)


def test_mixed_starts_from_timms_distribution():
    """Same generator, same draws: one turn for each block and head."""
    torch.manual_seed(3)
    theirs = init_random_2d_freqs(16, depth=2, num_heads=3)
    torch.manual_seed(3)
    ours = RotaryEmbedding("mixed", 16, num_heads=3, depth=2)
    torch.testing.assert_close(ours.freqs.detach(), theirs)


def test_mixed_learns_its_frequencies():
    rope = RotaryEmbedding("mixed", 8, num_heads=2, depth=2).double()
    x = torch.randn(1, 2, 6, 8, dtype=torch.float64)

    def turned(freqs):
        rotations = torch.func.functional_call(rope, {"freqs": freqs}, ((2, 3),))
        return sum(rotate(x, rotation) for rotation in rotations)

    assert torch.autograd.gradcheck(turned, rope.freqs)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_scores_depend_only_on_relative_positions(kind, data):
    """One query and one key put on every pair of patches: equal offsets give equal scores."""
    rows, columns = data.draw(st.tuples(st.integers(2, 6), st.integers(2, 6)))
    indexing, half = data.draw(st.sampled_from(["ij", "xy"])), data.draw(st.booleans())
    rope = RotaryEmbedding(
        kind, 16, num_heads=3, indexing=indexing, rotate_half=half and kind != "mixed"
    )
    query, key = torch.randn(2, 1, 3, 1, 16, dtype=torch.float64)
    rotation = rope((rows, columns), dtype=torch.float64)[0]
    q, k = (rotate(x.expand(-1, -1, rows * columns, -1), rotation) for x in (query, key))
    scores = (q @ k.transpose(-2, -1)).reshape(3, rows, columns, rows, columns)
    torch.testing.assert_close(scores[:, 1:, :, 1:], scores[:, :-1, :, :-1], rtol=0, atol=1e-9)
    torch.testing.assert_close(
        scores[:, :, 1:, :, 1:], scores[:, :, :-1, :, :-1], rtol=0, atol=1e-9
    )
    assert (scores[:, 0, 0] - scores[:, 0, 0, :1, :1]).abs().max() > 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_rotations_preserve_norms_and_leave_the_prefix_alone(kind):
    rope = RotaryEmbedding(kind, 8, num_heads=2, num_prefix=3)
    x = torch.randn(2, 2, 3 + 6, 8, dtype=torch.float64)
    rotation = rope((2, 3), dtype=torch.float64)[0]
    turned = rotate(x, rotation)
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(turned[:, :, :3], x[:, :, :3])
    bare = RotaryEmbedding(kind, 8, num_heads=2)
    bare.load_state_dict(rope.state_dict())
    assert torch.equal(turned[:, :, 3:], rotate(x[:, :, 3:], bare((2, 3), dtype=torch.float64)[0]))


@pytest.mark.parametrize("half", [False, True])
def test_bfloat16_queries_are_turned_in_float32_and_rounded_once(half):
    rotation = RotaryEmbedding("axial", 16, rotate_half=half)((14, 14))[0]
    x = torch.randn(2, 3, 196, 16).bfloat16()
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            turned = rotate(x, rotation)
        assert turned.dtype == torch.bfloat16
        assert torch.equal(turned, rotate(x.float(), rotation).bfloat16())


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_in_bfloat16_keeps_its_tables_in_float32(kind):
    rope = RotaryEmbedding(kind, 8, num_heads=2).bfloat16()
    assert rope((2, 3), dtype=torch.bfloat16)[0].sin.dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_taking_tokens_is_turning_first_and_choosing_afterwards(kind):
    rotation = RotaryEmbedding(kind, 8, num_heads=2, num_prefix=1)((3, 4))[0]
    x = torch.randn(5, 2, 13, 8)
    kept = torch.stack([torch.randperm(13)[:6] for _ in range(5)])
    some = rotation.take(kept)
    assert some.sin.shape == (5, rotation.sin.shape[1], 6, 8)
    chosen = kept[:, None, :, None].expand(-1, 2, -1, 8)
    expected = rotate(x, rotation).gather(2, chosen)
    assert torch.equal(rotate(x.gather(2, chosen), some), expected)
    two = torch.tensor([3, 1])
    assert torch.equal(some.of_samples(two).sin, some.sin[two])
    assert rotation.of_samples(two) is rotation
    again = kept.new_tensor([[4, 0]] * 5)
    assert torch.equal(some.take(again).cos, some.cos[:, :, [4, 0]])


AUGMENTATION = {"shift_coords": 0.3, "jitter_coords": 1.5, "rescale_coords": 2.0}


def test_augmentation_is_timms_draw_for_draw_in_training_and_off_in_eval():
    theirs = RotaryEmbeddingDinoV3(16, **AUGMENTATION)
    ours = RotaryEmbedding("dinov3", 16, **AUGMENTATION)
    plain = RotaryEmbedding("dinov3", 16)((3, 5))[0]
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        expected = theirs.get_embed([3, 5])
        torch.manual_seed(seed)
        drawn.append(ours((3, 5))[0])
        torch.testing.assert_close(as_timm(drawn[-1])[0, 0], expected)
    assert torch.equal(drawn[0].sin, drawn[1].sin)
    assert not torch.allclose(drawn[0].sin, drawn[2].sin)
    ours.eval()
    assert torch.equal(ours((3, 5))[0].sin, plain.sin)
    ours.train()
    assert not torch.allclose(ours((3, 5))[0].sin, plain.sin)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", list(AUGMENTATION))
def test_augmentation_stays_within_its_bounds_and_reaches_them(kind, name):
    bound = AUGMENTATION[name]
    rope = RotaryEmbedding(kind, 8, **{name: bound})
    options = ((2, 3), torch.device("cpu"), torch.float64)
    before = rope.eval().places(*options)
    rope.train()
    after = torch.stack([rope.places(*options) for _ in range(500)])  # [500, G · G, 2]
    if name == "shift_coords":
        change, most = (after - before)[:, 0], bound
    else:
        change, most = (after[:, -1] / before[-1]).log(), math.log(bound)
        assert torch.allclose(after, before * change[:, None].exp())
    assert change.abs().max() <= most + 1e-9
    assert change.min() < -0.95 * most and change.max() > 0.95 * most
    assert abs(change.mean()) < 0.1 * most
    assert torch.allclose(change[:, 0], change[:, 1]) == (name == "rescale_coords")


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_learned_frequencies_are_in_the_state_dict(kind):
    rope = RotaryEmbedding(kind, 8, num_heads=2, depth=3)
    rope((4, 4))
    shapes = {name: tuple(value.shape) for name, value in rope.state_dict().items()}
    assert shapes == ({"freqs": (2, 3, 2, 4)} if kind == "mixed" else {})
    assert not list(rope.buffers())
    copy.deepcopy(rope)


@pytest.mark.parametrize("kind", ["axial", "dinov3"])
def test_tables_are_computed_once_for_each_grid_and_not_without_end(kind):
    rope = RotaryEmbedding(kind, 8)
    first = rope((2, 3))[0]
    assert rope((2, 3))[0] is first
    assert rope((3, 2))[0] is not first
    assert rope((2, 3), dtype=torch.float64)[0].sin.dtype == torch.float64
    for side in range(1, 2 * MOST_TABLES):
        rope((side, 1))
    assert len(rope.tables) <= MOST_TABLES


def test_tables_first_made_in_inference_serve_training():
    rope = RotaryEmbedding("axial", 8)
    with torch.inference_mode():
        rope((2, 3))
    x = torch.randn(1, 2, 6, 8, requires_grad=True)
    rotate(x, rope((2, 3))[0]).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("kind", KINDS)
def test_meta_and_fake_tensors_leave_no_trace(kind):
    with torch.device("meta"):
        rope = RotaryEmbedding(kind, 8, num_heads=2)
        assert rope((2, 3))[0].sin.is_meta
    rope = rope.to_empty(device="cpu")
    rope.reset_parameters()
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert rope((2, 3))[0].sin.shape[-2:] == (6, 8)
    rotation = rope((2, 3))[0]
    assert type(rotation.sin) is torch.Tensor
    torch.testing.assert_close(rotation.sin**2 + rotation.cos**2, torch.ones_like(rotation.sin))


@pytest.mark.parametrize("kind", KINDS)
def test_torch_compile_traces_it_whole(kind):
    rope = RotaryEmbedding(kind, 8, num_heads=2)
    x = torch.randn(1, 2, 6, 8)

    def turned(x):
        return rotate(x, rope((2, 3), x.device)[0])

    whole = torch.compile(turned, backend="eager", fullgraph=True)
    torch.testing.assert_close(whole(x), turned(x))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"kind": "spiral"}, "unknown rope 'spiral'; there are: none, axial, dinov3, mixed"),
        ({"head_dim": 6}, "rope needs embed_dim / num_heads to be a multiple of 4, not 6"),
        ({"indexing": "yx"}, "unknown rope_indexing 'yx'; there are: ij, xy"),
        ({"temperature": 0.0}, "rope_temperature must be above 0"),
        ({"shift_coords": -0.1}, "rope_shift_coords is a distance and must be at least 0, not -0"),
        ({"jitter_coords": -2.0}, "rope_jitter_coords is a factor and must be at least 1, not -2"),
        ({"rescale_coords": 0.5}, "rope_rescale_coords is a factor and must be at least 1, not 0"),
        ({"kind": "dinov3", "ref_grid": (4, 4)}, "ref_grid is for rope=axial, not dinov3"),
        ({"kind": "mixed", "rotate_half": True}, "rope=mixed has no rope_grid_offset or"),
        ({"kind": "mixed", "grid_offset": 1.0}, "rope=mixed has no rope_grid_offset or"),
    ],
)
def test_options_that_cannot_be_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        RotaryEmbedding(**({"kind": "axial", "head_dim": 8} | options))
