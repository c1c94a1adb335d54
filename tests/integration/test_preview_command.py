"""`vitfw preview`: the page, the table on the console, and what it says to a wrong request."""

import os
from pathlib import Path

import numpy as np
import pytest
from commands import run
from PIL import Image

from vitfw.building import build
from vitfw.cli.preview import in_words, main
from vitfw.config import compose, to_plain
from vitfw.data.augment.batch_augment import BatchAugment
from vitfw.data.augment.batch_policy import RandAugment
from vitfw.data.augment.mixing import Mixing
from vitfw.data.augment.progressive import Progressive

FAKE = ["data=fake", "augment=none", "data.num_images=200", "data.num_classes=4", "count=8"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


def page(path: Path) -> np.ndarray:
    with Image.open(path) as opened:
        assert opened.format == "PNG"
        return np.asarray(opened)


def test_the_command_writes_a_page_and_counts_the_classes(tmp_path: Path):
    outcome = run("preview", "data=digits", "augment=shift", cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    assert outcome.errors == []
    assert [path.name for path in tmp_path.iterdir()] == ["preview-digits.png"]
    pixels = page(tmp_path / "preview-digits.png")
    assert pixels.shape[0] > pixels.shape[1] > 900
    assert (pixels[:40] == 255).all() and (pixels[:, :40] == 255).all()
    lines = outcome.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.split() == ["10", "classes", "1,295", "143"] for line in lines)
    assert lines[-1] == "preview: preview-digits.png"


def test_a_seed_decides_which_samples_are_shown(here: Path):
    names = {"a": 5, "b": 5, "c": 6}
    for name, seed in names.items():
        assert main([*FAKE, f"seed={seed}", f"output=new/{name}.png"]) == 0
    a, b, c = (page(here / "new" / f"{name}.png") for name in names)
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_odd_folder_names_are_drawn_and_listed(here: Path, capsys: pytest.CaptureFixture):
    names = ["Kätzchen", "кот", "猫", "n" * 120, "[bold]", os.fsdecode(b"caf\xe9")]
    for level, name in enumerate(names):
        (here / "photos" / name).mkdir(parents=True)
        for i in range(10):
            picture = Image.new("RGB", (90 + i, 70), (40 * level, 20 * i, 90))
            picture.save(here / "photos" / name / f"{i}.jpg")
    words = ["data=image_folder", "data.root=photos", "augment=inception", "data.img_size=64"]
    assert main(words) == 0
    out = capsys.readouterr().out
    for shown in ("Kätzchen", "кот (class ", "猫 (class ", "nnnn…", "[bold]", "caf\\udce9"):
        assert shown in out
    assert page(here / "preview-image_folder.png").shape[2] == 3


def test_a_thousand_classes_fit_on_a_screen(here: Path, capsys: pytest.CaptureFixture):
    words = ["data.num_images=2200", "data.num_classes=1000", "data.native_size=4"]
    assert main([*FAKE, *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 40
    assert any("976 more" in line for line in lines)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["output=."], "output=. is a folder"),
        (["output=page.jpg"], "output=page.png"),
        (["count=0"], "count=64"),
        (["data=image_folder", "data.root=nowhere"], "nowhere"),
        (["augment.hflip=2"], "hflip"),
        (["data=digts"], "digits"),
    ],
    ids=str,
)
def test_a_wrong_request_is_one_line(
    here: Path, capsys: pytest.CaptureFixture, words: list[str], said: str
):
    assert main([*FAKE, *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not list(here.glob("*.png"))


@pytest.mark.parametrize(
    ("augment", "words"),
    [
        (BatchAugment(), "none"),
        (BatchAugment(crop_ratio=(0.5, 2), mixing=Mixing(), progressive=Progressive()), "none"),
        (
            BatchAugment(progressive=Progressive(sizes=[20, 24], until=[0.4, 0.7])),
            "small images first, 20 px until 0.4, 24 px until 0.7 of training",
        ),
        (BatchAugment(jitter=[0.4, 0.4, 0.4, 0.1]), "colour jitter 0.4, 0.4, 0.4, 0.1"),
        (BatchAugment(policy=RandAugment(magnitude=5)), "RandAugment (magnitude 5)"),
        (BatchAugment(shift=4, hflip=0.5), "shifted by up to 4 px, mirrored with probability 0.5"),
        (BatchAugment(crop_scale=(0.08, 1.0)), "random crop of 0.08 to 1 of the area"),
        (
            BatchAugment(mixing=Mixing(mixup=0.8, cutmix=1.0, off_share=0.1)),
            "mixup 0.8, cutmix 1, not mixed for the last 0.1 of training",
        ),
    ],
    ids=str,
)
def test_an_augmentation_is_said_in_words(augment: BatchAugment, words: str):
    assert in_words(augment) == words


def test_the_config_without_augmentation_is_said_to_have_none():
    cfg = to_plain(compose("preview", ["data=fake", "augment=none"]))
    assert in_words(build(cfg["augment"])) == "none"
