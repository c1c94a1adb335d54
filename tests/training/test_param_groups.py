"""Which parameters are decayed and which are hidden matrices: against timm, and by name."""

import pytest
import timm
import torch
from timm.optim import param_groups_weight_decay
from torch import nn

from vitfw.models.vit import VisionTransformer
from vitfw.training.optimizers import muon
from vitfw.training.param_groups import decay_groups, hidden_matrices

TINY = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}
OPTIONS = [
    {},
    {"class_token": False, "global_pool": "avg"},
    {"reg_tokens": 2, "init_values": 1e-4, "qk_norm": True},
    {"global_pool": "seq", "embed_layer": "conv_stem"},
    {"pos_embed": "sincos2d", "mlp_layer": "swiglu"},
    {"pos_embed": "none", "qkv_bias": False, "norm_layer": "rmsnorm"},
]


def names_in(net: nn.Module, groups: list[dict]) -> dict[float, set[str]]:
    """Names of the parameters by their weight decay."""
    name_of = {id(parameter): name for name, parameter in net.named_parameters()}
    found: dict[float, set[str]] = {}
    for group in groups:
        names = {name_of[id(parameter)] for parameter in group["params"]}
        found.setdefault(group["weight_decay"], set()).update(names)
    return found


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_same_parameters_are_decayed_as_by_timm(options):
    net = VisionTransformer(**TINY | options)
    theirs = param_groups_weight_decay(net, 0.05, no_weight_decay_list=net.no_weight_decay())
    assert names_in(net, decay_groups(net, 0.05)) == names_in(net, theirs)


def test_timms_own_models_are_split_as_timm_splits_them():
    for name in ("vit_tiny_patch16_224", "resnet10t", "levit_128s"):
        net = timm.create_model(name)
        exempt = net.no_weight_decay() if hasattr(net, "no_weight_decay") else ()
        theirs = param_groups_weight_decay(net, 0.05, no_weight_decay_list=exempt)
        assert names_in(net, decay_groups(net, 0.05)) == names_in(net, theirs), name


def test_tokens_positions_norms_and_biases_are_not_decayed():
    net = VisionTransformer(**TINY, reg_tokens=1)
    decayed = names_in(net, decay_groups(net, 0.05))[0.05]
    assert {"patch_embed.proj.weight", "blocks.1.attn.qkv.weight", "head.weight"} <= decayed
    exempt = {"cls_token", "reg_token", "pos_embed", "norm.weight", "head.bias"}
    assert not decayed & exempt


@pytest.mark.parametrize("make", [decay_groups, lambda net, wd: muon(net, 1e-3, wd).param_groups])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_trainable_parameter_is_in_exactly_one_group(make, options):
    net = VisionTransformer(**TINY | options)
    grouped = [id(parameter) for group in make(net, 0.05) for parameter in group["params"]]
    trainable = [id(parameter) for parameter in net.parameters() if parameter.requires_grad]
    assert sorted(grouped) == sorted(trainable)


@pytest.mark.parametrize("make", [decay_groups, lambda net, wd: muon(net, 1e-3, wd).param_groups])
def test_frozen_parameters_are_in_no_group(make):
    net = VisionTransformer(**TINY)
    net.blocks.requires_grad_(False)
    net.pos_embed.requires_grad = False
    groups = make(net, 0.05)
    names = set().union(*names_in(net, groups).values())
    assert names == {
        "cls_token",
        "patch_embed.proj.weight",
        "patch_embed.proj.bias",
        "norm.weight",
        "norm.bias",
        "head.weight",
        "head.bias",
    }
    assert all(group["params"] for group in groups)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_hidden_matrices_are_the_linear_weights_of_the_blocks_and_no_others(options):
    net = VisionTransformer(**TINY | options)
    linear = {
        f"blocks.{name}.weight"
        for name, module in net.blocks.named_modules()
        if isinstance(module, nn.Linear)
    }
    assert len(linear) >= 4 * TINY["depth"]
    assert hidden_matrices(net) == linear


@pytest.mark.parametrize(
    "name, classifier",
    [("resnet10t", "fc"), ("mobilenetv3_small_050", "classifier"), ("vgg11", "head.fc")],
)
def test_a_classifier_is_no_hidden_matrix(name, classifier):
    with torch.device("meta"):
        net = timm.create_model(name)
    assert net.get_submodule(classifier) is net.get_classifier()
    assert f"{classifier}.weight" not in hidden_matrices(net)


def test_muon_takes_hidden_matrices_and_leaves_the_rest_to_adamw():
    net = VisionTransformer(**TINY, global_pool="seq", embed_layer="conv_stem")
    groups = {group["name"]: group for group in muon(net, 1e-3, 0.05).param_groups}
    by_muon = names_in(net, [groups["muon"]])[0.05]
    assert by_muon == hidden_matrices(net)
    assert not groups["muon"].get("use_fallback", False)
    assert groups["decay"]["use_fallback"] and groups["no_decay"]["use_fallback"]
    theirs = param_groups_weight_decay(net, 0.05, no_weight_decay_list=net.no_weight_decay())
    assert names_in(net, list(groups.values())) == names_in(net, theirs)
