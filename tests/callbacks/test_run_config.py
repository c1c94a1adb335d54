"""A run's config in TensorBoard, read back, and its hparams page as TensorBoard itself makes it."""

from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard import context
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins import base_plugin
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups
from torch import nn
from torch.utils.data import DataLoader

from vitfw.callbacks.run_config import RunConfig
from vitfw.cli.main import main

CONFIG = "model:\n  depth: 1\nnote: '# <b>| not a table'\n"
OVERRIDES = ["model=vit_b16", "optimizer.lr=1e-2"]
HYPERPARAMETERS = {
    "compile": True,
    "optimizer.lr": 0.01,
    "model._target_": "vit",
    "callbacks.attention.count": 4,
    "freeze": ["a"],
}
ACCURACIES = (0.25, 0.75, 0.5)  # of three validations


class Scripted(L.LightningModule):
    """Learns nothing, and is as accurate as it was told to be."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        return self.weight * batch.sum()

    def validation_step(self, batch, batch_idx):
        self.log("val/accuracy", ACCURACIES[self.current_epoch])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def told() -> RunConfig:
    shown = RunConfig()
    shown.tell(CONFIG, OVERRIDES, HYPERPARAMETERS)
    return shown


def fit(folder: Path, val: int | None = None, epochs: int = 3, ckpt_path=None) -> L.Trainer:
    best = ModelCheckpoint(
        folder / "checkpoints", monitor="val/accuracy", mode="max", save_on_train_epoch_end=False
    )
    trainer = L.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        limit_val_batches=val,
        logger=TensorBoardLogger(folder, name="", version="", default_hp_metric=False),
        callbacks=[told(), best],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    numbers = DataLoader(torch.ones(2))
    trainer.fit(Scripted(), numbers, numbers, ckpt_path=ckpt_path)
    return trainer


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fitted")
    fit(folder)
    return folder


def session_groups(folder: Path):
    """What TensorBoard's own hparams page would list."""
    runs = EventMultiplexer().AddRunsFromDirectory(str(folder)).Reload()
    provider = MultiplexerDataProvider(runs, str(folder))
    page = backend_context.Context(
        base_plugin.TBContext(logdir=str(folder), multiplexer=runs, data_provider=provider)
    )
    every_status = [
        status.number for status in api_pb2.DESCRIPTOR.enum_types_by_name["Status"].values
    ]
    request = api_pb2.ListSessionGroupsRequest(
        slice_size=10, allowed_statuses=every_status, include_metrics=True
    )
    return (
        list_session_groups.Handler(context.RequestContext(), page, "", request)
        .run()
        .session_groups
    )


def test_config_and_overrides_are_there_letter_by_letter(fitted: Path):
    events = EventAccumulator(str(fitted)).Reload()
    for tag, text in (("config", CONFIG), ("overrides", "\n".join(OVERRIDES))):
        (event,) = events.Tensors(f"{tag}/text_summary")
        shown = event.tensor_proto.string_val[0].decode()
        assert shown.splitlines() == [f"    {line}" for line in text.splitlines()]


def test_the_hparams_page_shows_the_best_accuracy(fitted: Path):
    (group,) = session_groups(fitted)
    (metric,) = group.metric_values
    assert metric.name.tag == "val/accuracy_best"
    assert metric.value == max(ACCURACIES) != ACCURACIES[-1]
    assert group.hparams["optimizer.lr"].number_value == 0.01
    assert group.hparams["compile"].string_value == "True"
    assert group.hparams["freeze"].string_value == "['a']"
    assert group.hparams["model"].string_value == "vit_b16"
    assert set(group.hparams) == {"model", "optimizer.lr", "compile", "freeze"}


def test_what_was_typed_stands_first_on_the_hparams_page():
    assert list(told().hyperparameters) == ["model", "optimizer.lr", "compile", "freeze"]


def test_a_run_that_goes_on_stays_one_line_of_the_page(tmp_path: Path):
    fit(tmp_path, epochs=1).save_checkpoint(tmp_path / "last.ckpt")
    (before,) = session_groups(tmp_path)
    fit(tmp_path, ckpt_path=tmp_path / "last.ckpt")
    (after,) = session_groups(tmp_path)
    assert before.metric_values[0].value == ACCURACIES[0]
    assert after.metric_values[0].value == max(ACCURACIES)


def test_a_run_that_was_never_validated_shows_no_accuracy(tmp_path: Path):
    fit(tmp_path, val=0, epochs=1)
    (group,) = session_groups(tmp_path)
    assert not group.metric_values


TINY = "model=vit_mini4 model.embed_dim=16 model.depth=1 model.num_heads=2 trainer.accelerator=cpu"
FAKE = "data=fake data.num_classes=3 data.num_images=64 data.native_size=8 data.batch_size=32"


@pytest.mark.parametrize("switch", ["", "callbacks.run_config=null"])
def test_one_override_leaves_it_out(switch, monkeypatch, tmp_path: Path):
    monkeypatch.setattr("vitfw.cli.train.prepare_process", lambda: None)
    words = f"{TINY} {FAKE} callbacks=essential trainer.max_epochs=1 test_after_fit=false {switch}"
    assert main(["train", *words.split(), f"run_dir={tmp_path}"]) == 0
    written = [
        tag
        for path in tmp_path.rglob("events.*")
        for tag in EventAccumulator(str(path)).Reload().Tags()["tensors"]
    ]
    assert written == ([] if switch else ["config/text_summary", "overrides/text_summary"])
    assert len(session_groups(tmp_path)) == (0 if switch else 1)
