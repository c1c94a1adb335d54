"""Each set of files, read from a few images that lie as its archives lay them out."""

import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from on_disk_files import WIDTHS, WRITERS, photo, text
from on_disk_large import imagenet, inaturalist_2021, places365, synset_folders
from PIL import Image
from scipy.io import savemat
from timm.data import ImageNetInfo
from torchvision import datasets
from torchvision.datasets import imagenet as torchvision_imagenet

from vitfw.data.images import FileImages
from vitfw.data.sets import fine_grained, large, photos, signs
from vitfw.data.sets import imagenet as imagenet_sets
from vitfw.errors import ConfigError

SETS = fine_grained.SETS | photos.SETS | signs.SETS | imagenet_sets.SETS | large.SETS
ALL_CLASSES = ["rendered_sst2", "imagenette", "imagenette_320", "imagenette_160", "celeba"]


@pytest.fixture(autouse=True)
def checksums_are_not_looked_at(monkeypatch):
    """A few tiny images do not have the checksums of the published files."""
    for module in ("flowers102", "celeba", "places365", "imagenet"):
        monkeypatch.setattr(
            f"torchvision.datasets.{module}.check_integrity", lambda file, *_, **__: exists(file)
        )


def exists(file: str) -> bool:
    return Path(file).is_file()


def pixels_label(path: str, split: str) -> int:
    image = Image.open(path)
    image.load()
    assert image.width == WIDTHS[split], f"{path} is not of {split}"
    grey = image.convert("L").getpixel((8, 6))
    assert isinstance(grey, int)
    return grey // 10


def test_there_is_a_writer_for_each_set_and_a_set_for_each_writer():
    assert set(WRITERS) == set(SETS)


@pytest.mark.parametrize("name", SETS)
def test_labels_and_names_are_those_the_images_were_written_with(name, tmp_path):
    classes = WRITERS[name](tmp_path)
    written = [path for path in tmp_path.rglob("*") if path.suffix.lower() in IMAGE_FILES]
    read = []
    for split in SETS[name].facts.splits:
        images, names = SETS[name].read(tmp_path, split, False)
        assert isinstance(images, FileImages) and len(images) > 0
        assert names[: len(classes)] == classes
        paths = [images.open(i) for i in range(len(images))]
        assert images.labels.tolist() == [pixels_label(path, split) for path in paths]
        assert set(images.labels.tolist()) == set(range(len(classes)))
        assert paths == sorted(paths)
        read += paths
    left_out = {str(path) for path in written} - set(read)
    assert all("BACKGROUND_Google" in path for path in left_out)


IMAGE_FILES = {".jpg", ".jpeg", ".png", ".ppm"}


@pytest.mark.parametrize("name", SETS)
def test_facts_agree_with_what_is_read(name, tmp_path):
    facts = SETS[name].facts
    classes = WRITERS[name](tmp_path)
    names = SETS[name].read(tmp_path, "train", False).classes
    if facts.classes:
        assert names == facts.classes
    if facts.classes or name in ALL_CLASSES:
        assert len(set(names)) == facts.num_classes
    assert len(classes) <= facts.num_classes
    assert facts.channels == 3 == len(facts.mean) == len(facts.std)
    assert {"train"} <= set(facts.splits) <= {"train", "val", "test"}


@pytest.mark.parametrize("name", SETS)
def test_config_names_the_set_and_tells_its_numbers(name):
    path = Path(__file__).parents[3] / "configs" / "data" / f"{name}.yaml"
    content = path.read_text(encoding="utf-8")
    assert yaml.safe_load(content)["name"] == name
    head = content.split("defaults:")[0]
    assert all(f"{count:,}" in head for count in SETS[name].facts.splits.values())


@pytest.mark.parametrize(
    "name, torchvisions",
    [
        ("food101", datasets.Food101),
        ("fgvc_aircraft", datasets.FGVCAircraft),
        ("fgvc_aircraft_family", datasets.FGVCAircraft),
        ("fgvc_aircraft_manufacturer", datasets.FGVCAircraft),
        ("sun397", datasets.SUN397),
        ("stanford_cars", datasets.StanfordCars),
    ],
)
def test_numbers_are_those_of_torchvisions_documentation(name, torchvisions):
    said = {int(re.sub(r"\D", "", n)) for n in re.findall(r"\d[\d,']*", torchvisions.__doc__)}
    assert {SETS[name].facts.num_classes, sum(SETS[name].facts.splits.values())} <= said


def test_sst2s_and_country211s_numbers_are_those_of_torchvisions_documentation():
    said = re.findall(r"(?:containing|and a test split containing) (\d+) images", SST2_DOC)
    assert [int(n) for n in said] == list(SETS["rendered_sst2"].facts.splits.values())
    a_class = re.findall(r"(\d+)\s+(?:train|validation|test) images", COUNTRY211_DOC)
    assert [211 * int(n) for n in a_class] == list(SETS["country211"].facts.splits.values())


SST2_DOC = " ".join(str(datasets.RenderedSST2.__doc__).split())
COUNTRY211_DOC = " ".join(str(datasets.Country211.__doc__).split())


def test_imagenets_names_are_those_that_timm_has_for_the_same_synsets():
    info = ImageNetInfo("imagenet-1k")
    synsets = info.label_names()
    names = imagenet_sets.synset_names(synsets)
    assert len(set(names)) == 1000
    known = [info.label_name_to_description(synset, detailed=False) for synset in synsets]
    differ = [i for i in range(1000) if names[i] not in known[i]]
    assert [names[i] for i in differ] == ["crane bird", "maillot tank suit"]  # each name twice
    assert imagenet_sets.synset_names(synsets[:100]) == tuple(synsets[:100])


@pytest.mark.parametrize(
    "name, write",
    [("imagenet", imagenet), ("places365", places365), ("inaturalist_2021", inaturalist_2021)],
)
def test_root_may_be_the_folder_of_the_set_itself(name, write, tmp_path):
    write(tmp_path)
    (home,) = tmp_path.iterdir()
    for split in ("train", "test"):
        below, beside = SETS[name].read(tmp_path, split, False), SETS[name].read(home, split, False)
        assert below.classes == beside.classes
        assert torch.equal(below.images.labels, beside.images.labels)


def imagenet_archives(root: Path, scratch: Path, broken: bool = False) -> None:
    """The three files of image-net.org, with two synsets and three validation images."""
    root.mkdir()
    synsets = ["n01440764", "n01443537"]
    synset_folders(scratch, synsets)
    with tarfile.open(root / "ILSVRC2012_img_train.tar", "w") as outer:
        for synset in synsets:
            inner = scratch / f"{synset}.tar"
            with tarfile.open(inner, "w") as archive:
                for path in (scratch / "train" / synset).iterdir():
                    archive.add(path, path.name)
            if broken and synset == synsets[-1]:
                inner.write_bytes(inner.read_bytes()[:700])
            outer.add(inner, inner.name)
    with tarfile.open(root / "ILSVRC2012_img_val.tar", "w") as archive:
        for number, label in enumerate([1, 0, 1], 1):
            photo(scratch / f"ILSVRC2012_val_{number:08d}.JPEG", label, "test")
            archive.add(
                scratch / f"ILSVRC2012_val_{number:08d}.JPEG", f"ILSVRC2012_val_{number:08d}.JPEG"
            )
    devkit = scratch / "ILSVRC2012_devkit_t12"
    text(devkit / "data" / "ILSVRC2012_validation_ground_truth.txt", ["2", "1", "2"])
    fields = [(field, "O") for field in ("id", "wnid", "words", "gloss", "num_children")]
    rows = [
        (1, synsets[0], "tench, Tinca tinca", "", 0),
        (2, synsets[1], "goldfish, Carassius auratus", "", 0),
        (1001, "n00001740", "entity", "", 2),
    ]
    savemat(devkit / "data" / "meta.mat", {"synsets": np.array(rows, dtype=fields)})
    with tarfile.open(root / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as archive:
        archive.add(devkit, devkit.name)


def test_imagenets_archives_placed_by_hand_are_unpacked_without_a_download(tmp_path):
    imagenet_archives(tmp_path / "imagenet", tmp_path / "scratch")
    for split, count in {"train": 2, "test": 3}.items():
        images, names = SETS["imagenet"].read(tmp_path, split, False)
        assert names == ("n01440764", "n01443537") and len(images) == count
        labels = [pixels_label(images.open(i), split) for i in range(count)]
        assert images.labels.tolist() == labels
    read = datasets.ImageNet(tmp_path / "imagenet", "val")  # torchvision agrees
    assert [label for _, label in read.samples] == [0, 1, 1]


def test_an_archive_of_imagenet_that_breaks_off_leaves_nothing_half_unpacked(tmp_path):
    home = tmp_path / "imagenet"
    imagenet_archives(home, tmp_path / "scratch", broken=True)
    with pytest.raises(ConfigError, match="or cut off") as error:
        SETS["imagenet"].read(tmp_path, "train", True)
    assert "\n" not in str(error.value)
    assert {path.name for path in home.iterdir()} == {
        torchvision_imagenet.ARCHIVE_META[part][0] for part in ("train", "val", "devkit")
    }


@pytest.mark.parametrize("download", [True, False])
def test_imagenet_that_is_not_there_names_the_files_to_put_there(download, tmp_path):
    with pytest.raises(ConfigError, match=r"ILSVRC2012_img_val\.tar and no ILSVRC2012_devkit"):
        SETS["imagenet"].read(tmp_path, "test", download)


@pytest.mark.parametrize("loose", ["train/n01443537.tar", "train/n01440764_1.JPEG"])
def test_imagenet_half_unpacked_by_hand_is_refused(loose, tmp_path):
    imagenet(tmp_path)
    (tmp_path / "imagenet" / loose).write_bytes(b"")
    with pytest.raises(ConfigError, match="unpacking is not finished"):
        SETS["imagenet"].read(tmp_path, "train", True)


def test_imagenet_with_other_folders_in_val_than_in_train_is_refused(tmp_path):
    imagenet(tmp_path)
    photo(tmp_path / "imagenet/val/n01484850/1.JPEG", 2, "test")
    with pytest.raises(ConfigError, match="n01484850 is in one of them only"):
        SETS["imagenet"].read(tmp_path, "test", True)


def test_stanford_cars_that_are_not_there_say_where_to_put_them(tmp_path):
    with pytest.raises(ConfigError, match="cars_test_annos_withlabels.mat into .*stanford_cars"):
        SETS["stanford_cars"].read(tmp_path, "train", True)


def test_places_with_lists_but_without_images_are_not_taken_for_there(tmp_path):
    places365(tmp_path)
    (tmp_path / "places365" / "val_256").rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="places365"):
        SETS["places365"].read(tmp_path, "test", False)
