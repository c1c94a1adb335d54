"""What a fit leaves in TensorBoard about its predictions and its net, read back from its files."""

import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from google.protobuf import text_format
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import FSDPStrategy, SingleDeviceStrategy
from PIL import Image
from sklearn.metrics import confusion_matrix, recall_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.plugins import projector
from torch import nn

from vitfw.callbacks import prediction_tally, validation_pictures
from vitfw.callbacks.embedding_projector import EmbeddingProjector
from vitfw.callbacks.evaluation_mode import evaluated_net
from vitfw.callbacks.model_graph import ModelGraph
from vitfw.callbacks.model_pictures import ModelPictures
from vitfw.callbacks.validation_pictures import ValidationPictures, scalar_names
from vitfw.data.datamodule import ImageData
from vitfw.models.vit import VisionTransformer
from vitfw.training.classifier import Classifier
from vitfw.training.optimizers import adamw
from vitfw.training.weight_average import ema

CLASSES, EPOCHS = 4, 2


class Remembers(L.Callback):
    """All logits and labels of the last validation, and the features of its end."""

    def on_validation_start(self, trainer, pl_module):
        self.logits, self.labels = [], []

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, *numbers):
        self.logits.append(outputs)
        self.labels.append(batch[1])


def make_data():
    data = ImageData(
        "fake", num_classes=CLASSES, native_size=12, num_images=80, batch_size=16, seed=1
    )
    data.prepare_data()
    data.setup("fit")
    return data


def make_learner(net=None, average=None):
    torch.manual_seed(0)
    net = net or VisionTransformer(12, 4, num_classes=CLASSES, embed_dim=8, depth=1, num_heads=2)
    return Classifier(net, CLASSES, optimizer=partial(adamw, lr=1e-2), average=average)


def make_trainer(folder: Path, *callbacks: L.Callback, **options):
    options = {"max_epochs": EPOCHS, **options}
    return L.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        devices=1,
        logger=TensorBoardLogger(folder, name="", version="", default_hp_metric=False),
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def all_callbacks() -> list[L.Callback]:
    return [
        ValidationPictures(count=3, max_share=1.0),
        ModelPictures(max_share=1.0),
        EmbeddingProjector(count=6),
        ModelGraph(),
    ]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Folder, learner and data of a finished fit, and what was seen of its last validation."""
    folder = tmp_path_factory.mktemp("fitted")
    remembers, learner, data = (
        Remembers(),
        make_learner(average=partial(ema, decay=0.5)),
        make_data(),
    )
    make_trainer(folder, remembers, *all_callbacks()).fit(learner, datamodule=data)
    return folder, learner, data, remembers


@pytest.fixture(scope="module")
def events(fitted):
    everything = dict.fromkeys(("images", "scalars", "tensors"), 0)
    return EventAccumulator(str(fitted[0]), size_guidance=everything).Reload()


def test_each_tag_is_there_at_its_steps(events):
    steps = {tag: [event.step for event in events.Images(tag)] for tag in events.Tags()["images"]}
    assert steps == {
        "predictions/confusion": [4, 8],
        "predictions/mistakes": [4, 8],
        "model/position_similarity": [0, 4, 8],
        "model/patch_filters": [0, 4, 8],
    }


def test_counts_and_accuracies_are_scikit_learns(events, fitted):
    seen = fitted[3]
    truth, guesses = torch.cat(seen.labels), torch.cat(seen.logits).argmax(dim=1)
    recalls = recall_score(truth, guesses, labels=range(CLASSES), average=None)
    found = [events.Scalars(f"class_accuracy/class_{i}")[-1].value for i in range(CLASSES)]
    assert found == pytest.approx(recalls.tolist(), abs=1e-6)
    assert 0 < np.mean(found) < 1


def test_names_of_classes_become_tags_of_their_own():
    found = scalar_names(["T-shirt/top", "T-shirt top", "猫", "///", ""])
    assert found == ["T-shirt_top", "T-shirt_top_1", "猫", "class_3", "class_4"]
    assert scalar_names(["a", "a_2", "a"]) == ["a", "a_2", "a_2_2"]


def test_names_of_very_many_classes_take_no_time():
    began = time.perf_counter()
    assert len(set(scalar_names([f"class {i}" for i in range(50_000)]))) == 50_000
    assert time.perf_counter() - began < 5


def test_of_too_many_classes_there_is_no_matrix_and_it_is_said_once(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", logger="vitfw")
    for module in (prediction_tally, validation_pictures):
        monkeypatch.setattr(module, "MOST_IN_MATRIX", CLASSES - 1)
    monkeypatch.setattr(validation_pictures, "scalar_names", None)  # more classes than are asked
    pictures = ValidationPictures(count=3, max_classes=CLASSES - 1, max_share=1.0)
    make_trainer(tmp_path, pictures).fit(make_learner(), datamodule=make_data())
    tags = EventAccumulator(str(tmp_path)).Reload().Tags()
    assert tags["images"] == ["predictions/mistakes"]
    assert pictures.tally.confusion is None and pictures.tally.totals.sum() > 0
    (said,) = [text for text in caplog.messages if "confusion" in text]
    assert said == "no confusion matrix: there are 4 classes, and 3 is the most"


def test_the_tally_of_the_last_validation_stays_for_a_report(fitted, tmp_path: Path):
    pictures, seen = ValidationPictures(), Remembers()
    make_trainer(tmp_path, pictures, seen).validate(
        fitted[1], datamodule=make_data(), verbose=False
    )
    truth, guesses = torch.cat(seen.labels), torch.cat(seen.logits).argmax(dim=1)
    expected = confusion_matrix(truth, guesses, labels=range(CLASSES))
    assert pictures.tally is not None and pictures.tally.confusion is not None
    assert pictures.tally.confusion.tolist() == expected.tolist()


def test_the_projector_has_the_features_that_enter_the_classifier(fitted):
    folder, learner, data, _ = fitted
    images, labels = data.preview_batch("val", 6)
    net = learner.evaluated.eval()
    centre, spread = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
    with torch.no_grad():
        normalised = (images - centre) / spread
        expected = net.fc_norm(net.pool(net.forward_features(normalised)))
    config = projector.ProjectorConfig()
    text_format.Parse((folder / "projector_config.pbtxt").read_text(), config)
    (entry,) = config.embeddings
    assert entry.tensor_name == "features"
    found = np.loadtxt(folder / entry.tensor_path, delimiter="\t")
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-6)
    names = (folder / entry.metadata_path).read_text().splitlines()
    assert names == [data.classes[label] for label in labels]

    sprite = Image.open(folder / entry.sprite.image_path)
    width, height = entry.sprite.single_image_dim
    assert sprite.size == (3 * width, 3 * height)  # the square that holds six
    tile = sprite.crop((width, height, 2 * width, 2 * height)).resize(
        (12, 12), Image.Resampling.BOX
    )
    pixels = (images[4] * 255).round().permute(1, 2, 0).numpy()  # the fifth: second row, second
    assert np.abs(np.asarray(tile, dtype=float) - pixels).max() <= 1


def test_the_graph_has_the_parts_of_the_net(events):
    graph = GraphDef.FromString(events.Graph().SerializeToString())
    names = " ".join(node.name for node in graph.node)
    assert all(part in names for part in ("patch_embed", "blocks", "qkv", "head"))


def test_the_training_is_the_same_with_and_without(tmp_path: Path):
    """Dropout and batch norm: random numbers and modes would show."""
    ends = []
    for callbacks in (all_callbacks(), []):
        net = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(400, 4)
        )
        learner = make_learner(net)
        nn.init.normal_(net[0].weight, generator=torch.Generator().manual_seed(0))
        nn.init.normal_(net[4].weight, std=0.02, generator=torch.Generator().manual_seed(0))
        net[0].bias.data.zero_(), net[4].bias.data.zero_()
        net[1].eval()
        L.seed_everything(3, verbose=False)
        trainer = make_trainer(tmp_path / str(len(callbacks)), *callbacks)
        trainer.fit(learner, datamodule=make_data())
        assert not any(p.grad is not None and p.grad.isnan().any() for p in net.parameters())
        ends.append({**net.state_dict(), "random": torch.get_rng_state()})
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_a_resumed_run_has_one_graph_and_pictures_of_the_new_steps_only(tmp_path: Path):
    first = make_trainer(tmp_path / "a", *all_callbacks(), max_epochs=1)
    first.fit(make_learner(), datamodule=make_data())
    first.save_checkpoint(tmp_path / "last.ckpt")
    second = make_trainer(tmp_path / "b", *all_callbacks())
    second.fit(make_learner(), datamodule=make_data(), ckpt_path=tmp_path / "last.ckpt")
    found = EventAccumulator(str(tmp_path / "b"), size_guidance={"images": 0}).Reload()
    assert not found.Tags()["graph"]
    assert {event.step for tag in found.Tags()["images"] for event in found.Images(tag)} == {8}


def test_short_epochs_get_pictures_at_the_start_and_the_end(tmp_path: Path):
    callbacks = [ValidationPictures(max_share=0.0), ModelPictures(max_share=0.0)]
    make_trainer(tmp_path, *callbacks, max_epochs=3).fit(make_learner(), datamodule=make_data())
    found = EventAccumulator(str(tmp_path), size_guidance={"images": 0}).Reload()
    for tag, steps in {"predictions/confusion": [4, 12], "model/patch_filters": [0, 12]}.items():
        assert [event.step for event in found.Images(tag)] == steps


@pytest.mark.parametrize(
    "callback, tags",
    [
        (ValidationPictures(count=0), ["predictions/confusion"]),
        (ValidationPictures(confusion=False), ["predictions/mistakes"]),
        (ModelPictures(positions=False), ["model/patch_filters"]),
        (ModelPictures(filters=False), ["model/position_similarity"]),
    ],
    ids=["count", "confusion", "positions", "filters"],
)
def test_each_picture_can_be_switched_off(callback, tags, tmp_path: Path):
    make_trainer(tmp_path, callback, max_epochs=1).fit(make_learner(), datamodule=make_data())
    assert EventAccumulator(str(tmp_path)).Reload().Tags()["images"] == tags


def test_class_accuracies_can_be_switched_off(tmp_path: Path):
    callback = ValidationPictures(max_classes=0)
    make_trainer(tmp_path, callback, max_epochs=1).fit(make_learner(), datamodule=make_data())
    tags = EventAccumulator(str(tmp_path)).Reload().Tags()
    assert not [tag for tag in tags["scalars"] if tag.startswith("class_accuracy")]
    assert len(tags["images"]) == 2


def test_a_process_with_a_part_of_the_weights_has_no_net_to_look_at():
    learner = make_learner()
    for strategy, net in ((SingleDeviceStrategy(), learner.net), (FSDPStrategy(), None)):
        assert evaluated_net(SimpleNamespace(strategy=strategy), learner) is net


def test_a_net_that_cannot_be_traced_gets_no_graph_and_no_word(tmp_path: Path, capfd):
    class Untraceable(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(432, CLASSES)

        def forward(self, x):
            if torch.jit.is_tracing():
                raise RuntimeError("not me")
            return self.head(x.flatten(1))

    trainer = make_trainer(tmp_path, ModelGraph(), max_epochs=1, limit_val_batches=0)
    trainer.fit(make_learner(Untraceable()), datamodule=make_data())
    written = "".join(capfd.readouterr())
    assert "not me" not in written and "Error" not in written
    assert not EventAccumulator(str(tmp_path)).Reload().Tags()["graph"]


@pytest.mark.parametrize(
    "make, key",
    [
        (lambda: ValidationPictures(count=-1), "validation_pictures.count -1"),
        (lambda: ValidationPictures(every_n_epochs=0), "validation_pictures.every_n_epochs 0"),
        (lambda: ValidationPictures(max_classes=-1), "validation_pictures.max_classes -1"),
        (lambda: ValidationPictures(max_share=2.0), "validation_pictures.max_share 2.0"),
        (lambda: ModelPictures(every_n_epochs=0), "model_pictures.every_n_epochs 0"),
        (lambda: ModelPictures(max_share=-0.1), "model_pictures.max_share -0.1"),
        (lambda: EmbeddingProjector(count=1), "embedding_projector.count 1"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(make, key):
    with pytest.raises(ValueError, match=f"callbacks.{key}"):
        make()
