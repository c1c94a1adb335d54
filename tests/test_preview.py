"""The pictures of a data set: every sample in its place, names that can be read, true bars."""

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, ImageColor

from vitfw.preview import (
    GAP,
    MARGIN,
    SMALL,
    TRAIN,
    VAL,
    Section,
    captions_of,
    class_count_chart,
    has_glyph,
    preview_page,
    sample_grid,
    shortened,
    tile_size,
    width_of,
    writable,
)

NAMES = ("cat", "dog", "bird")


def pixels_of(picture: Image.Image, colour: str) -> np.ndarray:
    """Where a picture has exactly this colour, [H, W] bool."""
    return (np.asarray(picture) == ImageColor.getrgb(colour)).all(axis=2)


def below_legend(chart: Image.Image) -> Image.Image:
    return chart.crop((0, 40, chart.width, chart.height))


def test_a_pixel_of_a_small_image_becomes_a_square():
    image = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8)
    tile = np.asarray(sample_grid(image, ["cat"]).crop((0, 0, 120, 120)))
    squares = np.kron(image[0].permute(1, 2, 0).numpy(), np.ones((15, 15, 1), np.uint8))
    np.testing.assert_array_equal(tile, squares)


@pytest.mark.parametrize("side", [1, 8, 28, 32, 64, 96, 119, 144, 145, 224, 512])
def test_a_square_image_is_shown_at_a_readable_size(side: int):
    height, width = tile_size(side, side)
    assert height == width
    assert 64 <= height <= 180
    assert height % side == 0 or height < side  # enlarged by a whole factor, or reduced


@pytest.mark.parametrize("size", [(32, 128), (300, 400), (9, 3), (1000, 250)])
def test_an_oblong_image_keeps_its_shape(size: tuple[int, int]):
    height, width = tile_size(*size)
    assert 64 <= max(height, width) <= 180
    assert height / width == pytest.approx(size[0] / size[1], rel=0.02)


@pytest.mark.parametrize("size", [(20, 10_000), (10_000, 20), (1, 5000)])
def test_a_strip_can_be_drawn(size: tuple[int, int]):
    grid = sample_grid(torch.zeros(1, 3, *size), ["strip"])
    assert pixels_of(grid, "black").sum() >= 144


def test_a_reduced_image_keeps_its_brightness():
    ramp = torch.linspace(0, 1, 300).expand(1, 1, 300, 300)
    tile = np.asarray(sample_grid(ramp, [""]).crop((0, 0, 144, 144)), dtype=float)
    np.testing.assert_allclose(tile[70, :, 0], np.linspace(0, 255, 144), atol=3)


def test_floats_and_bytes_give_the_same_picture():
    images = torch.randint(0, 256, (5, 3, 9, 9), dtype=torch.uint8)
    captions = ["x"] * 5
    assert sample_grid(images, captions) == sample_grid(images.float() / 255, captions)


def test_samples_stand_row_by_row():
    levels = torch.arange(0, 250, 25, dtype=torch.uint8)
    grid = np.asarray(sample_grid(levels[:, None, None, None].expand(-1, 1, 30, 30), ["a"] * 10, 4))
    pitch = 120 + GAP
    first_row = [grid[60, 60 + i * pitch, 0] for i in range(4)]
    assert first_row == levels[:4].tolist()
    first_column = [column[0] for column in grid[:, 60] if tuple(column) != (255, 255, 255)]
    assert list(dict.fromkeys(int(level) for level in first_column if level % 25 == 0)) == [
        *levels[::4].tolist()
    ]


def test_soft_labels_name_their_two_largest_shares():
    soft = torch.tensor([[0.7, 0.3, 0.0], [0.0, 0.02, 0.98], [0.2, 0.3, 0.5], [0.925, 0.04, 0.035]])
    assert captions_of(soft, NAMES) == [
        "cat 0.7 · dog 0.3",
        "bird",
        "bird 0.5 · dog 0.3",
        "cat 0.9",
    ]


def test_hard_labels_are_their_names():
    assert captions_of(torch.tensor([2, 0]), NAMES) == ["bird", "cat"]


@given(st.text())
@example("\udcff\udc80")  # a folder's name that is no UTF-8
@example("\x00\n\t")
@example("猫")
def test_any_class_name_can_be_drawn(name: str):
    drawn = writable(name, 7)
    assert drawn and all(map(has_glyph, drawn))
    sample_grid(torch.zeros(1, 1, 4, 4), captions_of(torch.tensor([0]), [name]))


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1))
def test_ascii_names_stay_as_they_are(name: str):
    assert writable(name, 7) == name


@pytest.mark.parametrize(
    ("name", "drawn"),
    [("Käse", "Kase"), ("Straße", "Strasse"), ("cœur", "coeur"), ("кот", "class 7")],
)
def test_a_name_loses_its_accents_or_becomes_a_number(name: str, drawn: str):
    assert writable(name, 7) == drawn


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)), st.integers(60, 200))
def test_a_shortened_name_fits_and_keeps_its_share(name: str, width: int):
    text = shortened(f"{name} 0.7", width, SMALL)
    assert width_of(text, SMALL) <= width
    assert text.endswith(" 0.7")


def test_bars_are_as_long_as_the_counts():
    train, val = torch.tensor([400, 100, 0]), torch.tensor([40, 200, 0])
    chart = below_legend(class_count_chart(train, val, NAMES))
    lengths = pixels_of(chart, TRAIN).sum(axis=1)
    longest = lengths.max()
    assert sorted(set(lengths.tolist())) == [0, pytest.approx(longest / 4, abs=2), longest]
    val_lengths = sorted(set(pixels_of(chart, VAL).sum(axis=1).tolist()))
    assert val_lengths == [0, *(pytest.approx(longest * s, abs=2) for s in (0.1, 0.5))]


@pytest.mark.parametrize("classes", [41, 100, 1000, 5000])
def test_the_curve_of_many_classes_falls(classes: int):
    train = torch.randperm(classes) + 1
    names = [str(i) for i in range(classes)]
    chart = below_legend(class_count_chart(train, torch.zeros_like(train), names))
    heights = pixels_of(chart, TRAIN).sum(axis=0)
    bars = heights[heights > 0]
    assert bars[0] == bars.max() > 250
    assert (np.diff(bars.astype(int)) <= 0).all()


@pytest.mark.parametrize("classes", [1, 3, 15, 40, 41, 200])
def test_counts_of_nothing_can_be_drawn(classes: int):
    none = torch.zeros(classes, dtype=torch.int64)
    chart = below_legend(class_count_chart(none, none, ["x"] * classes))
    assert not pixels_of(chart, TRAIN).any()


def test_a_page_holds_its_pictures_whole_and_in_order():
    pictures = [Image.new("RGB", (500, 80), "red"), Image.new("RGB", (2000, 50), "lime")]
    sections = [Section("Heading", "note", picture) for picture in pictures]
    page = preview_page("Title " * 200, ["fact " * 200], sections)
    tops = []
    for picture, colour in zip(pictures, ("red", "lime"), strict=True):
        rows, columns = pixels_of(page, colour).nonzero()
        assert len(rows) == picture.width * picture.height
        assert columns.min() == MARGIN and columns.max() < page.width - MARGIN
        tops.append(rows.min())
    assert tops == sorted(tops)
    border = np.asarray(page).copy()
    border[MARGIN:-MARGIN, MARGIN:-MARGIN] = 255
    assert (border == 255).all()
