"""Batch augmentation, sample by sample, against torchvision and PIL."""

import math

import pytest
import torch
import torchvision.transforms.v2.functional as TF
from PIL import Image
from scipy import stats
from torchvision.transforms import InterpolationMode

from vitfw.data import batch_augment
from vitfw.data.batch_augment import (
    FLIP,
    SHIFT_X,
    SHIFT_Y,
    BatchAugment,
    crop_boxes,
    erase_rectangle,
    resized_crop,
    shift_crop,
)
from vitfw.data.counter_rng import randint, sample_keys, uniform

MEAN = torch.tensor([0.3, 0.5, 0.7])
EVERYTHING = BatchAugment(shift=2, crop_scale=(0.3, 1.0), hflip=0.5, erase=0.5)


def keys_of(count: int, epoch: int = 0) -> torch.Tensor:
    return sample_keys(0, epoch, torch.arange(count))


def random_images(count: int, height: int = 12, width: int = 10) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.rand(count, 3, height, width, generator=generator)


# shift


@pytest.mark.parametrize("pad", [1, 3])
def test_a_shift_is_torchvisions_pad_and_crop_at_the_same_offsets(pad):
    images, keys = random_images(20), keys_of(20)
    tops, lefts = (randint(keys, draw, 2 * pad + 1).tolist() for draw in (SHIFT_Y, SHIFT_X))
    expected = torch.stack(
        [
            TF.crop(TF.pad(image, [pad]), top, left, *image.shape[-2:])
            for image, top, left in zip(images, tops, lefts, strict=True)
        ]
    )
    assert torch.equal(shift_crop(images, keys, pad), expected)


def test_a_shift_reaches_every_offset_in_both_directions_equally_often():
    images = torch.zeros(9000, 1, 5, 5)
    images[:, :, 2, 2] = 1.0
    shifted = shift_crop(images, keys_of(9000), 1)
    where = shifted.sum(dim=(0, 1))
    assert where[1:4, 1:4].sum() == 9000
    assert stats.chisquare(where[1:4, 1:4].flatten().numpy()).pvalue > 1e-3


# random resized crop


def test_a_resized_crop_is_pils_bilinear_resize_of_the_same_box():
    # PIL's bilinear filter, stretching a box with sides of any fraction, reads past the box but
    # not past the image, as `grid_sample` with border padding does; and no crop is shrunk.
    images, keys = random_images(40), keys_of(40)
    height, width = images.shape[-2:]
    boxes = torch.stack(crop_boxes(keys, (0.08, 1.0), (3 / 4, 4 / 3)), dim=1).double().tolist()
    ours = resized_crop(images, keys, (0.08, 1.0), (3 / 4, 4 / 3))
    for image, result, (top, left, box_height, box_width) in zip(images, ours, boxes, strict=True):
        box = (
            left * width,
            top * height,
            min((left + box_width) * width, width),
            min((top + box_height) * height, height),
        )
        for channel in range(3):
            picture = Image.fromarray(image[channel].numpy())
            theirs = picture.resize((width, height), Image.Resampling.BILINEAR, box=box)
            expected = TF.pil_to_tensor(theirs)[0]
            torch.testing.assert_close(result[channel], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("box", [(0, 0, 6, 5), (2, 1, 8, 7), (6, 5, 6, 5), (0, 0, 12, 10)])
def test_a_resized_crop_is_torchvisions_where_that_does_not_look_past_its_crop(monkeypatch, box):
    # torchvision cuts whole pixels first, so the outermost half pixel of its crop repeats the
    # crop's edge; ours sees the image beyond. Inside, the definitions coincide.
    images = random_images(4)
    height, width = images.shape[-2:]
    top, left, box_height, box_width = box
    shares = (top / height, left / width, box_height / height, box_width / width)
    monkeypatch.setattr(
        batch_augment, "crop_boxes", lambda *_: tuple(torch.full((4,), s) for s in shares)
    )
    ours = resized_crop(images, keys_of(4), (0.1, 1.0), (0.5, 2.0))
    theirs = TF.resized_crop(
        images, *box, [height, width], InterpolationMode.BILINEAR, antialias=False
    )
    edge_y, edge_x = math.ceil(height / box_height / 2), math.ceil(width / box_width / 2)
    inside = (..., slice(edge_y, height - edge_y), slice(edge_x, width - edge_x))
    torch.testing.assert_close(ours[inside], theirs[inside], atol=1e-5, rtol=0)


def test_crop_boxes_lie_inside_the_image():
    top, left, height, width = crop_boxes(keys_of(100_000), (0.05, 1.0), (0.5, 2.0))
    for start, side in ((top, height), (left, width)):
        assert start.min() >= 0
        assert side.min() > 0
        assert (start.double() + side.double()).max() <= 1


def test_area_is_uniform_and_aspect_log_uniform_where_no_side_is_cut():
    # With areas up to 0.5 and aspects up to 4/3 no side can reach 1.
    _, _, height, width = crop_boxes(keys_of(50_000), (0.1, 0.5), (3 / 4, 4 / 3))
    area, aspect = (height * width).numpy(), (width / height).log().numpy()
    assert stats.kstest(area, stats.uniform(0.1, 0.4).cdf).pvalue > 1e-3
    widest = math.log(4 / 3)
    assert stats.kstest(aspect, stats.uniform(-widest, 2 * widest).cdf).pvalue > 1e-3


def test_a_side_that_would_not_fit_is_cut_and_the_area_never_exceeds_the_range():
    _, _, height, width = crop_boxes(keys_of(50_000), (0.9, 0.95), (0.5, 2.0))
    assert max(height.max(), width.max()) == 1.0
    assert (height * width).max() <= 0.95 + 1e-6


def test_a_crop_of_the_whole_image_is_the_image():
    images = random_images(8)
    whole = resized_crop(images, keys_of(8), (1.0, 1.0), (1.0, 1.0))
    torch.testing.assert_close(whole, images, atol=1e-5, rtol=0)


# mirror images


def test_mirrored_images_are_exact_and_the_others_untouched():
    images, keys = random_images(50), keys_of(50)
    flipped = uniform(keys, FLIP) < 0.5
    result = BatchAugment(hflip=0.5)(images, keys, MEAN)
    assert 0 < flipped.sum() < 50
    assert torch.equal(result[flipped], TF.horizontal_flip(images[flipped]))
    assert torch.equal(result[~flipped], images[~flipped])


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_as_many_images_are_mirrored_as_asked_for(probability):
    images = torch.tensor([0.0, 1.0]).expand(10_000, 1, 1, 2)
    result = BatchAugment(hflip=probability)(images, keys_of(10_000), MEAN[:1])
    mirrored = int(result[:, 0, 0, 0].sum())
    assert stats.binomtest(mirrored, 10_000, probability).pvalue > 1e-3


def test_probability_1_mirrors_every_image():
    images = random_images(30)
    result = BatchAugment(hflip=1.0)(images, keys_of(30), MEAN)
    assert torch.equal(result, images.flip(-1))


# erasing


def erased_masks(count: int, probability: float, side: int) -> torch.Tensor:
    images = torch.ones(count, 1, side, side)
    return erase_rectangle(images, keys_of(count), probability, torch.zeros(1))[:, 0] == 0


def test_as_many_images_are_erased_as_asked_for():
    chosen = int(erased_masks(4000, 0.25, 16).any(dim=(1, 2)).sum())
    assert stats.binomtest(chosen, 4000, 0.25).pvalue > 1e-3


def test_what_is_erased_is_one_rectangle_of_2_to_33_percent_of_the_area():
    masks = erased_masks(500, 1.0, 64)
    for mask in masks:
        rows, columns = mask.any(dim=1), mask.any(dim=0)
        assert torch.equal(mask, rows[:, None] & columns[None, :])
        for side in (rows, columns):
            places = side.nonzero()[:, 0]
            assert places[-1] - places[0] + 1 == len(places)  # without a gap
    share = masks.float().mean(dim=(1, 2))
    assert 0.015 < share.min() < 0.03  # whole pixels round a little
    assert 0.31 < share.max() < 0.35
    expected = (0.02 + 1 / 3) / 2
    deviation = (1 / 3 - 0.02) / 12**0.5 / 500**0.5
    assert abs(share.mean() - expected) < 4 * deviation


def test_the_erased_rectangle_is_filled_with_the_mean_and_nothing_else_changes():
    images = random_images(30)
    result = erase_rectangle(images, keys_of(30), 1.0, MEAN)
    erased = (result != images).any(dim=1, keepdim=True)
    assert erased.any(dim=(1, 2, 3)).float().mean() > 0.9
    mean = MEAN[None, :, None, None].expand_as(images)
    assert torch.equal(result, torch.where(erased, mean, images))


def test_every_pixel_can_be_erased():
    assert erased_masks(2000, 1.0, 16).any(dim=0).all()


# the whole


def test_with_everything_off_the_images_are_returned_as_they_are():
    images = random_images(4)
    assert BatchAugment()(images, keys_of(4), MEAN) is images


@pytest.mark.parametrize(
    "augment",
    [
        BatchAugment(shift=2),
        BatchAugment(crop_scale=(0.3, 1.0)),
        BatchAugment(hflip=0.5),
        BatchAugment(erase=1.0),
        EVERYTHING,
    ],
    ids=["shift", "crop", "hflip", "erase", "everything"],
)
def test_what_happens_to_a_sample_does_not_depend_on_its_batch_or_place(augment):
    images, keys = random_images(16), keys_of(16)
    together = augment(images, keys, MEAN)
    order = torch.randperm(16)
    assert torch.equal(augment(images[order], keys[order], MEAN), together[order])
    alone = [augment(images[i : i + 1], keys[i : i + 1], MEAN) for i in range(16)]
    assert torch.equal(torch.cat(alone), together)


def test_the_next_epoch_augments_every_sample_differently():
    images = random_images(16)
    first, second = (EVERYTHING(images, keys_of(16, epoch), MEAN) for epoch in (0, 1))
    assert (first != second).any(dim=(1, 2, 3)).all()


def test_images_of_the_batch_are_not_written_to():
    images = random_images(8)
    before = images.clone()
    EVERYTHING(images, keys_of(8), MEAN)
    assert torch.equal(images, before)


def test_shape_type_and_range_are_kept():
    images = random_images(8, 9, 14)
    result = EVERYTHING(images, keys_of(8), MEAN)
    assert result.shape == images.shape
    assert result.dtype == torch.float32
    assert result.min() >= 0
    assert result.max() <= 1


def test_ranges_may_be_lists_as_yaml_has_them():
    images, keys = random_images(4), keys_of(4)
    listed = BatchAugment(crop_scale=[0.3, 1.0], crop_ratio=[0.75, 4 / 3])
    assert torch.equal(
        listed(images, keys, MEAN), BatchAugment(crop_scale=(0.3, 1.0))(images, keys, MEAN)
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"shift": -1},
        {"hflip": 1.5},
        {"hflip": -0.1},
        {"erase": 2},
        {"erase": float("nan")},
        {"crop_scale": (0.0, 1.0)},
        {"crop_scale": (0.5, 0.3)},
        {"crop_scale": (0.5, 1.1)},
        {"crop_ratio": (0.0, 1.0)},
        {"crop_ratio": (4 / 3, 3 / 4)},
    ],
    ids=str,
)
def test_a_wrong_value_is_refused_by_the_option_s_name(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=rf"augment\.{name} "):
        BatchAugment(**wrong)
