"""Write a split of any data set once, into shards that litdata streams.

A sample is a tuple: the bytes of a file or pixels [C, H, W] uint8; the label; the index, which is
its number in the split, from which its augmentation follows. (Of dicts with bytes in them litdata
0.2.76 stores everything twice.) Training images are packed in a random
order, which is always the same: a shard is a sample of the whole split, not a class of it.

Each shard is one block of work: written beside its place, moved there, and noted. A command that
was killed goes on with the blocks that were not noted, and ends with the same bytes. Blocks with
images that could not be read are packed anew, for they may have been mended.
"""

import errno
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from vitfw.atomic import write_text
from vitfw.data.counter_rng import permutation
from vitfw.data.images import Images
from vitfw.data.packs.pack_manifest import INDEX, UNFINISHED, PackedSplit, Shard, sha256_of
from vitfw.data.packs.pack_options import PackOptions
from vitfw.data.packs.stamps import Stamps, joined
from vitfw.data.packs.stored_image import encode, images_per_shard
from vitfw.data.transforms import UnreadableImage
from vitfw.errors import ConfigError

ORDER_SEED = 0  # of the order that training images are packed in
LENGTH = "images_per_shard"  # the file in which that is noted


class Block(Dataset):
    """Number of a block → what is written for it, as it is noted; or why it cannot be."""

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
        self.stamps = Stamps(images)

    def __len__(self) -> int:
        return -(-len(self.order) // self.length)

    def __getitem__(self, index: int) -> dict[str, Any] | OSError | ConfigError:
        begin = index * self.length
        drawn = self.order[begin : begin + self.length].tolist()
        try:
            return self._noted(index, drawn) or self._pack(index, drawn)
        except (OSError, ConfigError) as error:  # raised in a worker, it would be no line
            return error

    def _noted(self, index: int, drawn: list[int]) -> dict[str, Any] | None:
        """What an earlier call has noted of a block, if there is nothing left to be done.

        Raises:
            ConfigError: its images have been changed since.
        """
        path = self.notes / f"{index}.json"
        if not path.exists():
            return None
        note = json.loads(path.read_text(encoding="utf-8"))
        if note["skipped"]:
            return None
        shard = self.folder / note["shard"]["file"]
        if not shard.is_file() or shard.stat().st_size != note["shard"]["bytes"]:
            return None
        if note["stamps"] != [self.stamps[i] for i in drawn]:
            raise ConfigError(
                f"{self.folder.parent} holds a pack that was begun, and some of the "
                f"{self.folder.name} images in it have been changed since; remove "
                f"{self.folder.parent} and give the command again"
            )
        return note

    def _pack(self, index: int, drawn: list[int]) -> dict[str, Any]:
        from litdata.streaming.writer import BinaryWriter

        file = f"shard-{index:06d}.bin"
        note: dict[str, Any] = {"drawn": len(drawn), "shard": None}
        note |= {"labels": [], "stamps": [], "skipped": []}
        with tempfile.TemporaryDirectory(dir=self.notes) as beside:
            writer = BinaryWriter(beside, chunk_size=self.length)
            for i in drawn:
                stamp = self.stamps[i]  # of before it is read: a change meanwhile is noticed
                try:
                    image = encode(self.images, i, self.options, self.channels)
                except UnreadableImage as error:
                    note["skipped"].append([i, self.images.name(i), str(error)])
                    continue
                label = int(self.images.labels[i])
                writer[len(note["labels"])] = (image, label, i)
                note["labels"].append(label)
                note["stamps"].append(stamp)
            if note["labels"]:
                writer.done()
                note |= self._place(Path(beside), file)
            else:
                (self.folder / file).unlink(missing_ok=True)
            write_text(self.notes / f"{index}.json", json.dumps(note))
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
        ConfigError: the folder cannot be written; not one image can be read; images that were
            packed by the earlier call have been changed since.
    """
    notes = folder.parent / UNFINISHED / folder.name
    count = len(images)
    order = (permutation(ORDER_SEED, 0, count) if shuffle else torch.arange(count)).numpy()
    try:
        for place in (folder, notes):
            place.mkdir(parents=True, exist_ok=True)
        for left in notes.glob("tmp*"):
            shutil.rmtree(left)
        if not (notes / LENGTH).exists():
            write_text(notes / LENGTH, str(images_per_shard(images, order, options, channels)))
    except OSError as error:
        raise cannot_write(folder, error) from error
    length = int((notes / LENGTH).read_text(encoding="utf-8"))
    blocks = Block(images, order, folder, notes, options, channels, length)
    found = list(_work_through(blocks, num_workers, advance))
    return _packed(folder, order, found, num_classes)


def _work_through(
    blocks: Block, num_workers: int, advance: Callable[[int], object]
) -> Iterator[dict[str, Any]]:
    """The note of every block, in order, as it is found or written."""
    workers = min(num_workers, len(blocks))
    loader = DataLoader(blocks, batch_size=None, num_workers=workers)
    for note in loader:
        if isinstance(note, OSError):
            raise cannot_write(blocks.folder, note) from note
        if isinstance(note, ConfigError):
            raise note
        advance(note["drawn"])
        yield note


def _packed(
    folder: Path, order: np.ndarray, notes: Sequence[dict[str, Any]], num_classes: int
) -> PackedSplit:
    """What the notes of all blocks tell together. `order` is that in which images were drawn."""
    labels = [label for note in notes for label in note["labels"]]
    skipped = [(i, name, reason) for note in notes for i, name, reason in note["skipped"]]
    if not labels:
        raise ConfigError(f"none of the {len(order):,} images of {folder.name} can be read")
    if len(labels) + len(skipped) != len(order):
        raise ConfigError(
            f"{folder} holds {len(labels) + len(skipped):,} of {len(order):,} images: what was "
            f"noted there is damaged; remove {folder.parent} and give the command again"
        )
    left_out = {i for i, *_ in skipped}
    stored = [i for i in order.tolist() if i not in left_out]
    stamps = [stamp for note in notes for stamp in note["stamps"]]
    in_order = [stamp for _, stamp in sorted(zip(stored, stamps, strict=True))]
    counts = np.bincount(np.array(labels), minlength=num_classes)
    return PackedSplit(
        images=len(labels),
        class_counts=tuple(counts.tolist()),
        images_digest=joined(in_order),
        index_sha256=_write_index(folder, notes),
        shards=tuple(Shard(**note["shard"]) for note in notes if note["shard"]),
        skipped=tuple(skipped),
    )


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
