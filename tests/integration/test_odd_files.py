"""A folder with a hundred odd files, and the user's own tables: `python train.py` on them."""

import os
from pathlib import Path

import pytest
from commands import Outcome, run, run_from_start
from odd_files import Expected, write_odd_files
from PIL import Image

from vitfw.cli.main import main

SMALL = ["model.embed_dim=32", "model.depth=1", "model.num_heads=2", "model.patch_size=8"]
SHORT = ["trainer.max_epochs=1", "run_dir=r"]


def write_plain(folder: Path, count: int, first: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + count):
        Image.new("RGB", (20, 16), (i % 256, 40, 80)).save(folder / f"plain_{i:04}.jpg")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> tuple[Path, dict[str, Expected]]:
    """A hundred odd files among the pictures of one of two classes."""
    root = tmp_path_factory.mktemp("odd") / "photos"
    expected = write_odd_files(root / "odd")
    write_plain(root / "odd", 50)
    write_plain(root / "plain", 150)
    yield root, expected
    for path in (root / "odd").iterdir():
        if path.is_file() and not os.access(path, os.R_OK):
            path.chmod(0o600)


def words_for(root: Path, *more: str) -> list[str]:
    words = [f"data.root={root}", "model.img_size=16", "data.batch_size=20"]
    return [*words, *SMALL, *SHORT, *more]


@pytest.fixture
def train_here(tmp_path, monkeypatch, capfd):
    """`vitfw train` in this process and in an empty folder, without the seconds of a start."""

    def train(*words: str) -> Outcome:
        monkeypatch.chdir(tmp_path)
        code = main(["train", *words])
        return Outcome(code, *capfd.readouterr())

    return train


def bad_ones(root: Path, expected: dict[str, Expected]) -> list[str]:
    """Paths as they are shown: in one line, whatever is in them."""
    names = [name for name, e in expected.items() if not e.readable and name != "folder.jpg"]
    return [str(root / "odd" / name) for name in names]


def test_training_goes_on_and_every_unreadable_file_is_in_the_log_and_the_report(photos, tmp_path):
    root, expected = photos
    bad = bad_ones(root, expected)
    share = ["data.max_bad_share=0.2", "data.val_share=0.3", "data.num_workers=2"]
    words = words_for(root, "data=image_folder", *share)
    outcome = run("train.py", *words, cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    log = (tmp_path / "r/train.log").read_text()
    report = (tmp_path / "r/report.html").read_text()
    assert len(bad) >= 24
    for path in bad:
        assert sum(path in line for line in log.splitlines()) == 1, path
        assert path in report
    readable = [name for name, e in expected.items() if e.readable and name.isascii()]
    assert not any(f"cannot read {root}/odd/{name}" in log for name in readable)
    assert outcome.out.count("skipped: ") == 3
    assert (tmp_path / "r/metrics.json").is_file()


def test_above_the_share_the_run_stops_and_says_why_in_one_line(photos, tmp_path):
    root, _ = photos
    words = words_for(root, "data=image_folder", "data.num_workers=2")
    outcome = run("train.py", *words, cwd=tmp_path)
    assert outcome.code == 1
    (line,) = outcome.errors
    assert line.startswith("error: ")
    assert "images cannot be read, which is more than data.max_bad_share=0.01" in line
    assert str(root / "odd") in line
    assert "Traceback" not in outcome.out
    assert "data.max_bad_share=0.01" in (tmp_path / "r/report.html").read_text()


def test_held_as_pixels_the_same_files_are_skipped(photos, tmp_path, train_here):
    root, expected = photos
    share = ["data.max_bad_share=0.2", "data.resident=true", "data.num_workers=0"]
    outcome = train_here(*words_for(root, "data=image_folder", *share))
    assert outcome.code == 0, outcome.err
    report = (tmp_path / "r/report.html").read_text()
    assert all(path in report for path in bad_ones(root, expected))


def test_a_table_of_paths_and_labels_is_trained_and_tested_on(tmp_path, train_here):
    write_plain(tmp_path / "pictures", 60)
    rows = [f"pictures/plain_{i:04}.jpg,{'even' if i % 2 == 0 else 'odd'}" for i in range(60)]
    (tmp_path / "list.csv").write_text("\n".join(["file,species", *rows]) + "\n")
    columns = ["data=csv", "data.columns=[file,species]", "data.batch_size=10"]
    outcome = train_here(*words_for(tmp_path / "list.csv", *columns))
    assert outcome.code == 0, outcome.err
    assert "csv: 48 training images of 2 classes" in outcome.out
    assert (tmp_path / "r/metrics.json").is_file()
    assert main(["evaluate", "checkpoint=r/checkpoints/best.ckpt"]) == 0


def test_a_fold_of_a_part_with_class_weights_and_mixing(tmp_path, train_here):
    words = ["data.fold=1", "data.folds=3", "data.limit=0.5", "data.class_weights=balanced"]
    small = ["model.embed_dim=32", "model.depth=1", "model.num_heads=2", "trainer.max_epochs=1"]
    outcome = train_here("augment=deit", *words, *small, "run_dir=r")
    assert outcome.code == 0, outcome.err
    # 479 of the 1,438 are held out, half of the other 959 is trained on.
    assert "digits: 480 training images of 10 classes" in outcome.out
    assert (tmp_path / "r/metrics.json").is_file()


def write_classes(root: Path, count: int, bad: list[int]) -> list[str]:
    """Two classes of plain pictures for training, of `count` for validation, some of these bad."""
    for name in ("ant", "bee"):
        write_plain(root / "train" / name, 40)
        write_plain(root / "test" / name, 4)
        write_plain(root / "val" / name, count)
    paths = sorted((root / "val").rglob("*.jpg"))
    for i in bad:
        paths[i].write_bytes(b"")
    return [str(paths[i]) for i in bad]


def test_one_bad_image_among_those_that_are_previewed_stops_nothing(tmp_path, train_here):
    (path,) = write_classes(tmp_path / "f", 60, [0])
    outcome = train_here(*words_for(tmp_path / "f", "data=image_folder", "data.num_workers=0"))
    assert outcome.code == 0, outcome.err
    assert path in (tmp_path / "r/train.log").read_text()


def test_evaluate_keeps_the_crop_of_training_where_the_data_are_named_again(tmp_path, train_here):
    write_classes(tmp_path / "f", 4, [])
    words = words_for(tmp_path / "f", "data=image_folder", "data.num_workers=0")
    assert train_here(*words, "data.crop_share=0.5").code == 0
    again = ["data=image_folder", f"data.root={tmp_path / 'f'}", "data.num_workers=0"]
    measured = []
    for more in ([], again, [*again, "data.crop_share=1.0"]):
        command = ["evaluate", "checkpoint=r/checkpoints/best.ckpt", "output=m.json", *more]
        assert main(command) == 0
        measured.append((tmp_path / "m.json").read_text())
    assert measured[0] == measured[1]


@pytest.mark.slow
@pytest.mark.parametrize("share, code", [(0.5, 0), (0.02, 1)])
def test_two_processes_tell_each_other_what_they_could_not_read(tmp_path, share, code):
    bad = write_classes(tmp_path / "f", 50, [1, 2, 3])  # odd and even: of both processes
    ddp = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "data.num_workers=0"]
    words = words_for(tmp_path / "f", "data=image_folder", *ddp, f"data.max_bad_share={share}")
    outcome = run_from_start("train.py", *words, cwd=tmp_path)
    assert outcome.code == code, outcome.err
    log, report = ((tmp_path / "r" / name).read_text() for name in ("train.log", "report.html"))
    assert all(path in log and path in report for path in bad)
    if code:
        assert "3 of the 100 val images cannot be read" in outcome.err
