"""`vitfw evaluate`, `vitfw predict` and `vitfw explain`."""

import csv
import io
import json

import numpy as np
import pytest
import torch
from commands import Run, run
from PIL import Image

from vitfw.data.sets.handwriting import read_digits


@pytest.fixture(scope="module")
def digit_files(tmp_path_factory: pytest.TempPathFactory):
    """The test set as PNG files, one folder, named by index and label."""
    folder = tmp_path_factory.mktemp("digits")
    test, _ = read_digits(folder, "test", False)
    for i, (image, label) in enumerate(zip(test.images, test.labels, strict=True)):
        Image.fromarray(image[0].numpy()).save(folder / f"{i:04d}_{label}.png")
    return folder


def test_evaluate_reproduces_the_logged_test_metrics_exactly(digits_run: Run, tmp_path):
    out = tmp_path / "metrics.json"
    outcome = run(
        "evaluate", f"checkpoint={digits_run.best}", f"output={out}", cwd=digits_run.folder
    )
    assert outcome.code == 0, outcome.err
    logged = json.loads((digits_run.path / "metrics.json").read_text())
    again = json.loads(out.read_text())
    for name in ("test/accuracy", "test/accuracy_top5", "test/loss"):
        assert again[name] == logged[name]


def test_evaluate_on_the_validation_split_gives_the_best_val_accuracy(digits_run: Run, tmp_path):
    out = tmp_path / "metrics.json"
    words = [f"checkpoint={digits_run.best}", "split=val", f"output={out}"]
    assert run("evaluate", *words, cwd=digits_run.folder).code == 0
    logged = json.loads((digits_run.path / "metrics.json").read_text())
    assert json.loads(out.read_text())["val/accuracy"] == logged["val/accuracy_best"]


def test_predict_on_files_of_the_test_set_agrees_with_the_test(digits_run: Run, digit_files):
    outcome = run(
        "predict", f"checkpoint={digits_run.best}", f"input={digit_files}", cwd=digits_run.folder
    )
    assert outcome.code == 0, outcome.err
    rows = list(csv.DictReader(io.StringIO(outcome.out)))
    right = [row["class_1"] == row["path"][-5] for row in rows]
    logged = json.loads((digits_run.path / "metrics.json").read_text())
    assert np.mean(right) == pytest.approx(logged["test/accuracy"], abs=1e-7)


def test_predict_needs_the_checkpoint_alone(digits_run: Run, digit_files, tmp_path):
    """Moved to an empty folder, without run directory, config or data set."""
    checkpoint = tmp_path / "model.ckpt"
    checkpoint.write_bytes(digits_run.best.read_bytes())
    file = sorted(digit_files.iterdir())[0]
    words = [f"checkpoint={checkpoint}", f"input={file}", "format=json", "top_k=3"]
    outcome = run("predict", *words, cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    (entry,) = json.loads(outcome.out)
    assert entry["path"] == str(file)
    assert len(entry["classes"]) == 3
    probabilities = [c["probability"] for c in entry["classes"]]
    assert probabilities == sorted(probabilities, reverse=True)


def test_predict_takes_photos_of_any_size_and_colour(digits_run: Run, tmp_path):
    for name, mode, size in (("a.jpg", "RGB", (640, 427)), ("b.png", "RGBA", (3, 90))):
        Image.new(mode, size, 120).save(tmp_path / name)
    words = [f"checkpoint={digits_run.best}", f"input={tmp_path}", "output=found.csv"]
    outcome = run("predict", *words, cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    assert len((tmp_path / "found.csv").read_text().splitlines()) == 3


def test_explain_walks_through_vit_b16(tmp_path):
    outcome = run("explain", "model=vit_b16", cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    steps = ["[B,3,224,224]", "[B,768,14,14]", "[B,768,196]", "[B,196,768]", "[B,197,768]"]
    places = [outcome.out.index(step) for step in steps]
    assert places == sorted(places)
    assert "86,567,656" in outcome.out
    assert all(len(line) <= 80 for line in outcome.out.splitlines())


def test_init_from_begins_with_the_weights_of_a_checkpoint(digits_run: Run, tmp_path):
    words = ["model.embed_dim=32", "model.depth=2", "model.num_heads=2", "trainer=debug"]
    frozen = ["optimizer.lr=1e-12", "optimizer.weight_decay=0", "run_dir=r"]
    outcome = run("train", *words, *frozen, f"init_from={digits_run.best}", cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    before = torch.load(digits_run.best)["state_dict"]["net.head.weight"]
    after = torch.load(tmp_path / "r/checkpoints/last.ckpt")["state_dict"]["net.head.weight"]
    torch.testing.assert_close(before, after, atol=1e-6, rtol=0)
