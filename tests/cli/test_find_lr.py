"""The learning-rate range test: what it reads from known curves, and the command."""

import json
import math
import shlex
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from PIL import Image
from torch.optim.lr_scheduler import ExponentialLR

from vitfw.callbacks.lr_range_test import Findings, LRRangeTest, exponential_rise, rate_at
from vitfw.cli.find_lr import OPTIONS, command, describe, prepare
from vitfw.cli.main import main
from vitfw.config import compose, to_plain
from vitfw.range_test_plot import range_test_plot
from vitfw.training.classifier import Classifier

STEPS = 200


def findings_of(loss_at, noise: float = 0.0, stop_factor: float = 4.0) -> Findings:
    """The test of a made-up loss, a function of the logarithm of the rate."""
    random = torch.Generator().manual_seed(0)
    found = Findings()
    for step in range(STEPS):
        rate = rate_at(step, STEPS, 1e-6, 10.0)
        loss = loss_at(math.log10(rate)) + noise * torch.randn((), generator=random).item()
        found.add(rate, loss, smoothing=0.9, stop_factor=stop_factor)
        if found.diverged_at is not None:
            break
    return found


def fall_at(power: float, diverges: float = 99.0):
    """A loss that falls from 2.3 to 1.3, fastest at 10^power, and explodes at 10^diverges."""

    def loss(x: float) -> float:
        falling = 2.3 - 1.0 / (1.0 + math.exp(-4.0 * (x - power)))
        return falling + math.exp(min(20.0 * (x - diverges), 50.0))

    return loss


# ── the rise ──────────────────────────────────────────────────────────────────────────────────


def test_the_rate_rises_as_torchs_exponential_lr_and_groups_keep_their_ratio():
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]

    def make(lr: float) -> torch.optim.Optimizer:
        rates = zip(parameters, (lr, lr / 5), strict=True)
        return torch.optim.SGD([{"params": [p], "lr": rate} for p, rate in rates])

    ours, theirs = make(2e-3), make(1e-5)
    rising = exponential_rise(ours, 50, 10, lowest=1e-5 / 2e-3, highest=1.0 / 2e-3)
    expected = ExponentialLR(theirs, gamma=(1.0 / 1e-5) ** (1 / 49))
    for _ in range(50):
        for mine, other in zip(ours.param_groups, theirs.param_groups, strict=True):
            assert mine["lr"] == pytest.approx(other["lr"])
        for optimizer, schedule in ((ours, rising), (theirs, expected)):
            optimizer.step()
            schedule.step()
    assert rising.get_last_lr()[0] > 1.0


# ── what is read from a curve ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("power", [-4.0, -3.0, -1.5])
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_the_steepest_descent_of_a_known_curve_is_found(power, noise):
    found = findings_of(fall_at(power), noise)
    assert math.log10(found.steepest) == pytest.approx(power, abs=0.3)
    assert found.suggestion == (found.steepest, "steepest descent")


@pytest.mark.parametrize("diverges", [-1.0, 0.0])
def test_divergence_is_where_the_smoothed_loss_is_so_many_times_its_lowest(diverges):
    found = findings_of(fall_at(-4.0, diverges))
    assert math.log10(found.diverged_at) == pytest.approx(diverges, abs=0.25)
    assert found.smoothed[-1] >= 4.0 * min(found.smoothed) > found.smoothed[-2]


def test_the_smaller_of_the_two_rules_is_suggested():
    steep_first = findings_of(fall_at(-3.0, diverges=0.0))
    assert steep_first.suggestion[1] == "steepest descent"
    near_the_edge = findings_of(fall_at(-1.5, diverges=-1.0))
    assert near_the_edge.suggestion == (near_the_edge.diverged_at / 10, "a tenth of divergence")


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_nothing_is_read_from_a_loss_that_does_not_change(noise):
    assert findings_of(lambda x: 2.3, noise).suggestion is None


def test_coming_back_from_a_hump_is_no_descent():
    def humped(x: float) -> float:
        left_behind = 0.3 if x > -2.0 else 0.0
        return fall_at(-4.0)(x) + 3.0 * math.exp(-20.0 * (x + 2.0) ** 2) + left_behind

    assert math.log10(findings_of(humped, stop_factor=9.0).steepest) == pytest.approx(-4.0, abs=0.3)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_divergence_and_no_loss(bad):
    found = findings_of(lambda x: 2.0 if x < -2.0 else bad)
    assert math.log10(found.diverged_at) == pytest.approx(-2.0, abs=0.05)
    assert all(map(math.isfinite, found.losses))
    assert found.suggestion == (found.diverged_at / 10, "a tenth of divergence")


def test_the_smoothed_loss_is_adams_corrected_mean():
    found = Findings()
    mean, losses = 0.0, [3.0, 1.0, 2.0, 5.0]
    for count, loss in enumerate(losses, start=1):
        found.add(0.1 * count, loss, smoothing=0.8, stop_factor=100.0)
        mean = 0.8 * mean + 0.2 * loss
        assert found.smoothed[-1] == pytest.approx(mean / (1 - 0.8**count))


def test_the_command_to_type_keeps_what_is_the_runs_and_composes():
    found = findings_of(fall_at(-3.0))
    typed = ["model=vit_nano", "optimizer=adamw", "optimizer.lr=1e-3", "steps=50", "run_dir=x"]
    text = command(typed, found)
    words = shlex.split(text)
    assert words[:4] == ["vitfw", "train", "model=vit_nano", "optimizer=adamw"]
    config = compose("train", words[2:])
    assert config.optimizer.lr == pytest.approx(found.suggestion[0], rel=0.05)
    assert describe(found, text)["command"] == text


@pytest.mark.parametrize(
    "found",
    [findings_of(fall_at(-3.0, 0.0)), findings_of(lambda x: 2.3), Findings([1e-3], [2.0], [2.0])],
    ids=["all", "flat", "one step"],
)
def test_a_picture_is_drawn_whatever_was_found(found):
    picture = range_test_plot(found, "Range test")
    colours = {colour for _, colour in picture.getcolors(100_000)}
    assert picture.width > 500 and (240, 163, 94) in colours  # the dots


# ── the command ───────────────────────────────────────────────────────────────────────────────


def test_the_command_suggests_a_rate_and_leaves_no_checkpoint(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    words = ["data=fake", "data.native_size=8", "data.num_images=256", "data.batch_size=32"]
    test = ["optimizer=adamw", "steps=20", "stop_factor=2", "trainer.accumulate_grad_batches=2"]
    assert main(["find_lr", *words, *test]) == 0
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(path.name for path in files) == ["find_lr.json", "find_lr.png"]
    (figures,) = (path for path in files if path.suffix == ".json")
    assert figures.is_relative_to(tmp_path / "runs" / "find_lr")
    told = json.loads(figures.read_text())
    assert len(told["lr"]) == len(told["loss"]) <= 20
    assert told["lr"][:2] == pytest.approx([1e-6, 1e-6 * 1e7 ** (1 / 19)])
    assert told["loss"][0] == pytest.approx(math.log(10), abs=0.5)  # chance, whatever accumulates
    Image.open(figures.with_suffix(".png")).verify()
    said = capfd.readouterr().out
    assert told["command"] is None or told["command"] in said


FAKE = ["data=fake", "data.native_size=8", "data.num_images=256", "data.batch_size=32"]


def losses_of(*words: str) -> list[float]:
    assert main(["find_lr", *FAKE, "steps=20", "run_dir=x", *words]) == 0
    return json.loads(Path("x/find_lr.json").read_text())["loss"]


class Batches(L.Callback):
    """Sizes of the images of a training, and whether their targets are soft."""

    def __init__(self):
        self.seen: list[tuple[int, bool]] = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        images, targets = batch
        self.seen.append((images.shape[-1], targets.dim() == 2))


@pytest.mark.parametrize("off_share, mixed", [(0.4355, True), (1.0, False)])
def test_every_batch_is_augmented_as_the_first_of_a_run(off_share, mixed, tmp_path, monkeypatch):
    """A loss that falls because mixing ends or images grow tells nothing of the rate."""
    monkeypatch.chdir(tmp_path)
    words = ["model.dynamic_img_size=true", "steps=20", "max_lr=1e-3", "run_dir=x"]
    words += ["augment.progressive.sizes=[4,6]", "augment.progressive.until=[0.3,0.7]"]
    words += ["augment.mixing.mixup=0.8", f"augment.mixing.off_share={off_share}"]
    cfg = to_plain(compose("find_lr", [*FAKE, *words]))
    batches = Batches()
    test = LRRangeTest(**{name: cfg[name] for name in OPTIONS})
    trainer, learner, data = prepare(cfg, test)
    trainer.callbacks.append(batches)
    trainer.fit(learner, datamodule=data)
    assert batches.seen == [(4, mixed)] * 20


def test_the_loss_with_sam_is_the_one_before_it_climbs(tmp_path, monkeypatch):
    """The first step's is that of the same net under SGD, however far SAM looks ahead."""
    monkeypatch.chdir(tmp_path)
    plain = losses_of("optimizer=sgd")
    assert losses_of("optimizer=sam", "optimizer.rho=20")[0] == pytest.approx(plain[0], rel=1e-6)


def test_a_batch_that_does_not_fit_is_gathered_as_in_training(tmp_path, monkeypatch):
    """Half the batch accumulated twice is the same test, to the rounding of fast matrix products.

    From one batch to the next the loss differs by ten times as much.
    """
    monkeypatch.chdir(tmp_path)
    words = ["optimizer=sgd", "augment=none", "trainer.precision=32-true"]
    tried = []

    def room_for_sixteen(size: int) -> None:
        tried.append(size)
        if size > 16:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    whole = losses_of(*words)
    monkeypatch.setattr("vitfw.batch_size.trial_of", lambda cfg, options: room_for_sixteen)
    halved = losses_of(*words, "auto_batch_size=true")
    assert tried == [32, 16]
    assert halved[:8] == pytest.approx(whole[:8], rel=2e-3)


def test_a_loss_scaled_for_float16_is_told_as_it_is():
    test = LRRangeTest(steps=20, min_lr=1e-6, max_lr=1.0)
    scaler = SimpleNamespace(get_scale=lambda: 1024.0)
    trainer = SimpleNamespace(
        precision_plugin=SimpleNamespace(scaler=scaler),
        strategy=SimpleNamespace(reduce=lambda loss, reduce_op: loss),
        global_step=1,
    )
    test.on_before_backward(trainer, SimpleNamespace(repeated=False), torch.tensor(2.5 * 1024))
    test.on_train_batch_end(trainer, None, None, None, 0)
    assert test.findings.losses == [2.5]


@pytest.mark.parametrize(
    "words, said",
    [
        (["min_lr=1", "max_lr=1e-3"], "min_lr=1 max_lr=0.001 is no range"),
        (["min_lr=0"], "is no range: 0 < min_lr < max_lr"),
        (["steps=5"], "steps=5 are too few"),
        (["stop_factor=1"], "stop_factor=1 must be more than 1"),
        (["smoothing=1"], "smoothing=1 is a weight"),
        (["optimizer.lr=0"], "optimizer.lr=0"),
        (["method=linear_probe"], "widen method.lr_factors instead"),
        (["resume=runs/x"], "init_from=PATH begins with weights"),
        (["stepps=5"], "no config key is called 'stepps'; did you mean steps"),
    ],
)
def test_a_wrong_request_is_one_line_and_nothing_is_written(
    words, said, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    assert main(["find_lr", "data=fake", *words]) == 2
    error = capfd.readouterr().err.strip()
    assert error.startswith("error: ") and said in error and "\n" not in error
    assert list(Path(tmp_path).iterdir()) == []


def test_a_loss_that_is_no_number_at_the_first_step_is_told(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    loss_of = Classifier.loss_of
    monkeypatch.setattr(Classifier, "loss_of", lambda *args: loss_of(*args) * math.nan)
    words = ["data=fake", "data.native_size=8", "data.num_images=256"]
    assert main(["find_lr", *words]) == 2
    assert "the loss is no number at the first step" in capfd.readouterr().err
