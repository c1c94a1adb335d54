"""Pictures of a net's first layers, against torch's cosine similarity and weights set by hand."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from vitfw.model_pictures import (
    kernels_picture,
    patch_kernels,
    position_similarity,
    position_table,
    similarity_picture,
)
from vitfw.models.vit import VisionTransformer

SMALL = {"num_classes": 2, "embed_dim": 8, "depth": 1, "num_heads": 2}


def test_similarity_is_torchs_cosine_similarity():
    table = torch.randn(3, 5, 8)
    found = position_similarity(table)
    assert found.shape == (3, 5, 3, 5)
    flat = table.flatten(0, 1)
    expected = F.cosine_similarity(flat[:, None], flat[None], dim=2)
    torch.testing.assert_close(found.flatten(2).flatten(0, 1), expected)


def test_of_a_large_grid_positions_from_edge_to_edge_are_shown():
    table = torch.randn(28, 20, 8)
    found = position_similarity(table)
    assert found.shape == (14, 14, 28, 20)
    itself = found.flatten(2).argmax(dim=2)  # where a position is most similar
    assert itself[0, 0] == 0 and itself[-1, -1] == 28 * 20 - 1
    assert similarity_picture(table).width < 800


@pytest.mark.parametrize("options", [{"reg_tokens": 2}, {"no_embed_class": True}])
def test_the_table_is_of_patches_alone(options):
    net = VisionTransformer((8, 12), 4, **SMALL, **options)
    table = position_table(net)
    assert table is not None and table.shape == (2, 3, 8)
    assert net.pos_embed is not None
    assert torch.equal(table.flatten(0, 1), net.pos_embed[0, -6:])


def test_timms_nets_are_looked_at_too():
    vit = timm.create_model("vit_tiny_patch16_224", depth=1, img_size=32)
    table, kernels = position_table(vit), patch_kernels(vit)
    assert table is not None and torch.equal(table.flatten(0, 1), vit.pos_embed[0, 1:])
    assert kernels is not None and torch.equal(kernels, vit.patch_embed.proj.weight)
    cnn = timm.create_model("resnet10t")
    assert position_table(cnn) is None
    assert torch.equal(patch_kernels(cnn), cnn.conv1[0].weight)


def test_a_linear_projection_has_the_kernels_of_the_convolution_it_is():
    net = VisionTransformer(12, 4, embed_layer="linear", **SMALL)
    kernels = patch_kernels(net)
    assert kernels is not None
    image = torch.randn(1, 3, 12, 12)
    as_convolution = F.conv2d(image, kernels, net.patch_embed.proj.bias, stride=4)
    torch.testing.assert_close(as_convolution.flatten(2).transpose(1, 2), net.patch_embed(image))


def test_a_stem_shows_its_first_convolution():
    net = VisionTransformer(8, 4, embed_layer="conv_stem", **SMALL)
    assert torch.equal(patch_kernels(net), net.patch_embed.stem[0].weight)


def test_nets_without_such_layers_have_no_pictures():
    assert patch_kernels(nn.Sequential(nn.Flatten(), nn.Linear(4, 2))) is None
    assert patch_kernels(nn.Conv2d(16, 4, 3)) is None  # sees no picture
    assert patch_kernels(VisionTransformer(8, 2, **SMALL)) is None  # 2 × 2 pixels
    assert position_table(VisionTransformer(8, 2, pos_embed="none", rope="axial", **SMALL)) is None


def test_a_kernel_is_drawn_grey_at_zero_and_full_at_its_largest_weight():
    kernels = torch.zeros(1, 3, 4, 4)
    kernels[0, 0, 0, 0], kernels[0, 2, 3, 3] = 0.02, -0.02
    picture = kernels_picture(kernels)
    colours = {colour for _, colour in picture.getcolors(picture.width * picture.height)}
    assert {(128, 128, 128), (255, 128, 128), (128, 128, 0)} <= colours
