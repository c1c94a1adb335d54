"""The whole augmentation of a batch: its order, what it keeps, what it refuses."""

import dataclasses

import pytest
import torch
import torchvision.transforms.v2.functional as TF
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from vitfw.data.augment.batch_augment import JITTER, BatchAugment
from vitfw.data.augment.batch_crop import moved, resized_crop
from vitfw.data.augment.batch_erase import cutout
from vitfw.data.augment.batch_ops import colour_jitter
from vitfw.data.counter_rng import sample_keys

STEPS = {
    "shift": BatchAugment(shift=2),
    "crop": BatchAugment(crop_scale=(0.3, 1.0)),
    "translate": BatchAugment(translate=0.2),
    "hflip": BatchAugment(hflip=0.5),
    "vflip": BatchAugment(vflip=0.5),
    "jitter": BatchAugment(jitter=(0.4, 0.4, 0.4, 0.1)),
    "grayscale": BatchAugment(grayscale=0.5),
    "cutout": BatchAugment(cutout=4),
    "erase": BatchAugment(erase=1.0),
    "noise": BatchAugment(erase=1.0, erase_mode="pixel"),
    "colour": BatchAugment(erase=1.0, erase_mode="colour"),
}
EVERYTHING = BatchAugment(
    shift=2,
    crop_scale=(0.3, 1.0),
    translate=0.1,
    hflip=0.5,
    vflip=0.5,
    policy=lambda images, keys: images ^ (keys & 1).to(torch.uint8)[:, None, None, None],
    jitter=0.4,
    grayscale=0.2,
    cutout=3,
    erase=0.5,
    erase_mode="pixel",
)


def keys_of(count: int, epoch: int = 0) -> torch.Tensor:
    return sample_keys(0, epoch, torch.arange(count))


def random_images(count: int, channels: int = 3, height: int = 12, width: int = 10):
    generator = torch.Generator().manual_seed(count)
    shape = (count, channels, height, width)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def through(augment: BatchAugment, images: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Both halves, with the simplest normalisation between them."""
    return augment.after_normalise(augment(images, keys).float() - 128.0, keys)


def test_with_everything_off_the_images_are_returned_as_they_are():
    images, floats = random_images(4), torch.randn(4, 3, 5, 5)
    assert BatchAugment()(images, keys_of(4)) is images
    assert BatchAugment().after_normalise(floats, keys_of(4)) is floats


def test_the_steps_are_taken_in_the_order_of_the_docstring():
    images, keys = random_images(30), keys_of(30)
    seen = []

    def policy(images: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        seen.append(images)
        return TF.invert(images)

    augment = dataclasses.replace(EVERYTHING, policy=policy, grayscale=0.0)
    result = augment(images, keys)
    expected = resized_crop(images, keys, (0.3, 1.0), (3 / 4, 4 / 3))
    expected = moved(expected, keys, shift=2)
    expected = moved(expected, keys, translate=0.1)
    expected = moved(moved(expected, keys, hflip=0.5), keys, vflip=0.5)
    assert torch.equal(seen[0], expected)
    expected = colour_jitter(TF.invert(expected), keys, JITTER, 0.4, 0.4, 0.4, 0.0)
    assert torch.equal(result, cutout(expected, keys, 3))


@pytest.mark.parametrize("augment", [*STEPS.values(), EVERYTHING], ids=[*STEPS, "everything"])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_happens_to_a_sample_does_not_depend_on_its_batch_or_place(augment, channels):
    images, keys = random_images(17, channels), keys_of(17)
    together = through(augment, images, keys)
    order = torch.randperm(17, generator=torch.Generator().manual_seed(0))
    assert torch.equal(through(augment, images[order], keys[order]), together[order])
    alone = [through(augment, images[i : i + 1], keys[i : i + 1]) for i in range(17)]
    assert torch.equal(torch.cat(alone), together)


def test_a_fixed_seed_gives_fixed_bytes():
    first, second = (through(EVERYTHING, random_images(9), keys_of(9)) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", sorted(STEPS.keys() - {"hflip", "vflip", "grayscale"}))
def test_the_next_epoch_augments_the_samples_differently(name):
    images = random_images(16)
    first, second = (through(STEPS[name], images, keys_of(16, epoch)) for epoch in (0, 1))
    assert (first != second).any(dim=(1, 2, 3)).sum() > 10


@pytest.mark.parametrize("augment", [*STEPS.values(), EVERYTHING], ids=[*STEPS, "everything"])
def test_images_of_the_batch_are_not_written_to(augment):
    images = random_images(8)
    before = images.clone()
    augment(images, keys_of(8))
    assert torch.equal(images, before)


@pytest.mark.parametrize("probability", [0.2, 1.0])
def test_a_share_of_the_images_is_torchvisions_greyscale_and_the_others_are_untouched(probability):
    images = random_images(2000, height=2, width=2)
    result = BatchAugment(grayscale=probability)(images, keys_of(2000))
    changed = (result != images).any(dim=(1, 2, 3))
    assert torch.equal(result[changed], TF.rgb_to_grayscale(images, 3)[changed])
    assert stats.binomtest(int(changed.sum()), 2000, probability).pvalue > 1e-3


def test_one_number_of_jitter_is_brightness_contrast_and_saturation():
    images, keys = random_images(8), keys_of(8)
    spelt_out = BatchAugment(jitter=(0.3, 0.3, 0.3, 0.0))
    assert torch.equal(BatchAugment(jitter=0.3)(images, keys), spelt_out(images, keys))
    assert not torch.equal(BatchAugment(jitter=(0, 0, 0, 0.3))(images, keys), images)


def test_without_crop_only_the_crop_is_left_out():
    images, keys = random_images(8), keys_of(8)
    less = EVERYTHING.without_crop()
    assert less == dataclasses.replace(EVERYTHING, crop_scale=None)
    crop = STEPS["crop"]
    assert torch.equal(less(crop(images, keys), keys), EVERYTHING(images, keys))


def test_ranges_may_be_lists_as_yaml_has_them():
    images, keys = random_images(4), keys_of(4)
    listed = BatchAugment(crop_scale=[0.3, 1.0], crop_ratio=[0.75, 4 / 3], jitter=[0.1, 0.2, 0.3])
    tuples = BatchAugment(crop_scale=(0.3, 1.0), jitter=(0.1, 0.2, 0.3))
    assert torch.equal(listed(images, keys), tuples(images, keys))


def test_floats_are_refused():
    with pytest.raises(TypeError, match="uint8"):
        BatchAugment(shift=1)(torch.rand(2, 3, 8, 8), keys_of(2))


SHARES = st.sampled_from([0.0, 0.3, 1.0])
RANGES = st.sampled_from([(0.02, 0.3), (0.4, 0.4), (0.9, 1.0)])


@settings(max_examples=60, deadline=None)
@given(
    augment=st.builds(
        BatchAugment,
        shift=st.integers(0, 12),
        crop_scale=st.none() | RANGES,
        translate=SHARES,
        hflip=SHARES,
        vflip=SHARES,
        jitter=st.sampled_from([0.0, 0.5, (0.1, 0.2, 0.3), (0.5, 0.5, 0.5, 0.5)]),
        grayscale=SHARES,
        cutout=st.integers(0, 20),
        erase=SHARES,
        erase_scale=RANGES,
        erase_mode=st.sampled_from(["constant", "pixel", "colour"]),
    ),
    shape=st.tuples(
        st.integers(1, 5), st.sampled_from([1, 3]), st.integers(1, 9), st.integers(1, 9)
    ),
)
def test_any_options_keep_shape_and_type_and_give_finite_values(augment, shape):
    images, keys = random_images(*shape), keys_of(shape[0])
    result = augment(images, keys)
    assert result.shape == images.shape and result.dtype == torch.uint8
    floats = augment.after_normalise(result.float(), keys)
    assert floats.shape == images.shape and floats.dtype == torch.float32
    assert floats.isfinite().all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"shift": -1},
        {"shift": 1.5},
        {"cutout": -2},
        {"repeats": 0},
        {"translate": 1.1},
        {"hflip": 1.5},
        {"hflip": -0.1},
        {"hflip": True},
        {"vflip": "often"},
        {"grayscale": None},
        {"erase": 2},
        {"erase": float("nan")},
        {"crop_scale": (0.0, 1.0)},
        {"crop_scale": (0.5, 0.3)},
        {"crop_scale": (0.5, 1.1)},
        {"crop_scale": 0.5},
        {"crop_scale": (0.1, 0.5, 1.0)},
        {"crop_ratio": (0.0, 1.0)},
        {"crop_ratio": (4 / 3, 3 / 4)},
        {"crop_ratio": (1.0, float("inf"))},
        {"crop_ratio": None},
        {"erase_scale": (0.5, 1.5)},
        {"erase_ratio": (-1.0, 1.0)},
        {"erase_mode": "const"},
        {"jitter": -0.1},
        {"jitter": (0.1, 0.1)},
        {"jitter": (0.1, 0.1, 0.1, 0.6)},
        {"jitter": "strong"},
        {"policy": "randaugment"},
        {"per_image": "blur"},
        {"per_image": [3]},
    ],
    ids=str,
)
def test_a_wrong_value_is_refused_by_the_option_s_name(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=rf"augment\.{name} "):
        BatchAugment(**wrong)
