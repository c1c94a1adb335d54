"""Image files of every kind against what they were made of; fit_to against torchvision."""

import io

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as TF
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import to_tensor

from vitfw.data.transforms import (
    UnreadableImage,
    fit_to,
    normalise,
    open_image,
    scale_to_unit,
    to_channels,
    to_uint8,
)

RED, WHITE = (255, 0, 0), (255, 255, 255)


def random_pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def pixels_of(path, channels: int) -> np.ndarray:
    return np.asarray(open_image(path, channels))


# open_image


# EXIF 2.32, table of Orientation: how the stored picture has to be turned to stand upright.
UPRIGHT = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
    8: lambda p: np.rot90(p),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_jpeg_stands_upright_whatever_its_exif_orientation(tmp_path, orientation):
    stored = np.kron(random_pixels(2, 3, 3), np.ones((16, 16, 1), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "photo.jpg"
    Image.fromarray(stored).save(path, exif=exif, quality=100, subsampling=0)
    expected = UPRIGHT[orientation](stored)
    ours = pixels_of(path, 3)
    assert ours.shape == expected.shape
    assert np.abs(ours.astype(int) - expected).max() <= 6  # JPEG's own loss


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_divided_by_257(tmp_path, suffix):
    values = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(values).save(tmp_path / f"deep.{suffix}")
    ours = pixels_of(tmp_path / f"deep.{suffix}", 1).astype(int)
    off = ours - values / 257
    assert off.min() > -1 and off.max() <= 0.5  # cut off or rounded
    assert ours[-1, -1] == 255
    assert ours.flat[32768] in (127, 128)
    assert np.array_equal(ours.flat[np.arange(256) * 257], np.arange(256))


def test_a_transparent_palette_colour_is_laid_over_white(tmp_path):
    picture = Image.new("P", (2, 1))
    picture.putpalette([0, 0, 255, 255, 0, 0])
    picture.putdata([0, 1])
    picture.save(tmp_path / "icon.png", transparency=0)
    assert pixels_of(tmp_path / "icon.png", 3).tolist() == [[list(WHITE), list(RED)]]


@pytest.mark.parametrize("alpha", [0, 64, 128, 255])
@pytest.mark.parametrize("mode, colour", [("RGBA", RED), ("LA", (40,))])
def test_transparency_is_blended_with_white(tmp_path, mode, colour, alpha):
    Image.new(mode, (2, 2), (*colour, alpha)).save(tmp_path / "glass.png")
    expected = np.array(colour) * alpha / 255 + 255 * (1 - alpha / 255)
    ours = pixels_of(tmp_path / "glass.png", 3)[0, 0]
    assert np.abs(ours - expected).max() <= 1


def test_the_transparent_colour_of_an_rgb_png_is_laid_over_white(tmp_path):
    path = tmp_path / "key.png"
    picture = Image.new("RGB", (2, 1), RED)
    picture.putpixel((0, 0), (1, 2, 3))
    picture.save(path, transparency=(1, 2, 3))
    assert pixels_of(path, 3).tolist() == [[list(WHITE), list(RED)]]


def test_cmyk_becomes_rgb(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "print.jpg", quality=100)
    assert np.abs(pixels_of(tmp_path / "print.jpg", 3).astype(int) - RED).max() <= 3


def test_lab_which_pil_does_not_convert_is_unreadable_rather_than_a_crash(tmp_path):
    Image.new("LAB", (4, 4)).save(tmp_path / "lab.tif")
    with pytest.raises(UnreadableImage, match=r"lab\.tif"):
        open_image(tmp_path / "lab.tif", 1)


@pytest.mark.parametrize("suffix, options", [("png", {}), ("webp", {"lossless": True})])
def test_lossless_files_come_back_to_the_bit(tmp_path, suffix, options):
    pixels = random_pixels(5, 7, 3)
    Image.fromarray(pixels).save(tmp_path / f"x.{suffix}", **options)
    assert np.array_equal(pixels_of(tmp_path / f"x.{suffix}", 3), pixels)


def test_of_an_animated_gif_the_first_frame_is_read(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, (0, 255, 0))]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    assert (pixels_of(tmp_path / "film.gif", 3) == RED).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("channels, expected", [(1, "L"), (3, "RGB")])
def test_the_channels_are_those_asked_for(tmp_path, mode, channels, expected):
    Image.new(mode, (3, 2)).save(tmp_path / "x.png")
    image = open_image(tmp_path / "x.png", channels)
    assert image.mode == expected
    assert to_uint8(image).shape == (channels, 2, 3)


def test_colour_becomes_grey_by_the_weights_of_bt_601(tmp_path):
    pixels = random_pixels(6, 6, 3)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    expected = pixels @ np.array([0.299, 0.587, 0.114])
    assert np.abs(pixels_of(tmp_path / "x.png", 1) - expected).max() <= 0.51


@pytest.mark.parametrize("kind", ["cut off", "text", "empty", "missing", "folder"])
def test_what_cannot_be_read_is_named(tmp_path, kind):
    path = tmp_path / "broken.jpg"
    if kind == "cut off":
        Image.fromarray(random_pixels(64, 64, 3)).save(path)
        path.write_bytes(path.read_bytes()[:-1500])
    elif kind == "text":
        path.write_text("I am not a picture")
    elif kind == "empty":
        path.touch()
    elif kind == "folder":
        path.mkdir()
    with pytest.raises(UnreadableImage, match=r"broken\.jpg: \S") as caught:
        open_image(path, 3)
    assert "\n" not in str(caught.value)


def test_a_picture_too_large_to_be_honest_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    Image.new("L", (50, 50)).save(tmp_path / "bomb.png")
    with pytest.raises(UnreadableImage, match=r"bomb\.png: .*decompression bomb"):
        open_image(tmp_path / "bomb.png", 1)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=60)
@given(data=st.data(), form=st.sampled_from(["png", "jpeg", "gif", "webp", "tiff", "bmp", "avif"]))
def test_a_damaged_file_is_read_or_unreadable_and_nothing_else(tmp_path_factory, data, form):
    buffer = io.BytesIO()
    Image.fromarray(random_pixels(16, 16, 3)).save(buffer, form)
    broken = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 5))):
        place = data.draw(st.integers(0, min(len(broken), 300) - 1))
        broken[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / f"damaged.{form}"
    path.write_bytes(broken[: data.draw(st.integers(len(broken) // 2, len(broken)))])
    try:
        assert open_image(path, 3).mode == "RGB"
    except UnreadableImage as error:
        assert path.name in str(error)


# fit_to


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_what_has_the_right_size_is_returned_itself(dtype):
    images = torch.zeros(2, 3, 8, 6, dtype=dtype)
    assert fit_to(images, (8, 6)) is images


@pytest.mark.parametrize("height, width", [(1, 1), (20_000, 10), (10, 20_000), (7, 300), (33, 31)])
@pytest.mark.parametrize("crop_share", [1.0, 0.875])
def test_the_size_is_right_for_odd_pictures(height, width, crop_share):
    picture = torch.full((1, height, width), 77, dtype=torch.uint8)
    fitted = fit_to(picture, (32, 24), crop_share)
    assert fitted.shape == (1, 32, 24)
    assert (fitted == 77).all()


@settings(max_examples=50)
@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    crop_share=st.floats(0.5, 1.0),
)
def test_every_picture_fits_every_size_without_a_black_edge(height, width, size, crop_share):
    picture = torch.full((1, height, width), 200, dtype=torch.uint8)
    fitted = fit_to(picture, size, crop_share)
    assert fitted.shape == (1, *size)
    assert (fitted == 200).all()


@pytest.mark.parametrize(
    # sizes whose longer side comes out whole: torchvision cuts the fraction off, ours rounds
    "height, width, side, crop_share",
    [(64, 48, 24, 1.0), (30, 50, 60, 1.0), (100, 100, 28, 0.875), (320, 256, 224, 0.875)],
)
def test_fit_to_is_torchvisions_resize_of_the_shorter_side_and_center_crop(
    height, width, side, crop_share
):
    picture = torch.from_numpy(random_pixels(3, height, width))
    shorter = round(side / crop_share)
    resized = TF.resize(picture, [shorter], InterpolationMode.BICUBIC, antialias=True)
    expected = TF.center_crop(resized, [side, side])
    assert torch.equal(fit_to(picture, (side, side), crop_share), expected)


def test_a_crop_of_0_875_at_224_is_cut_from_256(monkeypatch):
    asked = []
    resize = TF.resize
    monkeypatch.setattr(
        TF, "resize", lambda x, size, *a, **k: asked.append(size) or resize(x, size, *a, **k)
    )
    fit_to(torch.zeros(3, 500, 400, dtype=torch.uint8), (224, 224), 0.875)
    assert asked == [[320, 256]]


def test_a_crop_share_cuts_even_what_has_the_right_size():
    picture = torch.zeros(1, 32, 32, dtype=torch.uint8)
    picture[:, 4:28, 4:28] = 255  # the middle three quarters
    assert (fit_to(picture, (32, 32), 0.5) == 255).all()


def test_a_batch_is_fitted_as_its_images_are_one_by_one():
    batch = torch.from_numpy(random_pixels(4, 3, 20, 30))
    together = fit_to(batch, (16, 16))
    assert torch.equal(together, torch.stack([fit_to(image, (16, 16)) for image in batch]))


# the rest


def test_grey_becomes_colour_by_repeating_it():
    grey = torch.from_numpy(random_pixels(2, 1, 4, 5))
    assert torch.equal(to_channels(grey, 3), grey.repeat(1, 3, 1, 1))


def test_a_tensor_becomes_grey_as_a_file_does_but_for_rounding():
    colour = random_pixels(20, 20, 3)
    file_way = np.asarray(Image.fromarray(colour).convert("L")).astype(int)
    ours = to_channels(torch.from_numpy(colour).permute(2, 0, 1), 1)
    assert ours.dtype == torch.uint8
    assert np.abs(ours[0].numpy().astype(int) - file_way).max() <= 1


def test_channels_that_are_right_are_left_alone():
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    assert to_channels(images, 3) is images


def test_scaling_is_torchvisions_to_tensor_to_the_bit():
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    assert torch.equal(scale_to_unit(torch.from_numpy(pixels[None, ..., 0])), to_tensor(pixels))


def test_normalising_is_torchvisions_normalize():
    images, mean, std = torch.rand(2, 3, 4, 4), [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
    ours = normalise(images, torch.tensor(mean), torch.tensor(std))
    torch.testing.assert_close(ours, TF.normalize(images, mean, std))
