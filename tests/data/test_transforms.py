"""Image files of every kind against what they were made of; fit_to against torchvision."""

import io
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as TF
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_files import Expected, write_odd_files
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import to_tensor

from vitfw.data.transforms import (
    UnreadableImage,
    fit_image,
    fit_to,
    normalise,
    open_image,
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


@pytest.mark.parametrize("values", [[0.0, 0.25, 1.0], [0.0, 100.0, 255.0], [-2.0, 0.0, 4.0]])
def test_floats_are_scaled_by_what_they_span(tmp_path, values):
    Image.fromarray(np.array([values], np.float32)).save(tmp_path / "x.tiff")
    expected = {1.0: [0, 64, 255], 255.0: [0, 100, 255], 4.0: [0, 85, 255]}[values[-1]]
    assert pixels_of(tmp_path / "x.tiff", 1).tolist() == [expected]


def test_floats_that_are_not_numbers_are_black_and_do_not_change_the_others(tmp_path):
    Image.fromarray(np.array([[np.nan, np.inf, 0.5]], np.float32)).save(tmp_path / "x.tiff")
    assert pixels_of(tmp_path / "x.tiff", 1).tolist() == [[0, 0, 128]]


def test_a_constant_picture_of_large_floats_is_no_division_by_zero(tmp_path):
    Image.fromarray(np.full((2, 2), 1e6, np.float32)).save(tmp_path / "x.tiff")
    assert (pixels_of(tmp_path / "x.tiff", 1) == 0).all()


def test_a_file_in_memory_is_read_as_one_on_disk_and_named_as_asked():
    buffer = io.BytesIO()
    Image.fromarray(random_pixels(4, 5, 3)).save(buffer, "png")
    assert np.array_equal(np.asarray(open_image(buffer, 3)), random_pixels(4, 5, 3))
    with pytest.raises(UnreadableImage, match="cannot read row 7: not an image"):
        open_image(io.BytesIO(b"no"), 3, name="row 7")
    with pytest.raises(UnreadableImage, match="cannot read an image held in memory"):
        open_image(io.BytesIO(b"no"), 3)


# A hundred odd files

ODD = write_odd_files(Path(tempfile.mkdtemp()))


@pytest.fixture(scope="module")
def odd_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("odd")
    write_odd_files(folder)
    return folder


def test_there_are_a_hundred_odd_files_and_most_are_readable(odd_folder):
    assert len(ODD) == len(list(odd_folder.iterdir())) == 100
    assert 60 < sum(expected.readable for expected in ODD.values()) < 80


@pytest.mark.parametrize("name", ODD, ids=ascii)
def test_an_odd_file_comes_out_right_or_is_named_as_unreadable(odd_folder, name):
    expected: Expected = ODD[name]
    if not expected.readable:
        with pytest.raises(UnreadableImage) as caught:
            open_image(odd_folder / name, 3)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
        return
    image = open_image(odd_folder / name, 3)
    assert image.size == expected.size
    pixels = np.asarray(image).astype(int)
    corners = np.array([pixels[0, 0], pixels[0, -1], pixels[-1, -1], pixels[-1, 0]])
    assert np.abs(corners - np.array(expected.corners)).max() <= expected.within
    grey = open_image(odd_folder / name, 1)
    assert (grey.mode, grey.size) == ("L", expected.size)


def test_a_name_of_two_lines_is_shown_in_one(tmp_path):
    (tmp_path / "two\nlines.jpg").touch()
    with pytest.raises(UnreadableImage, match=r"two\\nlines\.jpg': not an image") as caught:
        open_image(tmp_path / "two\nlines.jpg", 3)
    assert "\n" not in str(caught.value)


# decoding at a reduced scale


def photo(height: int, width: int) -> np.ndarray:
    """Something smooth, as photographs are at the scale of a few pixels."""
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [np.sin(rows / 40 + phase) * np.cos(columns / 55 - phase) for phase in (0, 1, 2)]
    return np.uint8(127.5 + 120 * np.stack(waves, axis=-1))


@pytest.mark.parametrize(
    "at_least, expected",
    [
        ((480, 640), (480, 640)),  # (height, width)
        ((241, 320), (480, 640)),
        ((240, 321), (480, 640)),
        ((240, 320), (240, 320)),
        ((100, 160), (120, 160)),
        ((60.0, 80.0), (60, 80)),
        ((59.5, 80.0), (60, 80)),
        ((1, 1), (60, 80)),
        ((0.1, 0.1), (60, 80)),
        ((2000, 2000), (480, 640)),
    ],
)
def test_a_jpeg_is_decoded_no_smaller_than_needed(tmp_path, at_least, expected):
    Image.fromarray(photo(480, 640)).save(tmp_path / "x.jpg")
    image = open_image(tmp_path / "x.jpg", 3, at_least)
    assert (image.height, image.width) == expected


@pytest.mark.parametrize("tag", range(1, 9))
def test_of_a_jpeg_on_its_side_height_and_width_are_those_of_the_upright_one(tmp_path, tag):
    exif = Image.Exif()
    exif[0x0112] = tag
    size = (400, 200) if tag > 4 else (200, 400)
    Image.fromarray(photo(*size)).save(tmp_path / "x.jpg", exif=exif)  # upright: 200 high, 400 wide
    image = open_image(tmp_path / "x.jpg", 3, at_least=(100, 150))
    assert (image.height, image.width) == (100, 200)
    assert open_image(tmp_path / "x.jpg", 3, at_least=(150, 100)).size == (400, 200)


def test_a_reduced_jpeg_fits_to_nearly_the_pixels_of_the_full_one(tmp_path):
    Image.fromarray(photo(480, 640)).save(tmp_path / "x.jpg", quality=95)
    full, reduced = (open_image(tmp_path / "x.jpg", 3, at) for at in (None, (112, 112)))
    assert reduced.size == (160, 120)
    ours, theirs = (np.asarray(fit_image(i, (112, 112))).astype(int) for i in (reduced, full))
    assert np.abs(ours - theirs).max() <= 6


def test_formats_that_cannot_be_decoded_smaller_are_decoded_whole(tmp_path):
    Image.fromarray(photo(80, 80)).save(tmp_path / "x.png")
    assert open_image(tmp_path / "x.png", 3, at_least=(8, 8)).size == (80, 80)


# fit_image


def torchvisions_fit(image: Image.Image, size: tuple[int, int], crop_share: float) -> np.ndarray:
    scale = max(size[0] / image.height, size[1] / image.width) / crop_share
    resized = [max(size[0], round(image.height * scale)), max(size[1], round(image.width * scale))]
    resized = TF.resize(image, resized, InterpolationMode.BICUBIC)
    return np.asarray(TF.center_crop(resized, list(size))).astype(int)


@pytest.mark.parametrize("height, width", [(375, 500), (500, 375), (480, 640), (300, 300)])
@pytest.mark.parametrize("size", [(224, 224), (64, 64), (32, 48)])
@pytest.mark.parametrize("crop_share", [1.0, 0.875])
def test_fit_image_is_torchvisions_resize_and_center_crop_of_a_pil_image(
    height, width, size, crop_share
):
    image = Image.fromarray(random_pixels(height, width, 3))
    ours = np.asarray(fit_image(image, size, crop_share)).astype(int)
    assert np.abs(ours - torchvisions_fit(image, size, crop_share)).max() <= 1


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    crop_share=st.sampled_from([1.0, 0.875, 0.6]),
)
def test_fit_image_is_torchvisions_for_the_oddest_sizes_too(height, width, size, crop_share):
    image = Image.fromarray(photo(height, width))
    ours = np.asarray(fit_image(image, size, crop_share)).astype(int)
    assert ours.shape == (*size, 3)
    # PIL resizes rows or columns first, as is cheaper, and rounds in between.
    assert np.abs(ours - torchvisions_fit(image, size, crop_share)).max() <= 2


@pytest.mark.parametrize("size, crop_share", [((32, 24), 1.0), ((224, 224), 0.875)])
def test_fit_image_and_fit_to_cut_the_same_part(size, crop_share):
    image = Image.fromarray(photo(300, 413))
    ours = to_uint8(fit_image(image, size, crop_share)).int()
    assert (ours - fit_to(to_uint8(image), size, crop_share).int()).abs().max() <= 2


def test_a_pil_image_of_the_right_size_is_returned_itself():
    image = Image.new("RGB", (6, 8))
    assert fit_image(image, (8, 6)) is image
    assert fit_image(image, (8, 6), 0.5) is not image


@pytest.mark.parametrize("size", [(20_000, 10), (10, 20_000), (1, 1)])
def test_a_strip_costs_no_more_than_what_is_kept_of_it(size):
    image = Image.new("L", size, 77)
    began = time.perf_counter()
    fitted = fit_image(image, (224, 224), 0.875)
    assert time.perf_counter() - began < 0.5  # of the whole: 512,000 × 256 pixels
    assert np.array_equal(np.asarray(fitted), np.full((224, 224), 77))


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


def test_normalising_is_torchvisions_to_tensor_and_normalize():
    pixels, mean, std = random_pixels(2, 3, 4, 4), [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
    ours = normalise(torch.from_numpy(pixels), torch.tensor(mean), torch.tensor(std))
    theirs = torch.stack([TF.normalize(to_tensor(p.transpose(1, 2, 0)), mean, std) for p in pixels])
    torch.testing.assert_close(ours, theirs)
