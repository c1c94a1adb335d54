"""Checkpoints: whole or not there, read without running anything, refused by name of the tensor."""

import contextlib
import copy
import json
import pickle
from dataclasses import asdict
from typing import Any

import lightning as L
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from vitfw import checkpoint as checkpoint_module
from vitfw.checkpoint import (
    AtomicCheckpointIO,
    Passport,
    PassportCallback,
    load_file,
    load_weights,
    passport_of,
)
from vitfw.errors import ConfigError
from vitfw.models.vit import VisionTransformer
from vitfw.training.classifier import Classifier

TINY: dict[str, Any] = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}
PASSPORT = Passport(
    config={"model": {"img_size": [8, 8], "qk_scale": None}, "optimizer": {"lr": 1e-3}},
    classes=["cat", "dog", "Übermut"],
    channels=3,
    img_size=[8, 8],
    crop_share=0.875,
    mean=[0.1, 0.2, 0.3],
    std=[0.4, 0.5, 0.6],
    versions={"torch": "2.14.1"},
)


def make_net(num_classes: int = 3, **options) -> VisionTransformer:
    return VisionTransformer(**TINY | options, num_classes=num_classes)


class Bomb:
    """Unpickling it would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture
def saved(tmp_path):
    """One of our checkpoints, as a Trainer writes it, and the net in it."""
    net = make_net()
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=[PassportCallback(PASSPORT)],
        plugins=[AtomicCheckpointIO()],
        default_root_dir=tmp_path,
    )
    trainer.strategy.connect(Classifier(net, 3))
    path = tmp_path / "checkpoints" / "last.ckpt"
    trainer.save_checkpoint(path)
    return path, net


def assert_same(weights, net: nn.Module) -> None:
    expected = net.state_dict()
    assert set(weights) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(weights[name], tensor), name


# ── writing ───────────────────────────────────────────────────────────────────────────────────


def test_what_was_saved_is_loaded(tmp_path):
    content = {"weights": torch.randn(3, 4), "epoch": 3, "names": ["a", "b"], "nothing": None}
    AtomicCheckpointIO().save_checkpoint(content, tmp_path / "new" / "x.ckpt")
    loaded = AtomicCheckpointIO().load_checkpoint(tmp_path / "new" / "x.ckpt")
    assert torch.equal(loaded.pop("weights"), content.pop("weights"))
    assert loaded == content
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["x.ckpt"]


def test_a_failure_in_the_middle_of_writing_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"epoch": 1}, path)
    before = path.read_bytes()

    def half_then_full_disk(content, sink):
        sink.write(before[: len(before) // 2])
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoint_module.torch, "save", half_then_full_disk)
    with pytest.raises(OSError, match="no space"):
        AtomicCheckpointIO().save_checkpoint({"epoch": 2}, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_what_cannot_be_pickled_leaves_the_old_file(tmp_path):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"epoch": 1}, path)
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError)):
        AtomicCheckpointIO().save_checkpoint({"bad": lambda: None}, path)
    assert load_file(path) == {"epoch": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"epoch": 1}, path)
    seen = []
    synced = checkpoint_module.os.fsync

    def look(descriptor):
        seen.append(load_file(path)["epoch"])
        synced(descriptor)

    monkeypatch.setattr(checkpoint_module.os, "fsync", look)
    AtomicCheckpointIO().save_checkpoint({"epoch": 2}, path)
    assert seen == [1, 2]  # the file before it is renamed, the folder after


# ── reading what is no checkpoint ─────────────────────────────────────────────────────────────


def test_a_missing_file_names_what_is_there(tmp_path):
    (tmp_path / "best.ckpt").touch()
    (tmp_path / "last.ckpt").touch()
    with pytest.raises(ConfigError, match=r"no checkpoint .*/lsat\.ckpt; did you mean last\.ckpt"):
        load_file(tmp_path / "lsat.ckpt")
    with pytest.raises(ConfigError, match=r"there: best\.ckpt, last\.ckpt"):
        load_file(tmp_path / "zzz")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.5, 0.9, 0.999])
def test_a_file_that_was_cut_off_is_said_to_be(saved, share):
    path, _ = saved
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ConfigError, match="not a checkpoint, or was cut off"):
        load_file(path)


@pytest.mark.parametrize(
    "text",
    [
        "# README\n",
        "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n",
        "<!DOCTYPE html><html></html>",
        '{"weights": [1, 2, 3]}',
        "hello",
    ],
)
@pytest.mark.parametrize("suffix", [".ckpt", ".pth"])
def test_a_text_file_is_not_a_checkpoint(tmp_path, text, suffix):
    path = tmp_path / f"x{suffix}"
    path.write_text(text)
    with pytest.raises(ConfigError, match="is not a checkpoint, or was cut off"):
        load_file(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=60))
def test_no_bytes_whatever_raise_another_error(tmp_path, content):
    for name in ("x.ckpt", "x.safetensors"):
        (tmp_path / name).write_bytes(content)
        with contextlib.suppress(ConfigError):
            load_file(tmp_path / name)


@pytest.mark.parametrize("write", ["torch.save", "old torch.save", "pickle"])
def test_a_file_that_would_run_code_is_refused_and_does_not_run_it(tmp_path, write):
    path, trap = tmp_path / "x.ckpt", tmp_path / "it ran"
    content = {"state_dict": {"weight": torch.ones(2)}, "extra": Bomb(trap)}
    if write == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=write == "torch.save")
    with pytest.raises(ConfigError, match="holds more than tensors and plain data.*could run code"):
        load_file(path)
    assert not trap.exists()
    torch.load(path, weights_only=False) if write != "pickle" else pickle.loads(path.read_bytes())
    assert trap.exists()  # the trap was a real one


def test_a_whole_pickled_module_is_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "x.pt")
    with pytest.raises(ConfigError, match="could run code"):
        load_file(tmp_path / "x.pt")


def test_a_list_is_not_a_checkpoint(tmp_path):
    torch.save([torch.ones(1)], tmp_path / "x.ckpt")
    with pytest.raises(ConfigError, match="holds a list, not a checkpoint"):
        load_file(tmp_path / "x.ckpt")


def test_safetensors_are_read_and_cut_off_ones_refused(tmp_path):
    path, net = tmp_path / "x.safetensors", make_net()
    safetensors.torch.save_file(net.state_dict(), path)
    assert_same(load_file(path), net)
    whole = path.read_bytes()
    for length in (0, 4, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ConfigError, match="not a safetensors file, or was cut off"):
            load_file(path)


# ── the passport ──────────────────────────────────────────────────────────────────────────────


def test_the_passport_comes_back_with_the_nets_own_tensors(saved):
    path, net = saved
    passport, weights = passport_of(path)
    assert passport == PASSPORT
    assert_same(weights, net)


def test_the_passport_is_plain_data(saved):
    path, _ = saved
    content = load_file(path)[checkpoint_module.KEY]
    assert json.loads(json.dumps(content)) == content


def test_weights_alone_have_no_passport_and_the_message_says_what_they_are_good_for(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(make_net().state_dict(), path)
    with pytest.raises(ConfigError, match=f"not written by vitfw.*init_from={path}"):
        passport_of(path)


def test_another_format_is_refused(saved):
    path, _ = saved
    content = load_file(path)
    content[checkpoint_module.KEY]["format"] = 99
    torch.save(content, path)
    with pytest.raises(ConfigError, match="format 99; this version reads 1"):
        passport_of(path)


@pytest.mark.parametrize(
    ("passport", "said"),
    [
        (3, "says it is vitfw's, but not what is in it"),
        ({"format": 1}, r"other fields than vitfw's: channels, classes, config and 5 more"),
        ({**asdict(PASSPORT), "surplus": 1}, r"other fields than vitfw's: surplus"),
        ({**asdict(PASSPORT), 5: 1}, r"other fields than vitfw's: 5"),
        ({**asdict(PASSPORT), "mean": 3}, "makes no sense: mean=3"),
        ({**asdict(PASSPORT), "std": [0.1, 0.0, 1.0]}, r"makes no sense: std=\[0.1, 0.0, 1.0\]"),
        ({**asdict(PASSPORT), "mean": [0.1, float("nan")]}, r"no sense: mean=\[0.1, nan\]"),
        ({**asdict(PASSPORT), "classes": "ab", "channels": 0}, "classes='ab', channels=0"),
        ({**asdict(PASSPORT), "img_size": [8]}, r"no sense: img_size=\[8\]"),
        ({**asdict(PASSPORT), "crop_share": "1"}, "no sense: crop_share='1'"),
        ({**asdict(PASSPORT), "config": {}}, r"no sense: config=\{\}"),
    ],
    ids=lambda value: str(value)[-40:],
)
def test_a_passport_that_makes_no_sense_is_refused_by_its_fields(saved, passport, said):
    path, _ = saved
    content = load_file(path) | {checkpoint_module.KEY: passport}
    torch.save(content, path)
    with pytest.raises(ConfigError, match=said) as caught:
        passport_of(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_passport_without_tensors_is_refused(saved):
    path, _ = saved
    torch.save(load_file(path) | {"state_dict": 3}, path)
    with pytest.raises(ConfigError, match="but not what is in it"):
        passport_of(path)


def test_a_tensor_called_as_our_passport_is_none(tmp_path):
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file({checkpoint_module.KEY: torch.ones(1)}, path)
    with pytest.raises(ConfigError, match="was not written by vitfw"):
        passport_of(path)


@pytest.mark.parametrize("name", ["best.onnx", "best.pt2"])
def test_a_graph_is_said_to_be_one(name, tmp_path):
    (tmp_path / name).write_bytes(b"whatever")
    with pytest.raises(ConfigError, match="is a graph.*give the checkpoint.*format=safetensors"):
        load_file(tmp_path / name)


# ── fitting weights to a net ──────────────────────────────────────────────────────────────────


def test_weights_of_another_model_are_refused_by_the_names_of_the_tensors():
    net = make_net()
    before = copy.deepcopy(net.state_dict())
    weights = make_net().state_dict()
    weights["blocks.0.extra"] = torch.ones(1)
    del weights["norm.bias"]
    weights["head.weight"] = torch.ones(5, 16)
    with pytest.raises(ConfigError) as caught:
        load_weights(net, weights, "x.ckpt")
    assert str(caught.value) == (
        "x.ckpt is of another model: tensors 1 missing (norm.bias); 1 unknown (blocks.0.extra); "
        "1 of another shape (head.weight [5, 16] instead of [3, 16])"
    )
    assert_same(before, net)  # nothing was loaded


def test_of_many_wrong_tensors_three_are_named():
    with pytest.raises(ConfigError, match=r"12 missing \(blocks\.1\.\S+, \S+, \S+ and 9 more\)"):
        load_weights(make_net(depth=2), make_net().state_dict(), "x.ckpt")
