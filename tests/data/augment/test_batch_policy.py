"""Policies on batches: replayed by torchvision, image by image, and their draws counted."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision.transforms.v2 as T
import torchvision.transforms.v2.functional as TF
from omegaconf import OmegaConf
from scipy import stats
from torch import Tensor

from vitfw.data.augment.batch_ops import colour_jitter
from vitfw.data.augment.batch_policy import (
    FIRST_DRAW,
    JITTER,
    OPERATIONS,
    RAND_SPACE,
    THREE_OPERATIONS,
    TRIVIAL_SPACE,
    RandAugment,
    ThreeAugment,
    TrivialAugment,
    apply_drawn,
    magnitudes,
)
from vitfw.data.augment.batch_spaces import SPACES
from vitfw.data.counter_rng import sample_keys
from vitfw.errors import ConfigError

NAMES = tuple(OPERATIONS)
POLICIES = [
    RandAugment(),
    RandAugment(3, 20, 4.0, probability=0.7, fill=[0.4, 0.5, 0.6]),
    RandAugment(3, 9, 0.5, operations="timm", probability=0.5),
    RandAugment(3, 10, operations="big_vision"),
    TrivialAugment(),
    ThreeAugment(),
]
CPU = torch.device("cpu")
CONFIGS = Path(__file__).parents[3] / "configs/augment"


def keys_of(count: int) -> Tensor:
    return sample_keys(0, 0, torch.arange(count))


def images_of(count: int, channels: int = 3, height: int = 24, width: int = 32) -> Tensor:
    """Smooth images: a wave of a frequency and phase of its own in each channel."""
    generator = torch.Generator().manual_seed(channels)
    frequency = torch.rand(2, count, channels, 1, 1, generator=generator) / 3
    y, x = torch.arange(height)[:, None], torch.arange(width)
    wave = (frequency[0] * x + frequency[1] * y + 9 * frequency[0]).sin()
    return (wave * 110 + 120).to(torch.uint8)


def torchvision_applies(image: Tensor, op: int, strength: float) -> Tensor:
    apply: Callable = T.RandAugment()._apply_image_or_video_transform
    return apply(image, NAMES[op], strength, T.InterpolationMode.NEAREST, {Tensor: None})


def assert_nearly_equal(ours: Tensor, theirs: Tensor) -> None:
    """All but a few: ties of the nearest pixel, levels one apart before an `equalize`."""
    assert (ours != theirs).float().mean() <= 2e-3


# operations and strengths


@pytest.mark.parametrize(
    ("space", "theirs"), [(RAND_SPACE, T.RandAugment), (TRIVIAL_SPACE, T.TrivialAugmentWide)]
)
@pytest.mark.parametrize("num_bins", [2, 11, 31])
def test_operations_and_magnitudes_are_torchvisions(space, theirs, num_bins):
    assert tuple(theirs._AUGMENTATION_SPACE) == NAMES
    table = magnitudes(space, num_bins, 32, 331, CPU)
    for op, (name, (bins_of, _)) in enumerate(theirs._AUGMENTATION_SPACE.items()):
        bins = bins_of(num_bins, 32, 331)
        expected = torch.zeros(num_bins) if bins is None else bins.float()
        ours = table[op].round() if name == "Posterize" else table[op]
        assert torch.equal(ours, expected), name


def test_the_operations_that_go_both_ways_are_torchvisions():
    ops, strengths = RandAugment().drawn(keys_of(4000), 32, 32)
    for op, (name, (_, signed)) in enumerate(T.RandAugment._AUGMENTATION_SPACE.items()):
        drawn = strengths[ops == op]
        share = 0.5 if signed else 0.0
        assert stats.binomtest(int((drawn < 0).sum()), len(drawn), share).pvalue > 1e-3, name


@pytest.mark.parametrize("channels", [1, 3])
def test_randaugment_is_torchvisions_operations_in_sequence(channels):
    policy, images, keys = RandAugment(num_ops=3), images_of(200, channels), keys_of(200)
    ours = policy(images, keys)
    ops, strengths = (part.tolist() for part in policy.drawn(keys, 24, 32))
    replayed = []
    for image, sequence in zip(images, zip(ops, strengths, strict=True), strict=True):
        for op, strength in zip(*sequence, strict=True):
            image = torchvision_applies(image, op, strength)
        replayed.append(image)
    assert_nearly_equal(ours, torch.stack(replayed))


@pytest.mark.parametrize("channels", [1, 3])
def test_trivialaugment_is_the_operation_of_torchvision_that_was_drawn(channels):
    policy, images, keys = TrivialAugment(), images_of(200, channels), keys_of(200)
    ops, strengths = (part.tolist() for part in policy.drawn(keys, 24, 32))
    replayed = [torchvision_applies(*drawn) for drawn in zip(images, ops, strengths, strict=True)]
    assert_nearly_equal(policy(images, keys), torch.stack(replayed))


def test_each_sample_gets_the_operation_and_strength_it_drew():
    images = torch.zeros(5, 1, 1, 1, dtype=torch.uint8)
    add: list[Callable] = [
        lambda images, strength: images + strength.view(-1, 1, 1, 1).to(torch.uint8),
        lambda images, strength: images + 100,
        lambda images, strength: pytest.fail("no sample drew this one"),
    ]
    drawn = torch.tensor([1, 0, 0, 1, 0])
    result = apply_drawn(images, drawn, torch.arange(5.0), add)
    assert result.flatten().tolist() == [100, 1, 2, 100, 4]


# draws


def test_each_operation_is_drawn_equally_often_in_each_place():
    ops, _ = RandAugment(num_ops=20).drawn(keys_of(2000), 32, 32)
    pvalues = [stats.chisquare(place.bincount(minlength=14)).pvalue for place in ops.unbind(1)]
    assert stats.kstest(pvalues, "uniform").pvalue > 1e-3


def test_the_operations_of_one_sample_are_independent():
    ops, _ = RandAugment().drawn(keys_of(20_000), 32, 32)
    pairs = (ops[:, 0] * 14 + ops[:, 1]).bincount(minlength=196)
    assert stats.chisquare(pairs).pvalue > 1e-3


def test_trivialaugment_draws_each_operation_and_each_bin_equally_often():
    ops, strengths = TrivialAugment().drawn(keys_of(40_000), 32, 32)
    assert stats.chisquare(ops.bincount(minlength=14)).pvalue > 1e-3
    solarize = strengths[ops == NAMES.index("Solarize")]
    bins = ((1 - solarize) * 30).round().long().bincount(minlength=31)
    assert len(bins) == 31
    assert stats.chisquare(bins).pvalue > 1e-3


def test_without_noise_every_rotation_is_of_one_angle():
    ops, strengths = RandAugment(magnitude=10).drawn(keys_of(2000), 32, 32)
    angles = strengths[ops == NAMES.index("Rotate")]
    assert set(angles.tolist()) == {-10.0, 10.0}


def test_noise_on_the_magnitude_is_normal_with_the_asked_deviation():
    policy = RandAugment(num_ops=20, magnitude=15, magnitude_std=2.5)
    ops, strengths = policy.drawn(keys_of(5000), 32, 32)
    magnitude = strengths[ops == NAMES.index("Rotate")].abs()  # one degree a bin
    assert stats.kstest(magnitude, stats.norm(15, 2.5).cdf).pvalue > 1e-3


def test_noise_never_leaves_the_scale():
    ops, strengths = RandAugment(magnitude=25, magnitude_std=20.0).drawn(keys_of(5000), 32, 32)
    angles = strengths[ops == NAMES.index("Rotate")].abs()
    assert angles.min() == 0
    assert angles.max() == 30
    bits = strengths[ops == NAMES.index("Posterize")]
    assert set(bits.tolist()) == {4.0, 5.0, 6.0, 7.0, 8.0}


@pytest.mark.parametrize("operations", ["torchvision", "timm", "big_vision"])
def test_each_operation_is_applied_with_the_probability(operations):
    policy = RandAugment(num_ops=20, operations=operations, probability=0.3)
    ops, _ = policy.drawn(keys_of(2000), 32, 32)
    count = len(SPACES[operations])
    expected = torch.tensor([0.3 / count] * count + [0.7]) * ops.numel()
    assert stats.chisquare(ops.flatten().bincount(minlength=count + 1), expected).pvalue > 1e-3


def test_what_is_applied_does_not_depend_on_the_probability_of_applying_it():
    always, sometimes = (RandAugment(probability=p).drawn(keys_of(500), 32, 32) for p in (1, 0.5))
    applied = sometimes[0] < len(NAMES)
    assert torch.equal(always[0][applied], sometimes[0][applied])
    assert torch.equal(always[1], sometimes[1])


def test_what_an_operation_leaves_blank_is_filled():
    white = torch.full((400, 3, 24, 32), 255, dtype=torch.uint8)
    policy = RandAugment(num_ops=1, magnitude=30, fill=[0.2, 0.4, 0.6])
    ops, _ = policy.drawn(keys_of(400), 24, 32)
    turned = policy(white, keys_of(400))[ops[:, 0] == NAMES.index("Rotate")]
    assert turned[:, :, 0, 0].unique(dim=0).tolist() == [[51, 102, 153]]
    assert turned[:, :, 12, 16].unique().tolist() == [255]


def test_the_draws_of_a_sample_are_those_of_runs_that_have_begun():
    ops, strengths = RandAugment(3, 20, 4.0).drawn(keys_of(4), 32, 32)
    assert ops.tolist() == [[1, 0, 1], [9, 5, 12], [9, 1, 5], [8, 13, 9]]
    expected = [
        [0.1704, 0, 0.2012],
        [-0.6541, 24.2939, 0],
        [0.6360, -0.1717, -12.5583],
        [0.9, 0, 0.6762],
    ]
    assert torch.allclose(strengths, torch.tensor(expected), atol=1e-4)


# 3-Augment


def test_threeaugment_is_one_of_three_and_then_colour_jitter():
    policy, images, keys = ThreeAugment(jitter=0.3), images_of(60), keys_of(60)
    ops, sigmas = policy.drawn(keys)
    replayed = []
    for image, op, sigma in zip(images, ops.tolist(), sigmas.tolist(), strict=True):
        replayed.append(
            {
                "Grayscale": lambda image, _: TF.rgb_to_grayscale(image, 3),
                "Solarize": lambda image, _: TF.solarize(image, 128),
                "GaussianBlur": lambda image, sigma: TF.gaussian_blur(image, [13, 13], [sigma]),
            }[tuple(THREE_OPERATIONS)[op]](image, sigma)
        )
    jittered = colour_jitter(torch.stack(replayed), keys, FIRST_DRAW + JITTER, 0.3, 0.3, 0.3, 0.0)
    assert_nearly_equal(policy(images, keys), jittered)


def test_threeaugment_draws_its_operations_equally_often_and_sigma_uniformly():
    ops, sigmas = ThreeAugment().drawn(keys_of(10_000))
    assert stats.chisquare(ops.bincount(minlength=3)).pvalue > 1e-3
    assert stats.kstest(sigmas, stats.uniform(0.1, 1.9).cdf).pvalue > 1e-3


# all policies


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_sample_is_augmented_the_same_in_any_batch_and_order(policy, channels):
    images, keys = images_of(64, channels), keys_of(64)
    before, together = images.clone(), policy(images, keys)
    assert torch.equal(images, before)
    assert together.dtype == torch.uint8
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(policy(images[order], keys[order]), together[order])
    for start, stop in [(0, 1), (1, 8), (8, 64)]:
        assert torch.equal(policy(images[start:stop], keys[start:stop]), together[start:stop])


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@pytest.mark.parametrize("size", [(1, 1), (2, 5), (64, 3)])
def test_policies_keep_the_shape_of_small_and_odd_images(policy, size):
    images = images_of(40, 3, *size)
    assert policy(images, keys_of(40)).shape == images.shape


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_images_of_two_channels_are_refused(policy):
    with pytest.raises(ConfigError, match="1 or 3 channels, these have 2"):
        policy(images_of(4, 2), keys_of(4))


@pytest.mark.parametrize(
    ("policy", "options", "said"),
    [
        (RandAugment, {"num_ops": 0}, "augment.policy.num_ops 0 is outside 1 to 20"),
        (RandAugment, {"num_ops": 21}, "augment.policy.num_ops 21 is outside 1 to 20"),
        (RandAugment, {"magnitude": 31}, "augment.policy.magnitude 31 is outside 0 to 30"),
        (RandAugment, {"magnitude": -1}, "augment.policy.magnitude -1 is outside 0 to 30"),
        (RandAugment, {"magnitude_std": -0.5}, "augment.policy.magnitude_std -0.5"),
        (RandAugment, {"magnitude_std": float("nan")}, "augment.policy.magnitude_std nan"),
        (RandAugment, {"num_bins": 1}, "augment.policy.num_bins 1"),
        (
            RandAugment,
            {"operations": "tim"},
            "operations 'tim' is not one of: torchvision, timm, big",
        ),
        (RandAugment, {"operations": ["Rotate"]}, "is not one of: torchvision, timm, big_vision"),
        (
            RandAugment,
            {"operations": "timm", "magnitude": 27},
            "27 is outside 0 to 10, timm's scale",
        ),
        (
            RandAugment,
            {"operations": "timm", "num_bins": 11},
            "num_bins 11 is for operations=torch",
        ),
        (RandAugment, {"probability": 1.5}, "augment.policy.probability 1.5 is outside 0 to 1"),
        (RandAugment, {"probability": float("nan")}, "augment.policy.probability nan"),
        (RandAugment, {"fill": 128}, "augment.policy.fill 128 is not a share of white"),
        (RandAugment, {"fill": [0.5, 0.5]}, "augment.policy.fill"),
        (RandAugment, {"fill": "black"}, "augment.policy.fill black"),
        (TrivialAugment, {"num_bins": 0}, "augment.policy.num_bins 0"),
        (ThreeAugment, {"jitter": -0.3}, "augment.policy.jitter -0.3"),
        (ThreeAugment, {"jitter": float("inf")}, "augment.policy.jitter inf"),
    ],
)
def test_an_option_outside_its_range_is_named(policy, options, said):
    with pytest.raises(ValueError, match=said):
        policy(**options)


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("randaugment", RandAugment()),
        ("trivial", TrivialAugment()),
        ("three_augment", ThreeAugment()),
    ],
)
def test_the_config_of_a_policy_spells_out_its_defaults(name, policy):
    options = dict(OmegaConf.load(CONFIGS / f"{name}.yaml").policy)
    assert options.pop("_target_") == f"vitfw.data.augment.batch_policy.{type(policy).__name__}"
    assert options == vars(policy)
