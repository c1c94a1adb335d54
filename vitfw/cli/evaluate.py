"""`vitfw evaluate`: metrics of a checkpoint on a split, as the run itself measured them."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from omegaconf import DictConfig, OmegaConf
from rich import box
from rich.table import Table

from vitfw.assemble import prepare_process, resolve_trainer
from vitfw.atomic import write_text
from vitfw.callbacks.progress import RunProgress
from vitfw.callbacks.skipped_images import SkippedImages
from vitfw.checkpoint import Passport
from vitfw.cli.app import output_path, run
from vitfw.config import build, to_plain
from vitfw.console import console
from vitfw.data.classification_data import ClassificationData
from vitfw.errors import ConfigError
from vitfw.inference import load_net
from vitfw.training.classifier import Classifier

SPLITS = ("val", "test")


def main(argv: Sequence[str] | None = None) -> int:
    return run("evaluate", evaluate, argv or [])


def evaluate(config: DictConfig, overrides: list[str]) -> dict[str, Any]:
    """Rebuild the net and the data from the checkpoint, run the split, show and return metrics."""
    prepare_process()
    if OmegaConf.is_missing(config, "checkpoint"):
        raise ConfigError("checkpoint is needed: give checkpoint=runs/…/checkpoints/best.ckpt")
    checkpoint = Path(str(config.checkpoint)).expanduser()
    output = output_path(config.output)
    net, passport = load_net(checkpoint, to_plain(config.model))
    config.model.img_size = passport.img_size
    cfg = to_plain(config)
    if cfg["split"] not in SPLITS:
        raise ConfigError(f"split={cfg['split']} is not one of: {', '.join(SPLITS)}")
    asked = cfg["data"]
    if not any(text.startswith("data.crop_share=") for text in overrides):
        asked["crop_share"] = passport.crop_share
    data = same_data(asked, passport, "validate" if cfg["split"] == "val" else "test")
    # The run's own limits are not asked for again: a split is measured whole.
    asked = {name: cfg["trainer"][name] for name in ("limit_test_batches", "limit_val_batches")}
    trainer_options = {
        **passport.config["trainer"],
        **without_nulls(cfg["trainer"]),
        **asked,
    }
    with tempfile.TemporaryDirectory() as nowhere:
        trainer: L.Trainer = build(
            resolve_trainer({**trainer_options, "devices": 1, "strategy": "auto", "num_nodes": 1}),
            default_root_dir=nowhere,
            callbacks=[RunProgress(), SkippedImages(data.bad_images)],
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
        )
        classifier = Classifier(net, num_classes=len(passport.classes))
        measure = trainer.validate if cfg["split"] == "val" else trainer.test
        found = measure(classifier, datamodule=data, verbose=False)
    if not found:
        raise ConfigError(f"split={cfg['split']} holds no images")
    metrics = dict(found[0])
    show(metrics)
    if output is not None:
        skipped = data.bad_images.reasons
        content = {**metrics, "skipped": skipped} if skipped else metrics
        write_text(output, json.dumps(content, indent=2) + "\n")
    return metrics


def same_data(asked: dict[str, Any], passport: Passport, stage: str) -> ClassificationData:
    """The data of the run, with what was asked for in its place; statistics stay the model's.

    Raises:
        ConfigError: another data set was asked for, with other classes.
    """
    trained_on = passport.config["data"]
    same_kind = asked.get("_target_") in (None, trained_on["_target_"])
    options = {**(trained_on if same_kind else {}), **without_nulls(asked)}
    options.update(
        img_size=passport.img_size,
        channels=passport.channels,
        mean=passport.mean,
        std=passport.std,
    )
    if "stats" in options:
        options["stats"] = "catalog"  # those of the passport
    if options["num_classes"] != len(passport.classes):
        raise ConfigError(
            f"the checkpoint tells {len(passport.classes)} classes apart, but "
            f"data={options['name']} has {options['num_classes']}"
        )
    data: ClassificationData = build({**options, "augment": None})
    data.setup(stage)
    if list(data.classes) != list(passport.classes):
        raise ConfigError(
            f"the checkpoint tells {', '.join(passport.classes[:5])} … apart, but "
            f"data={options['name']} has {', '.join(data.classes[:5])} …"
        )
    return data


def without_nulls(node: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in node.items() if value is not None}


def show(metrics: dict[str, Any]) -> None:
    table = Table(show_header=False, box=box.HORIZONTALS)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(justify="right")
    for name, value in metrics.items():
        table.add_row(name, f"{value:.6f}")
    console.print(table)
