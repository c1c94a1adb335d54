"""The losses against timm's, torch's and torchvision's."""

import pytest
import timm.loss
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import sigmoid_focal_loss

from vitfw.building import build
from vitfw.data.augment.mixing import Mixing
from vitfw.errors import ConfigError
from vitfw.training.losses import BinaryCrossEntropy, CrossEntropy, Focal

B, K = 12, 5
LABELS = torch.arange(B) % K
WEIGHT = torch.tensor([0.2, 1.0, 3.0, 0.5, 1.7], dtype=torch.float64)
SMOOTHINGS = (0.0, 0.1, 0.4)


@pytest.fixture
def logits() -> torch.Tensor:
    return 3 * torch.randn(B, K, dtype=torch.float64)


@pytest.fixture
def soft() -> torch.Tensor:
    """Two classes an image, as mixing makes them."""
    own = torch.rand(B, 1, dtype=torch.float64)
    hot = F.one_hot(LABELS, K).double()
    return own * hot + (1 - own) * hot.flip(0)


# ── cross-entropy ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["labels", "soft"])
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_cross_entropy_without_weights_is_torchs_to_the_bit(logits, soft, kind, smoothing):
    targets = LABELS if kind == "labels" else soft
    theirs = nn.CrossEntropyLoss(label_smoothing=smoothing)
    assert torch.equal(CrossEntropy(smoothing)(logits, targets), theirs(logits, targets))


# ── binary cross-entropy ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("sum_classes", [False, True])
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_binary_cross_entropy_of_labels_is_timms(logits, smoothing, sum_classes):
    theirs = timm.loss.BinaryCrossEntropy(smoothing=smoothing, sum_classes=sum_classes)
    ours = BinaryCrossEntropy(smoothing, sum_classes=sum_classes)
    torch.testing.assert_close(ours(logits, LABELS), theirs(logits, LABELS))


@pytest.mark.parametrize("threshold", [None, 0.0, 0.2, 0.5])
def test_binary_cross_entropy_of_mixed_images_is_timms(logits, soft, threshold):
    theirs = timm.loss.BinaryCrossEntropy(smoothing=0.0, target_threshold=threshold)
    ours = BinaryCrossEntropy(target_threshold=threshold)
    torch.testing.assert_close(ours(logits, soft), theirs(logits, soft))


def test_mixed_targets_are_smoothed_as_timms_mixup_smooths_them(logits):
    """timm's mixing smooths, ours leaves that to the loss."""
    mixed = timm.data.mixup.mixup_target(LABELS, K, lam=0.3, smoothing=0.1).double()
    ours = 0.3 * F.one_hot(LABELS, K).double() + 0.7 * F.one_hot(LABELS.flip(0), K).double()
    theirs = timm.loss.BinaryCrossEntropy(smoothing=0.0)(logits, mixed)
    torch.testing.assert_close(BinaryCrossEntropy(0.1)(logits, ours), theirs, atol=1e-7, rtol=1e-6)


def test_with_a_threshold_of_zero_both_classes_of_a_mixed_image_are_there(logits, soft):
    """As DeiT III trains: torch's loss of targets that are 1 wherever they are not 0."""
    wanted = nn.BCEWithLogitsLoss()(logits, soft.gt(0).double())
    torch.testing.assert_close(BinaryCrossEntropy(target_threshold=0.0)(logits, soft), wanted)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_a_class_of_weight_two_counts_as_if_its_images_were_there_twice(logits, smoothing):
    weight = torch.ones(K, dtype=torch.float64)
    weight[3] = 2.0
    again = LABELS == 3
    twice = torch.cat([logits, logits[again]]), torch.cat([LABELS, LABELS[again]])
    repeated = BinaryCrossEntropy(smoothing)(*twice) * len(twice[1]) / B
    torch.testing.assert_close(
        BinaryCrossEntropy(smoothing, weight=weight)(logits, LABELS), repeated
    )


# ── focal ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("kind", ["labels", "soft"])
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_focal_loss_at_gamma_zero_is_torchs_cross_entropy(logits, soft, kind, smoothing, weight):
    """Of torch's the sum over images, divided by their number."""
    targets = LABELS if kind == "labels" else soft
    theirs = nn.CrossEntropyLoss(weight, reduction="sum", label_smoothing=smoothing)
    expected = theirs(logits, targets) / B
    torch.testing.assert_close(Focal(0.0, smoothing, weight)(logits, targets), expected)
    torch.testing.assert_close(CrossEntropy(smoothing, weight)(logits, targets), expected)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_focal_loss_of_two_classes_is_torchvisions_sigmoid_focal_loss(gamma):
    """Two logits are one: softmax of (0, z) is sigmoid of z."""
    z, labels = 4 * torch.randn(B, dtype=torch.float64), torch.arange(B) % 2
    ours = Focal(gamma)(torch.stack([torch.zeros_like(z), z], dim=1), labels)
    theirs = sigmoid_focal_loss(z, labels.double(), alpha=-1, gamma=gamma, reduction="mean")
    torch.testing.assert_close(ours, theirs)


def test_focal_loss_of_soft_targets_is_the_mean_of_the_losses_of_their_labels(logits):
    parts = Focal(2.0)(logits, LABELS), Focal(2.0)(logits, LABELS.flip(0))
    mixed = 0.3 * F.one_hot(LABELS, K) + 0.7 * F.one_hot(LABELS.flip(0), K)
    torch.testing.assert_close(Focal(2.0)(logits, mixed.double()), 0.3 * parts[0] + 0.7 * parts[1])


def test_focal_loss_has_the_gradient_of_finite_differences(logits, soft):
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: Focal(2.0, 0.1, WEIGHT)(x, soft), logits)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_of_what_is_certain_has_a_gradient(gamma):
    certain = torch.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)
    Focal(gamma)(certain, torch.tensor([0, 0])).backward()
    assert certain.grad is not None and certain.grad.isfinite().all()
    assert certain.grad[0].abs().max() < 1e-6 < certain.grad[1].abs().max()


# ── all ───────────────────────────────────────────────────────────────────────────────────────

ALL = [CrossEntropy, BinaryCrossEntropy, Focal]


@pytest.mark.parametrize("loss", ALL)
def test_labels_and_their_one_hot_rows_are_the_same_target(loss, logits):
    hot = F.one_hot(LABELS, K).double()
    for smoothing in SMOOTHINGS:
        made = loss(label_smoothing=smoothing)
        torch.testing.assert_close(made(logits, LABELS), made(logits, hot))


@pytest.mark.parametrize("loss", ALL)
def test_every_loss_takes_what_mixing_makes(loss):
    mixing = Mixing(mixup=0.8, cutmix=1.0)
    _, targets = mixing(torch.randn(B, 3, 8, 8), LABELS, K, key=0, progress=0.0)
    assert targets.shape == (B, K)
    assert loss(weight=WEIGHT.float())(torch.randn(B, K), targets) > 0.0


@pytest.mark.parametrize("loss", ALL)
def test_four_gathered_batches_with_class_weights_give_the_gradient_of_the_large_one(loss):
    """Sorted by class, so that the weights of each small batch have another sum."""
    features, labels = torch.randn(B, 3, dtype=torch.float64), LABELS.sort().values
    gradients = []
    for size in (B, B // 4):
        head = torch.zeros(K, 3, dtype=torch.float64, requires_grad=True)
        for x, y in zip(features.split(size), labels.split(size), strict=True):
            share = len(x) / B  # Lightning divides by accumulate_grad_batches
            (share * loss(label_smoothing=0.1, weight=WEIGHT)(x @ head.T, y)).backward()
        gradients.append(head.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("loss", ALL)
def test_class_weights_are_no_part_of_a_checkpoint_and_follow_the_device(loss):
    made = loss(weight=WEIGHT)
    assert not made.state_dict() and made.to("meta").weight.is_meta


@pytest.mark.parametrize(
    "options, said",
    [
        ({"label_smoothing": 1.0}, "label_smoothing=1.0 must be from 0 to below 1"),
        ({"target_threshold": 1.5}, "target_threshold=1.5 must be from 0 to below 1, or null"),
        ({"target_threshold": 0.2, "label_smoothing": 0.1}, "type loss.label_smoothing=0 or"),
        ({"gamma": -1.0}, "gamma=-1.0 must be at least 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, said):
    name = "Focal" if "gamma" in options else "BinaryCrossEntropy"
    with pytest.raises(ConfigError, match=said):
        build({"_target_": f"vitfw.training.losses.{name}", **options})
