"""Tokenizers against unfold and matmul, and the words they refuse with."""

import pytest
import torch
import torch.nn.functional as F

from vitfw.models.patch_embed import ConvStem, PatchEmbed

SIZES = [
    pytest.param(32, 8, id="square"),
    pytest.param((24, 40), 8, id="wide image"),
    pytest.param((24, 40), (4, 10), id="wide patch"),
    pytest.param(8, 8, id="one patch"),
]


@pytest.mark.parametrize("img_size, patch_size", SIZES)
def test_patch_embed_equals_unfold_and_matmul(img_size, patch_size):
    embed = PatchEmbed(img_size, patch_size, in_chans=2, embed_dim=12).double()
    x = torch.randn(3, 2, *embed.img_size, dtype=torch.float64)
    patches = F.unfold(x, embed.patch_size, stride=embed.patch_size).mT  # [B, N, C · P · P]
    expected = patches @ embed.proj.weight.flatten(1).T + embed.proj.bias
    torch.testing.assert_close(embed(x), expected)
    assert expected.shape[1] == embed.num_patches == embed.grid_size[0] * embed.grid_size[1]


def test_tokens_come_row_by_row():
    embed = PatchEmbed((4, 6), 2, in_chans=1, embed_dim=1, bias=False)
    embed.proj.weight.data.fill_(0.25)  # a token is the mean of its patch
    x = torch.arange(6.0).reshape(1, 1, 2, 3).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert embed(x).flatten().tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("patch_size", [2, 4, 8, 16])
def test_conv_stem_has_the_grid_of_patch_embed(patch_size):
    stem = ConvStem((32, 48), patch_size, in_chans=3, embed_dim=32)
    plain = PatchEmbed((32, 48), patch_size, in_chans=3, embed_dim=32)
    x = torch.randn(2, 3, 32, 48)
    assert stem.grid_size == plain.grid_size
    assert stem(x).shape == plain(x).shape == (2, plain.num_patches, 32)


def test_conv_stem_tokens_come_row_by_row():
    """A pixel at the middle of one token's receptive field, out of reach of all the others."""
    torch.manual_seed(0)
    stem = ConvStem(32, 8, in_chans=1, embed_dim=16).eval()
    dark, bright = torch.zeros(1, 1, 32, 32), torch.zeros(1, 1, 32, 32)
    bright[:, :, 0, 24] = 1.0  # first row of the 4 × 4 grid, last column
    changed = (stem(bright) - stem(dark)).norm(dim=2)
    assert changed.nonzero().tolist() == [[0, 3]]


@pytest.mark.parametrize("embed_class", [PatchEmbed, ConvStem])
def test_an_image_of_another_size_is_refused_with_both_sizes(embed_class):
    embed = embed_class((32, 64), 8)
    with pytest.raises(ValueError, match=r"image is 48×40, .* built for 32×64.*img_size"):
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


@pytest.mark.parametrize("patch_size", [1, 6, (4, 8)])
def test_conv_stem_refuses_what_it_cannot_halve(patch_size):
    with pytest.raises(ValueError, match="conv_stem.*patch_size must be a power of two"):
        ConvStem(48, patch_size)
