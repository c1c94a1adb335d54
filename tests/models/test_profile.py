"""Costs against closed forms and torchvision's published counts; the walk against the model."""

import io
from itertools import pairwise

import pytest
import torch
import torchvision
from rich.console import Console
from torch import nn

from vitfw.cli.explain import render
from vitfw.models.profile import (
    Recorder,
    count_flops,
    count_parameters,
    on_meta,
    recorded_forward,
    walk,
)
from vitfw.models.vit import VisionTransformer

IMAGENET = (3, 224, 224)
SMALL = {"img_size": (16, 24), "patch_size": 4, "num_classes": 5, "embed_dim": 24, "num_heads": 3}
OPTIONS = [
    {"depth": 3},
    {"depth": 1, "num_classes": 0},
    {"depth": 2, "qkv_bias": False, "qk_scale": 0.3},
    {"embed_layer": "conv_stem", "class_token": False, "global_pool": "seq"},
    {"reg_tokens": 4, "pos_embed": "sincos2d", "mlp_layer": "swiglu"},
    {"reg_tokens": 2, "pos_embed": "none", "global_pool": "avg", "class_token": False},
    {"qk_norm": True, "init_values": 0.1, "global_pool": "avg", "norm_layer": "rmsnorm"},
    {"global_pool": "seq", "act_layer": "relu", "patch_size": (4, 8), "in_chans": 1},
    {"drop_rate": 0.5, "attn_drop_rate": 0.5, "patch_drop_rate": 0.5, "drop_path_rate": 0.5},
]


def small(**options) -> VisionTransformer:
    return VisionTransformer(**SMALL | {"depth": 4} | options)


def on_meta_vit(**options) -> VisionTransformer:
    with torch.device("meta"):
        return VisionTransformer(**options)


def vit_b16_by_hand(tokens: int = 197, dim: int = 768, depth: int = 12, classes: int = 1000) -> int:
    """Multiply-adds of Dosovitskiy et al. 2021, eq. 1 to 4, times 2."""
    patches = (tokens - 1) * (3 * 16 * 16) * dim
    projections = tokens * dim * (3 * dim + dim)
    attention = 2 * tokens * tokens * dim
    mlp = 2 * tokens * dim * 4 * dim
    return 2 * (patches + depth * (projections + attention + mlp) + dim * classes)


# ── FLOPs and parameters ──────────────────────────────────────────────────────────────────────


def test_flops_of_vit_b16_equal_the_closed_form_and_the_published_count():
    flops = count_flops(on_meta_vit(), IMAGENET)
    assert flops == vit_b16_by_hand()
    assert flops / 2e9 == pytest.approx(17.58, rel=0.002)  # 17.6 GMACs in DeiT and torchvision


@pytest.mark.parametrize("name", ["resnet50", "vit_b_32", "vit_l_16"])
def test_flops_of_torchvisions_networks_equal_those_it_publishes(name):
    with torch.device("meta"):
        net = torchvision.models.get_model(name)
    published = torchvision.models.get_model_weights(name).DEFAULT.meta["_ops"]  # GMACs
    if name == "vit_l_16":
        published = 61.555  # the default weights are for 512 px; these are for 224
    assert count_flops(net, IMAGENET) / 2e9 == pytest.approx(published, rel=1e-3)
    with torch.no_grad():  # where PyTorch has fused kernels of its own for inference
        assert count_flops(net, IMAGENET) / 2e9 == pytest.approx(published, rel=1e-3)


def test_flops_of_one_linear_layer_are_two_a_weight():
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 10))
    assert count_flops(net, (3, 4, 4)) == 2 * 48 * 10


def test_a_shared_parameter_counts_once_and_a_frozen_one_counts():
    layer = nn.Linear(4, 4).requires_grad_(False)
    assert count_parameters(nn.Sequential(layer, nn.ReLU(), layer)) == 20
    assert count_flops(nn.Sequential(nn.Flatten(), layer, layer), (1, 2, 2)) == 2 * 32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_precision_does_not_change_the_flops(dtype):
    assert count_flops(small().to(dtype), (3, 16, 24)) == count_flops(small(), (3, 16, 24))


def test_counting_leaves_the_net_as_it_was():
    net = small(embed_layer="conv_stem", patch_drop_rate=0.5, pos_embed="sincos2d").train()
    before = {name: (id(t), t.clone()) for name, t in net.state_dict(keep_vars=True).items()}
    frozen = [name for name, p in net.named_parameters() if not p.requires_grad]
    count_flops(net, (3, 16, 24))
    walk(net)
    for name, tensor in net.state_dict(keep_vars=True).items():
        assert id(tensor) == before[name][0] and torch.equal(tensor, before[name][1])
    assert all(module.training for module in net.modules())
    assert frozen == [name for name, p in net.named_parameters() if not p.requires_grad]
    assert all(p.grad is None for p in net.parameters())


def test_the_copy_that_is_run_holds_no_memory():
    copy = on_meta(small(embed_layer="conv_stem"))
    assert all(tensor.is_meta for tensor in copy.state_dict().values())


# ── the walk ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_stages_add_up_to_the_whole_net_and_follow_each_other(options):
    net = small(**options)
    stages = walk(net)
    images = (net.patch_embed.in_chans, *net.patch_embed.img_size)
    assert sum(stage.parameters for stage in stages) == count_parameters(net)
    assert sum(stage.flops for stage in stages) == count_flops(net, images)
    assert stages[0].shape_in == (None, *images)
    assert stages[-1].shape_out == (None, net.num_classes or net.embed_dim)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_steps_of_the_walk_compute_what_the_net_computes(options):
    torch.manual_seed(0)
    net = small(**options).double().eval()
    for parameter in net.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    images = (3, net.patch_embed.in_chans, *net.patch_embed.img_size)
    x = torch.randn(images, dtype=torch.float64)
    torch.testing.assert_close(recorded_forward(net, x, Recorder()), net(x))


def test_the_walk_through_vit_b16_shows_every_shape():
    stages = walk(on_meta_vit())
    assert [stage.shape_out[1:] for stage in stages] == [
        (3, 224, 224),
        (768, 14, 14),  # conv
        (768, 196),  # flatten
        (196, 768),  # transpose
        (197, 768),  # class token
        (197, 768),  # positions
        (197, 768),  # norm1
        (197, 2304),  # qkv
        (197, 3, 12, 64),  # split
        (12, 197, 64),  # q, k, v
        (12, 197, 197),  # scores
        (12, 197, 197),  # softmax
        (12, 197, 64),  # times v
        (197, 768),  # merge
        (197, 768),  # proj
        (197, 768),  # residual
        (197, 768),  # norm2
        (197, 3072),  # fc1
        (197, 3072),  # act
        (197, 768),  # fc2
        (197, 768),  # residual
        (197, 768),  # blocks.1 … blocks.11
        (197, 768),  # norm
        (768,),  # pool
        (1000,),  # head
    ]
    assert [stage.tensors_out for stage in stages if stage.tensors_out > 1] == [3]
    assert stages[-4].name == "blocks.1 … blocks.11"
    for before, after in pairwise(stages):
        assert after.shape_in == before.shape_out


def test_a_batch_size_stands_in_the_shapes_and_leaves_flops_per_image():
    net = small()
    open_batch, batch_of_8 = walk(net), walk(net, batch_size=8)
    assert {stage.shape_out[0] for stage in batch_of_8} == {8}
    assert {stage.shape_out[0] for stage in open_batch} == {None}
    assert [stage.flops for stage in batch_of_8] == [stage.flops for stage in open_batch]


@pytest.mark.parametrize("options", [{}, {"embed_layer": "conv_stem", "mlp_layer": "swiglu"}])
def test_the_table_fits_80_columns_and_ends_in_the_totals(options):
    net = on_meta_vit(**options)
    page = io.StringIO()
    Console(file=page, width=80).print(render(walk(net)))
    lines = page.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert any("3 × [B,12,197,64]" in line for line in lines)
    total = next(line for line in lines if line.strip().startswith("total"))
    assert f"{count_parameters(net):,}" in total
    assert "…" not in page.getvalue().replace("blocks.1 …", "")  # nothing is cut off
