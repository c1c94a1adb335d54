"""`pack.json`: what a pack holds, and the checksum of each of its files. It is written last.

A pack is a folder, or a prefix of an S3 bucket: `pack.json`, and for each split a folder of shards
and litdata's `index.json`.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from vitfw.atomic import write_text
from vitfw.data.packs.bucket_objects import Bucket
from vitfw.errors import ConfigError
from vitfw.progress_bar import LongWork

MANIFEST, INDEX = "pack.json", "index.json"
UNFINISHED = ".packing"  # folder of what a pack command has done so far
FORMAT = 2


@dataclass(frozen=True)
class Shard:
    """A file of `images` samples, of `bytes` bytes."""

    file: str
    images: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class PackedSplit:
    """A split: its number of images, of each class too; what was skipped as (number in the split,
    name, reason). `images_digest` is that of `Stamps` over what was packed.
    """

    images: int
    class_counts: tuple[int, ...]
    images_digest: str
    index_sha256: str
    shards: tuple[Shard, ...]
    skipped: tuple[tuple[int, str, str], ...] = ()


@dataclass(frozen=True)
class Manifest:
    """A pack. `size` is the (height, width) of all images, None where they differ.

    `native_size` is the side they are usually trained at, `crop_share` the part of the picture that
    their evaluation keeps, `made_with` what the command was told.
    """

    name: str
    classes: tuple[str, ...]
    channels: int
    native_size: int
    crop_share: float
    size: tuple[int, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    made_with: dict[str, Any]
    splits: dict[str, PackedSplit]

    def write(self, folder: Path) -> None:
        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=1, ensure_ascii=False)
        write_text(folder / MANIFEST, text + "\n")

    @classmethod
    def parse(cls, text: str | bytes, where: str) -> "Manifest":
        """Raises ConfigError where the text is no manifest, or one of another version."""
        try:
            read = json.loads(text)
            version = read.pop("format")
            if version != FORMAT:
                raise ConfigError(
                    f"{where} is of format {version}, this version reads {FORMAT}; pack it again, "
                    "into another folder"
                )
            splits = {name: _split(split) for name, split in read.pop("splits").items()}
            size = read.pop("size")
            size = None if size is None else (int(size[0]), int(size[1]))
            for key in ("classes", "mean", "std"):
                read[key] = tuple(read[key])
            return cls(splits=splits, size=size, **read)
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ConfigError(
                f"{where} is damaged ({error}); {_mending(where.rpartition('/')[0])}"
            ) from error


def packed_fact(root: str, storage_options: Mapping[str, Any] | None, key: str) -> Any:
    """What YAML files may ask of a pack: name, num_classes, channels, native_size, crop_share.

    Raises:
        ConfigError: a secret stands in the options, which are written into every checkpoint.
    """
    secret = [name for name in storage_options or {} if "secret" in name or "token" in name]
    if secret:
        raise ConfigError(
            f"data.storage_options.{secret[0]} would be written into config.yaml and into every "
            "checkpoint; set the environment variable AWS_SECRET_ACCESS_KEY, or a profile of "
            "~/.aws/credentials"
        )
    options = json.dumps(dict(storage_options or {}), sort_keys=True)
    manifest = _known_manifest(str(root), options)
    return len(manifest.classes) if key == "num_classes" else getattr(manifest, key)


@cache  # a config is resolved many times
def _known_manifest(root: str, options: str) -> "Manifest":
    return read_manifest(root, json.loads(options))


def _split(read: dict[str, Any]) -> PackedSplit:
    shards = tuple(Shard(**shard) for shard in read.pop("shards"))
    skipped = tuple((i, name, reason) for i, name, reason in read.pop("skipped"))
    counts = tuple(read.pop("class_counts"))
    return PackedSplit(shards=shards, skipped=skipped, class_counts=counts, **read)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_remote(root: str | Path) -> bool:
    return "://" in str(root)


def read_manifest(root: str | Path, storage_options: dict[str, Any] | None = None) -> Manifest:
    """The manifest of the pack at `root`, a folder or `s3://bucket/prefix`.

    Each split's index is compared with its checksum; in a folder, the size of each shard, too.
    `storage_options` are arguments of boto3's S3 client, such as endpoint_url.

    Raises:
        ConfigError: there is no pack, or half of one; the store does not answer; a file is not
            what the manifest says.
    """
    if is_remote(root):
        return _read_remote(str(root), storage_options or {})
    folder = Path(root).expanduser()
    manifest = read_local(folder)
    for name, split in manifest.splits.items():
        _check_sizes(folder, name, split)
    return manifest


def read_local(folder: Path) -> Manifest:
    """The manifest in a folder, nothing compared.

    Raises:
        ConfigError: there is none.
    """
    if not (folder / MANIFEST).is_file():
        if (folder / UNFINISHED).is_dir():
            raise ConfigError(
                f"{folder} holds a pack that is not finished; the command that began it goes on"
            )
        raise ConfigError(
            f"there is no pack in {folder} (no {MANIFEST}); make one: "
            f"vitfw pack data=NAME output={folder}"
        )
    return Manifest.parse((folder / MANIFEST).read_bytes(), str(folder / MANIFEST))


def _check_sizes(folder: Path, name: str, split: PackedSplit) -> None:
    index = folder / name / INDEX
    if not index.is_file() or sha256_of(index) != split.index_sha256:
        raise ConfigError(_mismatch(folder, f"{name}/{INDEX}"))
    for shard in split.shards:
        path = folder / name / shard.file
        if not path.is_file() or path.stat().st_size != shard.bytes:
            raise ConfigError(_mismatch(folder, f"{name}/{shard.file}"))


def _mismatch(root: str | Path, file: str) -> str:
    root = str(root).rstrip("/")
    return f"{root}/{file} is missing or not what {MANIFEST} says; {_mending(root)}"


def _mending(root: str) -> str:
    """What to do about a damaged pack; a finished one is never written over."""
    if is_remote(root):
        return "upload all of it again"
    return f"remove {root} and pack it again, or copy it again"


def verify(folder: Path) -> Manifest:
    """Compare every file of a pack with its checksum.

    Raises:
        ConfigError: names the first file that differs.
    """
    manifest = read_manifest(folder)
    shards = [(name, shard) for name, split in manifest.splits.items() for shard in split.shards]
    with LongWork("verifying", sum(shard.bytes for _, shard in shards), "bytes") as work:
        for name, shard in shards:
            if sha256_of(folder / name / shard.file) != shard.sha256:
                raise ConfigError(_mismatch(folder, f"{name}/{shard.file}"))
            work.update(shard.bytes)
    return manifest


def _read_remote(root: str, storage_options: dict[str, Any]) -> Manifest:
    address = urlparse(root)
    if address.scheme != "s3":
        raise ConfigError(f"data.root={root}: packs are read from a folder or from s3://bucket/…")
    prefix = address.path.strip("/")
    keys = Bucket(root, address.netloc, storage_options)
    manifest = Manifest.parse(keys.get(f"{prefix}/{MANIFEST}"), f"{root}/{MANIFEST}")
    for name, split in manifest.splits.items():
        index = keys.get(f"{prefix}/{name}/{INDEX}")
        if hashlib.sha256(index).hexdigest() != split.index_sha256:
            raise ConfigError(_mismatch(root, f"{name}/{INDEX}"))
    return manifest
