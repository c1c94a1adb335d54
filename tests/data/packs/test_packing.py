import errno
import json
import re
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from litdata.streaming import StreamingDataset
from litdata.streaming.writer import BinaryWriter
from PIL import Image

from vitfw.data.images import ArrayImages, EncodedImages, FileImages
from vitfw.data.packs.pack_folder import pack_folder
from vitfw.data.packs.pack_manifest import Manifest, read_manifest, verify
from vitfw.data.packs.pack_options import PackOptions
from vitfw.errors import ConfigError

CLASSES = tuple("abcde")


def facts(channels: int = 3, **made_with) -> Manifest:
    statistics = (0.5,) * channels
    return Manifest("x", CLASSES, channels, 8, 1.0, (8, 8), statistics, statistics, made_with, {})


def arrays(count: int = 300) -> ArrayImages:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 8, 8), generator=generator).to(torch.uint8)
    return ArrayImages(images, (torch.arange(count) * 5) // count)  # sorted by class, as on disk


def splits() -> dict:
    return {"train": arrays(), "val": arrays(40)}


SMALL = PackOptions(chunk_mb=0.01)


def pack(
    folder: Path, options: PackOptions = SMALL, images: dict | None = None, **more
) -> Manifest:
    return pack_folder(folder, facts(), splits() if images is None else images, options, **more)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pack")
    pack(folder)
    return folder


def samples(folder: Path) -> list[dict]:
    """Read by litdata itself."""
    dataset = StreamingDataset(str(folder))
    rows = [dataset[i] for i in range(len(dataset))]
    return [{"image": image, "label": label, "index": index} for image, label, index in rows]


def photograph(path: Path, width: int, height: int, **options) -> Path:
    ramp = np.linspace(0, 255, width * height * 3).reshape(height, width, 3).astype(np.uint8)
    Image.fromarray(ramp).save(path, **options)
    return path


def files(folder: Path, *paths: Path) -> dict:
    return {"train": FileImages.of(paths, [0] * len(paths))}


def test_litdata_reads_every_sample_once_with_its_label_and_pixels(packed):
    found, original = samples(packed / "train"), arrays()
    assert sorted(sample["index"] for sample in found) == list(range(300))
    for sample in found:
        i = sample["index"]
        assert sample["label"] == original.labels[i]
        assert np.array_equal(sample["image"], original.images[i].numpy())


def test_a_shard_of_a_set_that_is_sorted_by_class_holds_all_classes(packed):
    manifest = read_manifest(packed)
    first = manifest.splits["train"].shards[0]
    labels = [sample["label"] for sample in samples(packed / "train")[: first.images]]
    assert first.images < 60 and set(labels) == set(range(5))


def test_manifest_counts_images_and_classes(packed):
    manifest = verify(packed)
    train = manifest.splits["train"]
    assert (train.images, manifest.splits["val"].images) == (300, 40)
    assert train.class_counts == (60,) * 5
    assert sum(shard.images for shard in train.shards) == 300
    assert manifest.classes == CLASSES


def test_files_do_not_depend_on_the_number_of_workers(packed, tmp_path):
    pack(tmp_path / "other", num_workers=2)
    assert contents(tmp_path / "other") == contents(packed)


@pytest.mark.parametrize("blocks", [1, 3, 7])
def test_stopped_packing_goes_on_to_the_same_bytes(packed, tmp_path, blocks):
    left = blocks

    def stop(split: str, images: int) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(tmp_path / "other", advance=stop)
    (tmp_path / "other" / ".packing" / "train" / "tmpx").mkdir()  # of a killed worker
    with pytest.raises(ConfigError, match="not finished"):
        read_manifest(tmp_path / "other")
    before = (tmp_path / "other" / "train" / "shard-000000.bin").stat().st_mtime_ns
    pack(tmp_path / "other")
    assert contents(tmp_path / "other") == contents(packed)
    assert (tmp_path / "other" / "train" / "shard-000000.bin").stat().st_mtime_ns == before


def test_full_disk_is_one_line_and_what_was_packed_is_kept(packed, tmp_path, monkeypatch):
    write = BinaryWriter.write_chunk_to_file

    def full(self, *arguments, **more):
        write(self, *arguments, **more)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(BinaryWriter, "write_chunk_to_file", full)
        with pytest.raises(ConfigError, match=r"No space left on device.*same command goes on"):
            pack(tmp_path / "other")
    assert not list((tmp_path / "other").rglob("*.bin"))
    pack(tmp_path / "other")
    assert contents(tmp_path / "other") == contents(packed)


def test_finished_pack_is_left_alone_and_another_refused(tmp_path):
    folder = tmp_path / "pack"
    manifest = pack(folder)
    before = contents(folder)
    assert pack(folder) == manifest
    with pytest.raises(ConfigError, match=r"holds a pack already.*chunk_mb=0.01 instead of 0.02"):
        pack(folder, PackOptions(chunk_mb=0.02))
    with pytest.raises(ConfigError, match="other images"):
        pack(folder, images={"train": arrays(30)})
    assert contents(folder) == before


def test_a_finished_pack_tells_other_pixels_with_the_same_labels_apart(packed):
    other = splits()
    other["val"].images[7, 0, 0, 0] ^= 1
    with pytest.raises(ConfigError, match="holds a pack already, of x with other images"):
        pack(packed, images=other)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "y", "mean": (0.1,) * 3}, "of x with name=x instead of y;"),
        ({"classes": tuple("vwxyz")}, "with other classes;"),
        ({"std": (0.1,) * 3}, "with std=[0.5, 0.5, 0.5] instead of [0.1, 0.1, 0.1];"),
        ({"crop_share": 0.5}, "with crop_share=1.0 instead of 0.5;"),
    ],
)
def test_a_finished_pack_tells_other_facts_apart(packed, change, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        pack_folder(packed, replace(facts(), **change), splits(), SMALL)


def noise(path: Path, side: int, seed: int) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def stopped(folder: Path, images: dict, blocks: int, options: PackOptions) -> None:
    left = iter(range(blocks - 1))

    def stop(split: str, count: int) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(folder, options, images, advance=stop)


def test_images_that_grew_after_a_stop_are_packed_once_each(tmp_path):
    paths = [noise(tmp_path / f"{i:02}.png", 16, i) for i in range(60)]
    images = {"val": FileImages.of(paths, [0] * 60)}
    options = PackOptions(chunk_mb=0.005)
    stopped(tmp_path / "pack", images, 2, options)
    for i in range(30, 60):
        noise(paths[i], 40, i)
    pack(tmp_path / "pack", options, images)
    split = verify(tmp_path / "pack").splits["val"]
    assert split.images == sum(shard.images for shard in split.shards) == 60
    found = samples(tmp_path / "pack" / "val")
    assert [s["index"] for s in found] == list(range(60))
    assert all(s["image"] == paths[s["index"]].read_bytes() for s in found)


def test_a_packed_image_that_changed_after_a_stop_is_refused(tmp_path):
    paths = [noise(tmp_path / f"{i:02}.png", 16, i) for i in range(30)]
    images = {"val": FileImages.of(paths, [0] * 30)}
    options = PackOptions(chunk_mb=0.005)
    stopped(tmp_path / "pack", images, 2, options)
    noise(paths[0], 16, 99)
    said = r"some of the val images in it have been changed since; remove .*pack and give"
    for workers in (0, 2):
        with pytest.raises(ConfigError, match=said):
            pack(tmp_path / "pack", options, images, num_workers=workers)


def test_packing_goes_on_and_stays_finished_after_the_images_moved(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    names = [noise(old / f"{i:02}.png", 16, i).name for i in range(30)]
    options = PackOptions(chunk_mb=0.005)
    stopped(tmp_path / "pack", files(old, *(old / name for name in names)), 2, options)
    old.rename(new)
    moved = files(new, *(new / name for name in names))
    manifest = pack(tmp_path / "pack", options, moved)
    assert manifest.splits["train"].images == 30
    new.rename(old)
    images = files(old, *(old / name for name in names))
    assert pack(tmp_path / "pack", options, images) == manifest
    (old / names[3]).touch()
    with pytest.raises(ConfigError, match="other images, or before they were changed"):
        pack(tmp_path / "pack", options, images)


def test_a_pack_begun_with_more_images_or_another_set_is_refused(tmp_path):
    stopped(tmp_path, splits(), 2, SMALL)
    with pytest.raises(ConfigError, match="begun with other images; give the same command again"):
        pack(tmp_path, images={**splits(), "val": arrays(39)})
    with pytest.raises(ConfigError, match="begun with name=x instead of y; give the same"):
        pack_folder(tmp_path, replace(facts(), name="y"), splits(), SMALL)


class Held(EncodedImages):
    """Files in memory, as the rows of a table are."""

    def __init__(self, contents: list[bytes]):
        super().__init__(torch.zeros(len(contents), dtype=torch.int64))
        self.contents = contents

    def subset(self, index: torch.Tensor) -> "Held":
        return Held([self.contents[i] for i in index.tolist()])

    def open(self, i: int) -> BytesIO:
        return BytesIO(self.contents[i])

    def name(self, i: int) -> str:
        return f"row {i}"


def test_images_held_in_a_table_are_told_apart_by_their_content(tmp_path):
    one, other = (noise(tmp_path / f"{i}.png", 16, i).read_bytes() for i in range(2))
    manifest = pack(tmp_path / "pack", images={"train": Held([one, other])})
    assert pack(tmp_path / "pack", images={"train": Held([one, other])}) == manifest
    with pytest.raises(ConfigError, match="other images"):
        pack(tmp_path / "pack", images={"train": Held([other, one])})


def test_notes_that_lost_an_image_end_the_command(tmp_path):
    stopped(tmp_path, splits(), 2, SMALL)
    note = tmp_path / ".packing" / "train" / "0.json"
    content = json.loads(note.read_text())
    content["labels"].pop()
    note.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"train holds 299 of 300 images.*remove .* again"):
        pack(tmp_path)
    assert not (tmp_path / "pack.json").exists()


def test_a_noted_shard_that_was_cut_off_is_packed_anew(packed, tmp_path):
    stopped(tmp_path / "other", splits(), 3, SMALL)
    shard = tmp_path / "other" / "train" / "shard-000001.bin"
    shard.write_bytes(shard.read_bytes()[:-9])
    pack(tmp_path / "other")
    assert contents(tmp_path / "other") == contents(packed)


def test_a_folder_of_other_files_is_refused(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ConfigError, match=r"other files \(letter.txt\)"):
        pack(tmp_path)


def test_verify_names_the_shard_in_which_one_bit_changed(tmp_path):
    pack(tmp_path)
    shard = tmp_path / "val" / "shard-000000.bin"
    content = bytearray(shard.read_bytes())
    content[-5] ^= 1
    shard.write_bytes(content)
    read_manifest(tmp_path)  # sizes are right
    damage = f"val/shard-000000.bin is missing or not what pack.json says; remove {tmp_path} and"
    with pytest.raises(ConfigError, match=re.escape(damage)):
        verify(tmp_path)


@pytest.mark.parametrize("file", ["train/shard-000001.bin", "train/index.json"])
def test_a_missing_or_shortened_file_is_noticed_at_once(tmp_path, file):
    pack(tmp_path)
    path = tmp_path / file
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ConfigError, match=file):
        read_manifest(tmp_path)
    path.unlink()
    with pytest.raises(ConfigError, match=file):
        read_manifest(tmp_path)
    with pytest.raises(ConfigError, match=f"{file} is missing.*; remove {tmp_path} and pack it"):
        pack(tmp_path)


def test_a_manifest_of_another_format_is_refused(tmp_path):
    pack(tmp_path)
    path = tmp_path / "pack.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 9}))
    with pytest.raises(ConfigError, match="format 9"):
        read_manifest(tmp_path)


def test_large_pictures_are_resized_and_small_ones_kept_to_the_byte(tmp_path):
    large = photograph(tmp_path / "large.jpg", 90, 60)
    wide = photograph(tmp_path / "wide.png", 100, 50)
    small = photograph(tmp_path / "small.png", 20, 30)
    jpeg = photograph(tmp_path / "jpeg.jpg", 32, 40, quality=50)
    bitmap = photograph(tmp_path / "bitmap.bmp", 10, 12)
    paths = [large, wide, small, jpeg, bitmap]
    pack(tmp_path / "pack", PackOptions(size=32), files(tmp_path, *paths))
    found = {s["index"]: s["image"] for s in samples(tmp_path / "pack" / "train")}
    opened = [Image.open(BytesIO(found[i])) for i in range(5)]
    assert [image.size for image in opened] == [(48, 32), (64, 32), (20, 30), (32, 40), (10, 12)]
    assert [image.format for image in opened] == ["JPEG", "JPEG", "PNG", "JPEG", "JPEG"]
    assert found[2] == small.read_bytes() and found[3] == jpeg.read_bytes()
    (shard,) = (tmp_path / "pack" / "train").glob("*.bin")
    assert shard.stat().st_size < sum(len(image) for image in found.values()) + 5 * 64


def test_raw_is_pixels_of_exactly_the_size(tmp_path):
    paths = [photograph(tmp_path / "a.jpg", 90, 60), photograph(tmp_path / "b.png", 10, 20)]
    pack(tmp_path / "pack", PackOptions(size=24, quality="raw"), files(tmp_path, *paths))
    for sample in samples(tmp_path / "pack" / "train"):
        assert sample["image"].shape == (3, 24, 24) and sample["image"].dtype == np.uint8


def test_unreadable_images_are_skipped_and_listed_up_to_a_share(tmp_path):
    paths = [photograph(tmp_path / f"{i}.png", 9, 9) for i in range(9)]
    broken = tmp_path / "broken.jpg"
    broken.write_text("no image")
    images = files(tmp_path, *paths, broken)
    with pytest.raises(ConfigError, match=r"1 of the 10 train images.*broken.jpg"):
        pack(tmp_path / "pack", images=images)
    manifest = pack(tmp_path / "pack", images=images, max_bad_share=0.1)
    ((number, name, reason),) = manifest.splits["train"].skipped
    assert number == 9 and name == str(broken) and "not an image" in reason
    assert manifest.splits["train"].images == 9
    assert read_manifest(tmp_path / "pack") == manifest


def test_mended_images_are_packed_when_the_command_is_given_again(tmp_path):
    paths = [noise(tmp_path / f"{i}.png", 16, i) for i in range(10)]
    whole = paths[4].read_bytes()
    paths[4].write_bytes(whole[:100])
    images = files(tmp_path, *paths)
    with pytest.raises(ConfigError, match=r"1 of the 10 .*Mend them, or allow more, and give"):
        pack(tmp_path / "pack", images=images)
    paths[4].write_bytes(whole)
    split = pack(tmp_path / "pack", images=images).splits["train"]
    assert (split.images, split.skipped) == (10, ())
    found = {s["index"]: s["image"] for s in samples(tmp_path / "pack" / "train")}
    assert found == {i: path.read_bytes() for i, path in enumerate(paths)}


def test_a_block_of_which_nothing_can_be_read_any_more_leaves_no_shard(tmp_path):
    paths = [noise(tmp_path / f"{i:02}.png", 16, i) for i in range(12)]
    images = {"val": FileImages.of(paths, [0] * 12)}
    paths[0].write_text("no image")
    options = PackOptions(chunk_mb=0.002)
    stopped(tmp_path / "pack", images, 2, options)
    first = json.loads((tmp_path / "pack" / ".packing" / "val" / "0.json").read_text())
    for path in paths[: first["drawn"]]:
        path.write_text("no image")
    split = pack(tmp_path / "pack", options, images, max_bad_share=0.5).splits["val"]
    kept = {path.name for path in (tmp_path / "pack" / "val").glob("*.bin")}
    assert kept == {shard.file for shard in split.shards}
    assert "shard-000000.bin" not in kept
    assert split.images + len(split.skipped) == 12


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"quality": 0}, "quality=0"),
        ({"quality": "low"}, "quality=low"),
        ({"quality": True}, "quality=True"),
        ({"size": 0}, "size=0"),
        ({"size": 1.5}, "size=1.5"),
        ({"chunk_mb": None}, "chunk_mb=None"),
    ],
)
def test_options_that_cannot_be_are_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        PackOptions(**options)
