"""Tokenizers against unfold and matmul, against einops, and the words they refuse with."""

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn
from torchvision.models.vision_transformer import ConvStemConfig
from torchvision.models.vision_transformer import VisionTransformer as TorchvisionVit

from vitfw.models.conv_stem import ConvStem, PoolStem
from vitfw.models.patch_embed import (
    ConvRearrangeEmbed,
    LinearPatchEmbed,
    PatchEmbed,
    kernel_to_linear,
    linear_to_kernel,
)

SIZES = [
    pytest.param(32, 8, id="square"),
    pytest.param((24, 40), 8, id="wide image"),
    pytest.param((24, 40), (4, 10), id="wide patch"),
    pytest.param(8, 8, id="one patch"),
]


OVERLAPS = [
    pytest.param(32, 8, 4, id="half"),
    pytest.param((25, 40), (7, 10), (3, 5), id="wide patch, odd stride"),
    pytest.param((24, 40), 8, (8, 1), id="one axis"),
]
CASES = [pytest.param(*p.values, None, id=p.id) for p in SIZES] + OVERLAPS


@pytest.mark.parametrize("img_size, patch_size, stride", CASES)
def test_three_ways_to_patch_equal_unfold_and_matmul(img_size, patch_size, stride):
    """Overlapping or not: the formula is im2col, then one matrix."""
    options = {"in_chans": 2, "embed_dim": 12, "patch_stride": stride}
    embed = PatchEmbed(img_size, patch_size, **options).double()
    moved = ConvRearrangeEmbed(img_size, patch_size, **options).double()
    linear = LinearPatchEmbed(img_size, patch_size, **options).double()
    state = embed.state_dict()
    moved.load_state_dict(state, strict=True)
    state["proj.weight"] = kernel_to_linear(state["proj.weight"])
    linear.load_state_dict(state, strict=True)

    x = torch.randn(3, 2, *embed.img_size, dtype=torch.float64)
    patches = F.unfold(x, embed.patch_size, stride=embed.stride).mT  # [B, N, C · P · P]
    expected = patches @ embed.proj.weight.flatten(1).T + embed.proj.bias
    direction = torch.randn_like(expected)
    (expected * direction).sum().backward()
    gradient, embed.proj.weight.grad = embed.proj.weight.grad, None
    assert expected.shape[1] == embed.num_patches == embed.grid_size[0] * embed.grid_size[1]
    for layer in (embed, moved, linear):
        torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-13)
        (layer(x) * direction).sum().backward()
        theirs = layer.proj.weight.grad
        theirs = theirs if theirs.ndim == 4 else linear_to_kernel(theirs, embed.patch_size)
        torch.testing.assert_close(theirs, gradient, rtol=0, atol=1e-11)


def test_overlapping_patches_are_the_strided_slices_of_the_image():
    embed = PatchEmbed((10, 13), (4, 5), in_chans=2, embed_dim=6, patch_stride=(3, 2)).double()
    x = torch.randn(1, 2, 10, 13, dtype=torch.float64)
    tokens = [
        (embed.proj.weight * x[:, :, top : top + 4, left : left + 5]).sum((1, 2, 3))
        + embed.proj.bias
        for top in (0, 3, 6)
        for left in (0, 2, 4, 6, 8)
    ]
    assert embed.grid_size == (3, 5)
    torch.testing.assert_close(embed(x)[0], torch.stack(tokens))


@pytest.mark.parametrize("img_size, patch_size", SIZES)
def test_linear_cuts_as_einops_writes_it(img_size, patch_size):
    embed = LinearPatchEmbed(img_size, patch_size, in_chans=3, embed_dim=4)
    x = torch.randn(2, 3, *embed.img_size)
    down, across = embed.patch_size
    expected = rearrange(
        x, "b c (h s1) (w s2) -> b (h w) (s1 s2 c)", s1=down, s2=across
    )  # [B, C, H, W] → [B, N, P · P · C]
    assert torch.equal(embed.cut(x), expected)


@pytest.mark.parametrize("patch_size", [4, (2, 6), 1])
def test_kernel_and_linear_weight_convert_back_bit_for_bit(patch_size):
    kernel = nn.Conv2d(3, 10, patch_size).weight.detach()
    weight = LinearPatchEmbed(12, patch_size, 3, 10).proj.weight.detach()
    assert torch.equal(kernel_to_linear(kernel), rearrange(kernel, "d c s1 s2 -> d (s1 s2 c)"))
    assert torch.equal(linear_to_kernel(kernel_to_linear(kernel), patch_size), kernel)
    assert torch.equal(kernel_to_linear(linear_to_kernel(weight, patch_size)), weight)


@pytest.mark.parametrize("embed_class", [PatchEmbed, ConvRearrangeEmbed, LinearPatchEmbed])
def test_embed_norm_and_bias_are_those_asked_for(embed_class):
    embed = embed_class(8, 4, embed_dim=12, norm_layer=nn.LayerNorm, bias=False)
    assert embed.proj.bias is None
    tokens = embed(torch.randn(2, 3, 8, 8))
    torch.testing.assert_close(tokens.mean(-1), torch.zeros(2, 4), atol=1e-5, rtol=0)


@pytest.mark.parametrize("embed_class", [PatchEmbed, ConvRearrangeEmbed])
def test_conv_rearrange_tokens_are_contiguous(embed_class):
    tokens = embed_class(8, 4, embed_dim=12)(torch.randn(2, 3, 8, 8))
    assert tokens.is_contiguous() == (embed_class is ConvRearrangeEmbed)


@pytest.mark.parametrize(
    "embed_class", [PatchEmbed, ConvRearrangeEmbed, LinearPatchEmbed, ConvStem, PoolStem]
)
def test_dynamic_img_size_takes_what_patches_fill(embed_class):
    embed = embed_class(16, 4, embed_dim=16, dynamic_img_size=True)
    x = torch.randn(2, 3, 8, 24)
    assert embed.grid(x) == (2, 6)
    assert embed(x).shape == (2, 12, 16)
    with pytest.raises(ValueError, match=r"img_size 10 .*patch_size 4.* 8, 12"):
        embed(torch.randn(2, 3, 10, 24))


def test_tokens_come_row_by_row():
    embed = PatchEmbed((4, 6), 2, in_chans=1, embed_dim=1, bias=False)
    embed.proj.weight.data.fill_(0.25)  # a token is the mean of its patch
    x = torch.arange(6.0).reshape(1, 1, 2, 3).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert embed(x).flatten().tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("stem_class", [ConvStem, PoolStem])
@pytest.mark.parametrize("patch_size", [2, 4, 8, 16])
def test_stems_have_the_grid_of_patch_embed(stem_class, patch_size):
    stem = stem_class((32, 48), patch_size, in_chans=3, embed_dim=32)
    plain = PatchEmbed((32, 48), patch_size, in_chans=3, embed_dim=32)
    x = torch.randn(2, 3, 32, 48)
    assert stem.grid_size == plain.grid_size
    assert stem(x).shape == plain(x).shape == (2, plain.num_patches, 32)


@pytest.mark.parametrize("halvings", [1, 2, 3])
def test_pool_stem_equals_the_tokenizer_of_the_cct_paper(halvings):
    """MaxPool(ReLU(Conv2d(x))) once or more (Hassani et al. 2021, eq. 1), 64 channels between."""
    widths = [3] + [64] * (halvings - 1) + [20]
    layers = []
    for i in range(halvings):
        layers.append(nn.Conv2d(widths[i], widths[i + 1], (3, 3), (1, 1), (1, 1), bias=False))
        layers.append(nn.ReLU())
        layers.append(nn.MaxPool2d(kernel_size=3, stride=2, padding=1))
    theirs = nn.Sequential(*layers, nn.Flatten(2, 3)).double()
    ours = PoolStem((16, 24), 2**halvings, embed_dim=20).double()
    ours.load_state_dict({f"stem.{k}": v for k, v in theirs.state_dict().items()}, strict=True)
    x = torch.randn(2, 3, 16, 24, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x).transpose(-2, -1))


def test_conv_stem_equals_the_stem_of_xiao_et_al():
    """Patch 16 in the paper: 3×3 convolutions of stride 2 with batch norm, then one 1×1."""
    layers, channels = [], 3
    for width in (8, 12, 24, 48):  # doubling to half of 96, but never fewer than 8
        conv = nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    theirs = nn.Sequential(*layers, nn.Conv2d(48, 96, 1)).double()
    ours = ConvStem(32, 16, embed_dim=96).double()
    names = [f"stem.{i}" for i in range(12)] + ["proj"]
    state = {}
    for name, layer in zip(names, theirs, strict=True):
        state |= {f"{name}.{key}": tensor for key, tensor in layer.state_dict().items()}
    ours.load_state_dict(state, strict=True)
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x).flatten(2).mT)


def test_stem_layers_are_torchvisions_conv_stem():
    """Channels and strides of each convolution, as its `conv_stem_configs` take them."""
    layers = [(8, 1), (12, 2), (16, 2)]
    theirs = TorchvisionVit(
        *(16, 4, 1, 2, 20, 24),
        conv_stem_configs=[ConvStemConfig(channels, 3, stride) for channels, stride in layers],
    ).conv_proj.double()
    ours = ConvStem(16, 4, embed_dim=20, stem_layers=layers).double()
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x).flatten(2).mT)


@pytest.mark.parametrize(
    "layers, complaint",
    [
        (
            [[8, 2]],
            r"strides \[2\], which make patches of 2; of 1 and 2, they must make patch_size 4",
        ),
        ([[8, 4]], "of 1 and 2"),
        ([[8, 2], [16]], "pairs of channels and stride"),
    ],
)
def test_stem_layers_that_do_not_make_the_patch_are_refused(layers, complaint):
    with pytest.raises(ValueError, match=complaint):
        ConvStem(16, 4, embed_dim=20, stem_layers=layers)


@pytest.mark.parametrize("stem_class, seeing", [(ConvStem, [3]), (PoolStem, [2, 3, 6, 7])])
def test_stem_tokens_come_row_by_row(stem_class, seeing):
    """A pixel at the middle of one token's receptive field, and who else it is in reach of."""
    torch.manual_seed(0)
    stem = stem_class(32, 8, in_chans=1, embed_dim=16).eval()
    dark, bright = torch.zeros(1, 1, 32, 32), torch.zeros(1, 1, 32, 32)
    bright[:, :, 0, 24] = 1.0  # first row of the 4 × 4 grid, last column
    changed = (stem(bright) - stem(dark)).norm(dim=2)
    assert changed[0].nonzero()[:, 0].tolist() == seeing


@pytest.mark.parametrize(
    "embed_class", [PatchEmbed, ConvRearrangeEmbed, LinearPatchEmbed, ConvStem, PoolStem]
)
def test_an_image_of_another_size_is_refused_with_both_sizes(embed_class):
    embed = embed_class((32, 64), 8)
    with pytest.raises(
        ValueError, match=r"image is 48×40, .* built for 32×64.*img_size.*dynamic_img_size=true"
    ):
        embed(torch.randn(1, 3, 48, 40))


@pytest.mark.parametrize("shape", [(1, 1, 32, 32), (3, 32, 32)])
def test_other_channels_or_a_missing_batch_are_refused_with_the_shape(shape):
    with pytest.raises(ValueError, match=r"expected images \[B, 3, H, W\].*32, 32\]"):
        PatchEmbed(32, 8)(torch.randn(shape))


def test_a_patch_that_does_not_divide_names_the_nearest_sizes():
    with pytest.raises(ValueError, match=r"img_size 30 .*patch_size 4.* 28, 32.* 2, 3, 5, 6, 10"):
        PatchEmbed(30, 4)
    with pytest.raises(ValueError, match=r"nearest img_size: 16;"):
        PatchEmbed(10, 16)
    with pytest.raises(ValueError, match="img_size 0 .*at least 1"):
        PatchEmbed(0, 16)


@pytest.mark.parametrize(
    "img_size, patch_size, stride, nearest",
    [(33, 8, 4, "32, 36"), (15, 6, 4, "14, 18"), (5, 8, 4, "8"), ((32, 30), 8, 4, "28, 32")],
)
def test_strides_that_do_not_fill_name_sizes_that_do(img_size, patch_size, stride, nearest):
    with pytest.raises(ValueError, match=f"patch_stride {stride} .*nearest img_size: {nearest}$"):
        PatchEmbed(img_size, patch_size, patch_stride=stride)
    for size in nearest.split(", "):
        PatchEmbed(int(size), patch_size, patch_stride=stride)


@pytest.mark.parametrize("stride", [9, 0, -1, (4, 9)])
def test_strides_out_of_range_are_refused_by_name(stride):
    with pytest.raises(ValueError, match=r"patch_stride -?\d must lie between 1 and patch_size 8"):
        PatchEmbed(32, 8, patch_stride=stride)


@pytest.mark.parametrize("stem_class", [ConvStem, PoolStem])
@pytest.mark.parametrize("patch_size", [1, 6, (4, 8)])
def test_stems_refuse_what_they_cannot_halve(stem_class, patch_size):
    message = f"embed_layer {stem_class.name}.*patch_size must be a power of two"
    with pytest.raises(ValueError, match=message):
        stem_class(48, patch_size)


@pytest.mark.parametrize("stem_class", [ConvStem, PoolStem])
def test_stems_refuse_a_stride(stem_class):
    with pytest.raises(ValueError, match=f"patch_stride .*{stem_class.name}"):
        stem_class(32, 8, patch_stride=4)
