"""`vitfw predict`: the most probable classes of image files, from a checkpoint alone."""

import csv
import io
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import Tensor

from vitfw.assemble import prepare_process
from vitfw.atomic import write_text
from vitfw.cli.app import output_path, run
from vitfw.config import to_plain
from vitfw.console import log, messages_on_stderr
from vitfw.data.transforms import UnreadableImage
from vitfw.errors import ConfigError
from vitfw.inference import Prediction, Predictor, find_images
from vitfw.progress_bar import LongWork

FORMATS = ("csv", "json")


def main(argv: Sequence[str] | None = None) -> int:
    return run("predict", predict, argv or [])


def predict(config: DictConfig, overrides: list[str]) -> None:
    """Read, predict, then write all at once: an unreadable image leaves nothing half-written."""
    prepare_process()
    cfg = to_plain(config)
    if cfg["format"] not in FORMATS:
        raise ConfigError(f"format={cfg['format']} is not one of: {', '.join(FORMATS)}")
    for key in ("top_k", "batch_size"):
        if cfg[key] < 1:
            raise ConfigError(f"{key}={cfg[key]} must be at least 1")
    output = output_path(cfg["output"])
    with messages_on_stderr() if output is None else nullcontext():
        found = predictions(cfg)
    text = as_csv(found) if cfg["format"] == "csv" else as_json(found)
    if output is None:
        sys.stdout.write(text)
        return
    write_text(output, text)
    log.info(f"wrote {len(found):,} predictions to {output}")


def predictions(cfg: dict[str, Any]) -> list[Prediction]:
    """What the checkpoint says of every image of `input`."""
    paths = find_images(Path(str(cfg["input"])).expanduser())
    checkpoint = Path(cfg["checkpoint"]).expanduser()
    predictor = Predictor(
        checkpoint, cfg["accelerator"], str(cfg["precision"]), cfg["model"], str(cfg["weights"])
    )
    batches = read_in_batches(predictor, paths, cfg["batch_size"], cfg["skip_unreadable"])
    return list(predictor.predict(batches, cfg["top_k"]))


def read_in_batches(
    predictor: Predictor, paths: list[Path], batch_size: int, skip_unreadable: bool
) -> Iterator[list[tuple[Path, Tensor]]]:
    """Raises ConfigError at the first image that cannot be read, unless they are to be skipped."""
    with LongWork("predicting", len(paths)) as work:
        for first in range(0, len(paths), batch_size):
            chosen = paths[first : first + batch_size]
            if batch := list(read_all(predictor, chosen, skip_unreadable)):
                yield batch
            work.update(len(chosen))


def read_all(
    predictor: Predictor, paths: list[Path], skip_unreadable: bool
) -> Iterator[tuple[Path, Tensor]]:
    for path in paths:
        try:
            yield path, predictor.read(path)
        except UnreadableImage as error:
            if not skip_unreadable:
                raise ConfigError(f"{error}; skip_unreadable=true goes on without it") from error
            log.warning(f"skipped: {error}")


def as_csv(predictions: list[Prediction]) -> str:
    """One row an image: path, class_1, probability_1, class_2, …"""
    most = max((len(p.classes) for p in predictions), default=0)
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    header = [name for i in range(1, most + 1) for name in (f"class_{i}", f"probability_{i}")]
    writer.writerow(["path", *header])
    for p in predictions:
        cells = [
            cell
            for name, share in zip(p.classes, p.probabilities, strict=True)
            for cell in (name, f"{share:.6f}")
        ]
        writer.writerow([str(p.path), *cells])
    return sink.getvalue()


def as_json(predictions: list[Prediction]) -> str:
    """A list of {path, classes: [{name, probability}, …]}."""
    entries = [
        {
            "path": str(p.path),
            "classes": [
                {"name": name, "probability": round(share, 6)}
                for name, share in zip(p.classes, p.probabilities, strict=True)
            ],
        }
        for p in predictions
    ]
    return json.dumps(entries, indent=2, ensure_ascii=False) + "\n"
