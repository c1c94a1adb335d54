"""`vitfw attend`: the files it writes, what it says, and what it refuses."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from skimage.color import rgb2lab

from vitfw.building import build
from vitfw.checkpoint import KEY, Passport
from vitfw.cli import attend
from vitfw.models.vit import VisionTransformer
from vitfw.target import target_of
from vitfw.training.masked_autoencoder import MaskedAutoencoder

MODEL = {
    "_target_": "vitfw.models.vit.VisionTransformer",
    "img_size": [8, 12],
    "patch_size": 2,
    "num_classes": 2,
    "embed_dim": 16,
    "depth": 3,
    "num_heads": 4,
}


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch, tmp_path):
    """Without what a command sets for its whole process."""
    monkeypatch.setattr(attend, "prepare_process", lambda: None)
    monkeypatch.chdir(tmp_path)


def save(net: torch.nn.Module, model: dict[str, Any], **config: Any) -> Path:
    passport = Passport(
        config={"model": model, **config},
        classes=["Katze", "Hund"],
        channels=3,
        img_size=[8, 12],
        crop_share=1.0,
        mean=[0.5] * 3,
        std=[0.5] * 3,
        versions={},
    )
    state = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
    torch.save({KEY: asdict(passport), "state_dict": state}, "best.ckpt")
    return Path("best.ckpt")


@pytest.fixture
def photo(tmp_path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photo.jpg")
    return Path("photo.jpg")


@pytest.fixture
def vitfw(photo, capsys):
    """Runs the command; gives its exit code, and the lines of both outputs."""

    def run(*words: str, source: str = "photo.jpg") -> tuple[int, list[str], list[str]]:
        capsys.readouterr()
        code = attend.main(["checkpoint=best.ckpt", f"input={source}", *words])
        said = capsys.readouterr()
        return code, said.out.splitlines(), said.err.splitlines()

    return run


def certain_of(label: int) -> VisionTransformer:
    """A net that takes every image for the same class."""
    net = build(MODEL)
    torch.nn.init.zeros_(net.head.weight)
    net.head.bias.data = torch.tensor([0.0, 0.0]).index_fill(0, torch.tensor([label]), 9.0)
    return net


def test_pictures_of_a_photo_are_written_and_named_with_its_class(vitfw):
    save(certain_of(1), MODEL)
    code, lines, errors = vitfw()
    assert (code, errors) == (0, [])
    files = ["photo_heads.png", "photo_rollout.png", "distance.png"]
    assert lines == ["photo.jpg  Hund 100 %", *(f"  attention/{name}" for name in files)]
    for name in files:
        with Image.open(f"attention/{name}") as picture:
            picture.verify()
            assert min(picture.size) > 200
    assert sorted(path.name for path in Path("attention").iterdir()) == sorted(files)


def test_less_can_be_asked_for_and_elsewhere(vitfw):
    save(certain_of(0), MODEL)
    code, lines, _ = vitfw("output=a/b", "rollout=false", "distance=false", "head=2", "block=0")
    assert code == 0 and lines == ["photo.jpg  Katze 100 %", "  a/b/photo_heads.png"]
    assert [path.name for path in Path("a/b").iterdir()] == ["photo_heads.png"]
    with Image.open("a/b/photo_heads.png") as one:
        narrow = one.width
    vitfw("output=c")
    with Image.open("c/photo_heads.png") as all_heads:
        assert all_heads.width > 2 * narrow


def test_the_picture_peaks_where_the_weights_make_the_class_token_look(vitfw):
    """Head 1 of block 2 is set to ask for the one patch that channel 0 marks."""
    net = build(MODEL)
    for name, parameter in net.named_parameters():
        if "norm" not in name:
            torch.nn.init.zeros_(parameter)
    row, column = 1, 4
    net.pos_embed.data[0, 1 + row * 6 + column, 0] = 1.0
    net.blocks[2].attn.qkv.bias.data[4] = 10.0
    net.blocks[2].attn.qkv.weight.data[16 + 4, 0] = 10.0
    save(net, MODEL)
    assert vitfw("block=2", "head=1", "rollout=false", "distance=false")[0] == 0
    with Image.open("attention/photo_heads.png") as picture:
        page = np.asarray(picture)
    scale = 256 // 12  # a whole factor
    inked = (page != 255).any(axis=2)
    right = int(np.flatnonzero(inked[60:200].any(axis=0))[-1]) + 1
    (bare,) = np.nonzero(~inked[60:, right - 1])  # of the tile's last column
    bottom = 60 + int(bare[0])
    tile = page[bottom - 8 * scale : bottom, right - 12 * scale : right]
    light = rgb2lab(tile)[..., 0]
    y, x = np.unravel_index(light.argmax(), light.shape)
    assert (y * 4 // light.shape[0], x * 6 // light.shape[1]) == (row, column)


def test_a_folder_keeps_its_shape_and_drawn_pictures_are_no_input(vitfw, photo):
    save(certain_of(1), MODEL)
    for name in ("in/cat/a.jpg", "in/dog/a.jpg", "in/dog/b.jpg", "in/dog/b.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.open(photo).save(name)
    for _ in range(2):
        code, _, errors = vitfw("output=in/drawn", "rollout=false", source="in")
        assert (code, errors) == (0, [])
        drawn = sorted(str(p.relative_to("in/drawn")) for p in Path("in/drawn").rglob("*.png"))
        assert drawn == [
            "cat/a_heads.png",
            "distance.png",
            "dog/a_heads.png",
            "dog/b.jpg_heads.png",
            "dog/b.png_heads.png",
        ]


def test_a_patch_can_ask(vitfw):
    save(certain_of(1), MODEL)
    assert vitfw("query=[3,5]")[0] == 0


def test_a_masked_autoencoder_shows_attention_and_no_class(vitfw):
    save(certain_of(1), MODEL, method={"_target_": target_of(MaskedAutoencoder)})
    code, lines, _ = vitfw()
    assert code == 0 and lines[0] == "photo.jpg"


def test_the_model_can_take_larger_images(vitfw):
    save(certain_of(1), MODEL)
    assert vitfw("model.img_size=[16,24]", "query=[7,11]")[0] == 0


@pytest.mark.parametrize(
    "words, said",
    [
        (["block=3"], "block=3 is none of the model's; they are 0 to 2, or -1, the last"),
        (["head=4"], "head=4 is none of the model's; they are 0 to 3"),
        (["head=all"], "head=all is none"),
        (["query=[4,0]"], "query [4, 0] lies outside of the 4 × 6 patches; rows are 0 to 3"),
        (["query=5"], "query=5 must be row and column of a patch: query=[3,5]"),
        (["output=photo.jpg"], "photo.jpg is a file; give the name of a folder"),
        (["output=photo.jpg/x"], "photo.jpg is a file; give the name of a folder"),
        (["blok=3"], "no config key is called 'blok'; did you mean block"),
        (["checkpoint=none.ckpt"], "there is no checkpoint none.ckpt"),
    ],
    ids=lambda value: str(value),
)
def test_a_wrong_request_is_one_line_and_nothing_is_written(vitfw, words, said, tmp_path):
    save(certain_of(1), MODEL)
    code, out, errors = vitfw(*words)
    assert (code, out, len(errors)) == (2, [], 1)
    assert errors[0].startswith("error: ") and said in errors[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.ckpt", "photo.jpg"]


def test_an_unreadable_image_is_named_or_skipped(vitfw):
    save(certain_of(1), MODEL)
    Path("in").mkdir()
    Path("in/a.png").write_bytes(b"no image")
    Image.open("photo.jpg").save("in/b.png")
    code, _, errors = vitfw(source="in")
    assert code == 2 and len(errors) == 1
    assert "in/a.png" in errors[0] and "skip_unreadable=true" in errors[0]
    code, _, _ = vitfw("skip_unreadable=true", source="in")
    assert code == 0 and Path("attention/b_heads.png").exists()


def test_a_net_without_attention_is_refused(vitfw):
    model = {"_target_": "vitfw.interop.timm_model.create", "name": "resnet10t", "num_classes": 2}
    save(timm.create_model("resnet10t", num_classes=2), model)
    code, _, (error,) = vitfw()
    assert code == 2 and "best.ckpt holds a ResNet, whose attention cannot be had" in error


def test_attention_that_would_not_fit_into_memory_is_refused(vitfw, monkeypatch):
    save(certain_of(1), MODEL)
    monkeypatch.setattr(attend, "total_memory", lambda device: 50_000)
    code, _, (error,) = vitfw()
    assert code == 2 and "set a smaller model.img_size" in error
