"""What the AttentionMaps callback draws and logs, and that training does not notice."""

import math
from functools import partial
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import FSDPStrategy
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from vitfw.callbacks import attention_maps
from vitfw.callbacks.attention_maps import AttentionMaps
from vitfw.callbacks.csv_logger import CsvLogger, read_metrics
from vitfw.errors import ConfigError
from vitfw.models.vit import VisionTransformer
from vitfw.training.classifier import Classifier
from vitfw.training.masked_autoencoder import MaskedAutoencoder
from vitfw.training.optimizers import adamw
from vitfw.training.weight_average import ema

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
TAGS = {"attention/heads", "attention/rollout", "attention/distance"}


class Noise(L.LightningDataModule):
    """Normalised random images: twelve of training, ten of validation."""

    mean, std, classes = MEAN, STD, ("cat", "dog", "owl")

    def _split(self, start: int, end: int) -> tuple[Tensor, Tensor]:
        images = torch.randn(22, 3, 8, 8, generator=torch.Generator().manual_seed(1))[start:end]
        return images, torch.arange(len(images)) % 3

    def first_batch(self) -> tuple[Tensor, Tensor]:
        """Of validation, without the number that a loader draws."""
        images, labels = self._split(12, 22)
        return images[:4], labels[:4]

    def train_dataloader(self) -> DataLoader:
        return DataLoader(TensorDataset(*self._split(0, 12)), batch_size=4)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(TensorDataset(*self._split(12, 22)), batch_size=4)


def make_net(**options) -> VisionTransformer:
    torch.manual_seed(0)
    sizes = {"num_classes": 3, "embed_dim": 8, "depth": 2, "num_heads": 2, "drop_rate": 0.1}
    return VisionTransformer(8, 2, **{**sizes, **options})


def make_learner(net: nn.Module | None = None, **options) -> Classifier:
    return Classifier(net or make_net(), 3, optimizer=partial(adamw, lr=1e-2), **options)


class Written:
    """A logger that remembers."""

    def __init__(self):
        self.rows: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.rows.append((step, metrics))


def validate(callback: AttentionMaps, learner: L.LightningModule, **told) -> Written:
    """The first validation batch, as a trainer would show it to the callback."""
    logger = Written()
    data = Noise()
    steps = {"current_epoch": 0, "max_epochs": 9, "max_steps": -1, "global_step": 7}
    trainer = SimpleNamespace(
        **{**steps, "sanity_checking": False, "strategy": None, **told},
        is_global_zero=True,
        datamodule=data,
        loggers=[logger],
    )
    callback.setup(trainer, learner, "fit")
    callback.on_validation_batch_end(trainer, learner.eval(), None, data.first_batch(), 0)
    return logger


# ── in a run ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same three epochs with and without: the folder, learners and callback."""
    folder, learners = tmp_path_factory.mktemp("runs"), []
    callback = AttentionMaps(count=3, every_n_epochs=2)
    for name, callbacks in (("without", []), ("with", [callback])):
        torch.manual_seed(5)
        learners.append(make_learner(average=partial(ema, decay=0.5)))
        path = folder / name
        trainer = L.Trainer(
            default_root_dir=path,
            accelerator="cpu",
            devices=1,
            max_epochs=3,
            logger=[TensorBoardLogger(path, name="", version=""), CsvLogger(str(path / "m.csv"))],
            callbacks=callbacks,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        torch.manual_seed(6)
        trainer.fit(learners[-1], datamodule=Noise())
        learners[-1].left_in_rng = torch.get_rng_state()
        for logger in trainer.loggers:
            logger.finalize("success")
    return folder, learners, callback


def test_every_nth_validation_and_the_last_leave_pictures_and_distances(runs):
    events = EventAccumulator(str(runs[0] / "with"), size_guidance={"images": 0})
    events.Reload()
    assert set(events.Tags()["images"]) >= TAGS
    for tag in TAGS:
        assert [event.step for event in events.Images(tag)] == [6, 9]
    for block in (0, 1):
        values = events.Scalars(f"attention_distance/block_{block}")
        assert [value.step for value in values] == [6, 9]
        assert all(0 < value.value < 8 for value in values)  # of images of 8 px


def test_distances_are_in_the_csv_too(runs):
    rows = {row["step"]: row for row in read_metrics(runs[0] / "with" / "m.csv")}
    assert "attention_distance/block_1" in rows[6] and "attention_distance/block_1" in rows[9]
    assert "val/accuracy" in rows[6]
    assert not any(name.startswith("attention") for name in rows[3])


def test_the_training_is_the_same_with_and_without(runs):
    without, with_it = runs[1]
    left, right = without.state_dict(), with_it.state_dict()
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert torch.equal(without.left_in_rng, with_it.left_in_rng)


def test_the_report_gets_heads_and_rollout_as_last_drawn(runs):
    figures = runs[2].report_figures()
    assert [figure.title for figure in figures] == ["Attention", "Attention rollout"]
    assert all("After step 9" in figure.caption for figure in figures)
    assert all(figure.image.width > 300 for figure in figures)


# ── what it looks at ──────────────────────────────────────────────────────────────────────────


def test_looking_changes_nothing_of_the_net():
    learner = make_learner()
    learner.net.blocks[0].requires_grad_(False)
    before = [p.requires_grad for p in learner.parameters()], torch.get_rng_state()
    modes = [module.training for module in learner.eval().modules()]
    assert validate(AttentionMaps(), learner).rows
    assert [p.requires_grad for p in learner.parameters()] == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert [module.training for module in learner.modules()] == modes
    assert all(p.grad is None for p in learner.parameters())


def test_the_averaged_net_is_the_one_that_is_looked_at():
    learner = make_learner(average=partial(ema, decay=0.5))
    plain = validate(AttentionMaps(), learner).rows
    for block in learner.net.blocks:
        nn.init.normal_(block.attn.qkv.weight, std=3.0)
    assert validate(AttentionMaps(), learner).rows == plain
    for block in learner.average.net.blocks:
        nn.init.normal_(block.attn.qkv.weight, std=3.0)
    assert validate(AttentionMaps(), learner).rows != plain


def test_a_net_in_true_bfloat16_is_looked_at(monkeypatch):
    learner = make_learner(make_net().bfloat16())
    batch = torch.randn(2, 3, 8, 8).bfloat16(), torch.ones(2).long()
    monkeypatch.setattr(Noise, "first_batch", lambda self: batch)
    ((_, row),) = validate(AttentionMaps(), learner).rows
    assert all(0 < distance < 8 for distance in row.values())


def test_a_compiled_net_is_looked_at_without_compiling():
    learner = make_learner()
    learner.net.compile(backend=lambda *_: pytest.fail("compiled"))
    assert validate(AttentionMaps(), learner).rows


def test_at_most_so_many_heads_are_drawn():
    widths = []
    for most in (1, 2):
        callback = AttentionMaps(max_heads=most)
        validate(callback, make_learner())
        widths.append(callback.report_figures()[0].image.width)
    assert widths[1] > widths[0]


def test_a_masked_autoencoders_encoder_is_looked_at():
    decoder = {"decoder_dim": 8, "decoder_depth": 1, "decoder_num_heads": 2}
    net = make_net(class_token=False, global_pool="seq")
    nn.init.constant_(net.seq_pool.score.weight, torch.nan)  # its pooling is not trained
    ((_, row),) = validate(AttentionMaps(), MaskedAutoencoder(net, **decoder)).rows
    assert set(row) == {"attention_distance/block_0", "attention_distance/block_1"}


def test_images_are_taken_in_parts_where_all_would_be_too_much(monkeypatch):
    sizes = []
    seen_by = attention_maps.seen_by

    def counted(net: VisionTransformer, images: Tensor, *more):
        sizes.append(len(images))
        return seen_by(net, images, *more)

    whole = validate(AttentionMaps(), make_learner()).rows
    monkeypatch.setattr(attention_maps, "seen_by", counted)
    monkeypatch.setattr(attention_maps, "MOST_BYTES", 3 * 2 * 2 * 17**2 * 4)
    parts = validate(AttentionMaps(), make_learner()).rows
    assert sizes == [3, 1]
    assert parts[0][1] == pytest.approx(whole[0][1], rel=1e-5)


@pytest.mark.parametrize("off", ["heads", "rollout", "distance"])
def test_each_picture_can_be_switched_off(off, monkeypatch):
    for name in {"heads", "rollout", "distance"} - {off}:
        monkeypatch.setattr(attention_maps, f"{name}_picture", lambda *args, **more: drawn)
    monkeypatch.setattr(attention_maps, f"{off}_picture", None)  # calling it would fail
    drawn = Image.new("L", (4, 4))
    callback = AttentionMaps(**{off: False})
    rows = validate(callback, make_learner()).rows
    assert len(rows) == (off != "distance")
    titles = {"heads": "Attention", "rollout": "Attention rollout"}
    expected = [title for name, title in titles.items() if name != off]
    assert [figure.title for figure in callback.report_figures()] == expected


def test_with_all_pictures_switched_off_nothing_is_looked_at(monkeypatch):
    monkeypatch.setattr(attention_maps, "seen_by", None)
    off = AttentionMaps(heads=False, rollout=False, distance=False)
    assert validate(off, make_learner()).rows == []


# ── where it keeps out ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("told", [{"sanity_checking": True}, {"current_epoch": 1}])
def test_it_waits_for_its_epoch(told):
    assert validate(AttentionMaps(every_n_epochs=3), make_learner(), **told).rows == []


def fitted_steps(folder, callback: AttentionMaps, learner=None, **options) -> list[int]:
    """At which steps it has drawn."""
    logger = CsvLogger(str(folder / "metrics.csv"))
    trainer = L.Trainer(
        **{"max_epochs": 1, "num_sanity_val_steps": 0, **options},
        default_root_dir=folder,
        accelerator="cpu",
        devices=1,
        logger=logger,
        callbacks=[callback],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(learner or make_learner(), datamodule=Noise())
    logger.finalize("success")
    rows = read_metrics(folder / "metrics.csv")
    return [row["step"] for row in rows if "attention_distance/block_0" in row]


def test_many_validations_of_one_epoch_are_drawn_at_the_first_and_the_end(tmp_path):
    options = {"val_check_interval": 1, "max_epochs": 2}
    assert fitted_steps(tmp_path, AttentionMaps(max_share=0.0), **options) == [1, 6]


def test_the_end_is_drawn_in_whatever_epoch_it_is(tmp_path):
    options = {"max_epochs": -1, "max_steps": 5}
    assert fitted_steps(tmp_path, AttentionMaps(every_n_epochs=9), **options) == [5]


def test_the_end_shows_the_net_as_it_is_evaluated(tmp_path):
    """After the last validation the net trains again: dropout must not be seen."""
    learner, ended = make_learner(make_net(pos_drop_rate=0.5)), AttentionMaps()
    for block in learner.net.blocks:
        nn.init.normal_(block.attn.qkv.weight, std=3.0)
    fitted_steps(tmp_path, AttentionMaps(every_n_epochs=9), learner, check_val_every_n_epoch=1)
    expected = validate(ended, learner).rows[0][1]
    (row,) = [row for row in read_metrics(tmp_path / "metrics.csv") if "val/accuracy" in row]
    assert {tag: row[tag] for tag in expected} == pytest.approx(expected)


def test_a_net_that_has_diverged_is_drawn_and_not_a_reason_to_stop():
    learner = make_learner()
    nn.init.constant_(learner.net.blocks[0].attn.qkv.weight, torch.nan)
    callback = AttentionMaps()
    ((_, row),) = validate(callback, learner).rows
    assert all(math.isnan(distance) for distance in row.values())
    assert len(callback.report_figures()) == 2


def test_where_a_process_has_a_part_of_the_weights_nothing_is_drawn():
    assert validate(AttentionMaps(), make_learner(), strategy=FSDPStrategy()).rows == []


def test_a_net_without_attention_is_left_alone():
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    assert validate(AttentionMaps(block=5, query=[90, 90]), make_learner(net)).rows == []


def test_features_in_the_place_of_images_are_left_alone(monkeypatch):
    batch = torch.randn(4, 8), torch.zeros(4).long()
    monkeypatch.setattr(Noise, "first_batch", lambda self: batch)
    assert validate(AttentionMaps(), make_learner()).rows == []


def test_attention_that_would_take_too_much_memory_is_left_alone_and_said_once(monkeypatch):
    said = []
    monkeypatch.setattr(attention_maps.log, "info", said.append)
    monkeypatch.setattr(attention_maps, "MOST_BYTES", 2 * 2 * 17**2 * 4 - 1)
    callback = AttentionMaps()
    assert validate(callback, make_learner()).rows == []
    assert len(said) == 1 and "no pictures of attention" in said[0]
    assert callback.report_figures() == []


@pytest.mark.parametrize(
    "options, said",
    [
        ({"count": 0}, "callbacks.attention.count 0 must be at least 1"),
        ({"every_n_epochs": 0}, "callbacks.attention.every_n_epochs 0 must"),
        ({"max_heads": 0}, "callbacks.attention.max_heads 0 must"),
        ({"query": [3]}, "callbacks.attention.query .3. must be row and column"),
    ],
    ids=str,
)
def test_numbers_that_make_no_sense_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        AttentionMaps(**options)


@pytest.mark.parametrize(
    "options, said",
    [
        ({"block": 2}, "callbacks.attention.block=2 is none of 0 to 1"),
        ({"query": [4, 0]}, r"callbacks.attention.query \[4, 0\] lies outside of the 4 × 4"),
    ],
    ids=str,
)
def test_what_the_net_does_not_have_is_refused_before_it_is_fitted(options, said):
    with pytest.raises(ConfigError, match=said):
        trainer = SimpleNamespace(is_global_zero=True, strategy=None)
        AttentionMaps(**options).setup(trainer, make_learner(), "fit")
