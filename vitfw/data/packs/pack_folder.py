"""A whole pack: its splits one after the other, then its manifest."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from vitfw.atomic import held, write_text
from vitfw.data.images import Images
from vitfw.data.packs.pack_manifest import MANIFEST, UNFINISHED, Manifest, read_manifest
from vitfw.data.packs.pack_options import PackOptions
from vitfw.data.packs.packing import cannot_write, pack_split
from vitfw.data.packs.stamps import Stamps
from vitfw.errors import ConfigError

REQUEST = "request.json"
TOO_LONG = ("images", "classes")  # to be told with their values


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

    What was packed by the killed call is compared with the images as they are now. `facts` is the
    manifest as far as it is known: its `splits` are replaced, `options` are added to its
    `made_with`. `advance` hears how many images of which split have been dealt with. A finished
    pack of the same images, made the same way, is left as it is.

    Raises:
        ConfigError: `folder` holds something else, or images that have been changed since; it
            cannot be written; a split has more unreadable images than `max_bad_share`.
    """
    facts = replace(facts, made_with={**facts.made_with, **asdict(options)})
    request = _request(facts, {name: len(images) for name, images in splits.items()})
    with held(folder):
        if (folder / MANIFEST).exists():
            return _same(folder, request, splits)
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
                    f"{split.skipped[0][2]}. Mend them, or allow more, and give the command again; "
                    f"where you remove them, remove {folder} first"
                )
        manifest = replace(facts, splits=packed)
        try:
            manifest.write(folder)
        except OSError as error:
            raise cannot_write(folder, error) from error
        shutil.rmtree(work)
    return manifest


def _request(facts: Manifest, counts: dict[str, int]) -> dict[str, Any]:
    """All that has to be the same for a pack to be gone on with, as JSON gives it back."""
    told = asdict(replace(facts, splits={}))
    for key in ("splits", "size", "made_with"):
        told.pop(key)
    return json.loads(json.dumps({**told, **facts.made_with, "images": counts}))


def _same(folder: Path, request: dict[str, Any], splits: Mapping[str, Images]) -> Manifest:
    """The finished pack in `folder`, if it is what was asked for."""
    manifest = read_manifest(folder)
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
    packed = manifest.splits
    counts = {name: split.images + len(split.skipped) for name, split in packed.items()}
    told = _differences(_request(manifest, counts), request)
    if not told:
        for name, images in splits.items():
            skipped = [i for i, *_ in packed[name].skipped]
            if Stamps(images).of_all(without=skipped) != packed[name].images_digest:
                told = "other images, or before they were changed"
    if told:
        raise ConfigError(
            f"{folder} holds a pack already, of {manifest.name} with {told}; "
            "give another output, or remove it"
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
    if told := _differences(begun, request):
        raise ConfigError(
            f"{folder} holds a pack that was begun with {told}; "
            "give the same command again, another output, or remove it"
        )


def _differences(begun: dict[str, Any], request: dict[str, Any]) -> str:
    """`size=256 instead of 64`; nothing where they are the same."""
    different = [key for key in {**begun, **request} if begun.get(key) != request.get(key)]
    if "name" in different:
        different = ["name"]  # all else follows from it
    return ", ".join(
        f"other {key}"
        if key in TOO_LONG
        else f"{key}={begun.get(key)} instead of {request.get(key)}"
        for key in different
    )
