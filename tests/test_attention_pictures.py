"""Pictures of attention, looked at: where they are light, what they say."""

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.color import rgb2lab

from vitfw.attention_pictures import (
    colour_table,
    distance_picture,
    heads_picture,
    heads_title,
    laid_over,
    range_of,
    rollout_picture,
    tiles_of,
)

PAPER = (255, 255, 255)


def lightness(picture: Image.Image) -> np.ndarray:
    """CIELAB's L of every pixel."""
    return rgb2lab(np.asarray(picture))[..., 0]


def map_with_peak(row: int, column: int, grid=(4, 5)) -> torch.Tensor:
    attention = torch.full(grid, 0.02)
    attention[row, column] = 0.5
    return attention


def stretches(busy: np.ndarray) -> list[tuple[int, int]]:
    """Where runs of True begin and end."""
    edges = np.flatnonzero(np.diff(busy.astype(int), prepend=0, append=0))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


def tiles_in(page: Image.Image, count: int) -> list[Image.Image]:
    """The tiles of a page of one row: what stands on the paper, below the title."""
    inked = (np.asarray(page) != PAPER).any(axis=2)
    columns = stretches(inked[60:140].any(axis=0))
    assert len(columns) == count
    rows = stretches(inked[:, columns[0][0]])
    top, bottom = max(rows, key=lambda row: row[1] - row[0])
    return [page.crop((left, top, right, bottom)) for left, right in columns]


def test_colours_grow_lighter_in_about_even_steps():
    """Against CIELAB's lightness, as scikit-image computes it."""
    steps = np.diff(rgb2lab(colour_table()[None] / 255)[0, :, 0])
    assert steps.min() > -0.2  # rounded to bytes
    assert np.convolve(steps, np.ones(16) / 16, mode="valid").min() > 0.15


@pytest.mark.parametrize("row, column", [(0, 0), (1, 3), (3, 4)])
def test_the_picture_is_lightest_where_the_map_peaks_whatever_the_image(row, column):
    random = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    drawn = laid_over(Image.fromarray(random), map_with_peak(row, column))
    y, x = np.unravel_index(lightness(drawn).argmax(), (40, 50))
    assert (y // 10, x // 10) == (row, column)


def test_the_image_stays_visible_under_the_map():
    pixels = np.zeros((40, 50, 3), np.uint8)
    pixels[:, 30:] = 255
    left, right = np.split(
        lightness(laid_over(Image.fromarray(pixels), map_with_peak(0, 0))), [30], 1
    )
    assert right[20:].min() > left[20:].max() + 20


def test_a_map_without_contrast_has_one_colour():
    drawn = laid_over(Image.new("RGB", (40, 40), "grey"), torch.full((4, 4), 1 / 16))
    assert len(drawn.getcolors()) == 1
    laid_over(Image.new("RGB", (8, 8)), torch.zeros(2, 2))


def test_small_images_are_enlarged_with_hard_edges_and_large_ones_reduced():
    images = torch.rand(1, 1, 7, 5)
    (tile,) = tiles_of(images, 70)
    pixels = (images[0, 0] * 255).round().byte().numpy()
    assert np.array_equal(
        np.asarray(tile), np.kron(pixels, np.ones((10, 10), np.uint8))[..., None].repeat(3, 2)
    )
    assert tiles_of(torch.rand(1, 3, 100, 300), 60)[0].size == (60, 20)
    assert tiles_of(torch.rand(1, 5, 8, 8), 64)[0].mode == "RGB"


def test_a_row_has_the_image_and_each_head_with_its_peak():
    images = torch.full((1, 1, 16, 20), 0.5)
    heads = torch.stack([map_with_peak(1, 3), map_with_peak(2, 0)])[None]
    image, *maps = tiles_in(heads_picture(images, heads, ["cat"], "title"), 3)
    assert set(np.unique(np.asarray(image))) == {128}
    for tile, peak in zip(maps, [(1, 3), (2, 0)], strict=True):
        y, x = np.unravel_index(lightness(tile).argmax(), tile.size[::-1])
        assert (y * 4 // tile.height, x * 5 // tile.width) == peak


def test_rollout_stands_beside_its_image():
    images = torch.full((1, 1, 16, 20), 0.5)
    _, drawn = tiles_in(rollout_picture(images, map_with_peak(3, 1)[None], ["cat"], ""), 2)
    y, x = np.unravel_index(lightness(drawn).argmax(), drawn.size[::-1])
    assert (y * 4 // drawn.height, x * 5 // drawn.width) == (3, 1)


def test_the_patch_that_asks_is_framed():
    images = torch.full((1, 1, 16, 20), 0.5)
    heads = map_with_peak(0, 0)[None, None]
    image, _ = tiles_in(heads_picture(images, heads, [""], "", patch=[2, 4]), 2)
    framed = np.argwhere((np.asarray(image) != 128).any(axis=2))
    height, width = image.height // 4, image.width // 5
    assert framed.min(axis=0).tolist() == [2 * height, 4 * width]
    assert framed.max(axis=0).tolist() == [3 * height - 1, 5 * width - 1]


@pytest.mark.parametrize("heads, columns, rows", [(3, None, 1), (4, 5, 1), (6, 5, 2), (16, 5, 4)])
def test_many_heads_wrap_into_rows(heads, columns, rows):
    def height(images: int, heads: int, columns: int | None = None) -> int:
        maps = torch.rand(images, heads, 4, 4)
        pixels, names = torch.rand(images, 1, 16, 16), images * ["a"]
        return heads_picture(pixels, maps, names, "", columns=columns).height

    one, two = height(1, 1), height(2, 1)
    assert height(1, heads, columns) == one + (rows - 1) * (two - one)


def test_captions_give_the_range_in_percent():
    assert range_of(torch.tensor([[0.0001, 0.034], [0.5, 1.0]])) == "0 - 100 %"
    assert range_of(torch.tensor([[0.012, 0.0996]])) == "1.2 - 10 %"


def test_titles_name_the_block_from_either_end():
    assert (
        heads_title("it", -1, 12)
        == heads_title("it", 11, 12)
        == "Attention of it in the last block, 11"
    )
    assert heads_title("it", -12, 12) == "Attention of it in block 0 of 0-11"


@pytest.mark.parametrize("blocks", [1, 2, 12, 48])
def test_a_head_that_looks_further_stands_higher(blocks):
    """Dots are the only pixels of their colour; the highest block's are measured."""
    near, far = (
        distance_picture(torch.full((blocks, 3), pixels), 100.0, "title") for pixels in (10.0, 90.0)
    )
    heights = []
    for page in (near, far):
        dots = np.argwhere((np.asarray(page)[90:] == (37, 99, 235)).all(axis=2))
        heights.append(dots[:, 0].mean())
    assert heights[0] - heights[1] > 150


def test_distances_far_below_a_pixel_and_without_end_are_drawn():
    distance_picture(torch.full((2, 2), 1e-3), 1e-3, "")
    distance_picture(torch.full((2, 2), 5000.0), 4000.0, "")


def test_of_a_net_that_diverged_in_a_late_block_the_first_ones_are_drawn():
    heads, gone = [2.0, 3.0], [torch.nan, torch.nan]
    whole, broken = (
        np.asarray(distance_picture(torch.tensor([heads, late]), 4.0, "title"))
        for late in (heads, gone)
    )
    differs = (whole != broken).any(axis=(0, 2))
    assert not differs[:230].any() and differs[400:].any()


def test_nan_is_drawn_dark_and_said():
    attention = torch.full((4, 4), torch.nan)
    drawn = laid_over(Image.new("RGB", (40, 40), PAPER), attention)
    assert lightness(drawn).max() < lightness(Image.new("RGB", (1, 1), PAPER)).max()
    assert range_of(attention) == "nan - nan %"
