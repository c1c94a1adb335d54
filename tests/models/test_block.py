"""The block and its parts against timm's by state dict, and stochastic depth against statistics."""

import pytest
import timm.layers
import torch
from timm.layers import GluMlp
from timm.layers import Mlp as TimmMlp
from timm.layers import SwiGLU as TimmSwiGLU
from timm.models.vision_transformer import Block as TimmBlock
from torch import Tensor, nn
from twins import assert_same

from vitfw.models.attention import Attention
from vitfw.models.block import Block, DropPath, Mlp, SwiGLU, SwiGLUPacked
from vitfw.models.options import QuickGELU
from vitfw.models.rotary import RotaryEmbedding


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def tokens(*shape: int) -> Tensor:
    return torch.randn(*shape, 24, dtype=torch.float64)


# ── the MLPs ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("norm_layer", [None, nn.LayerNorm, nn.RMSNorm])
@pytest.mark.parametrize("bias", [True, False])
def test_mlp_equals_timms(norm_layer, bias):
    options = {"norm_layer": norm_layer, "bias": bias}
    assert_same(TimmMlp(24, 40, **options), Mlp(24, 40, **options), tokens(2, 5))


@pytest.mark.parametrize("norm_layer", [None, nn.LayerNorm])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("align_to, hidden", [(0, 41), (8, 48), (41, 41), (64, 64)])
def test_swiglu_equals_timms(norm_layer, bias, align_to, hidden):
    options = {"norm_layer": norm_layer, "bias": bias, "align_to": align_to}
    ours = SwiGLU(24, 41, **options)
    assert ours.fc2.in_features == hidden
    assert_same(TimmSwiGLU(24, 41, **options), ours, tokens(2, 5))


@pytest.mark.parametrize("norm_layer", [None, nn.LayerNorm])
@pytest.mark.parametrize("bias", [True, False])
def test_packed_swiglu_equals_timms_gate_first(norm_layer, bias):
    options = {"norm_layer": norm_layer, "bias": bias}
    theirs = GluMlp(24, 40, act_layer=nn.SiLU, gate_last=False, **options)
    assert_same(theirs, SwiGLUPacked(24, 40, **options), tokens(2, 5))


def test_packed_swiglu_is_swiglu_with_its_first_layers_stacked():
    plain, packed = SwiGLU(24, 20).double(), SwiGLUPacked(24, 40).double()
    state = plain.state_dict()
    for kind in ("weight", "bias"):
        gate, value = state.pop(f"fc1_g.{kind}"), state.pop(f"fc1_x.{kind}")
        state[f"fc1.{kind}"] = torch.cat([gate, value])
    packed.load_state_dict(state, strict=True)
    x = tokens(2, 5)
    torch.testing.assert_close(packed(x), plain(x), rtol=0, atol=1e-13)


def test_odd_halves_are_refused_by_name():
    with pytest.raises(ValueError, match="mlp_ratio gives mlp_layer swiglu_packed 41 hidden"):
        SwiGLUPacked(24, 41)


@pytest.mark.parametrize("layer, width", [(Mlp, 40), (SwiGLU, 40), (SwiGLUPacked, 80)])
def test_mlp_dropouts_are_before_and_after_the_second_layer(layer, width):
    mlp = layer(24, width, drop=0.4)
    nn.init.ones_(mlp.fc2.weight)
    seen = []
    mlp.fc2.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    out = mlp(torch.rand(100, 10, 24))
    for dropped in (seen[0], out):
        assert abs((dropped == 0).float().mean() - 0.4) < 0.02
    assert (mlp.eval()(torch.rand(5, 24)) != 0).all()


def test_quick_gelu_equals_timms():
    x = torch.linspace(-8, 8, 200, dtype=torch.float64)
    torch.testing.assert_close(QuickGELU()(x), timm.layers.QuickGELU()(x), rtol=0, atol=0)


# ── the whole block ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("init_values", [None, 0.3])
@pytest.mark.parametrize("scale_norms", [False, True])
@pytest.mark.parametrize("biases", [True, False])
def test_block_equals_timms(init_values, scale_norms, biases):
    theirs = TimmBlock(
        24,
        3,
        mlp_ratio=2,
        qkv_bias=biases,
        proj_bias=biases,
        init_values=init_values,
        scale_attn_norm=scale_norms,
        scale_mlp_norm=scale_norms,
        norm_layer=nn.LayerNorm,
    )
    norm = nn.LayerNorm if scale_norms else None

    def attention(dim: int) -> Attention:
        return Attention(dim, 3, qkv_bias=biases, proj_bias=biases, scale_norm=scale_norms)

    def mlp(dim: int, hidden: int) -> Mlp:
        return Mlp(dim, hidden, bias=biases, norm_layer=norm)

    assert_same(theirs, Block(24, 48, attention, mlp, init_values), tokens(2, 5))


# ── stochastic depth ──────────────────────────────────────────────────────────────────────────


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    drop = DropPath(0.3)
    out = drop(torch.ones(20_000, 2, 3))
    assert torch.equal(out, out[:, :1, :1].expand_as(out))
    torch.testing.assert_close(out.unique(), torch.tensor([0.0, 1 / 0.7]))
    assert abs(out.mean() - 1) < 0.02
    assert abs((out == 0).float().mean() - 0.3) < 0.02
    x = torch.randn(4, 2, 3)
    assert torch.equal(drop.eval()(x), x)


@pytest.mark.parametrize("rate, batch", [(0.3, 10), (0.5, 5), (0.9, 3), (0.99, 1)])
def test_a_subset_gives_the_full_branch_in_expectation(rate, batch):
    x, full = torch.randn(2, batch, 4, 3, dtype=torch.float64)
    drop, draws = DropPath(rate), 4000
    added = [drop.add_on_subset(x, lambda _, chosen: full[chosen]) - x for _ in range(draws)]
    mean = torch.stack(added).mean(0)
    kept = max(round(batch * (1 - rate)), 1)
    spread = full.abs().max() * ((batch / kept - 1) / draws) ** 0.5
    assert (mean - full).abs().max() <= 5 * spread + 1e-12


@pytest.mark.parametrize(
    "rate, batch, kept", [(0.3, 10, 7), (0.5, 8, 4), (0.9, 3, 1), (0.99, 64, 1), (0.5, 1, 1)]
)
def test_a_subset_is_all_that_is_computed(rate, batch, kept):
    x = torch.randn(batch, 4, 3)
    sizes = []

    def branch(part: Tensor, chosen: Tensor) -> Tensor:
        assert torch.equal(part, x[chosen])
        sizes.append((len(part), len(set(chosen.tolist()))))
        return torch.ones_like(part)

    out = DropPath(rate).add_on_subset(x, branch)
    assert sizes == [(kept, kept)]
    changed = (out - x).flatten(1)
    assert ((changed - batch / kept).abs().amax(1) < 1e-4).sum() == kept
    assert (changed == 0).all(1).sum() == batch - kept


def test_at_rate_0_a_subset_is_the_whole_batch():
    x = tokens(6, 4)
    out = DropPath(0.0).add_on_subset(x, lambda part, _: part.sin())
    torch.testing.assert_close(out, x + x.sin(), rtol=0, atol=0)


def test_a_subsets_gradient_is_that_of_the_formula():
    x = tokens(6, 4).requires_grad_()
    kept: list[int] = []

    def branch(part: Tensor, chosen: Tensor) -> Tensor:
        kept.extend(chosen.tolist())
        return part.sin()

    out = DropPath(0.5).add_on_subset(x, branch)
    direction = torch.randn_like(out)
    (gradient,) = torch.autograd.grad((out * direction).sum(), x)
    scale = torch.zeros(6, 1, 1, dtype=torch.float64)
    scale[kept] = 2.0
    torch.testing.assert_close(gradient, direction * (1 + scale * x.cos()))


def block(**options) -> Block:
    made = Block(24, 48, lambda dim: Attention(dim, 3), **options).double()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made


def test_a_blocks_branches_see_only_their_subsets():
    layer = block(drop_path=0.25, drop_path_subset=True, init_values=1.0)
    sizes = []
    for part in (layer.attn, layer.mlp):
        part.register_forward_hook(lambda _, inputs, out: sizes.append(len(out)))
    x = tokens(8, 5)
    layer(x)
    assert sizes == [6, 6]
    assert torch.equal(layer.eval()(x), plain_twin(layer).eval()(x))
    assert sizes == [6, 6, 8, 8]


def plain_twin(layer: Block) -> Block:
    twin = block(init_values=1.0)
    twin.load_state_dict(layer.state_dict())
    return twin


@pytest.mark.parametrize("rotated", [False, True])
def test_a_block_on_subsets_is_the_block_with_its_branches_scaled(monkeypatch, rotated):
    """Which samples are kept is fixed here, so that the formula can be written out."""
    layer = block(drop_path=0.5, drop_path_subset=True)
    chosen = torch.tensor([2, 0])
    monkeypatch.setattr(torch, "randperm", lambda n, device=None: torch.tensor([2, 0, 1, 3]))
    rotation = None
    if rotated:  # another rotation for each sample, as after patch drop
        kept = torch.tensor([[0, 1, 2], [3, 4, 5], [5, 1, 0], [2, 2, 4]])
        rotation = RotaryEmbedding("axial", 8)((2, 3), dtype=torch.float64)[0].take(kept)
    x = tokens(4, 3)
    scale = torch.tensor([2.0, 0.0, 2.0, 0.0], dtype=torch.float64)[:, None, None]
    expected = x + scale * layer.attn(layer.norm1(x), rotation)
    expected = expected + scale * layer.mlp(layer.norm2(expected))
    out = layer(x, rotation)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    assert torch.equal(out[[1, 3]], x[[1, 3]]) and not torch.equal(out[chosen], x[chosen])


def test_subsets_run_under_autocast():
    layer = block(drop_path=0.5, drop_path_subset=True).float()
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(torch.randn(4, 5, 24))
    assert out.dtype == torch.float32
    out.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


def test_weights_are_those_that_the_forward_pass_uses():
    layer, x = block().eval(), tokens(2, 5)
    y = layer.norm1(x)
    v = layer.attn.project(y)[2]
    after = x + layer.attn.output(layer.weights(x) @ v)
    torch.testing.assert_close(layer(x), after + layer.mlp(layer.norm2(after)))
