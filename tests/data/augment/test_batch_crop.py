"""Moves, mirror images and random crops of a batch, against torchvision image by image."""

import math

import numpy as np
import pytest
import torch
import torchvision.transforms.v2 as T
import torchvision.transforms.v2.functional as TF
from scipy import stats
from torchvision.transforms import InterpolationMode

from vitfw.data.augment.batch_crop import (
    HFLIP,
    SHIFT_X,
    SHIFT_Y,
    TRANSLATE_X,
    TRANSLATE_Y,
    VFLIP,
    crop_pixels,
    moved,
    resized_crop,
)
from vitfw.data.augment.random_crop import random_box
from vitfw.data.counter_rng import randint, sample_keys, uniform

INCEPTION = (0.08, 1.0), (3 / 4, 4 / 3)


def keys_of(count: int, epoch: int = 0) -> torch.Tensor:
    return sample_keys(0, epoch, torch.arange(count))


def random_images(count: int, channels: int = 3, height: int = 12, width: int = 10):
    generator = torch.Generator().manual_seed(count)
    shape = (count, channels, height, width)
    return torch.randint(1, 256, shape, generator=generator, dtype=torch.uint8)


def lit_pixels(images: torch.Tensor) -> torch.Tensor:
    """How many images are lit at each place: [H, W]."""
    return (images > 0).sum(dim=(0, 1))


def one_dot(count: int, side: int) -> torch.Tensor:
    images = torch.zeros(count, 1, side, side, dtype=torch.uint8)
    images[:, :, side // 2, side // 2] = 255
    return images


# ── moves ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("pad", [1, 3])
def test_a_shift_is_torchvisions_pad_and_crop_at_the_same_offsets(pad, channels):
    images, keys = random_images(20, channels), keys_of(20)
    tops, lefts = (randint(keys, draw, 2 * pad + 1).tolist() for draw in (SHIFT_Y, SHIFT_X))
    expected = [
        TF.crop(TF.pad(image, [pad]), top, left, *image.shape[-2:])
        for image, top, left in zip(images, tops, lefts, strict=True)
    ]
    assert torch.equal(moved(images, keys, shift=pad), torch.stack(expected))


def test_a_shift_reaches_every_offset_in_both_directions_equally_often():
    where = lit_pixels(moved(one_dot(9000, 5), keys_of(9000), shift=1))
    assert where[1:4, 1:4].sum() == 9000
    assert stats.chisquare(where[1:4, 1:4].flatten().numpy()).pvalue > 1e-3


@pytest.mark.parametrize("channels", [1, 3])
def test_a_translation_is_torchvisions_affine_by_the_same_distance(channels):
    images, keys = random_images(30, channels), keys_of(30)
    expected = []
    for image, y, x in zip(
        images, uniform(keys, TRANSLATE_Y), uniform(keys, TRANSLATE_X), strict=True
    ):
        down, right = round((2 * y.item() - 1) * 0.3 * 12), round((2 * x.item() - 1) * 0.3 * 10)
        expected.append(TF.affine(image, 0.0, [right, down], 1.0, [0.0, 0.0]))
    assert torch.equal(moved(images, keys, translate=0.3), torch.stack(expected))


def test_translations_are_spread_as_torchvisions_random_affine_spreads_them():
    ours = lit_pixels(moved(one_dot(6000, 21), keys_of(6000), translate=0.14))
    torch.manual_seed(0)
    affine = T.RandomAffine(0, translate=(0.14, 0.14))
    image = torch.zeros(1, 21, 21)
    theirs = torch.zeros(21, 21)
    for _ in range(3000):
        right, down = affine.make_params([image])["translate"]
        theirs[10 + down, 10 + right] += 1
    assert torch.equal(ours > 0, theirs > 0)  # up to 0.14 · 21 = 2.94, so 3, either way
    table = np.stack([ours[ours > 0].numpy(), theirs[ours > 0].numpy()])
    assert stats.chi2_contingency(table).pvalue > 1e-3


def test_a_translation_by_the_whole_side_may_leave_nothing():
    result = moved(random_images(500, 1, 2, 2), keys_of(500), translate=1.0)
    assert (result == 0).all(dim=(1, 2, 3)).any()
    assert (result != 0).any()


@pytest.mark.parametrize("extra", [{}, {"shift": 2}, {"translate": 0.2}], ids=str)
@pytest.mark.parametrize(
    "name, draw, flip",
    [("hflip", HFLIP, TF.horizontal_flip), ("vflip", VFLIP, TF.vertical_flip)],
    ids=["hflip", "vflip"],
)
def test_mirror_images_are_torchvisions_and_the_others_untouched(name, draw, flip, extra):
    images, keys = random_images(50), keys_of(50)
    flipped = uniform(keys, draw) < 0.5
    assert 0 < flipped.sum() < 50
    result, plain = moved(images, keys, **extra, **{name: 0.5}), moved(images, keys, **extra)
    assert torch.equal(result[flipped], flip(plain[flipped]))
    assert torch.equal(result[~flipped], plain[~flipped])


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("name", ["hflip", "vflip"])
@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9, 1.0])
def test_as_many_images_are_mirrored_as_asked_for(name, probability, shift):
    ramp = torch.arange(1, 10, dtype=torch.uint8).view(3, 3)
    images = ramp.T if name == "vflip" else ramp
    images = images.expand(10_000, 1, 3, 3)
    keys = keys_of(10_000)
    result = moved(images, keys, shift=shift, **{name: probability})
    mirrored = int((result != moved(images, keys, shift=shift)).any(dim=(1, 2, 3)).sum())
    assert stats.binomtest(mirrored, 10_000, probability).pvalue > 1e-3


# ── random resized crops ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("height, width", [(12, 10), (32, 32), (20, 50)])
def test_a_resized_crop_is_torchvisions_of_the_same_box_to_one_level(channels, height, width):
    images, keys = random_images(40, channels, height, width), keys_of(40)
    ours = resized_crop(images, keys, *INCEPTION).int()
    boxes = torch.stack(crop_pixels(keys, *INCEPTION, height, width), dim=1).tolist()
    for image, result, box in zip(images, ours, boxes, strict=True):
        theirs = TF.resized_crop(image, *box, [height, width], InterpolationMode.BILINEAR)
        assert (result - theirs.int()).abs().max() <= 1


def test_a_crop_of_the_whole_image_is_the_image():
    images = random_images(8, height=16, width=16)
    assert torch.equal(resized_crop(images, keys_of(8), (1.0, 1.0), (1.0, 1.0)), images)


@pytest.mark.parametrize(
    "size, scale, ratio",
    [
        ((224, 224), *INCEPTION),
        ((300, 500), *INCEPTION),
        ((32, 32), (0.35, 1.0), (3 / 4, 4 / 3)),
        ((40, 160), (0.5, 1.0), (3 / 4, 4 / 3)),  # most tries fail
        ((160, 40), (0.2, 1.0), (0.5, 2.0)),
    ],
    ids=str,
)
def test_crops_are_distributed_as_torchvisions_random_resized_crop(size, scale, ratio):
    torch.manual_seed(0)
    crop = T.RandomResizedCrop(size, scale, ratio)
    image = torch.empty(1, *size)
    drawn = [crop.make_params([image]) for _ in range(4000)]
    theirs = [np.array([d[k] for d in drawn]) for k in ("top", "left", "height", "width")]
    ours = [side.numpy() for side in crop_pixels(keys_of(20_000), scale, ratio, *size)]
    for measure in (
        lambda top, left, height, width: height * width,
        lambda top, left, height, width: width / height,
        lambda top, left, height, width: top,
        lambda top, left, height, width: left,
        lambda top, left, height, width: top + height,
    ):
        assert stats.ks_2samp(measure(*ours), measure(*theirs)).pvalue > 1e-3


@pytest.mark.parametrize("size", [(40, 400), (400, 40), (37, 41)])
def test_where_no_box_fits_it_is_torchvisions_in_the_middle(size):
    # Areas of 99.99 % with these aspects fit into none of the images.
    scale, ratio = (0.9999, 1.0), (1.3, 1.35) if size == (37, 41) else (3 / 4, 4 / 3)
    expected = T.RandomResizedCrop(size, scale, ratio).make_params([torch.empty(1, *size)])
    boxes = torch.stack(crop_pixels(keys_of(50), scale, ratio, *size), dim=1)
    assert boxes.tolist() == [[expected[k] for k in ("top", "left", "height", "width")]] * 50


@pytest.mark.parametrize("room", [1, 3])
def test_every_position_of_a_crop_is_equally_likely(room):
    # Squares of a quarter of the area of a square image.
    side = 2 * room
    top, left, height, width = crop_pixels(keys_of(20_000), (0.25, 0.25), (1.0, 1.0), side, side)
    assert set(height.tolist()) == set(width.tolist()) == {room}
    counts = (top * (room + 1) + left).bincount(minlength=(room + 1) ** 2)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_area_is_uniform_and_aspect_log_uniform_where_every_box_fits():
    # With areas up to 0.5 and aspects up to 4/3 no side can reach 1; large sides hardly round.
    _, _, height, width = crop_pixels(keys_of(50_000), (0.1, 0.5), (3 / 4, 4 / 3), 10**4, 10**4)
    area, aspect = (height * width / 1e8).numpy(), (width / height).log().numpy()
    assert stats.kstest(area, stats.uniform(0.1, 0.4).cdf).pvalue > 1e-3
    widest = math.log(4 / 3)
    assert stats.kstest(aspect, stats.uniform(-widest, 2 * widest).cdf).pvalue > 1e-3


def test_boxes_lie_inside_images_of_any_size():
    generator = torch.Generator().manual_seed(0)
    height, width = (torch.randint(1, 700, (100_000,), generator=generator) for _ in range(2))
    boxes = crop_pixels(keys_of(100_000), (0.05, 1.0), (0.5, 2.0), height, width)
    for start, side, whole in ((boxes[0], boxes[2], height), (boxes[1], boxes[3], width)):
        assert start.min() >= 0
        assert side.min() > 0
        assert (start + side <= whole).all()


@pytest.mark.parametrize("scale, ratio", [INCEPTION, ((0.9, 1.0), (0.2, 0.3))])
def test_the_box_of_a_single_image_is_that_of_the_batch_but_for_rounding(scale, ratio):
    generator = torch.Generator().manual_seed(0)
    height, width = (torch.randint(1, 700, (3000,), generator=generator) for _ in range(2))
    keys = keys_of(3000)
    batch = torch.stack(crop_pixels(keys, scale, ratio, height, width), dim=1)
    single = torch.tensor(
        [
            random_box(key, scale, ratio, h, w)
            for key, h, w in zip(keys.tolist(), height.tolist(), width.tolist(), strict=True)
        ]
    )
    assert (batch != single).any(dim=1).float().mean() < 0.02  # float32 beside float64


def test_the_box_of_an_image_does_not_depend_on_the_others_of_its_batch():
    keys = keys_of(60)
    height, width = torch.arange(60) % 7 * 40 + 30, torch.arange(60) % 11 * 30 + 20
    together = torch.stack(crop_pixels(keys, *INCEPTION, height, width), dim=1)
    alone = [
        torch.stack(crop_pixels(keys[i : i + 1], *INCEPTION, int(height[i]), int(width[i])), dim=1)
        for i in range(60)
    ]
    assert torch.equal(torch.cat(alone), together)


@pytest.mark.parametrize("height, width", [(1, 200), (200, 1), (1, 1)])
@pytest.mark.parametrize("ratio", [(3.0, 4.0), (0.2, 0.25)])
def test_a_box_has_at_least_one_pixel_a_side(height, width, ratio):
    keys = keys_of(50)
    boxes = [random_box(key, (0.08, 1.0), ratio, height, width) for key in keys.tolist()]
    for box in [torch.stack(crop_pixels(keys, (0.08, 1.0), ratio, height, width), 1), boxes]:
        top, left, box_height, box_width = torch.as_tensor(box).unbind(1)
        assert box_height.min() >= 1 and box_width.min() >= 1
        assert (top + box_height).max() <= height and (left + box_width).max() <= width
