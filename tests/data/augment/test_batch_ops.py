"""Batched image operations against torchvision's, applied to one image at a time."""

import math
from collections.abc import Callable

import pytest
import torch
import torchvision.transforms.v2.functional as TF
from PIL import ImageOps
from scipy import stats
from torch import Tensor

from vitfw.data.augment import batch_geometry, batch_ops
from vitfw.data.augment.batch_ops import colour_jitter, equalize, gaussian_blur
from vitfw.data.counter_rng import sample_keys, uniform
from vitfw.errors import ConfigError

SIZES = [(1, 1), (1, 7), (2, 9), (3, 3), (17, 31), (32, 32)]


def images_of(count: int, channels: int, height: int, width: int) -> Tensor:
    """Noise, dark noise, a ramp, grey and flat images in turn."""
    generator = torch.Generator().manual_seed(height * width + channels)
    shape = (count, channels, height, width)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    images[1::5] = images[1::5] // 9 + 40
    images[2::5] = torch.linspace(30, 180, height * width).view(height, width).to(torch.uint8)
    images[3::5] = images[3::5, :1]
    images[4::5] = 77
    return images


def one_by_one(images: Tensor, strengths: Tensor, operation: Callable) -> Tensor:
    pairs = zip(images, strengths.tolist(), strict=True)
    return torch.stack([operation(image, strength) for image, strength in pairs])


def sheared(*axis: int) -> Callable:
    def shear(image: Tensor, strength: float) -> Tensor:
        degrees = [math.degrees(math.atan(strength)) * along for along in axis]
        return TF.affine(image, 0.0, [0, 0], 1.0, degrees, center=[0, 0])

    return shear


def moved(*axis: int) -> Callable:
    def translate(image: Tensor, strength: float) -> Tensor:
        return TF.affine(image, 0.0, [int(strength) * along for along in axis], 1.0, [0.0, 0.0])

    return translate


def blurred(image: Tensor, sigma: float) -> Tensor:
    # The widest kernel up to 13 that torchvision's reflection allows.
    sizes = [2 * min(6, side - 1) + 1 for side in (image.shape[-1], image.shape[-2])]
    return TF.gaussian_blur(image, sizes, [sigma, sigma])


# name: ours, torchvision's for one image, lowest and highest strength
GEOMETRY = {
    "shear_x": (batch_geometry.shear_x, sheared(1, 0), -0.99, 0.99),
    "shear_y": (batch_geometry.shear_y, sheared(0, 1), -0.99, 0.99),
    "translate_x": (batch_geometry.translate_x, moved(1, 0), -33.5, 33.5),
    "translate_y": (batch_geometry.translate_y, moved(0, 1), -33.5, 33.5),
    "rotate": (batch_geometry.rotate, TF.rotate, -180.0, 180.0),
}
COLOURS = {
    "brightness": (batch_ops.adjust_brightness, TF.adjust_brightness, 0.0, 2.2),
    "saturation": (batch_ops.adjust_saturation, TF.adjust_saturation, 0.0, 2.2),
    "contrast": (batch_ops.adjust_contrast, TF.adjust_contrast, 0.0, 2.2),
    "sharpness": (batch_ops.adjust_sharpness, TF.adjust_sharpness, 0.0, 2.2),
    "hue": (batch_ops.adjust_hue, TF.adjust_hue, -0.5, 0.5),
    "gaussian_blur": (gaussian_blur, blurred, 0.1, 3.0),
}
LEVELS = {
    "posterize": (batch_ops.posterize, lambda image, bits: TF.posterize(image, int(bits)), 0, 8),
    "solarize": (batch_ops.solarize, TF.solarize, 0.0, 255.0),
    "invert": (lambda images, _: batch_ops.invert(images), lambda image, _: TF.invert(image), 0, 1),
    "grayscale": (
        lambda images, _: batch_ops.grayscale(images),
        lambda image, _: TF.rgb_to_grayscale(image, image.shape[0]),
        0,
        1,
    ),
    "autocontrast": (
        lambda images, _: batch_ops.autocontrast(images),
        lambda image, _: TF.autocontrast(image),
        0,
        1,
    ),
    "equalize": (lambda images, _: equalize(images), lambda image, _: TF.equalize(image), 0, 1),
}
EVERY = {**GEOMETRY, **COLOURS, **LEVELS}


def both(name: str, channels: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Our result and torchvision's for 45 images, each with a strength of its own."""
    ours, theirs, low, high = EVERY[name]
    images, strengths = images_of(45, channels, *size), torch.linspace(low, high, 45)
    before = images.clone()
    result = ours(images, strengths)
    assert torch.equal(images, before)
    assert result.dtype == torch.uint8
    return result, one_by_one(images, strengths, theirs)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", LEVELS)
def test_changes_of_levels_equal_torchvisions(name, channels, size):
    ours, theirs = both(name, channels, size)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", COLOURS)
def test_changes_of_colour_equal_torchvisions_but_for_one_level_in_few_pixels(name, channels, size):
    # Float32 sums of another order fall on the other side of a whole level in 1 of 10,000 pixels.
    ours, theirs = both(name, channels, size)
    apart = (ours.int() - theirs.int()).abs()
    assert apart.max() <= 1
    assert apart.sum() <= 1 + 1e-3 * apart.numel()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", GEOMETRY)
def test_moved_images_equal_torchvisions_but_for_ties_between_two_pixels(name, channels, size):
    ours, theirs = both(name, channels, size)
    assert (ours != theirs).sum() <= 2e-3 * ours.numel()


def test_a_quarter_turn_of_a_square_loses_no_pixel():
    images = images_of(8, 3, 15, 15)
    turned = batch_geometry.rotate(images, torch.tensor([90.0, -90.0, 180.0, 360.0] * 2))
    for image, result, quarters in zip(images, turned, [1, 3, 2, 0] * 2, strict=True):
        assert torch.equal(result, image.rot90(quarters, dims=(-2, -1)))


def test_affine_takes_pixels_from_where_the_matrix_points():
    images = images_of(2, 3, 6, 8)
    mirror_and_down = torch.tensor([[-1.0, 0.0, 0.0], [0.0, 1.0, -2.0]])
    result = batch_geometry.affine(images, mirror_and_down.expand(2, 2, 3))
    assert torch.equal(result[:, :, 2:], images.flip(-1)[:, :, :-2])
    assert not result[:, :, :2].any()


def test_equalize_and_autocontrast_are_pils():
    for image in images_of(10, 3, 40, 30):
        picture = TF.to_pil_image(image)
        theirs = TF.pil_to_tensor(ImageOps.equalize(picture))
        assert torch.equal(equalize(image[None])[0], theirs)
        stretched = TF.pil_to_tensor(ImageOps.autocontrast(picture))
        apart = batch_ops.autocontrast(image[None])[0].int() - stretched.int()
        assert apart.abs().max() <= 1  # PIL multiplies by 255 / range in float64


@pytest.mark.parametrize("name", EVERY)
def test_an_image_does_not_depend_on_the_others_in_its_batch(name):
    operation, _, low, high = EVERY[name]
    images, strengths = images_of(23, 3, 13, 11), torch.linspace(low, high, 23)
    together = operation(images, strengths)
    for start, stop in [(0, 1), (1, 4), (4, 23)]:
        alone = operation(images[start:stop], strengths[start:stop])
        assert torch.equal(alone, together[start:stop])


# colour jitter


def test_colour_jitter_is_torchvisions_four_changes_in_order():
    images, keys = images_of(40, 3, 9, 12), sample_keys(0, 0, torch.arange(40))
    ours = colour_jitter(images, keys, 50, 0.4, 0.3, 1.5, 0.2)
    changes = [
        (TF.adjust_brightness, 0.6, 1.4),
        (TF.adjust_contrast, 0.7, 1.3),
        (TF.adjust_saturation, 0.0, 2.5),
        (TF.adjust_hue, -0.2, 0.2),
    ]
    for draw, (change, low, high) in enumerate(changes, 50):
        images = one_by_one(images, low + (high - low) * uniform(keys, draw), change)
    # One level apart after the first change may become two after the next.
    apart = (ours.int() - images.int()).abs()
    assert apart.max() <= 3
    assert (apart > 0).sum() <= 2e-3 * apart.numel()


def test_colour_jitter_of_strength_0_changes_nothing():
    images, keys = images_of(5, 3, 4, 4), sample_keys(0, 0, torch.arange(5))
    assert torch.equal(colour_jitter(images, keys, 0, 0.0, 0.0, 0.0, 0.0), images)


def test_jittered_brightness_is_uniform_in_its_range():
    grey, keys = torch.full((5000, 1, 1, 1), 100), sample_keys(0, 0, torch.arange(5000))
    levels = colour_jitter(grey.to(torch.uint8), keys, 7, 0.5, 0.0, 0.0, 0.0).flatten()
    assert levels.min() == 50
    assert levels.max() == 149
    assert stats.chisquare((levels - 50).bincount(minlength=100).numpy()).pvalue > 1e-3


def test_jitter_of_four_channels_is_refused():
    with pytest.raises(ConfigError, match="1 or 3 channels, these have 4"):
        colour_jitter(images_of(2, 4, 3, 3), torch.zeros(2).long(), 0, 0.4, 0.0, 0.0, 0.0)
