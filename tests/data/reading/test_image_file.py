"""Image files read no larger than they are needed, against PIL's and torchvision's full decode."""

import io
import resource
import time

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as TF
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_files import CORNERS, STORED, quarters, write_odd_files
from pictures import picture
from PIL import Image
from torchvision.transforms import InterpolationMode

from vitfw.data.reading.image_file import SMALL_FILE, ImageFile, read_fitted
from vitfw.data.transforms import UnreadableImage


def jpeg(image: Image.Image, **options) -> io.BytesIO:
    return encoded(image, "jpeg", **{"quality": 95, **options})


def encoded(image: Image.Image, form: str, **options) -> io.BytesIO:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    buffer.seek(0)
    return buffer


def large(file: io.BytesIO) -> io.BytesIO:
    """With zeros behind its end, which no decoder reads: large files are decoded when needed."""
    return io.BytesIO(file.getvalue() + bytes(SMALL_FILE))


def by_pil(source: io.BytesIO, mode: str) -> torch.Tensor:
    source.seek(0)
    pixels = TF.pil_to_tensor(Image.open(source).convert(mode))
    source.seek(0)
    return pixels


# size and orientation, before a pixel is decoded


@pytest.mark.parametrize("form", ["jpeg", "png"])
@pytest.mark.parametrize("tag", STORED)
def test_height_and_width_are_those_of_the_upright_picture(tag, form):
    exif = Image.Exif()
    exif[0x0112] = tag
    stored = quarters((32, 64) if tag > 4 else (64, 32), [CORNERS[i] for i in STORED[tag]])
    image = ImageFile(encoded(stored, form, exif=exif))
    assert (image.width, image.height) == (64, 32)
    assert image.pixels(3).shape == (3, 32, 64)


@pytest.mark.parametrize("tag", STORED)
def test_a_reduced_jpeg_is_upright_too(tag):
    exif = Image.Exif()
    exif[0x0112] = tag
    sides = (256, 512) if tag > 4 else (512, 256)
    stored = quarters(sides, [CORNERS[i] for i in STORED[tag]])
    image = ImageFile(large(jpeg(stored, exif=exif)))
    assert (image.width, image.height) == (512, 256)
    pixels = image.pixels(3, at_least=(32, 64))
    assert pixels.shape == (3, 32, 64)
    places = ((4, 4), (4, 60), (28, 60), (28, 4))
    found = torch.stack([pixels[:, y, x] for y, x in places]).int()
    assert (found - torch.tensor(CORNERS)).abs().max() <= 6


# the fast path


@pytest.mark.parametrize("size", [(64, 48), (1, 1), (17, 5), (500, 375)], ids=str)
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_colour_jpeg_has_pils_pixels_to_the_bit(size, subsampling, progressive):
    file = jpeg(picture(*size), subsampling=subsampling, progressive=progressive)
    assert torch.equal(ImageFile(file).pixels(3), by_pil(file, "RGB"))


@pytest.mark.parametrize("quality", [10, 75, 100])
@pytest.mark.parametrize("mode, channels", [("L", 1), ("L", 3), ("RGB", 1), ("RGB", 3)])
def test_grey_and_colour_become_what_is_asked_for_as_by_pil(mode, channels, quality):
    file = jpeg(picture(61, 43, mode=mode), quality=quality)
    expected = by_pil(file, "L" if channels == 1 else "RGB")
    assert torch.equal(ImageFile(file).pixels(channels), expected)


@pytest.mark.parametrize("form", ["png", "webp", "bmp", "gif", "tiff"])
def test_other_formats_have_pils_pixels_whatever_is_needed_of_them(form):
    file = encoded(picture(300, 200), form)
    assert torch.equal(ImageFile(file).pixels(3, at_least=(10, 10)), by_pil(file, "RGB"))


# reduced scale


@settings(max_examples=40)
@given(
    width=st.integers(16, 700),
    height=st.integers(16, 700),
    needed=st.tuples(st.floats(1, 300), st.floats(1, 300)),
)
def test_a_jpeg_is_never_decoded_smaller_than_needed(width, height, needed):
    file = large(jpeg(Image.new("RGB", (width, height))))
    pixels = ImageFile(file).pixels(3, at_least=needed)
    for found, full, least in zip(pixels.shape[1:], (height, width), needed, strict=True):
        assert found >= min(full, least)
        assert found in [-(-full // halving) for halving in (1, 2, 4, 8)]


def test_a_jpeg_twice_as_large_as_needed_is_decoded_at_half_its_size():
    file = large(jpeg(picture(640, 480)))
    for side, expected in ((241, 480), (240, 240), (120, 120), (60, 60), (10, 60)):
        file.seek(0)
        assert ImageFile(file).pixels(3, at_least=(side, side)).shape[1] == expected


@pytest.mark.parametrize("size", [(1600, 1200), (1200, 1700), (900, 900)], ids=str)
def test_reduced_decoding_hardly_changes_what_evaluation_sees(size):
    soft = picture(48, 48).resize(size, Image.Resampling.BICUBIC)
    file = large(jpeg(soft))
    ours = read_fitted(file, (64, 64), 3, 0.875)
    theirs = fitted_by_torchvision(by_pil(file, "RGB"), 64, 0.875)
    difference = (ours.int() - theirs.int()).abs().float()
    assert difference.mean() < 1.0
    assert difference.max() <= 12


def fitted_by_torchvision(pixels: torch.Tensor, side: int, crop_share: float) -> torch.Tensor:
    """The shorter side to side / crop_share, the longer in proportion, then the middle."""
    scale = side / crop_share / min(pixels.shape[1:])
    sides = [round(length * scale) for length in pixels.shape[1:]]
    pixels = TF.resize(pixels, sides, InterpolationMode.BICUBIC, antialias=True)
    return TF.center_crop(pixels, [side, side])


@pytest.mark.parametrize("form", ["png", "jpeg"])
@pytest.mark.parametrize("size", [(120, 80), (96, 128), (100, 100), (40, 30)], ids=str)
@pytest.mark.parametrize("crop_share", [1.0, 0.875])
def test_an_ordinary_image_is_resized_and_cropped_as_by_torchvision_to_the_bit(
    size, form, crop_share
):
    file = encoded(picture(*size), form)
    expected = fitted_by_torchvision(by_pil(file, "RGB"), 56, crop_share)
    assert torch.equal(read_fitted(file, (56, 56), 3, crop_share), expected)


def test_an_image_of_the_right_size_is_left_alone():
    file = encoded(picture(32, 24), "png")
    assert torch.equal(read_fitted(file, (24, 32), 3), by_pil(file, "RGB"))


@pytest.mark.parametrize("size", [(20_000, 10), (10, 20_000)], ids=str)
@pytest.mark.parametrize("form", ["png", "jpeg"])
def test_a_strip_costs_neither_time_nor_memory(size, form):
    file = encoded(Image.new("RGB", size, (0, 200, 0)), form)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    pixels = read_fitted(file, (224, 224), 3, 0.875)
    assert time.process_time() - began < 2.0
    # Resized whole it would be 256 × 512,000 pixels: 390 MB, and 1.5 GB as floats.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024
    assert pixels.shape == (3, 224, 224)
    assert (pixels.int() - torch.tensor([0, 200, 0])[:, None, None]).abs().max() <= 4


# what cannot be read


def comments(many: bool) -> bytes:
    """The beginning of a JPEG file: many comments make it a large one."""
    return b"\xff\xd8" + (b"\xff\xfe\xff\xff" + bytes(65533)) * (5 if many else 0)


def test_odd_files_are_read_as_expected_or_named(tmp_path):
    for name, expected in write_odd_files(tmp_path).items():
        path = tmp_path / name
        try:
            image = ImageFile(path)
            pixels = image.pixels(3)
        except UnreadableImage as error:
            assert not expected.readable, error
            assert "\n" not in str(error)
            continue
        assert expected.readable, name
        assert (image.width, image.height) == expected.size
        assert pixels.shape == (3, image.height, image.width)
        corners = [pixels[:, y, x].tolist() for y, x in ((0, 0), (0, -1), (-1, -1), (-1, 0))]
        difference = np.abs(np.array(corners) - np.array(expected.corners))
        assert difference.max() <= expected.within, name


@pytest.mark.parametrize("reduced", [False, True])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_jpeg_cut_off_anywhere_is_unreadable(mode, share, reduced):
    whole = jpeg(picture(400, 300, mode=mode)).getvalue()
    cut = io.BytesIO(comments(reduced) + whole[2 : int(len(whole) * share)])
    with pytest.raises(UnreadableImage, match="cannot read an image held in memory: "):
        ImageFile(cut).pixels(3 if mode == "RGB" else 1, (30, 40) if reduced else None)


def test_a_picture_too_large_to_be_honest_is_refused_by_its_header(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(UnreadableImage, match=r"the bomb: .*decompression bomb"):
        ImageFile(encoded(Image.new("L", (50, 50)), "png"), "the bomb")


@pytest.mark.parametrize(
    "name, reason", [("nowhere.jpg", "No such file"), ("text.jpg", "not an image")]
)
def test_a_file_that_is_none_says_why(tmp_path, name, reason):
    (tmp_path / "text.jpg").write_text("I am not a picture")
    with pytest.raises(UnreadableImage, match=f"cannot read .*{name}: {reason}"):
        ImageFile(tmp_path / name)
