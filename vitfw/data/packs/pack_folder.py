"""A whole pack: its splits one after the other, then its manifest."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from vitfw.atomic import held, write_text
from vitfw.data.images import Images
from vitfw.data.packs.pack_manifest import MANIFEST, UNFINISHED, Manifest, read_manifest
from vitfw.data.packs.packing import PackOptions, cannot_write, pack_split
from vitfw.errors import ConfigError

REQUEST = "request.json"


def pack_folder(
    folder: Path,
    facts: Manifest,
    splits: Mapping[str, Images],
    options: PackOptions,
    num_workers: int = 0,
    max_bad_share: float = 0.01,
    advance: Callable[[str, int], object] = lambda split, images: None,
) -> Manifest:
    """Pack `splits` into `folder`, or go on where a killed call was; returns the manifest.

    `facts` is the manifest as far as it is known: its `made_with` and `splits` are replaced.
    `advance` hears how many images of which split have been dealt with. A finished pack of the
    same images, made the same way, is left as it is.

    Raises:
        ConfigError: `folder` holds something else; it cannot be written; a split has more
            unreadable images than `max_bad_share`.
    """
    request = {**facts.made_with, **asdict(options), "images": _fingerprint(splits)}
    facts = replace(facts, made_with=request)
    with held(folder):
        if (folder / MANIFEST).exists():
            return _same(folder, request)
        work = folder / UNFINISHED
        _begin(folder, work, request)
        packed = {}
        for name, images in splits.items():
            packed[name] = split = pack_split(
                images,
                folder / name,
                options,
                facts.channels,
                len(facts.classes),
                shuffle=name == "train",
                num_workers=num_workers,
                advance=lambda done, name=name: advance(name, done),
            )
            if len(split.skipped) > max_bad_share * len(images):
                raise ConfigError(
                    f"{len(split.skipped)} of the {len(images):,} {name} images cannot be read, "
                    f"which is more than data.max_bad_share={max_bad_share:g}: "
                    f"{split.skipped[0][1]}. Mend or remove them, or allow more"
                )
        manifest = replace(facts, splits=packed)
        try:
            manifest.write(folder)
        except OSError as error:
            raise cannot_write(folder, error) from error
        shutil.rmtree(work)
    return manifest


def _same(folder: Path, request: dict[str, Any]) -> Manifest:
    """The finished pack in `folder`, if it is what was asked for."""
    manifest = read_manifest(folder)
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
    if manifest.made_with != request:
        raise ConfigError(
            f"{folder} holds a pack already, of {manifest.name} with "
            f"{_differences(manifest.made_with, request)}; give another output, or remove it"
        )
    return manifest


def _begin(folder: Path, work: Path, request: dict[str, Any]) -> None:
    """Note what is being made, or compare with what was begun."""
    path = work / REQUEST
    if not path.exists():
        others = [found.name for found in folder.iterdir() if found.name != UNFINISHED]
        if others:
            raise ConfigError(f"{folder} holds other files ({others[0]}); give a folder of its own")
        try:
            write_text(path, json.dumps(request))
        except OSError as error:
            raise cannot_write(folder, error) from error
    begun = json.loads(path.read_text(encoding="utf-8"))
    if begun != request:
        raise ConfigError(
            f"{folder} holds a pack that was begun with {_differences(begun, request)}; "
            "give the same command again, another output, or remove it"
        )


def _differences(begun: dict[str, Any], request: dict[str, Any]) -> str:
    """`size=256 instead of 64`"""
    different = [key for key in begun if key != "images" and begun[key] != request.get(key)]
    told = ", ".join(f"{key}={begun[key]} instead of {request.get(key)}" for key in different)
    return told or "other images"


def _fingerprint(splits: Mapping[str, Images]) -> dict[str, list[Any]]:
    """Number of images of each split, and a digest of their labels in order."""
    return {
        name: [len(images), hashlib.sha256(images.labels.cpu().numpy().tobytes()).hexdigest()]
        for name, images in splits.items()
    }
