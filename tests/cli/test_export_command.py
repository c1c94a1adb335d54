"""`vitfw export`: where it writes, what it says, and what it refuses."""

from dataclasses import asdict
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from vitfw.building import build
from vitfw.checkpoint import KEY, Passport
from vitfw.cli import export, main
from vitfw.interop.export import FORMATS, Format

MODEL = {
    "_target_": "vitfw.models.vit.VisionTransformer",
    "img_size": 8,
    "patch_size": 4,
    "num_classes": 3,
    "embed_dim": 8,
    "depth": 1,
    "num_heads": 2,
}


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Without what a command sets for its whole process."""
    monkeypatch.setattr(export, "prepare_process", lambda: None)


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """A checkpoint as a run leaves it, but for the run."""
    net = build(MODEL)
    passport = Passport(
        config={"model": MODEL},
        classes=["a", "b", "c"],
        channels=3,
        img_size=[8, 8],
        crop_share=1.0,
        mean=[0.5] * 3,
        std=[0.5] * 3,
        versions={},
    )
    state = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
    path = tmp_path / "best.ckpt"
    torch.save({KEY: asdict(passport), "state_dict": state}, path)
    return path


@pytest.fixture
def vitfw(checkpoint, capsys):
    """Runs the command; gives its exit code, standard output and the lines of standard error."""

    def run(*words: str) -> tuple[int, str, list[str]]:
        capsys.readouterr()
        code = main.main(["export", f"checkpoint={checkpoint}", *words])
        said = capsys.readouterr()
        return code, said.out, said.err.splitlines()

    return run


@pytest.mark.parametrize(
    "name, beside",
    [
        ("safetensors", "best.safetensors"),
        ("timm", "best-timm"),
        ("torchvision", "best-torchvision.pth"),
        ("huggingface", "best-huggingface"),
        ("npz", "best.npz"),
    ],
)
def test_the_export_lies_beside_the_checkpoint(vitfw, checkpoint, name, beside):
    code, out, errors = vitfw(f"format={name}")
    assert (code, errors) == (0, [])
    assert sorted(p.name for p in checkpoint.parent.iterdir()) == sorted(["best.ckpt", beside])
    lines = out.splitlines()
    assert lines[0] == f"wrote       {checkpoint.with_name(beside)}"
    assert lines[1].startswith("size        ")
    assert float(lines[2].split()[1]) < 1e-5


def test_the_last_line_loads_it(vitfw, checkpoint):
    _, out, _ = vitfw("format=timm")
    names = {"timm": timm}
    exec(out.splitlines()[-1].strip(), names)
    saved = torch.load(checkpoint)["state_dict"]
    torch.testing.assert_close(names["net"].head.weight, saved["net.head.weight"])


def test_what_is_said_fits_80_columns(vitfw, checkpoint, monkeypatch):
    monkeypatch.chdir(checkpoint.parent)
    for name in ("safetensors", "timm", "torchvision", "huggingface", "npz"):
        suffix = FORMATS[name].suffix
        code, out, _ = vitfw(f"format={name}", f"output=x-{name}{suffix}")
        assert code == 0
        assert max(len(line) for line in out.splitlines()) <= 80


def test_output_makes_its_folders_and_overwrite_replaces(vitfw, tmp_path):
    target = tmp_path / "new" / "er" / "net.safetensors"
    assert vitfw("format=safetensors", f"output={target}")[0] == 0
    target.write_bytes(b"something else")
    code, _, errors = vitfw("format=safetensors", f"output={target}")
    assert (code, errors) == (
        2,
        [f"error: output={target} is there already; overwrite=true replaces it"],
    )
    assert target.read_bytes() == b"something else"
    assert vitfw("format=safetensors", f"output={target}", "overwrite=true")[0] == 0
    assert "head.weight" in load_file(target)


def test_the_place_is_looked_at_before_the_checkpoint_is_read(vitfw, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "load_net", lambda checkpoint: pytest.fail("was read"))
    (tmp_path / "best.npz").touch()
    code, _, errors = vitfw("format=npz")
    assert (code, len(errors)) == (2, 1) and "is there already" in errors[0]


@pytest.mark.parametrize(
    ("output", "said"),
    [("best.ckpt/x.npz", "best.ckpt is no folder"), (f"{'x' * 300}.npz", "File name too long")],
)
def test_a_place_where_no_file_can_be_is_refused(output, said, vitfw, tmp_path):
    code, _, errors = vitfw("format=npz", f"output={tmp_path}/{output}")
    assert (code, len(errors)) == (2, 1)
    assert "cannot be written: " in errors[0] and said in errors[0]


def test_folders_are_not_made_for_an_export_that_is_refused(vitfw, tmp_path):
    words = ["format=npz", f"output={tmp_path}/new/er/x.npz"]
    assert vitfw(*words, "checkpoint=nowhere.ckpt")[0] == 2
    assert vitfw(*words, "normalise=true")[0] == 2
    assert [p.name for p in tmp_path.iterdir()] == ["best.ckpt"]


def test_a_folder_with_other_files_is_never_replaced(vitfw, checkpoint):
    code, _, errors = vitfw("format=timm", f"output={checkpoint.parent}", "overwrite=true")
    assert code == 2
    assert "best.ckpt in it" in errors[0]
    assert checkpoint.exists()


@pytest.mark.parametrize(
    "words, said",
    [
        ([], "format is needed: give format=…"),
        (["format=onxx"], "did you mean onnx?"),
        (["format=safetensor"], "did you mean safetensors?"),
        (["format=coreml"], "is not one of: safetensors, timm, torchvision, huggingface"),
        (["format=npz", "output=net.onnx"], "should end in .npz for format=npz: net.npz, or give"),
        (["format=torchvision", "output=net"], "should end in .pth for format=torchvision"),
        (["format=timm", "output=net.safetensors"], "format=timm is a folder"),
        (["format=npz", "normalise=true"], "normalise=true is for graphs (onnx, torch_export)"),
        (["format=npz", "outptu=x.npz"], "did you mean output?"),
        (["format=npz", "overwrite=yes please"], "overwrite"),
        (["format=npz", "checkpoint=nowhere.ckpt"], "there is no checkpoint nowhere.ckpt"),
        (["format=npz", "output=/proc/none/x.npz"], "cannot be written"),
    ],
)
def test_a_wrong_request_is_one_line_and_leaves_nothing(
    words, said, vitfw, tmp_path, monkeypatch, checkpoint
):
    monkeypatch.chdir(tmp_path)
    code, out, errors = vitfw(*words)
    assert (code, out, len(errors)) == (2, "", 1)
    assert said in errors[0]
    assert [p.name for p in tmp_path.iterdir()] == ["best.ckpt"]


def test_a_file_in_the_place_of_a_folder_is_refused(vitfw, tmp_path):
    (tmp_path / "net").write_text("mine")
    code, _, errors = vitfw("format=timm", f"output={tmp_path}/net", "overwrite=true")
    assert code == 2
    assert "is a file, and a folder is to be written" in errors[0]


def test_a_failed_comparison_is_one_line_exit_1_and_leaves_nothing(vitfw, tmp_path, monkeypatch):
    chosen = FORMATS["npz"]

    def read(net, passport, path):
        honest = chosen.read(net, passport, path)
        return lambda images: honest(images) + 1e-3

    broken = Format(chosen.suffix, chosen.write, read, chosen.usage)
    monkeypatch.setitem(FORMATS, "npz", broken)
    code, out, errors = vitfw("format=npz")
    assert (code, out, len(errors)) == (1, "", 1)
    assert "was not kept: its logits differ" in errors[0]
    assert [p.name for p in tmp_path.iterdir()] == ["best.ckpt"]


def test_help_lists_formats_and_keys(capsys):
    assert main.main(["export", "--help"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in FORMATS)
    assert all(f"\n{key}: " in said for key in ("checkpoint", "format", "output", "overwrite"))
    assert max(len(line) for line in said.splitlines()) <= 100
