"""What PredictionRecord keeps of a test, against scikit-learn and the pictures themselves."""

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from sklearn.metrics import confusion_matrix
from torch import nn

from vitfw.callbacks import prediction_record, prediction_tally
from vitfw.data.datamodule import ImageData
from vitfw.training.classifier import Classifier

CLASSES, MOST = 6, 10


class Remembers(L.Callback):
    """All logits of a test."""

    def __init__(self):
        self.logits = []

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        self.logits.append(outputs)


@pytest.fixture(scope="module")
def tested(tmp_path_factory):
    """The record of a test on 63 made-up pictures, and the logits [63, 6]."""
    torch.manual_seed(1)  # 0 is what the pictures themselves are drawn from
    data = ImageData(
        "fake",
        num_classes=CLASSES,
        native_size=8,
        num_images=252,
        batch_size=16,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, CLASSES))
    record, remembers = prediction_record.PredictionRecord(MOST), Remembers()
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        callbacks=[record, remembers],
        default_root_dir=tmp_path_factory.mktemp("tested"),
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.test(Classifier(net, CLASSES), datamodule=data, verbose=False)
    return record, torch.cat(remembers.logits), data._splits["test"]


def test_confusion_equals_scikit_learns_with_an_odd_last_batch(tested):
    record, logits, images = tested
    assert len(images) == 63
    expected = confusion_matrix(images.labels, logits.argmax(1), labels=range(CLASSES))
    assert record.confusion.tolist() == expected.tolist()
    assert record.confusion.trace() < len(images)


def test_the_surest_mistakes_and_hits_of_all_batches_come_first(tested):
    record, logits, images = tested
    confidence, guesses = logits.softmax(1).max(1)
    right = guesses == images.labels
    for kept, of in ((record.mistakes, ~right), (record.best, right)):
        order = sorted(of.nonzero()[:, 0].tolist(), key=lambda i: -confidence[i].item())
        expected = [
            (images.labels[i].item(), guesses[i].item(), confidence[i].item()) for i in order
        ]
        assert [(m.truth, m.guess, m.confidence) for m in kept] == expected[:MOST]
    assert len(record.mistakes) == len(record.best) == MOST


def test_the_pixels_of_mistakes_are_those_of_the_data_set(tested):
    record, _, images = tested
    for mistake in [*record.mistakes, *record.best]:
        assert mistake.image.dtype == torch.uint8
        same = (images.images == mistake.image).flatten(1).all(1).nonzero()[:, 0]
        assert images.labels[same].tolist() == [mistake.truth]


def test_every_pixel_value_comes_back_from_normalisation():
    values = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16).repeat(3, 1, 1)
    data = ImageData("cifar10")
    mean, std = (torch.tensor(v)[:, None, None] for v in (data.mean, data.std))
    normalised = (values / 255 - mean) / std
    (pixels,) = prediction_tally.pixels_of(normalised[None], data.mean, data.std)
    assert torch.equal(pixels, values)


def test_a_test_without_mistakes_keeps_none_and_a_second_test_starts_anew(tmp_path):
    data = ImageData("fake", num_classes=2, native_size=4, num_images=16, batch_size=4)
    record = prediction_record.PredictionRecord()
    options = {"default_root_dir": tmp_path, "enable_progress_bar": False, "logger": False}
    for _ in range(2):
        trainer = L.Trainer(accelerator="cpu", callbacks=[record], **options)
        net = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
        data.prepare_data()
        data.setup("fit")
        train = data._splits["train"]
        pattern = [train.images[train.labels == k].float().mean(0) for k in (0, 1)]
        difference = (pattern[1] - pattern[0]).flatten()
        net[1].weight.data = torch.stack([-difference, difference])
        halfway = (pattern[0] + pattern[1]).flatten() / 2 / 255
        halfway = (halfway - 0.5) / 0.25
        net[1].bias.data = -net[1].weight @ halfway
        trainer.test(Classifier(net, 2), datamodule=data, verbose=False)
        assert record.mistakes == []
        assert record.confusion.tolist() == [[2, 0], [0, 2]]
        assert len(record.best) == 4


def test_a_net_that_has_diverged_is_counted_like_any_other():
    tally = prediction_tally.PredictionTally(2, 2, (0.0,), (1.0,))
    tally.add(torch.zeros(3, 1, 2, 2), torch.tensor([0, 1, 1]), torch.full((3, 2), torch.nan))
    tally.finish(SingleDeviceStrategy())
    assert tally.confusion.sum() == 3
    assert [guess.confidence for guess in tally.mistakes + tally.best] == [0.0, 0.0, 0.0]


def test_a_process_without_images_or_a_method_without_logits_has_no_confusion():
    tally = prediction_tally.PredictionTally(2, 3, (0.0,), (1.0,))
    tally.finish(SingleDeviceStrategy())
    assert tally.confusion is None and tally.totals is None
    assert tally.mistakes == tally.best == []


def test_counts_are_those_of_all_processes():
    class TwoAlike(SingleDeviceStrategy):
        def reduce(self, tensor, *args, **kwargs):
            return 2 * tensor

    tally = prediction_tally.PredictionTally(2, 2, (0.0,), (1.0,))
    tally.add(torch.zeros(2, 1, 2, 2), torch.tensor([0, 1]), torch.tensor([[1.0, 0.0]] * 2))
    tally.finish(TwoAlike())
    assert tally.confusion.tolist() == [[2, 0], [2, 0]]


def test_of_too_many_classes_there_are_totals_and_mistakes_but_no_matrix(monkeypatch):
    """The totals are those that the matrix would sum to; nothing of K² is made."""
    labels = torch.randint(5, (40,), generator=torch.Generator().manual_seed(0))
    logits = torch.randn(40, 5, generator=torch.Generator().manual_seed(1))
    expected = confusion_matrix(labels, logits.argmax(1), labels=range(5))
    tallies = []
    for most in (5, 4):
        monkeypatch.setattr(prediction_tally, "MOST_IN_MATRIX", most)
        tally = prediction_tally.PredictionTally(3, 5, (0.0,), (1.0,))
        for part in (slice(0, 30), slice(30, 40)):
            tally.add(torch.zeros(len(labels[part]), 1, 2, 2), labels[part], logits[part])
        tally.finish(SingleDeviceStrategy())
        assert tally.totals.tolist() == [
            expected.sum(1).tolist(),
            expected.diagonal().tolist(),
            expected.sum(0).tolist(),
        ]
        assert len(tally.mistakes) == len(tally.best) == 3
        tallies.append(tally)
    assert tallies[0].confusion.tolist() == expected.tolist()
    assert tallies[1].confusion is None


def test_ten_thousand_classes_take_a_few_hundred_kilobytes():
    tally = prediction_tally.PredictionTally(1, 10_000, (0.0,), (1.0,))
    tally.add(torch.zeros(2, 1, 2, 2), torch.tensor([0, 9_999]), torch.eye(10_000)[[0, 5]])
    assert tally._counts.nbytes == 3 * 10_000 * 8
    tally.finish(SingleDeviceStrategy())
    images, right, guessed = tally.totals
    assert images.nonzero()[:, 0].tolist() == [0, 9_999]
    assert right.nonzero()[:, 0].tolist() == [0] and guessed.nonzero()[:, 0].tolist() == [0, 5]


def test_a_record_of_nothing_is_refused():
    with pytest.raises(ValueError, match="most 0 must be at least 1"):
        prediction_record.PredictionRecord(most=0)
