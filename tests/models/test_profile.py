"""Costs against closed forms and torchvision's published counts; the walk against the model."""

import io
from itertools import pairwise

import pytest
import torch
import torchvision
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from rich.console import Console
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from vitfw.cli.explain import render
from vitfw.models.profile import (
    Recorder,
    count_flops,
    count_parameters,
    on_meta,
    walk_modules,
)
from vitfw.models.vit import VisionTransformer
from vitfw.models.walk import recorded_forward, walk

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
    {"embed_layer": "conv_rearrange", "embed_norm": True, "patch_stride": (2, 4)},
    {"embed_layer": "linear", "patch_size": (4, 8), "pre_norm": True, "final_norm": False},
    {"embed_layer": "linear", "patch_stride": 2, "rope": "axial", "act_layer": "quick_gelu"},
    {"embed_layer": "pool_stem", "global_pool": "map", "act_layer": "gelu_tanh"},
    {"dist_token": True, "reg_tokens": 2, "fc_norm": True},
    {"dist_token": True, "num_classes": 0, "no_embed_class": True},
    {"rope": "mixed", "reg_tokens": 1, "no_embed_class": True, "depth": 2},
    {"rope": "mixed", "depth": 1},
    {"rope": "dinov3", "pos_embed": "none", "fused_qkv": False, "k_bias": False},
    {"k_bias": False, "scale_attn_norm": True, "scale_mlp_norm": True, "mlp_layer": "swiglu"},
    {"fused_qkv": False, "qk_norm": True, "mlp_layer": "swiglu_packed", "scale_mlp_norm": True},
    {"mlp_layer": "swiglu", "swiglu_align_to": 64, "mlp_ratio": 2.7, "proj_bias": False},
    {"block_layer": "parallel", "rope": "mixed", "qk_norm": True, "init_values": 0.1},
    {"block_layer": "parallel", "qkv_bias": False, "act_layer": "relu"},
    {"block_layer": "pair", "rope": "mixed", "k_bias": False, "init_values": 0.1},
    {"block_layer": "pair", "rope": "axial", "fused_qkv": False, "mlp_layer": "swiglu"},
    {"global_pool": "token_avg", "fc_norm": True, "reg_tokens": 1},
    {"global_pool": "map", "class_token": False, "num_classes": 0},
    {"tome_r": 2},
    {"tome_r": 9, "dist_token": True, "fused_qkv": False},
    {"tome_r": 20, "global_pool": "avg", "init_values": 0.1, "qk_norm": True, "depth": 6},
    {"tome_r": 3, "global_pool": "map", "depth": 1},
    {"dynamic_img_size": True, "rope": "axial", "rope_ref_grid": 3},
    {"flexi_patch_sizes": (2, 4, 8), "drop_path_subset": True, "drop_path_rate": 0.1},
]


@st.composite
def option_sets(draw) -> dict:
    """Options that fit each other, drawn at random."""

    def one_of(*values):
        return draw(st.sampled_from(values))

    switches = ("qkv_bias", "qk_norm", "proj_bias", "embed_norm", "pre_norm", "final_norm")
    options: dict = {name: draw(st.booleans()) for name in (*switches, "no_embed_class")}
    options["block_layer"] = one_of("serial", "serial", "parallel", "pair")
    if options["block_layer"] != "parallel":
        for name in ("k_bias", "fused_qkv", "scale_attn_norm", "scale_mlp_norm"):
            options[name] = draw(st.booleans())
        options["mlp_layer"] = one_of("mlp", "swiglu", "swiglu_packed")
    options["act_layer"] = "gelu"
    if options.get("mlp_layer", "mlp") == "mlp":
        options["act_layer"] = one_of("gelu", "gelu_tanh", "quick_gelu", "relu", "silu")
    if options.get("mlp_layer") == "swiglu":
        options["swiglu_align_to"] = one_of(0, 16)
    options["rope"] = one_of("none", "none", "axial", "dinov3", "mixed")
    if options["block_layer"] == "serial" and options["rope"] == "none":
        options["tome_r"] = one_of(0, 1, 3, 50)
    options["embed_layer"] = one_of("conv", "conv_rearrange", "linear", "conv_stem", "pool_stem")
    if not options["embed_layer"].endswith("stem"):
        options["patch_stride"] = one_of(None, 2)
    options["class_token"] = draw(st.booleans())
    pools = ("token", "token_avg") if options["class_token"] else ()
    options["global_pool"] = one_of("avg", "map", "seq", *pools)
    if options["global_pool"] == "token":
        options["dist_token"] = draw(st.booleans())
    options["pos_embed"] = one_of("learn", "sincos2d", "none")
    options["norm_layer"] = one_of("layernorm", "rmsnorm")
    options["fc_norm"] = one_of(None, True, False) if options["final_norm"] else None
    options["init_values"] = one_of(None, 0.1)
    sizes = {"reg_tokens": (0, 1, 3), "num_classes": (0, 5), "depth": (1, 2, 3), "in_chans": (1, 3)}
    return options | {name: one_of(*values) for name, values in sizes.items()}


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


def flops_of_a_real_pass(net: nn.Module, x: torch.Tensor) -> int:
    """PyTorch's count, with its attention formula for the CPU's kernel, which it leaves out."""

    def attention(query, key, value, *args, out_val=None, **kwargs):
        return sdpa_flop_count(query, key, value)

    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    with (
        torch.enable_grad(),
        FlopCounterMode(display=False, custom_mapping={kernel: attention}) as counter,
    ):
        net(x)
    return counter.get_total_flops()


def check_walk(net: VisionTransformer, size: tuple[int, int] | None = None) -> None:
    """What the stages say adds up, is what PyTorch counts, and computes what the net computes."""
    for parameter in net.double().eval().parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    x = torch.randn(2, net.patch_embed.in_chans, *(size or net.patch_embed.img_size)).double()
    stages = walk(net, img_size=size)
    flops = sum(stage.flops for stage in stages)
    with torch.no_grad():
        assert sum(stage.parameters for stage in stages) == count_parameters(net)
        assert flops == count_flops(net, tuple(x.shape[1:]))
        assert flops == flops_of_a_real_pass(net, x[:1])
        recorder = Recorder()
        torch.testing.assert_close(recorded_forward(net, x, recorder), net(x))
    run = [(s.name, s.operation, s.shape_out, s.parameters) for s in recorder.stages]
    assert run == [(s.name, s.operation, s.shape_out, s.parameters) for s in stages]
    assert stages[0].shape_in == (None, *x.shape[1:])
    assert stages[-1].shape_out == (None, *net(x).shape[1:])


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_stages_add_up_to_the_whole_net_and_compute_what_it_computes(options):
    check_walk(small(**options))


@settings(max_examples=25, deadline=None, phases=[Phase.generate], derandomize=True, database=None)
@given(options=option_sets())
def test_any_set_of_options_that_fit_is_walked_through_rightly(options):
    check_walk(VisionTransformer(**SMALL | options))


@pytest.mark.parametrize("options", [{}, {"rope": "mixed", "no_embed_class": True}, {"tome_r": 2}])
def test_images_of_another_size_are_walked_through_where_they_are_allowed(options):
    check_walk(small(dynamic_img_size=True, **options), size=(24, 20))


def test_every_parameter_stands_at_the_step_that_is_named_after_it():
    net = small(rope="mixed", k_bias=False, dist_token=True, reg_tokens=2, qk_norm=True)
    stages = walk(net)
    for name, parameter in net.named_parameters():
        if name.startswith("blocks.0.") and name.endswith("weight"):
            (stage,) = [s for s in stages if s.name == name.removesuffix(".weight")]
            assert stage.parameters >= parameter.numel()
    prefix = [s.name for s in stages if "prepend" in s.operation]
    assert prefix == ["reg_token", "dist_token", "cls_token"]  # the last one ends in front
    (turn,) = [s for s in stages if s.operation == "turn q and k by their place"]
    assert net.rope is not None and net.rope.freqs is not None
    assert turn.parameters * net.rope.depth == net.rope.freqs.numel()


def test_merging_shows_ever_fewer_tokens_and_costs_less():
    net, plain = small(tome_r=3, img_size=16), small(img_size=16)
    stages = walk(net)
    lengths = {stage.name: stage.shape_out[1] for stage in stages}
    assert [lengths[f"blocks.{i}"] for i in range(4)] == [14, 11, 8, 5]
    assert lengths["unmerge"] == lengths["norm"] == 17
    assert sum(s.flops for s in stages) < sum(s.flops for s in walk(plain))


def test_a_net_of_twins_counts_a_learned_rotation_once():
    pair = small(block_layer="pair", rope="mixed", depth=1)
    turns = [s.parameters for s in walk(pair) if s.operation.startswith("turn")]
    assert turns == [24, 0]  # 2 axes, 3 heads, head_dim / 2 pairs


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


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"embed_layer": "conv_stem", "mlp_layer": "swiglu"},
        {"block_layer": "parallel", "rope": "mixed", "qkv_bias": False, "global_pool": "map"},
        {"block_layer": "pair", "fused_qkv": False, "qk_norm": True, "scale_attn_norm": True},
        {"tome_r": 8, "dist_token": True, "embed_layer": "linear"},
    ],
    ids=str,
)
def test_the_table_fits_80_columns_and_ends_in_the_totals(options):
    net = on_meta_vit(**options)
    page = io.StringIO()
    Console(file=page, width=80).print(render(walk(net)))
    lines = page.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    heads = f"3 × [B,12,{198 if net.dist_token is not None else 197},64]"
    assert any(heads in line for line in lines)
    total = next(line for line in lines if line.strip().startswith("total"))
    assert f"{count_parameters(net):,}" in total
    assert "…" not in page.getvalue().replace("blocks.1 …", "")  # nothing is cut off


# ── other networks ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["resnet18", "vit_b_32", "swin_t", "densenet121", "googlenet"])
def test_modules_of_any_net_add_up_to_all_of_it(name):
    with torch.device("meta"):
        net = (
            torchvision.models.get_model(name, init_weights=False)
            if name == "googlenet"
            else (torchvision.models.get_model(name))
        )
    stages = walk_modules(net, IMAGENET)
    assert sum(stage.parameters for stage in stages) == count_parameters(net)
    assert sum(stage.flops for stage in stages) == count_flops(net, IMAGENET)
    assert stages[0].shape_out == (None, *IMAGENET)
    assert stages[-1].shape_out == (None, 1000)


def test_modules_appear_in_the_order_in_which_they_run():
    with torch.device("meta"):
        stages = walk_modules(torchvision.models.resnet50(), IMAGENET, batch_size=8)
    shapes = {stage.name: stage.shape_out for stage in stages}
    assert list(shapes) == [
        *("input", "conv1", "bn1", "relu", "maxpool"),
        *("layer1", "layer2", "layer3", "layer4", "avgpool", "fc"),
    ]
    assert shapes["layer2"] == (8, 512, 28, 28)
    assert shapes["fc"] == (8, 1000)


class Looped(nn.Module):
    """A list whose blocks are called one by one, one of them twice, with weights that are shared,
    a parameter of its own, and a branch that never runs."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
        self.scale = nn.Parameter(torch.ones(6))
        self.never = nn.Linear(3, 3)
        self.head = nn.Linear(6, 6)
        self.head.weight = self.blocks[0].weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1)
        for i in (1, 0, 1):
            x = self.blocks[i](x)
        return self.head(x * self.scale) @ self.head.weight


def test_a_list_of_modules_is_opened_and_what_lies_outside_is_named():
    net = Looped()
    stages = walk_modules(net, (1, 2, 3), batch_size=4)
    assert [(s.name, s.parameters, s.flops) for s in stages] == [
        ("input", 0, 0),
        ("blocks.1", 42, 2 * 72),
        ("blocks.0", 42, 72),
        ("head", 6, 72),
        ("others", 6 + 12, 72),
    ]
    assert stages[-1].operation == "scale, never.weight, never.bias"
    assert sum(s.parameters for s in stages) == count_parameters(net)
    assert sum(s.flops for s in stages) == count_flops(net, (1, 2, 3))
