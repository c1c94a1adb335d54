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
from torch import nn

from vitfw.assemble import build_trainer, prepare_process, resolve_trainer
from vitfw.atomic import write_text
from vitfw.building import build
from vitfw.callbacks.progress import RunProgress
from vitfw.callbacks.skipped_images import SkippedImages
from vitfw.checkpoint import Passport
from vitfw.cli.app import output_path, run
from vitfw.config import to_plain
from vitfw.console import console
from vitfw.data.classification_data import ClassificationData
from vitfw.errors import ConfigError
from vitfw.features import compute_features
from vitfw.inference import load_net, refuse_untrained_head
from vitfw.interop.source import pretrained_by_masking
from vitfw.models.mae import PatchMean
from vitfw.models.vit import VisionTransformer
from vitfw.training.classifier import Classifier
from vitfw.training.nearest_neighbours import check_neighbours, knn_accuracy

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
    net, passport = load_net(checkpoint, to_plain(config.model), str(config.weights))
    if config.knn is None:
        refuse_untrained_head(passport, checkpoint)
    elif pretrained_by_masking(passport):
        assert isinstance(net, VisionTransformer)
        net = PatchMean(net)
    config.model.img_size = passport.img_size
    cfg = to_plain(config)
    if cfg["split"] not in SPLITS:
        raise ConfigError(f"split={cfg['split']} is not one of: {', '.join(SPLITS)}")
    asked = cfg["data"]
    if not any(text.startswith("data.crop_share=") for text in overrides):
        asked["crop_share"] = passport.crop_share
    data = same_data(asked, passport, "validate" if cfg["split"] == "val" else "test")
    with tempfile.TemporaryDirectory() as nowhere:
        trainer = trainer_of(cfg["trainer"], passport, data, nowhere)
        if cfg["knn"] is None:
            metrics = classification(net, data, trainer, cfg["split"])
        else:
            ks = cfg["knn"] if isinstance(cfg["knn"], list) else [cfg["knn"]]
            metrics = nearest_neighbours(net, data, trainer, cfg["split"], ks)
    show(metrics)
    if output is not None:
        skipped = data.bad_images.reasons
        content = {**metrics, "skipped": skipped} if skipped else metrics
        write_text(output, json.dumps(content, indent=2) + "\n")
    return metrics


def trainer_of(
    asked: dict[str, Any], passport: Passport, data: ClassificationData, folder: str
) -> L.Trainer:
    """A trainer on one device, as in training where nothing else is asked for."""
    # The run's own limits are not asked for again: a split is measured whole.
    limits = {name: asked[name] for name in ("limit_test_batches", "limit_val_batches")}
    options = {**passport.config["trainer"], **without_nulls(asked), **limits}
    return build_trainer(
        resolve_trainer({**options, "devices": 1, "strategy": "auto", "num_nodes": 1}),
        default_root_dir=folder,
        callbacks=[RunProgress(), SkippedImages(data.bad_images)],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )


def classification(
    net: nn.Module, data: ClassificationData, trainer: L.Trainer, split: str
) -> dict[str, Any]:
    """Loss and accuracies of the net's own classifier."""
    measure = trainer.validate if split == "val" else trainer.test
    classifier = Classifier(net, num_classes=data.num_classes)
    found = measure(classifier, datamodule=data, verbose=False)
    if not found:
        raise ConfigError(f"split={split} holds no images")
    return dict(found[0])


def nearest_neighbours(
    net: nn.Module,
    data: ClassificationData,
    trainer: L.Trainer,
    split: str,
    ks: list[int],
) -> dict[str, Any]:
    """Accuracy by the vote of the k nearest training images, for every k of `ks`."""
    data.setup("fit")
    if not data.count(split):
        raise ConfigError(f"split={split} holds no images")
    check_neighbours(ks, data.count("train"))
    device = trainer.strategy.root_device
    net.to(device)
    with trainer.precision_plugin.forward_context():
        known = compute_features(net, data, "train", device)
        asked = compute_features(net, data, split, device)
    found = knn_accuracy(
        known.values[:, 0].to(device),
        known.labels.to(device),
        asked.values[:, 0].to(device),
        asked.labels.to(device),
        data.num_classes,
        ks,
    )
    return {f"{split}/accuracy_knn_{k}": accuracy for k, accuracy in found.items()}


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
