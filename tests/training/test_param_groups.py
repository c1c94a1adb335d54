"""Parameter groups against timm's own, and by name."""

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn

from vitfw.errors import ConfigError
from vitfw.models.vit import VisionTransformer
from vitfw.training.optimizers import muon
from vitfw.training.param_groups import hidden_matrices, param_groups

TINY = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}
OPTIONS = [
    {},
    {"class_token": False, "global_pool": "avg"},
    {"reg_tokens": 2, "init_values": 1e-4, "qk_norm": True},
    {"global_pool": "seq", "embed_layer": "conv_stem"},
    {"pos_embed": "sincos2d", "mlp_layer": "swiglu"},
    {"pos_embed": "none", "qkv_bias": False, "norm_layer": "rmsnorm"},
]


LR = 0.1
MAKERS = {
    "plain": lambda net: param_groups(net, LR, 0.05),
    "muon": lambda net: muon(net, LR, 0.05).param_groups,
    "layers": lambda net: param_groups(net, LR, 0.05, layer_decay=0.7),
    "overrides": lambda net: param_groups(net, LR, 0.05, overrides={"*.bias": {"lr_scale": 2.0}}),
    "all": lambda net: param_groups(
        net, LR, 0.05, 0.7, {"head.*": {"weight_decay": 0.0}}, muon=True
    ),
}


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
    assert names_in(net, param_groups(net, LR, 0.05)) == names_in(net, theirs)


def test_timms_own_models_are_split_as_timm_splits_them():
    for name in ("vit_tiny_patch16_224", "resnet10t", "levit_128s"):
        with torch.device("meta"):
            net = timm.create_model(name)
        exempt = net.no_weight_decay() if hasattr(net, "no_weight_decay") else ()
        theirs = param_groups_weight_decay(net, 0.05, no_weight_decay_list=exempt)
        assert names_in(net, param_groups(net, LR, 0.05)) == names_in(net, theirs), name


def test_tokens_positions_norms_and_biases_are_not_decayed():
    net = VisionTransformer(**TINY, reg_tokens=1)
    decayed = names_in(net, param_groups(net, LR, 0.05))[0.05]
    assert {"patch_embed.proj.weight", "blocks.1.attn.qkv.weight", "head.weight"} <= decayed
    exempt = {"cls_token", "reg_token", "pos_embed", "norm.weight", "head.bias"}
    assert not decayed & exempt


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_trainable_parameter_is_in_exactly_one_group(make, options):
    net = VisionTransformer(**TINY | options)
    grouped = [id(parameter) for group in make(net) for parameter in group["params"]]
    trainable = [id(parameter) for parameter in net.parameters() if parameter.requires_grad]
    assert sorted(grouped) == sorted(trainable)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_frozen_parameters_are_in_no_group(make):
    net = VisionTransformer(**TINY)
    net.blocks.requires_grad_(False)
    net.pos_embed.requires_grad = False
    groups = make(net)
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


# ── layer-wise learning rates ─────────────────────────────────────────────────────────────────


def values_by_name(net: nn.Module, groups: list[dict], key: str) -> dict[str, float]:
    name_of = {id(parameter): name for name, parameter in net.named_parameters()}
    return {name_of[id(p)]: group[key] for group in groups for p in group["params"]}


def timms_scales(net: nn.Module, decay: float) -> tuple[dict[str, float], dict[str, float]]:
    exempt = net.no_weight_decay() if hasattr(net, "no_weight_decay") else ()
    groups = param_groups_layer_decay(net, 0.05, exempt, layer_decay=decay)
    return values_by_name(net, groups, "lr_scale"), values_by_name(net, groups, "weight_decay")


@pytest.mark.parametrize(
    "name",
    [
        *("vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2"),
        *("deit_tiny_distilled_patch16_224", "eva02_tiny_patch14_224"),
        *("convnext_atto", "resnet18", "swin_tiny_patch4_window7_224"),
    ],
)
def test_layer_decay_equals_timms_table_for_timms_nets(name):
    with torch.device("meta"):
        net = timm.create_model(name)
    scales, decays = timms_scales(net, 0.65)
    groups = param_groups(net, LR, 0.05, layer_decay=0.65)
    found = values_by_name(net, groups, "lr")
    assert found == pytest.approx({key: LR * scale for key, scale in scales.items()}, rel=1e-12)
    assert values_by_name(net, groups, "weight_decay") == decays
    assert len(set(found.values())) >= 4


@pytest.mark.parametrize(
    "ours, theirs",
    [
        ({}, {}),
        ({"reg_tokens": 4, "init_values": 1e-5}, {"reg_tokens": 4, "init_values": 1e-5}),
        (
            {"class_token": False, "global_pool": "avg"},
            {"class_token": False, "global_pool": "avg"},
        ),
        ({"pre_norm": True}, {"pre_norm": True}),
        ({"global_pool": "map"}, {"global_pool": "map"}),
        ({"num_classes": 0}, {"num_classes": 0}),
    ],
    ids=str,
)
def test_layer_decay_of_our_nets_equals_timms_table_of_the_same_net(ours, theirs):
    twin = timm.models.vision_transformer.VisionTransformer(**TINY | theirs)
    scales, decays = timms_scales(twin, 0.65)
    net = VisionTransformer(**TINY | ours)
    groups = param_groups(net, LR, 0.05, layer_decay=0.65)
    found, decayed = (values_by_name(net, groups, key) for key in ("lr", "weight_decay"))
    assert found == pytest.approx({name: LR * scale for name, scale in scales.items()}, rel=1e-12)
    assert decayed == decays | {name: 0.0 for name in found if name == "attn_pool.latent"}


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"embed_layer": "conv_stem"}, {"patch_embed.stem.0.weight": 3}),
        ({"global_pool": "seq"}, {"seq_pool.score.weight": 0, "norm.weight": 1}),
        ({"global_pool": "avg"}, {"fc_norm.weight": 0, "blocks.1.norm2.weight": 1}),
        ({"global_pool": "map"}, {"attn_pool.latent": 0, "attn_pool.kv.weight": 0}),
        ({"dist_token": True}, {"dist_token": 3, "head_dist.weight": 0, "cls_token": 3}),
        ({"reg_tokens": 2, "pre_norm": True}, {"reg_token": 3, "norm_pre.bias": 3}),
        ({"rope": "mixed", "pos_embed": "none"}, {"rope.freqs": 3, "blocks.0.norm1.bias": 2}),
        ({"block_layer": "parallel"}, {"blocks.0.in_proj.weight": 2, "head.bias": 0}),
    ],
    ids=str,
)
def test_parts_that_timm_has_not_learn_like_their_place(options, expected):
    """Layers below the head: embeddings 3, block 0 2, block 1 and the last norm 1."""
    net = VisionTransformer(**TINY | options)
    found = values_by_name(net, param_groups(net, LR, 0.05, layer_decay=0.5), "lr")
    for name, below in expected.items():
        assert found[name] == pytest.approx(LR * 0.5**below), name


def test_frozen_layers_do_not_move_the_others():
    net = VisionTransformer(**TINY)
    before = values_by_name(net, param_groups(net, LR, 0.05, 0.5), "lr")
    net.blocks.requires_grad_(False)
    after = values_by_name(net, param_groups(net, LR, 0.05, 0.5), "lr")
    assert after and after.items() <= before.items()


def test_layer_decay_of_one_is_none():
    net = VisionTransformer(**TINY)
    assert {group["lr"] for group in param_groups(net, LR, 0.05, 1.0)} == {LR}


@pytest.mark.parametrize("decay", [0.0, -0.5, 1.5, float("nan")])
def test_a_layer_decay_that_is_no_share_is_refused(decay):
    with pytest.raises(ConfigError, match="layer_decay=.*above 0 and at most 1"):
        param_groups(VisionTransformer(**TINY), LR, 0.05, decay)


def test_a_net_that_does_not_tell_its_layers_is_refused_for_layer_decay_only():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert len(param_groups(net, LR, 0.05)) == 2
    with pytest.raises(ConfigError, match="Sequential does not tell.*layer_decay=null"):
        param_groups(net, LR, 0.05, layer_decay=0.5)


# ── overrides ─────────────────────────────────────────────────────────────────────────────────


def test_an_override_changes_what_it_matches_and_nothing_else():
    net = VisionTransformer(**TINY)
    plain = param_groups(net, LR, 0.05)
    changed = param_groups(net, LR, 0.05, overrides={"blocks.*.attn.*": {"lr_scale": 0.5}})
    for key, factor in {"lr": 0.5, "weight_decay": 1.0}.items():
        before, after = values_by_name(net, plain, key), values_by_name(net, changed, key)
        assert len(before) == len(after)
        for name in before:
            expected = before[name] * (factor if ".attn." in name else 1.0)
            assert after[name] == expected, name


def test_an_overridden_weight_decay_holds_for_norms_and_biases_too():
    net = VisionTransformer(**TINY)
    groups = param_groups(net, LR, 0.05, overrides={"blocks.1.*": {"weight_decay": 0.3}})
    inside = {name for name, _ in net.named_parameters() if name.startswith("blocks.1.")}
    assert names_in(net, groups)[0.3] == inside


def test_of_two_overrides_the_last_one_counts():
    net = VisionTransformer(**TINY)
    both = {"*": {"lr_scale": 0.1, "weight_decay": 0.0}, "head.*": {"lr_scale": 2.0}}
    groups = param_groups(net, LR, 0.05, overrides=both)
    rates, decays = (values_by_name(net, groups, key) for key in ("lr", "weight_decay"))
    assert rates["head.weight"] == 2 * LR and decays["head.weight"] == 0.05
    assert rates["cls_token"] == pytest.approx(0.1 * LR) and decays["cls_token"] == 0.0


def test_an_override_comes_on_top_of_layer_decay():
    net = VisionTransformer(**TINY)
    groups = param_groups(net, LR, 0.05, 0.5, {"patch_embed.*": {"lr_scale": 4.0}})
    rates = values_by_name(net, groups, "lr")
    assert rates["patch_embed.proj.weight"] == pytest.approx(LR * 0.5**3 * 4)
    assert rates["cls_token"] == pytest.approx(LR * 0.5**3)


def test_muon_steps_the_same_matrices_with_layer_decay_and_overrides():
    net = VisionTransformer(**TINY)
    overrides = {"blocks.0.*": {"lr_scale": 3.0, "weight_decay": 0.2}}
    groups = muon(net, LR, 0.05, layer_decay=0.5, overrides=overrides).param_groups
    by_muon = [group for group in groups if not group.get("use_fallback", False)]
    assert set(values_by_name(net, by_muon, "lr")) == hidden_matrices(net)
    assert {group["name"] for group in by_muon} == {"layer_1_muon:blocks.0.*", "layer_2_muon"}
    rates = values_by_name(net, groups, "lr")
    assert rates["blocks.0.attn.qkv.weight"] == pytest.approx(LR * 0.5**2 * 3)
    assert rates["blocks.0.attn.qkv.bias"] == pytest.approx(LR * 0.5**2 * 3)
    assert rates["blocks.1.attn.qkv.weight"] == pytest.approx(LR * 0.5)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_groups_are_called_differently(make):
    names = [group["name"] for group in make(VisionTransformer(**TINY))]
    assert len(names) == len(set(names)) and all(names)


def test_groups_keep_their_share_of_the_lr_under_a_schedule():
    net = VisionTransformer(**TINY)
    groups = param_groups(net, LR, 0.05, 0.5, {"head.*": {"lr_scale": 4.0}})
    before = {group["name"]: group["lr"] for group in groups}
    optimizer = torch.optim.SGD(groups, lr=LR)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    optimizer.step()
    schedule.step()
    after = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert len(set(before.values())) == 4
    assert after == pytest.approx({name: lr / 2 for name, lr in before.items()})


@pytest.mark.parametrize(
    "pattern, hint",
    [
        ("haed.*", r"head\.\*"),
        ("blocks.*.atn.*", r"blocks\.\*\.attn\.\*"),
        ("patch_embed.proj.wieght", r"patch_embed\.proj\.weight"),
        ("zzz", "there are cls_token, pos_embed"),
    ],
)
def test_a_pattern_that_matches_nothing_is_refused_with_names_that_are_near(pattern, hint):
    with pytest.raises(ConfigError, match=hint):
        net = VisionTransformer(**TINY)
        param_groups(net, LR, 0.05, overrides={pattern: {"lr_scale": 2.0}})


def test_a_pattern_of_frozen_parameters_only_is_refused():
    net = VisionTransformer(**TINY)
    net.head.requires_grad_(False)
    with pytest.raises(ConfigError, match=r"head\.\* matches no parameter that is trained"):
        param_groups(net, LR, 0.05, overrides={"head.*": {"lr_scale": 2.0}})


@pytest.mark.parametrize(
    "given, message",
    [
        ({"lr": 0.1}, "takes lr_scale and weight_decay"),
        ({}, "takes lr_scale and weight_decay"),
        (0.1, "takes lr_scale and weight_decay"),
        ({"lr_scale": -1.0}, "lr_scale=-1.0; it must be a number"),
        ({"weight_decay": "much"}, "weight_decay=much; it must be a number"),
        ({"lr_scale": 0}, r"freeze=\['head.\*'\]"),
    ],
    ids=str,
)
def test_an_override_that_makes_no_sense_is_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        param_groups(VisionTransformer(**TINY), LR, 0.05, overrides={"head.*": given})


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_net_with_nothing_to_train_is_refused(make):
    net = VisionTransformer(**TINY).requires_grad_(False)
    with pytest.raises(ConfigError, match="trained"):
        make(net)
