"""`vitfw predict` in a pipe: standard output holds predictions and nothing else."""

import csv
import io
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from vitfw.cli import predict as command
from vitfw.config import compose
from vitfw.data.transforms import UnreadableImage
from vitfw.inference import Prediction


class Fake:
    """Reads images by PIL, and finds a cat in each."""

    def __init__(self, *_):
        self.passport = SimpleNamespace(classes=["cat"])

    def read(self, path):
        try:
            with Image.open(path) as image:
                return torch.zeros(1, *image.size)
        except OSError as error:
            raise UnreadableImage(f"cannot read {path}") from error

    def predict(self, batches, top_k):
        for batch in batches:
            for path, _ in batch:
                yield Prediction(path, ["cat"], [1.0])


@pytest.fixture
def folder(tmp_path):
    for i in range(5):
        Image.new("L", (8, 8)).save(tmp_path / f"{i}.png")
    (tmp_path / "3.png").write_text("not an image")
    return tmp_path


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_a_skipped_image_is_told_on_standard_error(folder, monkeypatch, capsys, batch_size):
    monkeypatch.setattr(command, "Predictor", Fake)
    words = ["checkpoint=x", f"input={folder}", "skip_unreadable=true", f"batch_size={batch_size}"]
    command.predict(compose("predict", words), words)
    said = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(said.out)))
    assert [row["path"] for row in rows] == [f"{folder}/{i}.png" for i in (0, 1, 2, 4)]
    assert "3.png" in said.err
