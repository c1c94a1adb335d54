"""Write a split of any data set once, into shards that litdata streams.

A sample is a tuple: the bytes of a file or pixels [C, H, W] uint8; the label; the index, which is
its number in the split, from which its augmentation follows. (Of dicts with bytes in them litdata
0.2.76 stores everything twice.) Training images are packed in a random
order, which is always the same: a shard is a sample of the whole split, not a class of it.

Each shard is one block of work: written beside its place, moved there, and noted. A command that
was killed goes on after the blocks that were noted, and ends with the same bytes.
"""

import errno
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from vitfw.atomic import write_text
from vitfw.data.counter_rng import permutation
from vitfw.data.images import ArrayImages, EncodedImages, Images
from vitfw.data.packs.pack_manifest import INDEX, UNFINISHED, PackedSplit, Shard, sha256_of
from vitfw.data.transforms import UnreadableImage, fit_image, open_image, to_uint8
from vitfw.errors import ConfigError

ORDER_SEED = 0  # of the order that training images are packed in
PROBED = 64  # images that tell how many fill a shard
LARGEST_SHARD_MB = 2048  # litdata's offsets have 32 bits


@dataclass(frozen=True)
class PackOptions:
    """`size`: image files whose shorter side is longer are resized to it. `quality`: of JPEG, 1 to
    100; "raw" stores the pixels of the middle `size` × `size`. `chunk_mb`: megabytes a shard.

    Sets that are arrays are stored as they are: neither size nor quality applies.

    Raises:
        ConfigError: a value that cannot be.
    """

    size: int = 256
    quality: int | Literal["raw"] = 90
    chunk_mb: float = 64

    def __post_init__(self):
        if self.size < 1:
            raise ConfigError(f"size={self.size} must be at least 1, such as 256")
        if self.quality != "raw" and not (
            isinstance(self.quality, int) and 1 <= self.quality <= 100
        ):
            raise ConfigError(f"quality={self.quality} is neither 1 to 100 nor raw")
        if not 0 < self.chunk_mb <= LARGEST_SHARD_MB:
            raise ConfigError(f"chunk_mb={self.chunk_mb} must be above 0, at most 2048")


class Block(Dataset):
    """Number of a block → what was written for it, as it is noted; or why it could not be."""

    def __init__(
        self,
        images: Images,
        order: np.ndarray,
        folder: Path,
        notes: Path,
        options: PackOptions,
        channels: int,
        length: int,
    ):
        self.images, self.order = images, order
        self.folder, self.notes = folder, notes
        self.options, self.channels, self.length = options, channels, length

    def __len__(self) -> int:
        return -(-len(self.order) // self.length)

    def __getitem__(self, index: int) -> dict[str, Any] | OSError:
        from litdata.streaming.writer import BinaryWriter

        begin = index * self.length
        drawn = self.order[begin : begin + self.length]
        note: dict[str, Any] = {"drawn": len(drawn), "labels": [], "skipped": [], "shard": None}
        try:
            with tempfile.TemporaryDirectory(dir=self.notes) as beside:
                writer = BinaryWriter(beside, chunk_size=self.length)
                for i in drawn.tolist():
                    try:
                        image = encode(self.images, i, self.options, self.channels)
                    except UnreadableImage as error:
                        note["skipped"].append([_name(self.images, i), str(error)])
                        continue
                    label = int(self.images.labels[i])
                    writer[len(note["labels"])] = (image, label, i)
                    note["labels"].append(label)
                if note["labels"]:
                    writer.done()
                    note |= self._place(Path(beside), f"shard-{index:06d}.bin")
                write_text(self.notes / f"{index}.json", json.dumps(note))
        except OSError as error:
            return error
        return note

    def _place(self, beside: Path, file: str) -> dict[str, Any]:
        """Move the shard to where it belongs; what is noted of it."""
        (index,) = beside.glob(f"*{INDEX}")
        written = json.loads(index.read_text(encoding="utf-8"))
        (chunk,) = written["chunks"]
        path = beside / chunk["filename"]
        shard = Shard(file, chunk["chunk_size"], path.stat().st_size, sha256_of(path))
        path.replace(self.folder / file)
        chunk["filename"] = file
        return {"shard": asdict(shard), "chunk": chunk, "config": written["config"]}


def encode(images: Images, i: int, options: PackOptions, channels: int) -> bytes | np.ndarray:
    """What is stored of image `i`: the bytes of a file, or pixels [C, H, W] uint8.

    A JPEG or PNG file that is small enough is stored as it is.

    Raises:
        UnreadableImage: the file is no image, or broken.
    """
    if isinstance(images, ArrayImages):
        return images.images[i].numpy()
    image = open_image(images.open(i), channels)
    if options.quality == "raw":
        size = (options.size, options.size)
        return to_uint8(fit_image(image, size)).numpy()
    shorter = min(image.size)
    if shorter <= options.size:
        content, kind = _file(images, i)
        if kind in ("JPEG", "PNG"):
            return content
    else:
        scale = options.size / shorter
        width, height = (max(options.size, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    sink = BytesIO()
    try:
        image.save(sink, "JPEG", quality=options.quality)
    except (OSError, ValueError) as error:  # a side longer than JPEG can count
        raise UnreadableImage(f"cannot store {images.name(i)} as JPEG: {error}") from error
    return sink.getvalue()


def _file(images: EncodedImages, i: int) -> tuple[bytes, str | None]:
    """The bytes of an image file that has been read once, and its format."""
    source = images.open(i)
    content = Path(source).read_bytes() if isinstance(source, str) else source.read()
    with Image.open(BytesIO(content)) as opened:
        return content, opened.format


def _name(images: Images, i: int) -> str:
    return str(i) if isinstance(images, ArrayImages) else images.name(i)


def pack_split(
    images: Images,
    folder: Path,
    options: PackOptions,
    channels: int,
    num_classes: int,
    shuffle: bool,
    num_workers: int = 0,
    advance: Callable[[int], object] = lambda images: None,
) -> PackedSplit:
    """Write `images` to `folder`, or what an earlier call left to be done; returns what is there.

    `shuffle` is for training images. The files do not depend on `num_workers`. `advance` hears of
    every block how many images it has dealt with.

    Raises:
        ConfigError: the folder cannot be written; not one image can be read.
    """
    notes = folder.parent / UNFINISHED / folder.name
    try:
        for place in (folder, notes):
            place.mkdir(parents=True, exist_ok=True)
        for left in notes.glob("tmp*"):
            shutil.rmtree(left)
    except OSError as error:
        raise cannot_write(folder, error) from error
    count = len(images)
    order = (permutation(ORDER_SEED, 0, count) if shuffle else torch.arange(count)).numpy()
    length = images_per_shard(images, order, options, channels)
    blocks = Block(images, order, folder, notes, options, channels, length)
    noted = sorted(_work_through(blocks, num_workers, advance))
    found = [note for _, note in noted]
    labels = [label for note in found for label in note["labels"]]
    if not labels:
        raise ConfigError(f"none of the {count:,} images of {folder.name} can be read")
    counts = np.bincount(np.array(labels), minlength=num_classes)
    return PackedSplit(
        images=len(labels),
        class_counts=tuple(counts.tolist()),
        index_sha256=_write_index(folder, found),
        shards=tuple(Shard(**note["shard"]) for note in found if note["shard"]),
        skipped=tuple((name, reason) for note in found for name, reason in note["skipped"]),
    )


def _work_through(
    blocks: Block, num_workers: int, advance: Callable[[int], object]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, note) of every block: first the noted ones, then the others as they are written."""
    left = []
    for number in range(len(blocks)):
        path = blocks.notes / f"{number}.json"
        if not path.exists():
            left.append(number)
            continue
        note = json.loads(path.read_text(encoding="utf-8"))
        advance(note["drawn"])
        yield number, note
    workers = min(num_workers, len(left))
    loader = DataLoader(blocks, batch_size=None, sampler=left, num_workers=workers)
    for number, note in zip(left, loader, strict=True):
        if isinstance(note, OSError):
            raise cannot_write(blocks.folder, note) from note
        advance(note["drawn"])
        yield number, note


def images_per_shard(images: Images, order: np.ndarray, options: PackOptions, channels: int) -> int:
    """How many images fill a shard, told from the first ones that are packed."""
    sizes = []
    for i in order[:PROBED].tolist():
        try:
            stored = encode(images, i, options, channels)
            sizes.append(len(stored) if isinstance(stored, bytes) else stored.nbytes)
        except UnreadableImage:
            continue
    mean = sum(sizes) / len(sizes) if sizes else 1.0
    return max(1, round(options.chunk_mb * 1e6 / mean))


def _write_index(folder: Path, notes: Sequence[dict[str, Any]]) -> str:
    """Write litdata's index; returns its checksum.

    `updated_at` names litdata's cache folder: a digest of the shards there keeps a changed pack
    and its predecessor apart.
    """
    written = [note for note in notes if note["shard"]]
    config = written[0]["config"]
    digests = "".join(note["shard"]["sha256"] for note in written)
    index = {
        "chunks": [note["chunk"] for note in written],
        "config": config,
        "updated_at": hashlib.sha256(digests.encode()).hexdigest()[:16],
    }
    write_text(folder / INDEX, json.dumps(index, sort_keys=True))
    return sha256_of(folder / INDEX)


def cannot_write(folder: Path, error: OSError) -> ConfigError:
    what = f"{folder} cannot be written: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        what += "; what is packed is kept: make room, and the same command goes on"
    return ConfigError(what)
