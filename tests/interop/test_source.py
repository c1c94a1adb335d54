"""Where weights come from: every kind of source gives the model that its own library has, or one
line that says why not."""

import argparse
import json
import os
import pickle
import struct
from typing import Any

import lightning as L
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import transformers
from randomised import random_weights
from torch import nn
from torchvision.models import VisionTransformer as TorchvisionVisionTransformer

from vitfw.checkpoint import AtomicCheckpointIO, Passport, PassportCallback
from vitfw.errors import ConfigError
from vitfw.interop import npz
from vitfw.interop.fit import initialise_from
from vitfw.interop.source import OURS, read_source
from vitfw.models.vit import VisionTransformer
from vitfw.training.adaptation import adapt
from vitfw.training.classifier import Classifier

TINY: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "num_classes": 5,
    "embed_dim": 24,
    "depth": 2,
    "num_heads": 3,
}
HALF = (0.5, 0.5, 0.5)


def timm_vit(name: str = "vit_tiny_patch16_224", **options) -> Any:
    return random_weights(timm.create_model(name, **{**TINY, **options}))


def torchvision_vit() -> Any:
    return random_weights(
        TorchvisionVisionTransformer(32, 8, 2, 3, 24, 96, num_classes=5),
    )


def huggingface_vit() -> Any:
    config = transformers.ViTConfig(
        image_size=32,
        patch_size=8,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=96,
        num_labels=5,
    )
    return random_weights(transformers.ViTForImageClassification(config))


def logits_of(net: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        out = net.double().eval()(images.double())
    return getattr(out, "logits", out)


def assert_starts_as(theirs: nn.Module, source, **options):
    """A net of ours of the same options, begun from `source`, computes what `theirs` does."""
    net = VisionTransformer(**{**TINY, **options})
    report = initialise_from(net, source)
    assert not report.changed and not report.remade
    assert sorted(report.loaded) == sorted(net.state_dict())
    images = torch.randn(2, 3, 32, 32)
    expected = logits_of(theirs, images)
    assert expected.std() > 0.01
    torch.testing.assert_close(logits_of(net, images), expected, rtol=0, atol=1e-9)
    return report


# ── every kind of source ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (timm_vit, {}),
        (torchvision_vit, {}),
        (huggingface_vit, {"norm_eps": 1e-12}),
    ],
)
def test_a_model_object_brings_its_weights_and_options(make, options):
    model = make()
    report = assert_starts_as(model, model, **options)
    assert report.notes == []
    assert read_source(model).options.items() >= {"num_heads": 3, "act_layer": "gelu"}.items()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("make", [timm_vit, torchvision_vit, huggingface_vit])
def test_a_state_dict_starts_a_net_and_what_it_does_not_tell_is_noted(make, suffix, tmp_path):
    model, path = make(), tmp_path / f"x{suffix}"
    save = safetensors.torch.save_file if suffix == ".safetensors" else torch.save
    save(model.state_dict(), path)
    eps = {"norm_eps": 1e-12} if make is huggingface_vit else {}
    report = assert_starts_as(model, str(path), **eps)
    (note,) = report.notes
    assert "do not tell" in note and "num_heads=3" in note


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "net.", "model."])
def test_what_trainers_put_before_the_names_is_no_hindrance(prefix, tmp_path):
    model = timm_vit()
    state = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "x.pth")
    assert_starts_as(model, str(tmp_path / "x.pth"))


def test_google_npz_tells_the_number_of_heads(tmp_path):
    model = timm_vit()
    npz.write_npz(tmp_path / "x.npz", model.state_dict(), num_heads=3)
    report = assert_starts_as(model, str(tmp_path / "x.npz"))
    assert report.format == "Google npz"
    with pytest.raises(ConfigError, match=r"num_heads 3 there and 2 here.*model\.num_heads=3$"):
        initialise_from(VisionTransformer(**{**TINY, "num_heads": 2}), str(tmp_path / "x.npz"))


def test_deits_file_with_its_arguments_inside(tmp_path):
    model = timm_vit("deit_tiny_distilled_patch16_224")
    args = argparse.Namespace(lr=5e-4, model="deit_tiny_distilled_patch16_224")
    torch.save({"model": model.state_dict(), "args": args, "epoch": 299}, tmp_path / "deit.pth")
    assert_starts_as(model, str(tmp_path / "deit.pth"), dist_token=True)


def test_maes_decoder_is_left_out_and_said_to_be(tmp_path):
    model = timm_vit(num_classes=0)
    decoder = {"mask_token": torch.zeros(1, 1, 8), "decoder_embed.weight": torch.zeros(8, 24)}
    content = {"model": {**model.state_dict(), **decoder}, "args": argparse.Namespace()}
    torch.save(content, tmp_path / "mae.pth")
    report = assert_starts_as(model, str(tmp_path / "mae.pth"), num_classes=0)
    assert set(report.ignored) == set(decoder)


def passport(config: dict) -> Passport:
    return Passport(
        config=config,
        classes=list("abcde"),
        channels=3,
        img_size=[32, 32],
        crop_share=1.0,
        mean=[0.1, 0.2, 0.3],
        std=[0.4, 0.5, 0.6],
        versions={},
    )


def save_checkpoint(net: nn.Module, config: dict, path) -> str:
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=[PassportCallback(passport(config))],
        plugins=[AtomicCheckpointIO()],
        default_root_dir=path.parent,
        enable_model_summary=False,
    )
    trainer.strategy.connect(Classifier(net, 5))
    trainer.save_checkpoint(path)
    return str(path)


def test_a_checkpoint_of_ours_brings_options_and_normalisation(tmp_path):
    net = random_weights(VisionTransformer(**TINY, act_layer="relu"))
    config = {"_target_": OURS, **TINY, "act_layer": "relu"}
    path = save_checkpoint(net, {"model": config}, tmp_path / "last.ckpt")
    assert assert_starts_as(net, path, act_layer="relu").notes == []
    assert read_source(path).mean == (0.1, 0.2, 0.3)
    with pytest.raises(ConfigError, match=r"act_layer relu there and gelu here.*=relu$"):
        initialise_from(VisionTransformer(**TINY), path)


def test_a_checkpoint_of_ours_with_a_net_of_timms_starts_either(tmp_path):
    model = timm_vit()
    config = {"_target_": "vitfw.interop.timm_model.create", "name": "vit_tiny_patch16_224"}
    path = save_checkpoint(model, {"model": config}, tmp_path / "last.ckpt")
    assert_starts_as(model, path)
    again = timm_vit()
    assert initialise_from(again, path).remade == {}
    images = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(logits_of(again, images), logits_of(model, images))


@pytest.mark.parametrize("make", [VisionTransformer, timm_vit])
def test_a_checkpoint_with_adapters_starts_a_net_without(make, tmp_path):
    model = make(**TINY)
    ours = {"_target_": OURS, **TINY}
    theirs = {"_target_": "vitfw.interop.timm_model.create", "name": "vit_tiny_patch16_224"}
    options = {"rank": 2, "alpha": 6}
    adapt(model, lora=options)
    config = {"model": ours if make is VisionTransformer else theirs, "lora": options}
    path = save_checkpoint(random_weights(model), config, tmp_path / "last.ckpt")
    net = VisionTransformer(**TINY)
    notes = initialise_from(net, path).notes
    assert notes[0] == "low-rank adapters folded into the weights"
    images = torch.randn(2, 3, 32, 32)
    expected = logits_of(model, images)
    torch.testing.assert_close(logits_of(net, images), expected, rtol=1e-6, atol=1e-6)


def test_safetensors_that_we_exported_tell_their_options(tmp_path):
    from vitfw.interop.export_weights import write_safetensors

    net = random_weights(VisionTransformer(**{**TINY, "num_heads": 2, "rope": "axial"}))
    config = {"_target_": OURS, **TINY, "num_heads": 2, "rope": "axial"}
    write_safetensors(net, passport({"model": config}), tmp_path / "x.safetensors")
    path = str(tmp_path / "x.safetensors")
    assert assert_starts_as(net, path, num_heads=2, rope="axial").notes == []
    with pytest.raises(ConfigError, match=r"rope axial there and none here"):
        initialise_from(VisionTransformer(**{**TINY, "num_heads": 2}), path)


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "pytorch_model.bin"])
def test_a_folder_of_hugging_face(safe, tmp_path):
    model = huggingface_vit()
    if safe:
        model.save_pretrained(tmp_path)
    else:
        model.config.save_pretrained(tmp_path)
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    processor = {"image_mean": list(HALF), "image_std": list(HALF)}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    report = assert_starts_as(model, str(tmp_path), norm_eps=1e-12)
    assert report.notes == []
    assert read_source(str(tmp_path)).std == HALF


@pytest.mark.parametrize(
    ("name", "options", "more"),
    [
        ("vit_tiny_patch16_224", {}, {}),
        ("deit3_small_patch16_224", {"init_values": 1e-6, "no_embed_class": True}, {}),
        ("eva02_tiny_patch14_224", None, {"num_heads": 2}),
    ],
)
def test_a_folder_of_timm_names_an_architecture_that_tells_the_options(
    name, options, more, tmp_path
):
    model = timm_vit(name, **more)
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    found = read_source(str(tmp_path))
    assert len(found.mean) == len(found.std) == 3
    if options is None:
        options = {key: value for key, value in found.options.items() if key not in TINY}
        assert options["rope"] == "axial"
    report = assert_starts_as(model, str(tmp_path), **{**options, **more})
    assert not [note for note in report.notes if "do not tell" in note]


def test_a_timm_folders_config_cannot_make_timm_fetch_or_read_anything(tmp_path, monkeypatch):
    model = timm_vit()
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["model_args"] |= {"pretrained": True, "checkpoint_path": "/nowhere"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *a, **k: pytest.fail("asked"))
    assert_starts_as(model, str(tmp_path))


# ── hubs ──────────────────────────────────────────────────────────────────────────────────────


def test_a_timm_model_is_fetched_by_name(monkeypatch):
    model, asked = timm_vit(), []

    def create(name, pretrained):
        asked.append((name, pretrained))
        return model

    monkeypatch.setattr(timm, "create_model", create)
    report = assert_starts_as(model, "timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k")
    assert asked == [("vit_tiny_patch16_224.augreg_in21k_ft_in1k", True)]
    assert report.source == "timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k"


def test_a_torchvision_model_is_fetched_by_name(monkeypatch):
    from torchvision import models

    model = torchvision_vit()
    monkeypatch.setattr(models, "get_model", lambda name, **_: model)
    assert_starts_as(model, "torchvision:vit_b_16")
    assert read_source("torchvision:vit_b_16").mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize("there", ["model.safetensors", "pytorch_model.bin"])
def test_of_two_files_of_the_same_weights_one_is_fetched(there, monkeypatch, tmp_path):
    import huggingface_hub

    model, asked = huggingface_vit(), []
    model.save_pretrained(tmp_path)
    if there == "pytorch_model.bin":
        (tmp_path / "model.safetensors").unlink()
        torch.save(model.state_dict(), tmp_path / there)

    def download(name, allow_patterns):
        asked.append([pattern for pattern in allow_patterns if not pattern.endswith(".json")])
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert_starts_as(model, "huggingface:google/vit", norm_eps=1e-12)
    both = [["model.safetensors"], ["pytorch_model.bin"]]
    assert asked == (both[:1] if there == "model.safetensors" else both)


def test_a_hugging_face_model_is_fetched_by_name(monkeypatch, tmp_path):
    import huggingface_hub

    model = huggingface_vit()
    model.save_pretrained(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **more: str(tmp_path))
    report = assert_starts_as(model, "huggingface:google/vit", norm_eps=1e-12)
    assert report.source == "huggingface:google/vit"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("timm:vit_tinny_patch16_224", r"'vit_tinny_patch16_224'; did you mean vit_tiny_patch"),
        ("timm:resnet1", r"did you mean resnet1"),
        ("timm:", r"timm has no model ''"),
        ("torchvision:vit_b_61", r"did you mean vit_b_16"),
        ("torchvision:resnet18", r"it has: vit_b_16, vit_b_32"),
        ("torchvison:vit_b_16", r"init_from=torchvison:vit_b_16 is neither .* mean torchvision\?"),
        ("tim:vit", r"neither a file nor one of timm:NAME, .*; did you mean timm\?"),
        ("nowhere.pth", r"there is no checkpoint nowhere\.pth"),
        ("nowhere.npz", r"there is no file nowhere\.npz"),
    ],
)
def test_a_name_that_is_none_is_answered_with_the_nearest(source, said):
    with pytest.raises(ConfigError, match=said):
        read_source(source)


@pytest.mark.parametrize("error", [OSError, RuntimeError, ConnectionError, Exception])
@pytest.mark.parametrize(
    ("source", "library", "function", "instead"),
    [
        ("timm:vit_tiny_patch16_224", "timm", "create_model", "init_from=FILE.safetensors"),
        ("torchvision:vit_b_16", "torchvision.models", "get_model", "init_from=FILE.pth"),
        ("huggingface:a/b", "huggingface_hub", "snapshot_download", "init_from=FOLDER with"),
    ],
)
def test_without_a_network_the_message_says_how_to_go_on(
    source, library, function, instead, error, monkeypatch
):
    def offline(*_, **__):
        raise error("We couldn't connect to the server\nmore lines")

    monkeypatch.setattr(f"{library}.{function}", offline)
    with pytest.raises(ConfigError) as caught:
        read_source(source)
    assert f"the weights of {source} could not be fetched (We couldn't" in str(caught.value)
    assert instead in str(caught.value) and "\n" not in str(caught.value)


# ── files that are none ───────────────────────────────────────────────────────────────────────


class Trap:
    """Unpickling it would run a command."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("name", ["x.pth", "x.pt", "x.ckpt", "pytorch_model.bin", "folder", "npz"])
def test_code_in_a_file_is_refused_and_not_run(name, tmp_path):
    trap = tmp_path / "it_ran"
    content = {"state_dict": {"weight": torch.ones(2)}, "extra": Trap(trap)}
    path = tmp_path / name
    if name == "npz":
        path = tmp_path / "x.npz"
        np.savez(path, **{"embedding/kernel": np.array([Trap(trap)], dtype=object)})
    elif name == "folder":
        path.mkdir()
        (path / "config.json").write_text("{}")
        torch.save(content, path / "pytorch_model.bin")
    else:
        torch.save(content, path)
    with pytest.raises(ConfigError, match="could run code"):
        read_source(str(path))
    assert not trap.exists()
    os.system(f"touch {trap}")
    assert trap.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_file_that_was_cut_off_is_said_to_be(suffix, share, tmp_path):
    path, state = tmp_path / f"x{suffix}", timm_vit().state_dict()
    if suffix == ".npz":
        npz.write_npz(path, state, 3)
    else:
        (safetensors.torch.save_file if suffix == ".safetensors" else torch.save)(state, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ConfigError, match="cut off"):
        read_source(str(path))


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [10], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 1 << 60]}},
        {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [1 << 62, 4], "data_offsets": [0, 8]}},
        {"a": {"dtype": "X32", "shape": [2], "data_offsets": [0, 8]}},
        {"a": [1, 2]},
        [],
    ],
    ids=str,
)
def test_a_safetensors_header_that_lies_is_refused(header, tmp_path):
    text = json.dumps(header).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 8)
    with pytest.raises(ConfigError, match="not a safetensors file"):
        read_source(str(tmp_path / "x.safetensors"))


@pytest.mark.parametrize("metadata", [{"model": "vit_b"}, {"model": "{}"}, {"model": '{"a": ['}])
def test_metadata_of_others_is_no_hindrance(metadata, tmp_path):
    model, path = timm_vit(), tmp_path / "x.safetensors"
    safetensors.torch.save_file(model.state_dict(), path, metadata)
    assert_starts_as(model, str(path))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "holds no weights; its keys: nothing"),
        ({"epoch": 3}, "holds no weights; its keys: epoch"),
        ({"optimizer": {"state": {0: {"exp_avg": torch.ones(1)}}}}, "holds no weights"),
        ([torch.ones(1)], "holds a list"),
        (torch.ones(1), "holds a Tensor"),
        ("weights", "holds a str"),
    ],
    ids=str,
)
def test_a_file_without_weights_is_refused_by_its_name(content, said, tmp_path):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(ConfigError, match=f"x.pth.*{said}"):
        read_source(str(tmp_path / "x.pth"))


def test_names_that_are_numbers_are_refused_as_unknown(tmp_path):
    torch.save({0: torch.ones(1), 1: torch.ones(2)}, tmp_path / "x.pth")
    with pytest.raises(ConfigError, match=r"2 unknown \(0, 1\)"):
        initialise_from(VisionTransformer(**TINY), str(tmp_path / "x.pth"))


def test_two_models_in_a_file_are_refused_by_the_files_name(tmp_path):
    state = timm_vit().state_dict()
    both = {f"{part}.{name}": t for part in ("student", "ema") for name, t in state.items()}
    torch.save(both, tmp_path / "x.pth")
    with pytest.raises(ConfigError, match=r"x\.pth: the file holds several models"):
        read_source(str(tmp_path / "x.pth"))


def test_an_npz_of_something_else_is_refused_by_its_arrays(tmp_path):
    np.savez(tmp_path / "x.npz", **{"resnet/conv_root/kernel": np.ones((3, 3, 3, 8))})
    with pytest.raises(ConfigError, match=r"1 unknown \(resnet/conv_root/kernel\)"):
        initialise_from(VisionTransformer(**TINY), str(tmp_path / "x.npz"))


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        (torch.ones(2, 2).to_sparse(), "is sparse"),
        (torch.ones(2, device="meta"), "is on the meta device"),
        (torch.ones(2, dtype=torch.complex64), "is complex"),
        (torch.ones(2).to(torch.float8_e4m3fn), r"is quantised \(float8_e4m3fn\)"),
        (torch.ones(24, 3, 8, 0), r"is empty: \[24, 3, 8, 0\]"),
        (torch.ones(24, 0, 8, 8), r"is empty: \[24, 0, 8, 8\]"),
    ],
    ids=lambda value: str(value)[:12],
)
@pytest.mark.parametrize("kind", ["state dict", "checkpoint", "object"])
def test_a_tensor_without_dense_real_numbers_is_refused_by_name(odd, said, kind, tmp_path):
    model, source = timm_vit(), tmp_path / "x.pth"
    if kind == "object":
        model.register_buffer("odd", odd)
        source = model
    elif kind == "checkpoint":
        source = save_checkpoint(
            VisionTransformer(**TINY), {"model": {"_target_": OURS, **TINY}}, source
        )
        content = torch.load(source)
        content["state_dict"]["net.odd"] = odd
        torch.save(content, source)
    else:
        torch.save({**model.state_dict(), "odd": odd}, source)
    where = type(model).__name__ if kind == "object" else "x.pth"
    with pytest.raises(ConfigError, match=rf"{where}: odd {said}") as caught:
        read_source(source if kind == "object" else str(source))
    assert "\n" not in str(caught.value)


def test_an_empty_array_of_an_npz_is_refused_by_name(tmp_path):
    np.savez(tmp_path / "x.npz", **{"embedding/kernel": np.ones((8, 0, 3, 24), np.float32)})
    with pytest.raises(ConfigError, match=r"x\.npz: embedding/kernel is empty"):
        read_source(str(tmp_path / "x.npz"))


@pytest.mark.parametrize("name", ["best.onnx", "best.pt2"])
def test_a_graph_is_said_to_be_one(name, tmp_path):
    (tmp_path / name).write_bytes(b"whatever")
    with pytest.raises(ConfigError, match="is a graph, which weights cannot be read back from"):
        read_source(str(tmp_path / name))


def test_a_tensor_called_as_our_passport_is_an_unknown_tensor(tmp_path):
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file({**timm_vit().state_dict(), "vitfw": torch.ones(1)}, path)
    with pytest.raises(ConfigError, match=r"1 unknown \(vitfw\)"):
        initialise_from(VisionTransformer(**TINY), str(path))


@pytest.mark.parametrize(
    "options", [{"rope": ["a"]}, {"img_size": "q"}, {"depth": None}, {"act_layer": {}}], ids=str
)
@pytest.mark.parametrize("kind", ["safetensors", "checkpoint"])
def test_a_config_of_ours_that_makes_no_sense_is_refused(options, kind, tmp_path):
    net, config = VisionTransformer(**TINY), {"_target_": OURS, **TINY, **options}
    path = tmp_path / f"x.{kind}"
    if kind == "checkpoint":
        save_checkpoint(net, {"model": config}, path)
    else:
        safetensors.torch.save_file(net.state_dict(), path, {"model": json.dumps(config)})
    with pytest.raises(ConfigError, match=f"{path} has a config of no VisionTransformer") as caught:
        initialise_from(net, str(path))
    assert "\n" not in str(caught.value)


def test_means_that_are_no_numbers_are_none(tmp_path):
    net, path = VisionTransformer(**TINY), tmp_path / "x.safetensors"
    told = {"model": {"_target_": OURS, **TINY}, "mean": ["a", 1, 2], "std": [1, 2, 3]}
    metadata = {name: json.dumps(value) for name, value in told.items()}
    safetensors.torch.save_file(net.state_dict(), path, metadata)
    assert initialise_from(net, str(path), HALF, HALF).notes == []


def test_what_was_read_of_several_is_noted(tmp_path):
    model, other = timm_vit(), timm_vit()
    content = {"model": other.state_dict(), "model_ema": model.state_dict(), "epoch": 3}
    torch.save(content, tmp_path / "x.pth")
    report = assert_starts_as(model, str(tmp_path / "x.pth"))
    assert report.notes[0] == "read 'model_ema' and not 'model'"


@pytest.mark.parametrize("key", ["net", "encoder"])
def test_a_lone_part_of_any_name_is_read_and_noted(key, tmp_path):
    model = timm_vit()
    torch.save({key: model.state_dict(), "best": torch.tensor(0.8)}, tmp_path / "x.pth")
    report = assert_starts_as(model, str(tmp_path / "x.pth"))
    assert report.notes[0] == f"read {key!r}, the only part with tensors in it"


def test_a_torchvision_file_leaves_only_the_number_of_heads_untold(tmp_path):
    path = tmp_path / "x.pth"
    torch.save(torchvision_vit().state_dict(), path)
    (note,) = initialise_from(VisionTransformer(**TINY), str(path)).notes
    assert note == "the weights do not tell these, taken as here: num_heads=3"
    with pytest.raises(ConfigError, match=r"act_layer gelu there and relu here"):
        initialise_from(VisionTransformer(**TINY, act_layer="relu"), str(path))
    (_, note) = initialise_from(VisionTransformer(**TINY, norm_eps=1e-5), str(path)).notes
    assert "norm_eps is 1e-06 there, 1e-05 here" in note


@pytest.mark.parametrize("shape", [(), (2, 24), (1, 2, 23)])
def test_hugging_face_registers_of_a_wrong_shape_are_refused(shape, tmp_path):
    config = transformers.Dinov2WithRegistersConfig(
        image_size=32,
        patch_size=8,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_labels=5,
        num_register_tokens=2,
    )
    state = dict(transformers.Dinov2WithRegistersForImageClassification(config).state_dict())
    name = next(name for name in state if name.endswith("register_tokens"))
    net = VisionTransformer(**TINY, reg_tokens=2, init_values=1.0, global_pool="token_avg")
    torch.save({**state, name: torch.ones(shape)}, tmp_path / "x.pth")
    with pytest.raises(ConfigError, match="reg_token|pos_embed"):
        initialise_from(net, str(tmp_path / "x.pth"))


# ── folders that are none ─────────────────────────────────────────────────────────────────────


def test_a_folder_without_config_or_weights_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"a folder without config\.json and model\.safetensors"):
        read_source(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"without config\.json and model.safetensors or pytorch"):
        read_source(str(tmp_path))
    (tmp_path / "config.json").unlink()
    safetensors.torch.save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match="a folder without"):
        read_source(str(tmp_path))


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("config.json", "{", "config.json is not JSON"),
        ("config.json", "\xff", "config.json is not JSON"),
        ("config.json", "[" * 100_000, "config.json is not JSON"),
        ("config.json", "[]", "config.json holds a list"),
        ("config.json", '{"model_type": "bert"}', "model_type 'bert' is not one of"),
        ("config.json", '{"model_type": "vit", "hidden_size": "x"}', "no config of vit"),
        ("config.json", '{"model_type": "vit", "num_attention_heads": 0}', "no config of vit"),
        (
            "config.json",
            '{"architecture": "vit_tiny_patch16_224", "model_args": {"depht": 2}}',
            "timm cannot build vit_tiny_patch16_224 from",
        ),
        (
            "config.json",
            '{"architecture": "vit_tiny_patch16_224", "model_args": [1]}',
            "timm cannot build vit_tiny_patch16_224 from",
        ),
        ("preprocessor_config.json", "nonsense", "preprocessor_config.json is not JSON"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_config_that_makes_no_sense_is_refused(file, text, said, tmp_path):
    huggingface_vit().save_pretrained(tmp_path)
    (tmp_path / file).write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=said) as caught:
        read_source(str(tmp_path))
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ['{"image_mean": null, "image_std": 1}', "{}"])
def test_a_preprocessor_without_mean_and_std_tells_none(text, tmp_path):
    huggingface_vit().save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(text)
    assert read_source(str(tmp_path)).mean is None


def test_a_config_that_is_not_of_the_weights_beside_it_is_refused(tmp_path):
    huggingface_vit().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"num_attention_heads": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"num_heads 4 there and 3 here"):
        initialise_from(VisionTransformer(**TINY), str(tmp_path))


def test_pickles_of_old_are_refused_too(tmp_path):
    trap = tmp_path / "it_ran"
    (tmp_path / "x.pth").write_bytes(pickle.dumps({"extra": Trap(trap)}, protocol=2))
    with pytest.raises(ConfigError):
        read_source(str(tmp_path / "x.pth"))
    assert not trap.exists()
