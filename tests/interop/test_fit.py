"""Weights into a net of another size: nothing is lost or changed in silence."""

import re
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from randomised import random_weights
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from timm.models import adapt_input_conv
from torch import nn
from torchvision.models import VisionTransformer as TorchvisionVisionTransformer

from vitfw.errors import ConfigError
from vitfw.interop.fit import fit, initialise_from
from vitfw.interop.npz import write_npz
from vitfw.interop.source import of_model, read_source
from vitfw.models.patch_embed import kernel_to_linear
from vitfw.models.vit import VisionTransformer
from vitfw.training.freezing import head_of

TINY: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "num_classes": 5,
    "embed_dim": 24,
    "depth": 2,
    "num_heads": 2,
}


def ours(**options) -> Any:
    return random_weights(VisionTransformer(**{**TINY, **options}))


def timm_vit(name: str = "vit_tiny_patch16_224", **options) -> Any:
    return random_weights(timm.create_model(name, **{**TINY, **options}))


def torchvision_vit() -> Any:
    return random_weights(TorchvisionVisionTransformer(32, 8, 2, 2, 24, 96, num_classes=5))


def huggingface_vit(kind: str = "ViT", **options) -> Any:
    config = getattr(transformers, f"{kind}Config")(
        image_size=32,
        patch_size=8,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_labels=5,
        **options,
    )
    return random_weights(getattr(transformers, f"{kind}ForImageClassification")(config))


def as_file(state, folder) -> str:
    path = folder / "weights.safetensors"
    contiguous = {name: tensor.clone().contiguous() for name, tensor in state.items()}
    safetensors.torch.save_file(contiguous, path)
    return str(path)


def same(left, right) -> bool:
    return left.shape == right.shape and torch.equal(left, right)


def logits_of(net: nn.Module, images) -> torch.Tensor:
    with torch.no_grad():
        return net.double().eval()(images.double())


def assert_same_logits(left, right):
    images = torch.randn(2, 3, 32, 32)
    expected = logits_of(right, images)
    assert expected.std() > 0.01
    # Weights are float32, and positions that move into tokens are added in it.
    torch.testing.assert_close(logits_of(left, images), expected, rtol=0, atol=1e-6)


# ── every tensor is accounted for ─────────────────────────────────────────────────────────────


SOURCES = {
    "ours": ours,
    "ours, separate": lambda: ours(fused_qkv=False, reg_tokens=2),
    "timm": timm_vit,
    "timm distilled": lambda: timm_vit("deit_tiny_distilled_patch16_224"),
    "timm registers": lambda: timm_vit(reg_tokens=3, no_embed_class=True),
    "timm average": lambda: timm_vit(global_pool="avg", class_token=False),
    "timm map": lambda: timm_vit(global_pool="map", class_token=False),
    "torchvision": torchvision_vit,
    "Hugging Face": lambda: huggingface_vit(intermediate_size=96),
    "DINOv2": lambda: huggingface_vit("Dinov2", layerscale_value=0.1),
}


def written(kind: str, name: str, folder):
    """The source `name` as an object or a file, and the names of its tensors."""
    model = SOURCES[name]()
    state = dict(model.state_dict())
    if kind == "object":
        return model, state
    if kind == "npz":
        write_npz(folder / "x.npz", state, 2)
        return str(folder / "x.npz"), state
    if kind == "mae":
        state |= {"mask_token": torch.zeros(1, 1, 8), "decoder_embed.weight": torch.zeros(8, 24)}
    return as_file(state, folder), state


nets = st.fixed_dictionaries(
    {
        "img_size": st.sampled_from([16, 32, (16, 32), 48]),
        "patch_size": st.sampled_from([4, 8]),
        "in_chans": st.sampled_from([1, 3, 4]),
        "num_classes": st.sampled_from([0, 5, 7]),
        "embed_layer": st.sampled_from(["conv", "linear", "conv_rearrange"]),
        "fused_qkv": st.booleans(),
        "reg_tokens": st.sampled_from([0, 2]),
        "no_embed_class": st.booleans(),
        "pos_embed": st.sampled_from(["learn", "sincos2d"]),
        "head": st.sampled_from(
            [
                {},
                {"dist_token": True},
                {"global_pool": "avg"},
                {"global_pool": "avg", "class_token": False},
                {"global_pool": "map", "class_token": False},
                {"global_pool": "seq"},
                {"global_pool": "token_avg"},
            ]
        ),
        "init_values": st.sampled_from([None, 0.1]),
    }
)


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    source=st.sampled_from(
        [("object", name) for name in SOURCES]
        + [("file", name) for name in SOURCES]
        + [("npz", "timm"), ("mae", "timm")]
    ),
    options=nets,
)
def test_every_tensor_of_both_sides_is_accounted_for(source, options, tmp_path):
    given_source, _ = written(source[0], source[1], tmp_path)
    found = read_source(given_source)
    net = ours(**{key: value for key, value in options.items() if key != "head"}, **options["head"])
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    try:
        report = initialise_from(net, given_source)
    except ConfigError as error:
        assert "is of another model" in str(error) and "\n" not in str(error)
        for name, tensor in net.state_dict().items():
            assert same(tensor, before[name])  # nothing was loaded
        return
    own = net.state_dict()
    assert sorted([*report.loaded, *report.changed, *report.remade]) == sorted(own)
    for name in report.remade:
        assert same(own[name], before[name])
    left = {*report.ignored} - {*found.ignored}
    taken = {*report.loaded, *report.changed}
    moved = {name.replace("fc_norm.", "norm.") for name in taken}
    moved |= {name.replace("norm.", "fc_norm.") for name in taken}
    moved |= {re.sub(r"attn\.[qkv]_proj", "attn.qkv", name) for name in taken}
    moved |= {f"{re.sub('qkv', f'{p}_proj', name)}" for name in taken for p in "qkv"}
    assert set(found.state) <= left | taken | moved | {*report.remade}
    assert not left & taken
    assert all(report.ignored.values()) and all(report.changed.values())
    for line in report.lines():
        assert "\n" not in line


shapes = st.lists(st.integers(0, 4), max_size=5)


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_tensors_of_any_wrong_shape_are_named_and_nothing_else_happens(data, tmp_path):
    net = ours(dist_token=True, embed_layer=data.draw(st.sampled_from(["conv", "linear"])))
    state = dict(net.state_dict())
    name = data.draw(st.sampled_from(sorted(state)))
    state[name] = torch.zeros(data.draw(shapes))
    path = tmp_path / "x.pth"
    torch.save(state, path)
    try:
        report = initialise_from(ours(dist_token=True), str(path))
    except ConfigError as error:
        assert name in str(error) or "pos_embed has" in str(error)
        assert "\n" not in str(error)
    else:
        assert name in report.remade or name in report.changed


@pytest.mark.parametrize(
    ("name", "shape", "fused"),
    [
        ("blocks.0.attn.qkv.weight", (), True),
        ("blocks.0.attn.qkv.weight", (), False),
        ("blocks.0.attn.qkv.bias", (2,), False),
        ("blocks.1.attn.q_proj.weight", (), True),
        ("blocks.1.attn.k_proj.weight", (24, 12), True),
        ("blocks.1.attn.v_proj.bias", (12,), True),
        ("reg_token", (2, 24), True),
        ("pos_embed", (24,), True),
    ],
)
def test_what_cannot_be_cut_or_joined_is_refused_by_name(name, shape, fused, tmp_path):
    state = dict(ours(reg_tokens=2, fused_qkv="qkv" in name).state_dict())
    assert name in state
    path = as_file({**state, name: torch.ones(shape)}, tmp_path)
    with pytest.raises(ConfigError, match=re.escape(f"{name} {list(shape)}")):
        initialise_from(ours(reg_tokens=2, fused_qkv=fused), path)


@pytest.mark.parametrize("sizes", [(12, 24, 36), (24, 36, 12)])
def test_queries_and_keys_of_other_sizes_do_not_make_up_for_each_other(sizes, tmp_path):
    state = dict(huggingface_vit(intermediate_size=96).state_dict())
    for part, rows in zip("qkv", sizes, strict=True):
        name = next(n for n in state if n.endswith(f"attention.{part}_proj.weight"))
        state[name] = torch.ones(rows, 24)
    with pytest.raises(ConfigError, match=r"1 missing \(blocks\.0\.attn\.qkv\.weight\)"):
        initialise_from(ours(), as_file(state, tmp_path))


def test_integers_are_no_weights_but_where_the_net_has_integers(tmp_path):
    state = dict(ours().state_dict())
    path = as_file({**state, "norm.weight": torch.ones(24, dtype=torch.int64)}, tmp_path)
    with pytest.raises(ConfigError, match=r"norm\.weight is of type int64, and weights are real"):
        initialise_from(ours(), path)
    cnn = timm.create_model("resnet10t", num_classes=3)
    state = dict(cnn.state_dict())
    assert state["bn1.num_batches_tracked"].dtype == torch.int64
    initialise_from(cnn, as_file(state, tmp_path))
    state["fc.bias"] = torch.ones(3, dtype=torch.int8)
    with pytest.raises(ConfigError, match=r"fc\.bias is of type int8"):
        initialise_from(cnn, as_file(state, tmp_path))


def test_numbers_that_are_not_finite_are_noted():
    source = ours()
    source.norm.weight.data[3] = float("nan")
    source.head.bias.data[0] = float("inf")
    assert initialise_from(ours(), source).notes == [
        "not all numbers are finite in norm.weight, head.bias"
    ]


# ── options that no tensor shows ──────────────────────────────────────────────────────────────


ROPE: dict[str, Any] = {"rope": "axial"}
GATED_MAP: dict[str, Any] = {"mlp_layer": "swiglu", "global_pool": "map"}
OTHERWISE = [  # source, net, what is to be typed
    ({"num_heads": 4}, {}, "model.num_heads=4"),
    ({"qk_scale": 0.5}, {}, "model.qk_scale=0.5"),
    ({}, {"qk_scale": 0.5}, "model.qk_scale=null"),
    ({"act_layer": "gelu_tanh"}, {}, "model.act_layer=gelu_tanh"),
    ({"norm_layer": "rmsnorm"}, {}, "model.norm_layer=rmsnorm"),
    (ROPE, {}, "model.rope=axial"),
    ({}, ROPE, "model.rope=none"),
    ({"rope": "dinov3"}, ROPE, "model.rope=dinov3"),
    ({**ROPE, "rope_temperature": 100}, ROPE, "model.rope_temperature=100"),
    ({**ROPE, "rope_indexing": "xy"}, ROPE, "model.rope_indexing=xy"),
    ({**ROPE, "rope_grid_offset": 1.0}, ROPE, "model.rope_grid_offset=1.0"),
    ({**ROPE, "rope_rotate_half": True}, ROPE, "model.rope_rotate_half=true"),
    ({**ROPE, "rope_ref_grid": (2, 2)}, ROPE, "model.rope_ref_grid=[2,2]"),
    (ROPE, {**ROPE, "rope_ref_grid": (2, 2)}, "model.rope_ref_grid=null"),
    ({"mlp_layer": "swiglu_packed"}, {}, "model.mlp_layer=swiglu_packed"),
    ({"block_layer": "pair"}, {}, "model.block_layer=pair"),
    ({"embed_layer": "conv_stem"}, {"embed_layer": "pool_stem"}, "model.embed_layer=conv_stem"),
    ({**GATED_MAP, "act_layer": "silu"}, GATED_MAP, "model.act_layer=silu"),  # in the pool
]


@pytest.mark.parametrize(("there", "here", "typed"), OTHERWISE, ids=lambda value: str(value))
def test_a_net_that_would_compute_otherwise_is_refused_with_what_to_type(there, here, typed):
    dim = {"embed_dim": 32}
    with pytest.raises(ConfigError, match=rf"to match (it|them): {re.escape(typed)}$"):
        initialise_from(ours(**dim, **here), ours(**dim, **there))
    assert not initialise_from(ours(**dim, **there), ours(**dim, **there)).remade


SAME_MEANING = [
    ({}, {"qk_scale": 12**-0.5}),
    (ROPE, {**ROPE, "rope_temperature": 10_000.0, "rope_rotate_half": False}),
    (ROPE, {**ROPE, "rope_ref_grid": (4, 4)}),
    ({"mlp_layer": "swiglu_packed"}, {"mlp_layer": "swiglu_packed", "act_layer": "silu"}),
    ({"rope_temperature": None}, {"rope_temperature": None}),
    ({}, {"drop_path_rate": 0.1, "drop_rate": 0.2, "grad_checkpointing": True}),
    ({}, {"embed_layer": "linear"}),
    ({}, {"embed_layer": "conv_rearrange"}),
    ({}, {"fused_qkv": False}),
    ({"fused_qkv": False}, {}),
    ({"fused_qkv": False, "k_bias": False}, {"k_bias": False}),
    ({"embed_layer": "linear"}, {}),
    ({}, {"no_embed_class": True}),
    ({"no_embed_class": True}, {}),
    ({"no_embed_class": True, "reg_tokens": 2}, {"reg_tokens": 2}),
    ({"reg_tokens": 2}, {"reg_tokens": 2, "no_embed_class": True}),
    ({"dist_token": True, "no_embed_class": True}, {"dist_token": True}),
    ({"dist_token": True}, {"dist_token": True, "no_embed_class": True}),
    ({}, {"pos_embed": "sincos2d"}),
]


@pytest.mark.parametrize(("there", "here"), SAME_MEANING, ids=lambda value: str(value))
def test_a_net_that_is_spelt_otherwise_computes_the_same(there, here):
    if "rope" in there:
        there, here = {**there, "num_heads": 6}, {**here, "num_heads": 6}
    source, net = ours(**there), ours(**here)
    report = initialise_from(net, source)
    assert not report.remade and not report.ignored and not report.notes
    assert_same_logits(net, source)


@pytest.mark.parametrize(
    "make", [timm_vit, torchvision_vit, lambda: huggingface_vit(intermediate_size=96)]
)
@pytest.mark.parametrize(
    ("option", "value", "theirs"),
    [
        ("num_heads", 4, "2"),
        ("act_layer", "relu", "gelu"),
        ("act_layer", "quick_gelu", "gelu"),
        ("rope", "axial", "none"),
        ("rope", "dinov3", "none"),
        ("norm_layer", "rmsnorm", "layernorm"),
        ("qk_scale", 1.0, "null"),
    ],
)
def test_what_a_model_object_tells_is_compared_too(make, option, value, theirs):
    with pytest.raises(ConfigError, match=rf"model\.{option}={theirs}$"):
        initialise_from(ours(**{option: value}), make())


def test_what_rarely_matters_is_noted():
    report = initialise_from(ours(), huggingface_vit(intermediate_size=96))
    assert report.notes == [
        "norm_eps is 1e-12 there, 1e-06 here; to match it: model.norm_eps=1e-12"
    ]
    (note,) = initialise_from(ours(global_pool="avg"), ours()).notes
    assert note == "global_pool is token there, avg here; to match it: model.global_pool=token"


def test_other_normalisation_of_images_is_noted_with_what_to_type():
    source = timm_vit()  # 0.5, 0.5, 0.5
    net = ours()
    (note,) = initialise_from(net, source, [0.1, 0.2, 0.3], [0.5, 0.5, 0.5]).notes
    assert note.endswith("to match them: data.mean=[0.5,0.5,0.5] data.std=[0.5,0.5,0.5]")
    assert len(initialise_from(net, source, [0.5] * 3, [0.2] * 3).notes) == 1
    assert initialise_from(net, source, [0.5] * 3, [0.5] * 3).notes == []
    assert initialise_from(ours(in_chans=1), source, [0.1], [0.2]).notes == []


# ── heads ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("theirs", "here", "said"),
    [
        ("abcde", "fghij", "other classes: a there, f here"),
        ("abcde", "abcdf", "other classes: e there, f here"),
        ("abcde", "edcba", "the same classes there in another order"),
    ],
)
@pytest.mark.parametrize("make", [ours, lambda: timm.create_model("resnet10t", num_classes=5)])
def test_a_head_for_as_many_other_classes_stays_as_it_was_made(make, theirs, here, said):
    weights, net = of_model(make(), "x"), make()
    weights.classes = tuple(theirs)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    report = fit(net, weights, classes=here)
    assert set(report.remade) == head_of(net) and set(report.remade.values()) == {said}
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, (before if name in head_of(net) else weights.raw)[name]), name
    assert not fit(net, weights, classes=theirs).remade
    assert not fit(net, weights).remade


def test_a_head_whose_classes_are_not_told_is_taken_with_a_note():
    (note,) = initialise_from(ours(), ours(), classes="abcde").notes
    assert note == "the weights do not tell their classes; their head is taken for these 5"
    assert initialise_from(ours(num_classes=7), ours(), classes="abcdefg").notes == []


def test_a_head_for_other_classes_stays_as_it_was_made():
    source, net = ours(), ours(num_classes=7)
    head = net.head.weight.detach().clone()
    report = initialise_from(net, source)
    assert report.remade == dict.fromkeys(["head.weight", "head.bias"], "5 classes there, 7 here")
    assert torch.equal(net.head.weight, head)
    assert torch.equal(net.norm.weight, source.norm.weight)


def test_a_head_for_other_features_is_not_taken_in_half():
    net = ours(global_pool="token_avg")
    bias = net.head.bias.detach().clone()
    report = initialise_from(net, ours())
    assert report.remade["head.bias"] == "24 features there, 48 here"
    assert torch.equal(net.head.bias, bias)


def test_weights_without_head_start_a_net_with_one_and_the_other_way_round():
    report = initialise_from(ours(), ours(num_classes=0))
    assert set(report.remade) == {"head.weight", "head.bias"}
    report = initialise_from(ours(num_classes=0), ours())
    assert report.ignored == dict.fromkeys(["head.weight", "head.bias"], "the model has no head")


def test_the_second_head_and_token_of_distillation():
    distilled = {"dist_token": True}
    report = initialise_from(ours(), ours(**distilled))
    assert set(report.ignored) == {"dist_token", "head_dist.weight", "head_dist.bias"}
    assert report.changed == {"pos_embed": "dist_token's row left out"}
    net = ours(**distilled)
    token, row = net.dist_token.detach().clone(), net.pos_embed[:, 1].detach().clone()
    report = initialise_from(net, source := ours())
    assert set(report.remade) == {"dist_token", "head_dist.weight", "head_dist.bias"}
    assert report.changed == {"pos_embed": "dist_token's row made anew"}
    assert torch.equal(net.dist_token, token) and torch.equal(net.pos_embed[:, 1], row)
    assert torch.equal(net.pos_embed[:, 0], source.pos_embed[:, 0])
    net = ours(**distilled, num_classes=7)
    assert len(initialise_from(net, ours(**distilled)).remade) == 4


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "head.bias"),
        ({}, "head.weight"),
        ({"dist_token": True}, "head_dist.bias"),
        ({"global_pool": "map"}, "attn_pool.latent"),
        ({"global_pool": "map"}, "attn_pool.mlp.fc2.bias"),
        ({"global_pool": "seq"}, "seq_pool.score.bias"),
    ],
)
def test_a_head_or_pool_of_which_a_part_is_missing_is_refused_by_name(options, name, tmp_path):
    state = dict(ours(**options).state_dict())
    del state[name]
    with pytest.raises(ConfigError, match=rf"tensors 1 missing \({re.escape(name)}\)"):
        initialise_from(ours(**options), as_file(state, tmp_path))


def test_the_final_norm_moves_with_the_pooling():
    average, token = ours(global_pool="avg"), ours()
    report = initialise_from(average, token)
    assert torch.equal(average.fc_norm.weight, token.norm.weight)
    assert report.changed["fc_norm.bias"] == "the final norm, moved after the pooling"
    report = initialise_from(token, ours(global_pool="avg"))
    assert report.changed["norm.weight"] == "the final norm, moved before the pooling"


# ── positions ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "prefix",
    [{}, {"reg_tokens": 3}, {"dist_token": True}, {"class_token": False, "global_pool": "avg"}],
    ids=str,
)
@pytest.mark.parametrize("size", [16, 48, (16, 48), 64])
@pytest.mark.parametrize("in_file", [False, True], ids=["object", "file"])
def test_positions_are_resampled_as_timm_does(prefix, size, in_file, tmp_path):
    source, net = ours(**prefix), ours(**prefix, img_size=size)
    state = source.state_dict()
    report = initialise_from(net, as_file(state, tmp_path) if in_file else source)
    count = source.num_prefix_tokens
    expected = resample_abs_pos_embed(
        state["pos_embed"], list(net.patch_embed.grid_size), [4, 4], num_prefix_tokens=count
    )
    torch.testing.assert_close(net.pos_embed.data, expected, rtol=0, atol=1e-6)
    assert torch.equal(net.pos_embed[:, :count], state["pos_embed"][:, :count])
    height, width = net.patch_embed.grid_size
    assert report.changed == {"pos_embed": f"resampled from 4×4 to {height}×{width}"}


def test_the_row_of_the_class_token_is_left_out_for_a_net_without():
    source, net = ours(), ours(class_token=False, global_pool="avg")
    report = initialise_from(net, source)
    assert torch.equal(net.pos_embed, source.pos_embed[:, 1:])
    assert report.changed["pos_embed"] == "cls_token's row left out"
    assert report.ignored == {"cls_token": "the model has no class token"}


def test_a_grid_that_is_no_square_is_known_from_the_options(tmp_path):
    source, net = ours(img_size=(16, 64)), ours()
    report = initialise_from(net, source)
    expected = resample_abs_pos_embed(source.pos_embed.data, [4, 4], [2, 8])
    torch.testing.assert_close(net.pos_embed.data, expected, rtol=0, atol=1e-6)
    assert report.changed == {"pos_embed": "resampled from 2×8 to 4×4"}
    model = timm_vit(img_size=(16, 64))
    assert initialise_from(net, model).changed == report.changed


def test_a_file_that_fits_a_square_as_well_is_said_to_be_taken_as_it_is(tmp_path):
    path = as_file(ours().state_dict(), tmp_path)  # 4 × 4
    report = initialise_from(ours(img_size=(16, 64)), path)
    assert "taken for a grid of 2×8" in report.changed["pos_embed"]


def test_a_grid_that_cannot_be_told_is_refused_in_one_line(tmp_path):
    path = as_file(ours(img_size=(16, 24)).state_dict(), tmp_path)
    with pytest.raises(ConfigError, match="pos_embed has 7 rows, which are no square") as caught:
        initialise_from(ours(), path)
    assert "\n" not in str(caught.value)
    assert initialise_from(ours(img_size=(16, 24)), path).remade == {}


# ── the first layer ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("patch_size", [4, 16, (4, 16)])
@pytest.mark.parametrize("layers", [("conv", "conv"), ("linear", "conv"), ("conv", "linear")])
def test_the_kernel_is_resized_as_timm_does(patch_size, layers):
    source, net = ours(), ours(patch_size=patch_size, embed_layer=layers[1])
    kernel = source.patch_embed.proj.weight.data
    if layers[0] == "linear":
        source = ours(embed_layer="linear")
        source.patch_embed.proj.weight.data = kernel_to_linear(kernel)
    report = initialise_from(net, source)
    expected = resample_patch_embed(kernel, list(net.patch_embed.patch_size), verbose=False)
    if layers[1] == "linear":
        expected = kernel_to_linear(expected)
    torch.testing.assert_close(net.patch_embed.proj.weight.data, expected, rtol=0, atol=1e-4)
    assert report.changed["patch_embed.proj.weight"].startswith("patches resized from 8×8 to ")


@pytest.mark.parametrize("in_chans", [1, 4, 6])
def test_channels_are_adapted_as_timm_does(in_chans):
    source, net = ours(), ours(in_chans=in_chans)
    report = initialise_from(net, source)
    expected = adapt_input_conv(in_chans, source.patch_embed.proj.weight.data)
    torch.testing.assert_close(net.patch_embed.proj.weight.data, expected)
    assert report.changed == {"patch_embed.proj.weight": f"from 3 to {in_chans} channels"}


def test_a_linear_layer_as_wide_by_chance_is_not_taken_for_the_same():
    source = ours(embed_layer="linear", in_chans=4, patch_size=4)  # 64 numbers a patch
    net = ours(embed_layer="linear", in_chans=1, patch_size=8)
    report = initialise_from(net, source)
    assert "patches resized from 4×4 to 8×8" in report.changed["patch_embed.proj.weight"]
    assert "from 4 to 1 channels" in report.changed["patch_embed.proj.weight"]


def test_a_linear_layer_of_unknown_patches_is_refused(tmp_path):
    path = as_file(ours(embed_layer="linear").state_dict(), tmp_path)
    with pytest.raises(ConfigError, match=r"patch_embed.proj.weight \[24, 192\] instead of"):
        initialise_from(ours(patch_size=4), path)


# ── nets of others, architectures of others ───────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["resnet18", "swin_tiny_patch4_window7_224", "mixer_s32_224"])
def test_another_architecture_is_refused_by_the_names_of_its_tensors(name, tmp_path):
    model = timm.create_model(name)
    some_name = next(iter(model.state_dict()))
    before = (net := ours()).norm.weight.clone()
    for source in (model, as_file(model.state_dict(), tmp_path)):
        with pytest.raises(ConfigError, match=r"is of another model: tensors .* missing") as caught:
            initialise_from(net, source)
        assert some_name in str(caught.value) or "unknown (" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert torch.equal(net.norm.weight, before)


def test_the_size_of_the_weights_is_what_to_type():
    typed = r"tensors .*; to match them: model\.embed_dim=32 model\.depth=3 model\.num_heads=4$"
    with pytest.raises(ConfigError, match=typed):
        initialise_from(ours(), ours(embed_dim=32, depth=3, num_heads=4))


@pytest.mark.parametrize("in_file", [False, True], ids=["object", "file"])
@pytest.mark.parametrize(
    ("there", "here", "typed"),
    [
        ({"mlp_ratio": 2.5}, {}, r"model\.mlp_ratio=2\.5"),
        (
            {"mlp_ratio": 8 / 3, "mlp_layer": "swiglu"},
            {"mlp_layer": "swiglu"},
            r"model\.mlp_ratio=2\.6666",
        ),
        ({"k_bias": False}, {}, r"model\.k_bias=false"),
        ({}, {"k_bias": False}, r"model\.k_bias=true"),
        ({"k_bias": False}, {"fused_qkv": False}, r"model\.k_bias=false"),
        ({"fused_qkv": False}, {"k_bias": False}, r"model\.k_bias=true"),
    ],
    ids=str,
)
def test_an_mlp_or_a_bias_of_another_size_is_what_to_type(there, here, typed, in_file, tmp_path):
    source = ours(**there)
    if in_file:
        source = as_file(source.state_dict(), tmp_path)
    with pytest.raises(ConfigError, match=rf"; to match them: {typed}[\d.]*$"):
        initialise_from(ours(**here), source)


def test_aligned_channels_are_no_other_ratio():
    aligned = {"mlp_layer": "swiglu", "mlp_ratio": 2.7, "swiglu_align_to": 32}
    with pytest.raises(ConfigError, match=r"; to match them: model\.depth=3$"):
        initialise_from(ours(**aligned), ours(**aligned, depth=3))


def test_a_stem_that_the_weights_have_not_is_what_to_leave_out(tmp_path):
    path = as_file(timm_vit().state_dict(), tmp_path)
    with pytest.raises(ConfigError, match=r"missing \(patch_embed\.stem.*embed_layer=conv$"):
        initialise_from(ours(embed_layer="conv_stem"), path)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_a_cnn_of_timms_takes_all_but_the_classifier(prefix, tmp_path):
    source = timm.create_model("resnet10t", num_classes=1000)
    net = timm.create_model("resnet10t", num_classes=3)
    classifier = net.fc.weight.detach().clone()
    state = {prefix + name: tensor for name, tensor in source.state_dict().items()}
    report = initialise_from(net, as_file(state, tmp_path))
    assert report.remade == dict.fromkeys(["fc.weight", "fc.bias"], "for other classes")
    assert torch.equal(net.fc.weight, classifier)
    assert torch.equal(net.layer4[0].conv1.weight, source.layer4[0].conv1.weight)
    assert sorted([*report.loaded, *report.remade]) == sorted(net.state_dict())


def test_a_cnn_of_the_same_classes_computes_the_same_and_without_classifier_loses_it():
    source = timm.create_model("resnet10t", num_classes=3).eval()
    net = timm.create_model("resnet10t", num_classes=3).eval()
    assert not initialise_from(net, source).remade
    assert_same_logits(net, source)
    net = timm.create_model("resnet10t", num_classes=0)
    report = initialise_from(net, source)
    assert set(report.ignored) == {"fc.weight", "fc.bias"}


def test_half_a_classifier_is_refused_by_name(tmp_path):
    net = timm.create_model("resnet10t", num_classes=3)
    state = dict(net.state_dict())
    del state["fc.bias"]
    with pytest.raises(ConfigError, match=r"1 missing \(fc\.bias\)"):
        initialise_from(net, as_file(state, tmp_path))


def test_a_vit_of_timms_is_not_resampled_and_the_message_says_whose_is():
    net = timm_vit(img_size=64)
    with pytest.raises(
        ConfigError, match=r"pos_embed .*; only vitfw's VisionTransformer is fitted"
    ):
        initialise_from(net, timm_vit())


@pytest.mark.parametrize("other", ["resnet18", "vit_tiny_patch16_224"])
def test_a_cnn_refuses_another_architecture(other, tmp_path):
    net = timm.create_model("resnet10t", num_classes=3)
    with pytest.raises(ConfigError, match="is of another model: tensors"):
        initialise_from(net, as_file(timm.create_model(other).state_dict(), tmp_path))


# ── the report ────────────────────────────────────────────────────────────────────────────────


def test_the_report_is_80_wide_and_says_what_happened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = Path(as_file(timm_vit(img_size=64).state_dict(), tmp_path)).name
    report = initialise_from(ours(num_classes=7), path)
    assert report.lines() == [
        "loaded 30 of 32 tensors from weights.safetensors (names as in timm, DeiT, DINO)",
        "  changed: pos_embed (resampled from 8×8 to 4×4)",
        "  made anew: head.weight, head.bias (5 classes there, 7 here)",
        "  note: the weights do not tell these, taken as here: num_heads=2 act_layer=gelu",
        "    norm_eps=1e-06 rope=none",
    ]
    assert all(len(line) <= 80 for line in report.lines())
