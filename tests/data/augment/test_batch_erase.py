"""Cutout and random erasing of a batch, against torchvision and by their statistics."""

import math

import numpy as np
import pytest
import torch
import torchvision.transforms.v2 as T
import torchvision.transforms.v2.functional as TF
from scipy import stats

from vitfw.data.augment.batch_erase import cutout, erase_rectangles
from vitfw.data.counter_rng import sample_keys

SCALE, RATIO = (0.02, 1 / 3), (0.3, 3.3)


def keys_of(count: int) -> torch.Tensor:
    return sample_keys(0, 0, torch.arange(count))


def erased(count: int, probability: float, height: int, width: int, scale=SCALE, ratio=RATIO):
    """[count, H, W] bool: which pixels of each image are erased."""
    images = torch.ones(count, 1, height, width)
    return (
        erase_rectangles(images.clone(), keys_of(count), probability, scale, ratio, "constant")[
            :, 0
        ]
        == 0
    )


def boxes(masks: torch.Tensor) -> np.ndarray:
    """top, left, height, width of the one rectangle in each of the masks: [B, 4]."""
    found = []
    for mask in masks:
        rows, columns = mask.any(dim=1), mask.any(dim=0)
        assert torch.equal(mask, rows[:, None] & columns[None, :])
        sides = []
        for side in (rows, columns):
            places = side.nonzero()[:, 0]
            assert places[-1] - places[0] + 1 == len(places)  # without a gap
            sides.append((int(places[0]), len(places)))
        found.append([sides[0][0], sides[1][0], sides[0][1], sides[1][1]])
    return np.array(found)


# ── cutout ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("side", [1, 2, 5])
@pytest.mark.parametrize("channels", [1, 3])
def test_cutout_is_a_black_square_clipped_at_the_edges_and_nothing_else_changes(side, channels):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(1, 256, (300, channels, 9, 12), generator=generator, dtype=torch.uint8)
    result = cutout(images, keys_of(300), side)
    black = (result == 0).all(dim=1)
    assert torch.equal(result, images * ~black[:, None])
    for top, left, height, width in boxes(black):
        assert height == side or top == 0 or top + height == 9
        assert width == side or left == 0 or left + width == 12
        assert math.ceil(side / 2) <= min(height, width) <= max(height, width) <= side
    assert {tuple(box[2:]) for box in boxes(black)} >= {(side, side)}


def test_the_centre_of_a_cutout_is_any_pixel_equally_often():
    result = cutout(torch.ones(20_000, 1, 6, 8, dtype=torch.uint8), keys_of(20_000), 1)
    counts = (result == 0).sum(dim=(0, 1))
    assert counts.sum() == 20_000
    assert stats.chisquare(counts.flatten().numpy()).pvalue > 1e-3


def test_a_cutout_of_even_side_sticks_out_as_often_as_its_centre_is_near_the_edge():
    # Side 4 on 10 × 10: rows c − 2 … c + 1 lie inside for c from 2 to 8, so 7 of 10.
    masks = cutout(torch.ones(5000, 1, 10, 10, dtype=torch.uint8), keys_of(5000), 4)[:, 0] == 0
    whole = int((masks.sum(dim=(1, 2)) == 16).sum())
    assert stats.binomtest(whole, 5000, 0.49).pvalue > 1e-3


# ── random erasing ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mode", ["constant", "colour", "pixel"])
@pytest.mark.parametrize("probability", [0.1, 0.25, 1.0])
def test_as_many_images_are_erased_as_asked_for(probability, mode):
    # Rectangles of at least 12 % of 16 × 16 with these aspects always fit.
    images = torch.full((4000, 1, 16, 16), 100.0)
    result = erase_rectangles(
        images.clone(), keys_of(4000), probability, (0.12, 0.3), (0.5, 2.0), mode
    )
    changed = int((result != images).any(dim=(1, 2, 3)).sum())
    assert stats.binomtest(changed, 4000, probability).pvalue > 1e-3


@pytest.mark.parametrize("height, width", [(64, 64), (32, 96)])
def test_rectangles_are_distributed_as_torchvisions_random_erasing(height, width):
    ours = erased(4000, 1.0, height, width)
    ours = boxes(ours[ours.any(dim=(1, 2))])
    torch.manual_seed(0)
    erasing = T.RandomErasing(1.0, SCALE, RATIO)
    drawn = [erasing.make_params([torch.empty(1, height, width)]) for _ in range(4000)]
    theirs = np.array([[d["i"], d["j"], d["h"], d["w"]] for d in drawn if d["v"] is not None])
    for measure in (
        lambda box: box[:, 2] * box[:, 3],
        lambda box: box[:, 2] / box[:, 3],
        lambda box: box[:, 0],
        lambda box: box[:, 1],
    ):
        assert stats.ks_2samp(measure(ours), measure(theirs)).pvalue > 1e-3


def test_area_and_aspect_lie_in_their_ranges_up_to_whole_pixels():
    found = boxes(erased(2000, 1.0, 200, 200))
    share = found[:, 2] * found[:, 3] / 200**2
    aspect = found[:, 2] / found[:, 3]
    assert 0.019 < share.min() < 0.025 and 0.32 < share.max() < 0.34
    assert 0.29 < aspect.min() < 0.33 and 3.0 < aspect.max() < 3.4


@pytest.mark.parametrize("channels", [1, 3])
def test_the_rectangle_is_torchvisions_erase_with_zeros_and_nothing_else_changes(channels):
    images = torch.randn(40, channels, 12, 20, generator=torch.Generator().manual_seed(0))
    before = images.clone()
    result = erase_rectangles(images.clone(), keys_of(40), 1.0, (0.1, 0.3), (0.5, 2.0), "constant")
    assert torch.equal(images, before)
    for image, changed, box in zip(images, result, boxes((result == 0).all(dim=1)), strict=True):
        assert torch.equal(changed, TF.erase(image, *box.tolist(), torch.zeros(channels, 1, 1)))


def test_all_modes_erase_the_same_pixels():
    images = torch.full((50, 3, 16, 12), 100.0)
    masks = [
        (erase_rectangles(images.clone(), keys_of(50), 0.5, SCALE, RATIO, mode) != 100).all(dim=1)
        for mode in ("constant", "colour", "pixel")
    ]
    assert torch.equal(masks[0], masks[1]) and torch.equal(masks[0], masks[2])


def test_pixel_noise_is_standard_normal_and_independent():
    images = torch.full((200, 3, 32, 32), 100.0)
    result = erase_rectangles(images.clone(), keys_of(200), 1.0, (0.3, 0.33), (0.9, 1.1), "pixel")
    mask = (result != 100).all(dim=1)
    noise = result.movedim(1, -1)[mask]  # [pixels, 3]
    assert stats.kstest(noise.flatten().numpy(), stats.norm.cdf).pvalue > 1e-3
    neighbours = mask[..., 1:] & mask[..., :-1]
    left, right = (part.movedim(1, -1)[neighbours] for part in (result[..., :-1], result[..., 1:]))
    for one, other in ((noise[:, 0], noise[:, 1]), (left[:, 0], right[:, 0])):
        correlation = float(torch.corrcoef(torch.stack([one, other]))[0, 1])
        assert abs(correlation) < 4 / math.sqrt(len(one))


def test_a_colour_is_one_standard_normal_value_a_channel():
    images = torch.full((2000, 3, 8, 8), 100.0)
    result = erase_rectangles(images.clone(), keys_of(2000), 1.0, (0.2, 0.3), (0.9, 1.1), "colour")
    lowest, highest = result.amin(dim=(2, 3)), result.where(result != 100, -100).amax(dim=(2, 3))
    assert torch.equal(lowest, highest)
    assert stats.kstest(lowest.flatten().numpy(), stats.norm.cdf).pvalue > 1e-3
    assert torch.corrcoef(lowest.T).triu(1).abs().max() < 4 / math.sqrt(2000)


def test_every_pixel_can_be_erased():
    assert erased(2000, 1.0, 16, 16).any(dim=0).all()


def test_a_rectangle_as_large_as_the_image_is_never_taken():
    assert not erased(200, 1.0, 8, 8, scale=(1.0, 1.0)).any()


@pytest.mark.parametrize("mode", ["constant", "colour", "pixel"])
def test_half_precision_stays_half_precision(mode):
    images = torch.ones(4, 3, 8, 8, dtype=torch.bfloat16)
    result = erase_rectangles(images.clone(), keys_of(4), 1.0, SCALE, RATIO, mode)
    assert result.dtype == torch.bfloat16 and result.isfinite().all()
