"""RandAugment of timm's and of big_vision's: beside timm's functions and big_vision's source."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from timm.data import auto_augment
from torch import Tensor

from vitfw.data.augment.batch_policy import RandAugment
from vitfw.data.augment.batch_spaces import (
    SPACES,
    contrast_of_big_vision,
    cutout,
    fill_levels,
    operations_of,
    solarize,
    strengths_at,
)
from vitfw.data.counter_rng import sample_keys

PUBLISHED = "rand-m9-mstd0.5-inc1"
TIMM = tuple(SPACES["timm"])
CPU = torch.device("cpu")
GREY = (128 / 255,)
MOVES = ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")
# google-research/big_vision, big_vision/pp/autoaugment.py: `available_ops` of
# `distort_image_with_randaugment` in their order, and what `level_to_arg` gives for them at levels
# 10 and 5 with its cutout_const=40 and translate_const=100. ±: half of them are negated.
BIG_VISION = {
    "AutoContrast": (0, 0, ""),
    "Equalize": (0, 0, ""),
    "Invert": (0, 0, ""),
    "Rotate": (30, 15, "±"),
    "Posterize": (4, 2, ""),
    "Solarize": (256, 128, ""),
    "Color": (1.9, 1.0, ""),
    "Contrast": (1.9, 1.0, ""),
    "Brightness": (1.9, 1.0, ""),
    "Sharpness": (1.9, 1.0, ""),
    "ShearX": (0.3, 0.15, "±"),
    "ShearY": (0.3, 0.15, "±"),
    "TranslateX": (100, 50, "±"),
    "TranslateY": (100, 50, "±"),
    "Cutout": (40, 20, ""),
    "SolarizeAdd": (110, 55, ""),
}


def keys_of(count: int) -> Tensor:
    return sample_keys(0, 0, torch.arange(count))


def noise(count: int, channels: int = 3, height: int = 24, width: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(channels)
    shape = (count, channels, height, width)
    return torch.randint(20, 230, shape, dtype=torch.uint8, generator=generator)


def picture_of(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).squeeze(2).numpy())


def pixels_of(picture: Image.Image) -> Tensor:
    array = torch.from_numpy(np.array(picture))
    return array[None] if array.dim() == 2 else array.permute(2, 0, 1)


def strength(space: str, name: str, level: float, negative: bool) -> Tensor:
    op = torch.tensor([list(SPACES[space]).index(name)])
    return strengths_at(space, op, torch.tensor([float(level)]), torch.tensor([negative]))


def applied(space: str, name: str, images: Tensor, strength: Tensor) -> Tensor:
    operation = operations_of(space, fill_levels(GREY, images.shape[1], CPU))[
        list(SPACES[space]).index(name)
    ]
    return operation(images, strength.expand(len(images)), torch.zeros(len(images), 2))


@pytest.fixture(params=[False, True], ids=["positive", "negative"])
def negative(request, monkeypatch) -> bool:
    """Whether strengths that go both ways are negated, in timm's code, too."""
    sign = -1 if request.param else 1
    monkeypatch.setattr(auto_augment, "_randomly_negate", lambda value: sign * value)
    return request.param


@pytest.fixture
def no_bits_are_black(monkeypatch) -> None:
    """timm keeps 0 bits at level 10, which Pillow 13 refuses and gave black for before."""
    monkeypatch.setattr(
        auto_augment.ImageOps,
        "posterize",
        lambda image, bits: image.point(lambda level: int(level) & -(2 ** (8 - bits))),
    )


# timm


def test_the_operations_are_those_of_timms_policy():
    theirs = auto_augment.rand_augment_transform(PUBLISHED, {})
    assert tuple(operation.name for operation in theirs.ops) == TIMM


@pytest.mark.parametrize("name", TIMM)
def test_strengths_are_timms_at_every_level(name, negative):
    for level in np.arange(0, 10.01, 0.25).tolist():
        level_to_arg = auto_augment.LEVEL_TO_ARG[name]
        (expected,) = level_to_arg(level, {}) if level_to_arg else (0,)
        ours = strength("timm", name, level, negative).item()
        assert ours == (
            expected if isinstance(expected, int) else pytest.approx(expected, abs=1e-5)
        )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", TIMM)
def test_operations_are_timms_with_the_nearest_pixel(name, channels, negative, no_bits_are_black):
    """Levels may differ by one, where luma is rounded otherwise; pixels at ties of the nearest."""
    images = noise(8, channels)
    level_to_arg = auto_augment.LEVEL_TO_ARG[name]
    nearest = {"fillcolor": (128,) * channels, "resample": Image.Resampling.NEAREST}
    for level in (0, 1, 4.5, 9, 10):
        arguments = level_to_arg(level, {}) if level_to_arg else ()
        theirs = torch.stack(
            [
                pixels_of(auto_augment.NAME_TO_OP[name](picture_of(image), *arguments, **nearest))
                for image in images
            ]
        )
        ours = applied("timm", name, images, strength("timm", name, level, negative))
        if name in MOVES:
            assert (ours != theirs).float().mean() <= 2e-3, level
        else:
            assert (ours.int() - theirs.int()).abs().max() <= 1, level


def test_a_quarter_of_the_images_is_left_alone_by_ours_and_by_timms(monkeypatch, no_bits_are_black):
    random = np.random.default_rng(0)
    monkeypatch.setattr(np.random, "choice", random.choice)
    monkeypatch.setattr(auto_augment.random, "random", random.random)
    monkeypatch.setattr(auto_augment.random, "gauss", random.normal)
    images = noise(1000, 3, 16, 16)
    policy = RandAugment(2, 9, 0.5, operations="timm", probability=0.5)
    transform = auto_augment.rand_augment_transform(PUBLISHED, {})
    theirs = torch.stack([pixels_of(transform(picture_of(image))) for image in images])
    alone = [
        int((changed == images).all((1, 2, 3)).sum())
        for changed in (policy(images, keys_of(1000)), theirs)
    ]
    assert [stats.binomtest(count, 1000, 0.25).pvalue > 1e-3 for count in alone] == [True, True]


def test_an_operation_is_as_strong_on_average_as_timms(monkeypatch):
    """The magnitude's noise and its cut at 10, by the angle of rotations."""
    random = np.random.default_rng(0)
    monkeypatch.setattr(auto_augment.random, "random", random.random)
    monkeypatch.setattr(auto_augment.random, "gauss", random.normal)
    theirs = auto_augment.rand_augment_transform(PUBLISHED, {})
    (rotate,) = (operation for operation in theirs.ops if operation.name == "Rotate")
    angles = []
    monkeypatch.setattr(rotate, "aug_fn", lambda image, angle, **_: angles.append(angle))
    for _ in range(4000):
        rotate(None)
    policy = RandAugment(2, 9, 0.5, operations="timm", probability=0.5)
    ops, strengths = policy.drawn(keys_of(20_000), 24, 32)
    assert stats.ks_2samp(strengths[ops == TIMM.index("Rotate")], angles).pvalue > 1e-3


# big_vision


def test_operations_and_strengths_are_big_visions():
    assert list(SPACES["big_vision"]) == list(BIG_VISION)
    for name, (at_10, at_5, sign) in BIG_VISION.items():
        for level, expected in ((10, at_10), (5, at_5)):
            assert strength("big_vision", name, level, False).item() == pytest.approx(expected)
            negated = -expected if sign else expected
            assert strength("big_vision", name, level, True).item() == pytest.approx(negated)


def test_solarizing_from_256_on_changes_nothing():
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(3, 1, 1, 1)
    none, white, all_levels = solarize(images, torch.tensor([256.0, 255.0, 0.0]))
    assert torch.equal(none, images[0])
    assert (white != images[0]).sum() == 1
    assert torch.equal(all_levels, 255 - images[0])


def test_a_translation_of_big_visions_is_by_100_pixels_before_grey():
    images = noise(2, 3, 120, 140)
    moved = applied("big_vision", "TranslateX", images, torch.tensor([100.0]))
    assert torch.equal(moved[..., :40], images[..., 100:])
    assert (moved[..., 40:] == 128).all()
    moved = applied("big_vision", "TranslateY", images, torch.tensor([-100.0]))
    assert torch.equal(moved[:, :, 100:], images[:, :, :20])
    assert (moved[:, :, :100] == 128).all()


def test_cutout_is_a_square_of_twice_its_strength_cut_at_the_edges():
    """By big_vision's paddings: what stays above, below, left and right of the square."""
    height, width, reach = 30, 50, 7
    centres = torch.tensor([[0, 0], [29, 49], [3, 25], [15, 20], [29, 0]])
    places = (centres + 0.5) / torch.tensor([height, width])
    images = torch.full((5, 3, height, width), 200, dtype=torch.uint8)
    ours = cutout(images, torch.full((5,), float(reach)), places)
    for image, (y, x) in zip(ours, centres.tolist(), strict=True):
        above, below = max(0, y - reach), max(0, height - y - reach)
        left, right = max(0, x - reach), max(0, width - x - reach)
        expected = torch.full_like(image, 200)
        expected[:, above : height - below, left : width - right] = 0
        assert torch.equal(image, expected)


def test_cutouts_are_grey_and_anywhere():
    images = torch.full((6000, 1, 40, 40), 255, dtype=torch.uint8)
    policy = RandAugment(1, 1, operations="big_vision")  # squares of 8
    ops, _ = policy.drawn(keys_of(6000), 40, 40)
    cut = policy(images, keys_of(6000))[ops[:, 0] == list(BIG_VISION).index("Cutout"), 0] == 128
    for rows in (cut.any(dim=1), cut.any(dim=2)):  # [cutouts, 40]
        inside = rows[(rows[:, 0] | rows[:, -1]).logical_not()]
        first = inside.int().argmax(dim=1)
        assert (inside.sum(dim=1) == 8).all()
        assert stats.chisquare((first - 1).bincount(minlength=31)).pvalue > 1e-3


def test_contrast_of_big_visions_is_away_from_the_number_of_pixels_by_256():
    """196 for 224 × 224, where the mean luma is meant; blended and cut as `blend` of its source."""
    images = noise(2, 3, 224, 224)
    away = 196 + np.float32(1.9) * (images.numpy().astype(np.float32) - 196)
    expected = torch.from_numpy(away.clip(0, 255).astype(np.uint8))
    ours = contrast_of_big_vision(images, torch.tensor([1.9, 1.9]))
    assert (ours.int() - expected.int()).abs().max() <= 1
    assert (ours != expected).float().mean() < 1e-3
