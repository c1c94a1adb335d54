"""A pack is evaluated as the set that it was made of."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from vitfw.building import build
from vitfw.cli.main import main
from vitfw.config import compose, to_plain
from vitfw.data.classification_data import ClassificationData
from vitfw.data.datamodule import ImageData
from vitfw.data.packs.pack_manifest import read_manifest
from vitfw.data.packs.stream_data import StreamData
from vitfw.errors import ConfigError

FAKE = ["data=fake", "data.num_images=40", "data.crop_share=0.75"]


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("arrays") / "pack"
    assert main(["pack", *FAKE, f"output={folder}", "num_workers=0"]) == 0
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Smooth pictures, as photographs are, of several sizes."""
    folder = tmp_path_factory.mktemp("pictures")
    for kind in ("cat", "dog"):
        (folder / kind).mkdir()
        for i in range(10):
            coarse = np.random.default_rng([i, len(kind)]).integers(0, 256, (5, 6, 3))
            image = Image.fromarray(coarse.astype(np.uint8))
            image.resize((60 + 9 * i, 150 - 9 * i), 3).save(folder / kind / f"{i}.png")
    return folder


def read(*words: str, **more) -> ClassificationData:
    """The data of a `vitfw train` command, ready to be evaluated."""
    config = to_plain(compose("train", ["data.num_workers=0", "model.img_size=24", *words]))
    data = build({**config["data"], "augment": None, **more})
    data.prepare_data()
    data.setup("fit")
    return data


def evaluated(data: ClassificationData) -> tuple[Tensor, Tensor]:
    prepared = [data.prepare_evaluation(batch) for batch in data.val_dataloader()]
    return torch.cat([image for image, _ in prepared]), torch.cat([label for _, label in prepared])


def test_a_pack_of_arrays_is_evaluated_as_its_source_to_the_bit(packed):
    source, pack = read(*FAKE), read("data=stream", f"data.root={packed}")
    assert isinstance(source, ImageData) and isinstance(pack, StreamData)
    assert pack.crop_share == 0.75
    (images, labels), (streamed, others) = evaluated(source), evaluated(pack)
    assert images.shape == (10, 3, 24, 24)
    assert torch.equal(images, streamed) and torch.equal(labels, others)


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("quality", ["quality=95", "quality=raw"])
def test_a_pack_of_files_is_evaluated_nearly_as_its_source(pictures, tmp_path, quality, resident):
    data = ["data=image_folder", f"data.root={pictures}", "data.crop_share=0.6"]
    words = [*data, f"output={tmp_path}/pack", quality, "size=48", "num_workers=0"]
    assert main(["pack", *words]) == 0
    source = read(*data, resident=resident)
    pack = read("data=stream", f"data.root={tmp_path}/pack")
    (images, labels), (streamed, others) = evaluated(source), evaluated(pack)
    assert torch.equal(labels, others)
    scale = torch.tensor(source.std)[:, None, None]
    assert ((images - streamed) * scale).abs().mean() < 0.01  # of 1
    pack.crop_share = 1.0
    assert ((images - evaluated(pack)[0]) * scale).abs().mean() > 0.03


def test_small_files_of_one_size_are_evaluated_from_a_pack_to_the_bit(tmp_path, pictures):
    """As the sets of the catalogue whose files are decoded once and kept as pixels."""
    folder = tmp_path / "squares"
    for path in pictures.rglob("*.png"):
        (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
        Image.open(path).resize((32, 32)).save(folder / path.parent.name / path.name)
    data = ["data=image_folder", f"data.root={folder}"]
    assert main(["pack", *data, f"output={tmp_path}/pack", "num_workers=0"]) == 0
    pack = evaluated(read("data=stream", f"data.root={tmp_path}/pack"))
    source = evaluated(read(*data, resident=True))
    assert all(map(torch.equal, pack, source))


def test_a_pack_is_trained_at_the_size_of_its_source(pictures, tmp_path):
    data = ["data=image_folder", f"data.root={pictures}"]
    for words, size in [(["data.native_size=64"], 64), (["size=40"], 40), ([], 224)]:
        output = tmp_path / str(size)
        words = [*data, *words, f"output={output}", "num_workers=0"]
        assert main(["pack", *words]) == 0
        assert read_manifest(output).native_size == size


def test_options_that_do_not_fit_a_pack_are_refused_before_training(packed):
    for option, said in [
        ({"name": "mine"}, "data.name=mine, but .* is a pack of fake; leave data.name out"),
        ({"groups": "x"}, "data.groups=x is not a whole number"),
        ({"class_weights": "equal"}, "data.class_weights=equal is not one of"),
    ]:
        with pytest.raises(ConfigError, match=said):
            StreamData(packed, **option)
    data = StreamData(packed, groups=3, batch_size=4)
    assert data.steps_per_epoch(3) == 2
    with pytest.raises(ConfigError, match="data.groups=3 does not divide the 1 process;"):
        data.steps_per_epoch(1)
