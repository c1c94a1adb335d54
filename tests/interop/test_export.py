"""Exported nets, loaded as the message says, against the net they were exported from."""

import copy
import json
import tempfile
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy
import onnx
import onnxruntime
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from transformers import AutoImageProcessor, AutoModelForImageClassification

from vitfw.building import build
from vitfw.checkpoint import KEY, Passport
from vitfw.errors import ConfigError
from vitfw.inference import Predictor
from vitfw.interop import export, export_graph, npz, staging
from vitfw.interop.export import FORMATS, DoesNotAgree, Written, write_verified
from vitfw.interop.fit import initialise_from
from vitfw.models.vit import VisionTransformer

LIBRARIES = {
    "AutoModelForImageClassification": AutoModelForImageClassification,
    "numpy": numpy,
    "partial": partial,
    "safetensors": safetensors,
    "timm": timm,
    "torch": torch,
    "torchvision": torchvision,
}
CLASSES = ["ant", "bee", "cat", "dog", "élan"]
AVERAGE = {"class_token": False, "global_pool": "avg"}
DINOV2 = {"init_values": 0.1, "global_pool": "token_avg"}


def passport_of(**options) -> Passport:
    model = {
        "_target_": "vitfw.models.vit.VisionTransformer",
        "img_size": 16,
        "patch_size": 4,
        "in_chans": 3,
        "num_classes": len(CLASSES),
        "embed_dim": 24,
        "depth": 2,
        "num_heads": 3,
        **options,
    }
    size, channels = model["img_size"], model["in_chans"]
    return Passport(
        config={"model": model, "trainer": {"precision": "32-true"}},
        classes=CLASSES,
        channels=channels,
        img_size=[size, size] if isinstance(size, int) else size,
        crop_share=0.8,
        mean=[0.5, 0.4, 0.3][:channels],
        std=[0.2, 0.25, 0.3][:channels],
        versions={},
    )


def net_of(passport: Passport) -> nn.Module:
    """Moved off its initialisation, where zeros would hide what is left out."""
    net = build(passport.config["model"]).eval()
    for parameter in net.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return net


def exported(folder: Path, name: str, **options) -> tuple[nn.Module, Written]:
    passport = passport_of(**options)
    net = net_of(passport)
    return net, write_verified(net, passport, name, folder / f"net{FORMATS[name].suffix}")


def loaded(written: Written):
    """What the code in the message makes."""
    names = dict(LIBRARIES)
    exec(written.usage, names)
    return next(names[name] for name in ("net", "state", "arrays", "session") if name in names)


def assert_same_logits(net: nn.Module, peer: nn.Module, tolerance: float = 1e-7):
    """Relative to the largest logit, in float64."""
    embed = getattr(net, "patch_embed", None)
    shape = (3, *embed.img_size) if isinstance(net, VisionTransformer) else (1, 32, 32)
    if embed is not None:
        shape = (embed.in_chans, *shape[1:])
    images = torch.randn(4, *shape, dtype=torch.float64)
    with torch.no_grad():
        expected, got = net.double().eval()(images), peer.double().eval()(images)
    got = getattr(got, "logits", got)
    assert (got - expected).abs().max() <= tolerance * expected.abs().max()


# ── what can be written ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"global_pool": "seq", "class_token": False, "embed_layer": "conv_stem"},
        {"rope": "mixed", "reg_tokens": 2, "fused_qkv": False},
    ],
)
def test_safetensors_start_another_net_by_init_from(options, tmp_path):
    net, written = exported(tmp_path, "safetensors", **options)
    other = build(passport_of(**options).config["model"])
    initialise_from(other, str(written.path))
    assert_same_logits(net, other, tolerance=0)


def test_safetensors_metadata_tell_classes_preparation_and_model(tmp_path):
    _, written = exported(tmp_path, "safetensors")
    with safetensors.safe_open(written.path, "pt") as file:
        said = {k: json.loads(v) for k, v in file.metadata().items() if k != "format"}
    passport = passport_of()
    assert said.pop("model") == passport.config["model"]
    assert said == {key: asdict(passport)[key] for key in said}
    assert {"classes", "mean", "std", "img_size", "crop_share"} <= set(said)
    assert loaded(written).keys() == net_of(passport).state_dict().keys()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reg_tokens": 2, "no_embed_class": True, "pre_norm": True},
        AVERAGE,
        {"global_pool": "map", "class_token": False, "fc_norm": True},
        {"init_values": 0.1, "mlp_layer": "swiglu_packed"},
        {"mlp_layer": "swiglu_packed"},
        {"mlp_layer": "swiglu", "embed_norm": True, "norm_layer": "rmsnorm", "norm_eps": 1e-5},
        {"mlp_layer": "swiglu", "proj_bias": False, "act_layer": "silu"},
        {"dist_token": True},
        {"norm_eps": 1e-5, "act_layer": "quick_gelu"},
        {"block_layer": "parallel"},
        {"block_layer": "parallel", "qkv_bias": False, "init_values": 0.1},
        {"block_layer": "pair"},
        {"fused_qkv": False, "k_bias": False, "embed_layer": "linear"},
        {"k_bias": False, "qk_norm": True, "scale_attn_norm": True, "scale_mlp_norm": True},
        {"img_size": [16, 24], "in_chans": 1, "pos_embed": "sincos2d"},
        {"rope": "axial", "fused_qkv": False},
        {"rope": "axial", "rope_ref_grid": 7, "pos_embed": "none", "mlp_layer": "swiglu"},
        {"rope": "dinov3", "norm_eps": 1e-5, "init_values": 0.1, "reg_tokens": 2},
        {"rope": "mixed", "mlp_layer": "swiglu_packed", **AVERAGE},
        {"rope": "axial", "class_token": False, "global_pool": "map", "mlp_layer": "swiglu_packed"},
    ],
)
def test_timm_builds_the_net_from_the_folder(options, tmp_path):
    net, written = exported(tmp_path, "timm", **options)
    assert_same_logits(net, loaded(written))


def test_timm_prepares_images_as_the_run_did(tmp_path):
    _, written = exported(tmp_path, "timm", img_size=32)
    peer = loaded(written)
    data = timm.data.resolve_model_data_config(peer)
    assert data["input_size"] == (3, 32, 32)
    assert [*data["mean"], *data["std"]] == [0.5, 0.4, 0.3, 0.2, 0.25, 0.3]
    assert (data["crop_pct"], data["interpolation"]) == (0.8, "bicubic")
    assert peer.pretrained_cfg["label_names"] == CLASSES
    assert "tag" not in peer.pretrained_cfg  # that of somebody else's weights


@pytest.mark.parametrize(
    "options",
    [{}, {"norm_eps": 1e-5, "k_bias": False}, {"embed_layer": "linear", "pos_embed": "sincos2d"}],
)
def test_torchvision_builds_the_net_from_the_message(options, tmp_path):
    net, written = exported(tmp_path, "torchvision", **options)
    assert_same_logits(net, loaded(written))


@pytest.mark.parametrize(
    "options, model",
    [
        ({"act_layer": "gelu_tanh"}, "ViT"),
        ({"img_size": [16, 24], "in_chans": 1, "norm_eps": 1e-12}, "ViT"),
        ({"reg_tokens": 1}, "DeiT"),
        ({"dist_token": True}, "DeiT"),
        (DINOV2, "Dinov2"),
        ({**DINOV2, "reg_tokens": 3}, "Dinov2WithRegisters"),
    ],
)
def test_auto_model_reads_the_folder(options, model, tmp_path):
    net, written = exported(tmp_path, "huggingface", **options)
    peer = loaded(written)
    assert type(peer).__name__.startswith(f"{model}ForImageClassification")
    assert peer.config.id2label == dict(enumerate(CLASSES))
    assert peer.config.label2id["élan"] == 4
    assert_same_logits(net, peer)


def test_auto_image_processor_prepares_a_photo_as_predict_does(tmp_path):
    options = {"img_size": 32}
    net, written = exported(tmp_path, "huggingface", **options)
    passport = passport_of(**options)
    state = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
    torch.save({KEY: asdict(passport), "state_dict": state}, tmp_path / "net.ckpt")
    photo = torch.rand(3, 9, 12).mul(255).byte().permute(1, 2, 0).numpy()
    Image.fromarray(photo).resize((120, 90), Image.Resampling.BICUBIC).save(tmp_path / "a.png")
    processor = AutoImageProcessor.from_pretrained(written.path)
    theirs = processor(Image.open(tmp_path / "a.png"), return_tensors="pt")["pixel_values"][0]
    ours = Predictor(tmp_path / "net.ckpt", "cpu").read(tmp_path / "a.png") / 255
    ours = (ours - torch.tensor(passport.mean)[:, None, None]) / torch.tensor(passport.std)[
        :, None, None
    ]
    one_step = 1 / 255 / min(passport.std)  # both round to whole pixel values
    torch.testing.assert_close(theirs, ours, atol=1.01 * one_step, rtol=0)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"global_pool": "map", "class_token": False},
        {"fc_norm": False, "k_bias": False, **AVERAGE},
        {"fused_qkv": False, "act_layer": "gelu_tanh", "in_chans": 1},
    ],
)
def test_npz_is_read_by_our_own_reader_and_by_timms(options, tmp_path):
    net, written = exported(tmp_path, "npz", **options)  # compared with timm's reading
    told = npz.read_npz(written.path)
    assert set(told) == set(loaded(written))
    other = VisionTransformer(**{**npz.options_of(told), "act_layer": net.options["act_layer"]})
    other.load_state_dict(npz.to_vitfw(told).state)
    assert_same_logits(net, other)


def timm_passport(name: str, **options) -> Passport:
    model = {"_target_": "vitfw.interop.timm_model.create", "name": name, "num_classes": 5}
    return Passport(
        config={"model": {**model, "in_chans": 1, **options}},
        classes=CLASSES,
        channels=1,
        img_size=[32, 32],
        crop_share=1.0,
        mean=[0.5],
        std=[0.5],
        versions={},
    )


def test_a_timm_cnn_is_exported_for_timm_and_as_state_dict(tmp_path):
    passport = timm_passport("test_resnet")
    net = net_of(passport)
    assert_same_logits(net, loaded(write_verified(net, passport, "timm", tmp_path / "net")))
    path = tmp_path / "net.safetensors"
    other = build(passport.config["model"])
    other.load_state_dict(loaded(write_verified(net, passport, "safetensors", path)))
    assert_same_logits(net, other)
    for name in ("torchvision", "huggingface", "npz"):
        with pytest.raises(
            ConfigError, match="no place for timm's ResNet.*safetensors, timm, onnx"
        ):
            write_verified(net, passport, name, tmp_path / "x")


def test_timms_vit_is_told_from_ours(tmp_path):
    net = net_of(passport := timm_passport("test_vit", img_size=32))
    said = "no place for timm's VisionTransformer, only for vitfw's VisionTransformer"
    with pytest.raises(ConfigError, match=said):
        write_verified(net, passport, "huggingface", tmp_path / "x")


# ── graphs ────────────────────────────────────────────────────────────────────────────────────


def onnx_logits(session, images: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def onnx_session(path: Path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def test_onnx_takes_any_batch_of_raw_images_and_tells_its_classes(tmp_path):
    passport = passport_of(depth=1)
    net, path = net_of(passport), tmp_path / "net.onnx"
    write_verified(net, passport, "onnx", path, fold_normalisation=True)
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]
    session = onnx_session(path)
    mean, std = torch.tensor(passport.mean), torch.tensor(passport.std)
    for batch in (1, 3, 8):
        images = torch.rand(batch, 3, 16, 16)
        prepared = (images - mean[:, None, None]) / std[:, None, None]
        with torch.no_grad():
            expected = net.double()(prepared.double()).float()
        torch.testing.assert_close(onnx_logits(session, images), expected, atol=1e-4, rtol=1e-4)
    said = session.get_modelmeta().custom_metadata_map
    assert json.loads(said["classes"]) == CLASSES
    assert (json.loads(said["mean"]), json.loads(said["normalise"])) == (passport.mean, True)
    (images,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.shape[1:], logits.name) == ("images", [3, 16, 16], "logits")
    assert isinstance(images.shape[0], str)  # any number
    graph = onnx.load(path).graph
    kinds = {tensor.data_type for tensor in graph.initializer}
    assert kinds <= {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}
    operators = [node.op_type for node in graph.node]
    assert operators.count("Softmax") + operators.count("Attention") == 1  # one block
    assert not {"Cast", "Loop", "If"} & set(operators)


def test_torch_export_takes_any_batch(tmp_path):
    passport = passport_of(depth=1, rope="axial")
    net, path = net_of(passport), tmp_path / "net.pt2"
    written = write_verified(net, passport, "torch_export", path)
    graph = loaded(written)
    images = torch.randn(7, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(graph(images), net(images))
    said = {"classes": "", "normalise": ""}
    torch.export.load(path, extra_files=said)
    assert (json.loads(said["classes"]), json.loads(said["normalise"])) == (CLASSES, False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx", "torch_export"])
@pytest.mark.parametrize(
    "options",
    [
        {"rope": "mixed", "reg_tokens": 2},
        {"rope": "dinov3"},
        {"dist_token": True},
        {"global_pool": "map", "class_token": False, "dynamic_img_size": True},
        {"embed_layer": "conv_stem", "global_pool": "seq", "class_token": False},
        {"embed_layer": "linear", "block_layer": "parallel", "norm_layer": "rmsnorm"},
        {"img_size": [16, 24], "in_chans": 1, "block_layer": "pair", **DINOV2},
    ],
)
def test_every_option_is_a_graph(name, options, tmp_path):
    _, written = exported(tmp_path, name, **options)
    assert written.difference < 1e-5


@pytest.mark.slow
def test_weights_too_large_for_one_onnx_file_lie_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(export_graph, "MOST_IN_ONE_FILE", 1000)
    _, written = exported(tmp_path, "onnx", depth=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.onnx", "net.onnx.data"]
    assert written.bytes == sum(p.stat().st_size for p in tmp_path.iterdir())
    onnx_session(written.path)


# ── what cannot ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "name, options, said",
    [
        ("timm", {"global_pool": "seq", "class_token": False}, "global_pool=seq"),
        ("timm", {"global_pool": "token_avg"}, "global_pool=token_avg"),
        ("timm", {"embed_layer": "conv_stem"}, "embed_layer=conv_stem"),
        ("timm", {"qk_scale": 0.5}, "qk_scale=0.5"),
        ("timm", {"norm_eps": 1e-4}, "norm_eps=0.0001"),
        ("timm", {"tome_r": 2}, "tome_r=2"),
        ("timm", {"dist_token": True, "reg_tokens": 1}, "reg_tokens=1"),
        ("timm", {"dist_token": True, "no_embed_class": True}, "no_embed_class"),
        ("timm", {"dist_token": True, "pos_embed": "none"}, "pos_embed=none"),
        ("timm", {"rope": "axial", "global_pool": "map"}, "global_pool=map"),
        ("timm", {"rope": "axial", "act_layer": "silu"}, "act_layer=silu"),
        ("timm", {"rope": "axial", "norm_eps": 1e-5}, "norm_eps=1e-05"),
        ("torchvision", {"reg_tokens": 1}, "reg_tokens=1"),
        ("torchvision", {"in_chans": 1}, "in_chans=1"),
        ("torchvision", {"img_size": [16, 24]}, "img_size"),
        ("huggingface", AVERAGE, "global_pool=avg"),
        ("huggingface", {"init_values": 0.1}, "global_pool=token"),
        ("npz", {"init_values": 0.1}, "init_values=0.1"),
        ("npz", {"act_layer": "relu"}, "act_layer=relu"),
        ("npz", {"global_pool": "token_avg"}, "global_pool=token_avg"),
        ("npz", AVERAGE, "fc_norm"),
    ],
)
def test_an_option_without_a_place_is_named_and_nothing_is_left(name, options, said, tmp_path):
    with pytest.raises(ConfigError, match=f"{said}.*safetensors and torch_export hold any net"):
        exported(tmp_path, name, **options)
    assert list(tmp_path.iterdir()) == []


VALUES = {
    "class_token": [True, False],
    "dist_token": [False, True],
    "reg_tokens": [0, 1, 2],
    "pos_embed": ["learn", "none"],
    "no_embed_class": [False, True],
    "rope": ["none", "axial", "dinov3", "mixed"],
    "pre_norm": [False, True],
    "final_norm": [True, False],
    "fc_norm": [None, True, False],
    "global_pool": ["token", "avg", "map", "token_avg"],
    "embed_norm": [False, True],
    "norm_layer": ["layernorm", "rmsnorm"],
    "norm_eps": [1e-6, 1e-5],
    "act_layer": ["gelu", "quick_gelu", "silu"],
    "mlp_layer": ["mlp", "swiglu", "swiglu_packed"],
    "block_layer": ["serial", "parallel", "pair"],
    "qkv_bias": [True, False],
    "k_bias": [True, False],
    "fused_qkv": [True, False],
    "qk_norm": [False, True],
    "proj_bias": [True, False],
    "scale_mlp_norm": [False, True],
    "init_values": [None, 0.1],
}


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.fixed_dictionaries({}, optional={k: st.sampled_from(v) for k, v in VALUES.items()}))
def test_any_options_are_written_as_they_are_or_refused(options):
    try:
        net_of(passport_of(**options))
    except ConfigError:
        return  # options that do not fit each other
    for name in ("timm", "torchvision", "huggingface", "npz"):
        with tempfile.TemporaryDirectory() as folder, suppress(ConfigError):
            exported(Path(folder), name, **options)


def test_an_export_that_disagrees_is_removed(tmp_path, monkeypatch):
    honest = export.export_weights.write_safetensors

    def wrong(net, passport, path):
        net.blocks[1].mlp.fc2.bias.data[0] += 1e-2
        honest(net, passport, path)
        net.blocks[1].mlp.fc2.bias.data[0] -= 1e-2

    chosen = FORMATS["safetensors"]
    monkeypatch.setitem(
        FORMATS,
        "safetensors",
        export.Format(chosen.suffix, wrong, chosen.read, chosen.usage),
    )
    kept = tmp_path / "net.safetensors"
    kept.write_text("older")
    with pytest.raises(DoesNotAgree, match="was not kept"):
        exported(tmp_path, "safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]
    assert kept.read_text() == "older"


def test_a_net_that_tells_no_image_from_another_cannot_be_compared(tmp_path):
    net = net_of(passport := passport_of())
    net.patch_embed.proj.weight.data.fill_(1e-30)
    with pytest.raises(DoesNotAgree, match="all images the same logits, also with another head"):
        write_verified(net, passport, "safetensors", tmp_path / "net.safetensors")
    assert list(tmp_path.iterdir()) == []


ZERO_HEADS = [
    ("safetensors", {}, ["head"]),
    ("timm", {"dist_token": True}, ["head", "head_dist"]),
    ("timm", {"rope": "dinov3"}, ["head"]),
    ("torchvision", {}, ["head"]),
    ("huggingface", DINOV2, ["head"]),
    ("npz", {}, ["head"]),
    ("torch_export", {}, ["head"]),
]


def net_with_zeros(passport: Passport, heads: list[str]) -> nn.Module:
    net = net_of(passport)
    for head in heads:
        net.get_submodule(head).weight.data.zero_()
    return net


@pytest.mark.parametrize(("name", "options", "heads"), ZERO_HEADS, ids=str)
def test_behind_a_head_of_zeros_the_rest_is_compared_too(
    name, options, heads, tmp_path, monkeypatch
):
    passport = passport_of(**options)
    net, path = net_with_zeros(passport, heads), tmp_path / f"net{FORMATS[name].suffix}"
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    written = write_verified(net, passport, name, path)
    if name != "torch_export":
        images = torch.randn(2, 3, 16, 16)
        assert torch.equal(net(images)[0], net(images)[1])  # nothing to compare, as it is
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    if name == "safetensors":
        assert not loaded(written)["head.weight"].any()
    chosen = FORMATS[name]

    def wrong(net, passport, path):
        other = copy.deepcopy(net)
        other.blocks[0].mlp.fc1.weight.data[0] += 1e-1
        chosen.write(other, passport, path)

    monkeypatch.setitem(FORMATS, name, replace(chosen, write=wrong))
    left = sorted(tmp_path.iterdir())
    with pytest.raises(DoesNotAgree, match="was not kept: its logits differ"):
        write_verified(net, passport, name, tmp_path / f"net2{FORMATS[name].suffix}")
    assert sorted(tmp_path.iterdir()) == left


def test_logits_that_are_no_numbers_are_no_agreement(tmp_path):
    passport = passport_of()
    net = net_of(passport)
    net.head.bias.data[0] = float("nan")
    with pytest.raises(DoesNotAgree):
        write_verified(net, passport, "safetensors", tmp_path / "net.safetensors")


def test_a_missing_package_is_named_with_what_to_type(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "find_spec", lambda package: None)
    with pytest.raises(ConfigError, match="needs transformers: pip install 'vitfw.huggingface.'"):
        exported(tmp_path, "huggingface")
    with pytest.raises(
        ConfigError, match=r"needs onnx, onnxscript, .*pip install 'vitfw\[export\]"
    ):
        exported(tmp_path, "onnx")


def refuse_to_move(monkeypatch, name: str):
    """The disk takes no file called `name`, but in its old place."""
    honest = Path.rename

    def rename(path, target):
        if Path(target).name == name and path.parent.name == "new":
            raise OSError(28, "No space left on device")
        return honest(path, target)

    monkeypatch.setattr(Path, "rename", rename)


def test_a_folder_that_cannot_be_replaced_is_there_again(tmp_path, monkeypatch):
    (tmp_path / "net").mkdir()
    (tmp_path / "net/config.json").write_text("older")
    refuse_to_move(monkeypatch, "net")
    with pytest.raises(ConfigError, match="net cannot be written: No space left on device"):
        exported(tmp_path, "timm")
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")] == [
        "net",
        "net/config.json",
    ]
    assert (tmp_path / "net/config.json").read_text() == "older"


def write_parts(path: Path, *parts: str):
    with staging.staged(path) as partial:
        for part in parts:
            partial.with_name(partial.name + part).write_text("new")


@pytest.mark.parametrize("old", [("",), ("", ".data"), (".data",), ()], ids=str)
@pytest.mark.parametrize("new", [("",), ("", ".data")], ids=str)
def test_a_graph_and_the_weights_beside_it_are_replaced_together(old, new, tmp_path, monkeypatch):
    path = tmp_path / "net.onnx"
    for part in old:
        (tmp_path / f"net.onnx{part}").write_text("old")
    before = {p.name: p.read_text() for p in tmp_path.iterdir()}
    if old:
        with pytest.raises(ConfigError, match=rf"net\.onnx{old[0]} is there already; overwrite"):
            staging.check_place(path, is_folder=False, overwrite=False)
    staging.check_place(path, is_folder=False, overwrite=True)
    if set(new) | set(old) != {""}:  # more than one file is moved
        with monkeypatch.context() as patch, pytest.raises(ConfigError, match="No space left"):
            refuse_to_move(patch, "net.onnx")
            write_parts(path, *new)
        assert {p.name: p.read_text() for p in tmp_path.iterdir()} == before
    write_parts(path, *new)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {
        f"net.onnx{part}": "new" for part in new
    }


@pytest.mark.parametrize("place", ["mkdtemp", "write"])
def test_a_disk_that_takes_no_files_is_told_in_one_line(place, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(30, "Read-only file system")

    if place == "mkdtemp":
        monkeypatch.setattr(staging.tempfile, "mkdtemp", full)
    else:
        monkeypatch.setitem(FORMATS, "npz", replace(FORMATS["npz"], write=full))
    with pytest.raises(ConfigError, match="cannot be written: Read-only file system") as caught:
        exported(tmp_path / "new", "npz")
    assert "\n" not in str(caught.value) and "any net" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_replaced_whole(tmp_path):
    (tmp_path / "net").mkdir()
    (tmp_path / "net/preprocessor_config.json").write_text("{}")
    exported(tmp_path, "timm")
    assert sorted(p.name for p in (tmp_path / "net").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["net"]


@pytest.mark.parametrize("name, file", [("safetensors", ""), ("timm", "model.safetensors")])
def test_others_may_read_an_export_as_any_new_file(name, file, tmp_path):
    _, written = exported(tmp_path, name)
    (tmp_path / "any").touch()
    assert (written.path / file).stat().st_mode == (tmp_path / "any").stat().st_mode
