"""`vitfw attend`: what a checkpoint attends to in image files, as PNG."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor

from vitfw.assemble import prepare_process
from vitfw.atomic import replacing
from vitfw.attention_pictures import distance_picture, heads_picture, heads_title, rollout_picture
from vitfw.cli.app import run
from vitfw.config import to_plain
from vitfw.console import log
from vitfw.data.reading.image_file import read_fitted
from vitfw.data.transforms import UnreadableImage, normalise
from vitfw.errors import ConfigError
from vitfw.inference import find_images, load_net
from vitfw.interop.source import pretrained_by_masking
from vitfw.memory import total_memory
from vitfw.models.attention_rollout import (
    Seen,
    bytes_of_maps,
    heads_of,
    patch_distances,
    patch_query,
    query_of,
    seen_by,
)
from vitfw.models.patch_embed import grid_of
from vitfw.models.vit import VisionTransformer
from vitfw.preview import writable
from vitfw.progress_bar import LongWork
from vitfw.training.precision import resolve_accelerator

SIDE, COLUMNS = 256, 5  # pixels of a tile, most tiles in a row


def main(argv: Sequence[str] | None = None) -> int:
    return run("attend", attend, argv or [])


def attend(config: DictConfig, overrides: list[str]) -> None:
    prepare_process()
    cfg = to_plain(config)
    folder = output_folder(str(cfg["output"]))
    source = Path(str(cfg["input"])).expanduser()
    paths = images_of(source, folder)
    viewer = Viewer(cfg)
    names = names_of(paths, source if source.is_dir() else source.parent)
    distances: list[Tensor] = []
    for path, image in viewer.images(paths, cfg["skip_unreadable"]):
        seen, what = viewer.look(image)
        distances.append(seen.distances[0])
        guess = viewer.guess(image)
        print(f"{path}  {guess}".rstrip())
        name = writable(guess or path.name, 0)
        for kind, picture in viewer.pictures(image, seen, what, name).items():
            write(picture, folder / f"{names[path]}_{kind}.png")
    if distances and cfg["distance"]:
        title = f"Mean attention distance, {len(distances):,} image{'s' * (len(distances) > 1)}"
        mean, uniform = torch.stack(distances).mean(dim=0), viewer.uniform
        write(distance_picture(mean, uniform, title), folder / "distance.png")


def output_folder(text: str) -> Path:
    """Raises ConfigError where no pictures can be put, before any work is done."""
    folder = Path(text).expanduser()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        raise ConfigError(f"output={text}: {there} is a file; give the name of a folder")
    if not os.access(there, os.W_OK):
        raise ConfigError(f"output={text} cannot be written: no permission")
    return folder


def images_of(source: Path, output: Path) -> list[Path]:
    """The images of `input`, but for pictures that were drawn into a folder inside it."""
    paths, drawn = find_images(source), output.resolve()
    if source.resolve() not in drawn.parents:
        return paths
    return [path for path in paths if not path.resolve().is_relative_to(drawn)]


def names_of(paths: Sequence[Path], root: Path) -> dict[Path, Path]:
    """What the pictures of each file begin with: its place below `root` without the suffix.

    With the suffix where two files differ in nothing else.
    """
    stems = Counter(path.with_suffix("") for path in paths)
    kept = {path: stems[path.with_suffix("")] > 1 for path in paths}
    return {p: (p if kept[p] else p.with_suffix("")).relative_to(root) for p in paths}


def write(picture: Image.Image, path: Path) -> None:
    with replacing(path) as partial:
        picture.save(partial, "png")
    print(f"  {path}")


class Viewer:
    """The net of a checkpoint, and what of its attention was asked for.

    Attention is computed in float32, and without merging tokens.

    Raises:
        ConfigError: the net shows no attention; it has no such block, head or patch; the maps of
            an image would not fit into memory.
    """

    def __init__(self, cfg: dict[str, Any]):
        checkpoint = Path(cfg["checkpoint"]).expanduser()
        net, self.passport = load_net(checkpoint, cfg["model"], str(cfg["weights"]))
        if not isinstance(net, VisionTransformer):
            raise ConfigError(
                f"{checkpoint} holds a {type(net).__name__}, whose attention cannot be had; it is "
                "that of vitfw's own VisionTransformer: train model=vit_s16, say, which can begin "
                "with other people's weights, init_from=timm:NAME"
            )
        self.net, self.cfg = net, cfg
        self.device = torch.device(resolve_accelerator(cfg["accelerator"]))
        self.pooled = not pretrained_by_masking(self.passport)
        self.check()
        net.to(self.device)
        self.mean = torch.tensor(self.passport.mean, device=self.device)
        self.std = torch.tensor(self.passport.std, device=self.device)

    def check(self) -> None:
        """Raises ConfigError, before any image is read."""
        embed, size = self.net.patch_embed, self.passport.img_size
        grid = grid_of((size[0], size[1]), embed.patch_size, embed.stride)
        self.uniform = float(patch_distances(grid, embed.stride).mean())
        block, head, query = self.cfg["block"], self.cfg["head"], self.cfg["query"]
        check_place("block", block, len(self.net.blocks))
        if head is not None:
            check_place("head", head, heads_of(self.net))
        if query is not None:
            if not isinstance(query, list) or [type(place) for place in query] != [int, int]:
                raise ConfigError(f"query={query} must be row and column of a patch: query=[3,5]")
            try:
                patch_query(self.net, grid, *query)
            except ValueError as error:
                raise ConfigError(str(error)) from error
        wanted, there = bytes_of_maps(self.net, grid), total_memory(self.device)
        if wanted > there / 2:
            raise ConfigError(
                f"the attention of one image takes {wanted / 1e9:,.1f} GB of the {there / 1e9:,.1f}"
                f" GB of memory; set a smaller model.img_size than {size[0]}"
            )
        if self.net.tome_r:
            log.info(f"attention is shown without merging tokens, model.tome_r={self.net.tome_r}")

    def images(self, paths: list[Path], skip_unreadable: bool) -> Iterator[tuple[Path, Tensor]]:
        """Each file as the net sees it, [1, C, H, W] uint8.

        Raises:
            ConfigError: an image cannot be read, and none is to be skipped.
        """
        height, width = self.passport.img_size
        channels, crop_share = self.passport.channels, self.passport.crop_share
        with LongWork("drawing", len(paths)) as work:
            for path in paths:
                try:
                    pixels = read_fitted(path, (height, width), channels, crop_share)
                except UnreadableImage as error:
                    if not skip_unreadable:
                        reason = f"{error}; skip_unreadable=true goes on without it"
                        raise ConfigError(reason) from error
                    log.warning(f"skipped: {error}")
                else:
                    yield path, pixels[None]
                work.update()

    def prepared(self, image: Tensor) -> Tensor:
        return normalise(image.to(self.device), self.mean, self.std)

    def look(self, image: Tensor) -> tuple[Seen, str]:
        """What is seen in an image, and in words by what."""
        x = self.prepared(image)
        query, what = query_of(self.net, x, self.cfg["query"], self.pooled)
        return seen_by(self.net, x, query, self.cfg["block"]), what

    @torch.inference_mode()
    def guess(self, image: Tensor) -> str:
        """The most probable class and its share: `coat 97 %`; nothing of a net without classes."""
        if not self.pooled or not self.net.num_classes:
            return ""
        shares = self.net(self.prepared(image)).softmax(dim=1)[0]
        best = int(shares.argmax())
        return f"{self.passport.classes[best]} {100 * float(shares[best]):.0f} %"

    def pictures(self, image: Tensor, seen: Seen, what: str, name: str) -> dict[str, Image.Image]:
        """Heads, and rollout if asked for, of one image whose caption is `name`."""
        blocks, shown = len(self.net.blocks), image / 255
        head, patch = self.cfg["head"], self.cfg["query"]
        title = heads_title(what, self.cfg["block"], blocks)
        numbers = range(seen.heads.shape[1]) if head is None else [head % seen.heads.shape[1]]
        heads = seen.heads[:, list(numbers)]
        drawn = {"heads": heads_picture(shown, heads, [name], title, numbers, SIDE, COLUMNS, patch)}
        if self.cfg["rollout"]:
            title = f"Rollout of {what} through all blocks"
            drawn["rollout"] = rollout_picture(shown, seen.rollout, [name], title, SIDE, patch)
        return drawn


def check_place(what: str, number: object, count: int) -> None:
    """Raises ConfigError for what is no index of `count` things."""
    if not isinstance(number, int) or not -count <= number < count:
        raise ConfigError(
            f"{what}={number} is none of the model's; they are 0 to {count - 1}, or -1, the last"
        )
