"""`vitfw pack`: write a data set once into shards, to be streamed from a folder or a bucket."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from vitfw.assemble import prepare_process
from vitfw.building import build
from vitfw.cli.app import run
from vitfw.config import to_plain
from vitfw.console import log
from vitfw.data.datamodule import ImageData
from vitfw.data.images import ArrayImages, Images
from vitfw.data.packs.pack_folder import pack_folder
from vitfw.data.packs.pack_manifest import MANIFEST, Manifest, is_remote, verify
from vitfw.data.packs.pack_options import PackOptions
from vitfw.errors import ConfigError
from vitfw.progress_bar import LongWork

SPLITS = ("train", "val", "test")
SPLIT_KEYS = ("val_share", "split_seed", "fold", "folds", "limit", "only_classes")
STREAM = "vitfw.data.packs.stream_data.StreamData"


def main(argv: Sequence[str] | None = None) -> int:
    words = list(argv or [])
    verifies = any(word.startswith("verify=") for word in words)
    if verifies and not any(word.startswith("data=") for word in words):
        words.append("data=fake")  # it is not read
    return run("pack", pack, words)


def pack(config: DictConfig, overrides: list[str]) -> None:
    """Pack the splits that training would use, or compare a pack with its checksums.

    Raises:
        ConfigError: the data cannot be read, or the output not written; says why.
    """
    prepare_process()
    if config.verify is not None:
        manifest = verify(folder_of("verify", config.verify))
        log.info(f"{config.verify}: {summary(manifest)}; every checksum is right")
        return
    if config.data._target_ == STREAM:
        raise ConfigError(
            "data=stream is packed already: copy its folder as it is, or give data= the set that "
            "it was packed from"
        )
    cfg = to_plain(config)
    options = options_of(cfg)
    workers = workers_of(cfg["num_workers"])
    if cfg["output"] is None:
        raise ConfigError("output is needed: the folder that shards are written to, output=FOLDER")
    output = folder_of("output", cfg["output"])
    already = (output / MANIFEST).exists()
    if output.exists() and not output.is_dir():
        raise ConfigError(f"output={cfg['output']} is a file; give the name of a folder")
    data: ImageData = build({**cfg["data"], "resident": False})
    splits = read_splits(data)
    made_with = {key: cfg["data"][key] for key in SPLIT_KEYS}
    with progress(splits) as advance:
        manifest = pack_folder(
            output,
            facts_of(data, splits, options, made_with),
            splits,
            options,
            num_workers=workers,
            max_bad_share=float(cfg["data"]["max_bad_share"]),
            advance=advance,
        )
    log.info(f"{output}: {summary(manifest)}")
    if already:
        log.info(f"it was packed before; to compare its checksums: vitfw pack verify={output}")
    reasons = [(name, split.skipped) for name, split in manifest.splits.items()]
    for name, skipped in reasons:
        for *_, reason in skipped:
            log.warning(f"skipped in {name}: {reason}")
    if already and any(skipped for _, skipped in reasons):
        log.warning("if they were mended since, give another output to pack them")
    log.info(f"train from it: vitfw train data=stream data.root={output}")


def options_of(cfg: dict[str, Any]) -> PackOptions:
    """How to pack. `quality` has no default in the YAML file: a word is good, too."""
    given = {key: cfg[key] for key in ("size", "quality", "chunk_mb") if cfg[key] is not None}
    return PackOptions(**given)


def workers_of(asked: Any) -> int:
    """How many processes pack: those asked for, or one a core."""
    if asked is None:
        return min(os.cpu_count() or 1, 8)
    if type(asked) is not int or asked < 0:
        raise ConfigError(f"num_workers={asked} must be a whole number of at least 0, or null")
    return asked


def folder_of(key: str, given: Any) -> Path:
    """The folder of a pack that `output` or `verify` names."""
    if str(given).strip() == "":
        raise ConfigError(f"{key}= is empty: give the folder of a pack, {key}=FOLDER")
    if is_remote(given):
        raise ConfigError(
            f"{key}={given}: packs are written to a folder, and verified there; copy it to or from "
            "the store with the store's own tool, such as aws s3 sync"
        )
    return Path(str(given)).expanduser()


def read_splits(data: ImageData) -> dict[str, Images]:
    """The splits that training would use, those without images left out."""
    data.prepare_data()
    data.setup(None)
    found = {name: data.images(name) for name in SPLITS}
    return {name: images for name, images in found.items() if len(images)}


def facts_of(
    data: ImageData, splits: dict[str, Images], options: PackOptions, made_with: dict[str, Any]
) -> Manifest:
    """The manifest as far as it is known before the images are packed."""
    first = splits["train"]
    if isinstance(first, ArrayImages):
        height, width = first.images.shape[2:]
        size, native = (int(height), int(width)), int(min(height, width))
    else:
        raw = options.quality == "raw"
        size = (options.size, options.size) if raw else None
        native = min(data.native_size, options.size)
    return Manifest(
        name=data.dataset_name,
        classes=data.classes,
        channels=data.channels,
        native_size=native,
        crop_share=data.crop_share,
        size=size,
        mean=data.mean,
        std=data.std,
        made_with=made_with,
        splits={},
    )


def summary(manifest: Manifest) -> str:
    """`train 45,000 images in 3 shards, test 10,000 images in 1 shard, 184 MB`"""
    total = sum(shard.bytes for split in manifest.splits.values() for shard in split.shards)
    parts = [
        f"{name} {split.images:,} images in {len(split.shards):,} shard"
        + "s" * (len(split.shards) != 1)
        + (f" ({len(split.skipped):,} unreadable)" if split.skipped else "")
        for name, split in manifest.splits.items()
    ]
    return ", ".join([*parts, f"{total / 1e6:,.1f} MB"])


@contextmanager
def progress(splits: dict[str, Images]) -> Iterator[Callable[[str, int], None]]:
    """The function that hears how many images of a split were packed: one split after another."""
    shown: dict[str, LongWork] = {}

    with ExitStack() as stack:

        def advance(split: str, images: int) -> None:
            if split not in shown:
                stack.close()
                work = LongWork(f"packing {split}", len(splits[split]))
                shown[split] = stack.enter_context(work)
            shown[split].update(images)

        yield advance
