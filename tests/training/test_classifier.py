"""The LightningModule against a bare loop, scikit-learn and plain cross-entropy."""

import copy
from functools import partial

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score, top_k_accuracy_score
from timm.utils.agc import adaptive_clip_grad
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from vitfw.models.vit import VisionTransformer
from vitfw.training.classifier import Classifier
from vitfw.training.optimizers import adamw
from vitfw.training.schedules import cosine
from vitfw.training.weight_average import ema

IMAGES, LABELS, BATCH = 40, torch.arange(40) % 3, 8


class Recorder(L.pytorch.loggers.logger.Logger):
    """Everything that was logged, as (step, metrics)."""

    def __init__(self):
        super().__init__()
        self.logged: list[tuple[int, dict[str, float]]] = []

    name, version = "recorder", ""

    def log_metrics(self, metrics, step=None):
        self.logged.append((step, metrics))

    def log_hyperparams(self, params, *args, **kwargs):
        pass

    def values(self, name: str) -> list[float]:
        return [metrics[name] for _, metrics in self.logged if name in metrics]


def make_net(num_classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return VisionTransformer(
        img_size=8, patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=num_classes
    )


def make_data(num_classes: int = 3, count: int = IMAGES) -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 3, 8, 8, generator=generator)
    return TensorDataset(images, torch.arange(count) % num_classes)


def make_trainer(folder, **options) -> L.Trainer:
    return L.Trainer(
        **{"accelerator": "cpu", "devices": 1, "max_epochs": 2, "logger": False} | options,
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def make_optimizer(net):
    return adamw(net, lr=1e-2)


def make_schedule(optimizer, total_steps, steps_per_epoch):
    return cosine(optimizer, total_steps, steps_per_epoch, warmup=2)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A net, its logits on 37 images, and what validation and test of them logged."""
    net, data = make_net(num_classes=7), make_data(7, count=37)
    nn.init.normal_(net.head.weight)
    classifier = Classifier(net, 7, loss=nn.CrossEntropyLoss(label_smoothing=0.5))
    trainer = make_trainer(tmp_path_factory.mktemp("evaluated"))
    loader = DataLoader(data, batch_size=BATCH)  # the last batch holds five
    (validated,) = trainer.validate(classifier, loader, verbose=False)
    (tested,) = trainer.test(classifier, loader, verbose=False)
    with torch.no_grad():
        logits = net.eval()(data.tensors[0])
    return logits, data.tensors[1], {**validated, **tested}


# ── training ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("accumulate", [1, 2])
def test_training_equals_a_bare_loop_bit_for_bit(tmp_path, accumulate):
    data, net = make_data(), make_net()
    twin = copy.deepcopy(net)
    steps_per_epoch = 5 // accumulate + 5 % accumulate
    classifier = Classifier(
        net,
        3,
        optimizer=make_optimizer,
        scheduler=make_schedule,
        total_steps=2 * steps_per_epoch,
        steps_per_epoch=steps_per_epoch,
    )
    trainer = make_trainer(tmp_path, accumulate_grad_batches=accumulate, gradient_clip_val=0.5)
    trainer.fit(classifier, DataLoader(data, batch_size=BATCH))

    optimizer = torch.optim.AdamW(make_optimizer(twin).param_groups, lr=1e-2)
    total = 2 * steps_per_epoch
    schedule = make_schedule(optimizer, total, steps_per_epoch)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for _ in range(2):
        for number, (images, labels) in enumerate(DataLoader(data, batch_size=BATCH), 1):
            gathered = 1 if number == 5 else accumulate  # the fifth makes a step of its own
            (F.cross_entropy(twin(images), labels) / gathered).backward()
            if number % accumulate == 0 or number == 5:
                nn.utils.clip_grad_norm_(parameters, 0.5)
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
    assert trainer.global_step == total
    untrained = make_net().state_dict()
    for name, weight in twin.state_dict().items():
        assert torch.equal(net.state_dict()[name], weight), name
        assert not torch.equal(untrained[name], weight), name


@pytest.mark.parametrize("images", [512, 448])  # 448: the last step has three batches
def test_four_accumulated_batches_of_64_equal_one_of_256(tmp_path, images):
    weights = []
    for batch, accumulate in ((256, 1), (64, 4)):
        net = make_net().double()
        data = make_data(count=images)
        data.tensors = (data.tensors[0].double(), data.tensors[1])
        classifier = Classifier(net, 3, optimizer=make_optimizer)
        trainer = make_trainer(
            tmp_path, precision="64-true", max_epochs=1, accumulate_grad_batches=accumulate
        )
        trainer.fit(classifier, DataLoader(data, batch_size=batch))
        assert trainer.global_step == 2
        weights.append(net.state_dict())
    torch.testing.assert_close(*weights, rtol=1e-9, atol=1e-12)


def test_agc_clips_as_timm_does_and_leaves_the_head(tmp_path):
    net, data = make_net(), make_data(count=BATCH)
    twin = copy.deepcopy(net)
    step = partial(torch.optim.SGD, lr=1.0)
    classifier = Classifier(net, 3, optimizer=lambda net: step(net.parameters()), agc=0.01)
    make_trainer(tmp_path, max_epochs=1).fit(classifier, DataLoader(data, batch_size=BATCH))
    F.cross_entropy(twin(data.tensors[0]), data.tensors[1]).backward()
    unclipped = twin.blocks[0].mlp.fc1.weight.grad.clone()
    adaptive_clip_grad([p for n, p in twin.named_parameters() if "head" not in n], 0.01)
    assert not torch.equal(unclipped, twin.blocks[0].mlp.fc1.weight.grad)
    step(twin.parameters()).step()
    torch.testing.assert_close(net.state_dict(), twin.state_dict())


def test_the_average_follows_every_step_and_is_what_is_evaluated(tmp_path):
    recorder, net, data = Recorder(), make_net(), make_data()
    classifier = Classifier(net, 3, optimizer=make_optimizer, average=partial(ema, decay=0.5))
    trainer = make_trainer(tmp_path, max_epochs=1, logger=recorder)
    loader = DataLoader(data, batch_size=BATCH)
    trainer.fit(classifier, loader, loader)
    average = classifier.average.net
    for prefix, evaluated in (("val", average), ("val_raw", net)):
        with torch.no_grad():
            logits = evaluated.eval()(data.tensors[0])
        expected = F.cross_entropy(logits, LABELS).item()
        assert recorder.values(f"{prefix}/loss") == pytest.approx([expected], rel=1e-5)
        assert recorder.values(f"{prefix}/accuracy") == pytest.approx(
            [accuracy_score(LABELS, logits.argmax(1))]
        )
    assert not torch.equal(average.head.weight, net.head.weight)
    twin, steps = make_net(), []
    trainer = make_trainer(tmp_path, max_epochs=1)
    record = Classifier(twin, 3, optimizer=make_optimizer)
    record.on_before_zero_grad = lambda optimizer: steps.append(twin.head.bias.detach().clone())
    trainer.fit(record, loader)
    states = [*steps[1:], twin.head.bias.detach()]
    expected = states[0]
    for number, state in enumerate(states[1:], start=2):
        expected = torch.lerp(expected, state, 1 - min(0.5, (1 + number) / (10 + number)))
    torch.testing.assert_close(average.head.bias, expected)


def test_the_loss_trains_and_label_smoothing_reaches_it(tmp_path):
    data = make_data()
    weights = []
    for smoothing in (0.0, 0.3):
        net = make_net()
        loss = nn.CrossEntropyLoss(label_smoothing=smoothing)
        classifier = Classifier(net, 3, loss=loss, optimizer=make_optimizer)
        make_trainer(tmp_path, max_steps=2).fit(classifier, DataLoader(data, batch_size=BATCH))
        weights.append(net.head.weight.detach())
    assert not torch.equal(*weights)


def test_training_metrics_are_those_of_the_batches_since_the_last_log(tmp_path):
    """With a learning rate of 0 the net stands still: two windows of two batches, then one."""
    recorder, net, data = Recorder(), make_net(), make_data()
    classifier = Classifier(net, 3, optimizer=lambda net: torch.optim.SGD(net.parameters(), lr=0.0))
    trainer = make_trainer(tmp_path, max_epochs=1, logger=recorder, log_every_n_steps=2)
    trainer.fit(classifier, DataLoader(data, batch_size=BATCH))
    with torch.no_grad():
        logits = net(data.tensors[0])
    windows = [slice(0, 16), slice(16, 32), slice(32, 40)]
    expected = [F.cross_entropy(logits[part], LABELS[part]).item() for part in windows]
    accuracies = [accuracy_score(LABELS[part], logits[part].argmax(1)) for part in windows]
    assert recorder.values("train/loss") == pytest.approx(expected, rel=1e-5)
    assert recorder.values("train/accuracy") == pytest.approx(accuracies)
    whole = F.cross_entropy(logits, LABELS).item()
    assert recorder.values("train/loss_epoch") == pytest.approx([whole], rel=1e-5)


def test_training_and_validation_are_logged_by_optimizer_steps_made(tmp_path):
    recorder = Recorder()
    classifier = Classifier(make_net(), 3, optimizer=make_optimizer)
    trainer = make_trainer(tmp_path, logger=recorder, log_every_n_steps=5)
    loader = DataLoader(make_data(), batch_size=BATCH)
    trainer.fit(classifier, loader, loader)
    steps = {
        name: [step for step, metrics in recorder.logged if name in metrics]
        for name in ("train/loss", "train/loss_epoch", "val/loss")
    }
    assert set(map(tuple, steps.values())) == {(5, 10)}, steps


def test_without_an_optimizer_it_evaluates_but_does_not_train(tmp_path):
    with pytest.raises(RuntimeError, match="built without an optimizer"):
        make_trainer(tmp_path).fit(Classifier(make_net(), 3), DataLoader(make_data()))


# ── evaluation ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("split", ["val", "test"])
def test_accuracies_equal_scikit_learns_with_an_odd_last_batch(evaluated, split):
    logits, labels, metrics = evaluated
    assert metrics[f"{split}/accuracy"] == pytest.approx(accuracy_score(labels, logits.argmax(1)))
    top5 = top_k_accuracy_score(labels, logits, k=5)
    assert metrics[f"{split}/accuracy_top5"] == pytest.approx(top5)
    assert metrics[f"{split}/accuracy"] < top5 < 1


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_loss_is_plain_cross_entropy_whatever_was_trained_with(evaluated, split):
    logits, labels, metrics = evaluated
    plain = F.cross_entropy(logits, labels).item()
    assert metrics[f"{split}/loss"] == pytest.approx(plain, rel=1e-5)
    smoothed = F.cross_entropy(logits, labels, label_smoothing=0.5).item()
    assert abs(plain - smoothed) > 0.01


@pytest.mark.parametrize("num_classes", [2, 4])
def test_with_fewer_than_five_classes_top_five_is_always_right(tmp_path, num_classes):
    classifier = Classifier(make_net(num_classes), num_classes)
    loader = DataLoader(make_data(num_classes), batch_size=BATCH)
    (metrics,) = make_trainer(tmp_path).test(classifier, loader, verbose=False)
    assert metrics["test/accuracy_top5"] == 1.0
    assert metrics["test/accuracy"] < 1.0


def test_a_second_evaluation_starts_from_nothing(tmp_path):
    classifier, data = Classifier(make_net(), 3), make_data()
    trainer = make_trainer(tmp_path)
    trainer.test(classifier, DataLoader(data, batch_size=BATCH), verbose=False)
    classifier.net.head.bias.data += torch.tensor([100.0, 0.0, 0.0])
    (second,) = trainer.test(classifier, DataLoader(data, batch_size=BATCH), verbose=False)
    with torch.no_grad():
        expected = F.cross_entropy(classifier.net(data.tensors[0]), LABELS).item()
    assert second["test/accuracy"] == pytest.approx((LABELS == 0).float().mean().item())
    assert second["test/loss"] == pytest.approx(expected, rel=1e-5)


def test_metrics_and_loss_are_no_part_of_the_state_dict():
    classifier = Classifier(make_net(), 3)
    expected = {f"net.{name}" for name in make_net().state_dict()}
    assert set(classifier.state_dict()) == expected
