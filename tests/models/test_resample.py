"""Resized weights against timm, against matrices written out in numpy, and against algebra."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from timm.models._manipulate import adapt_input_conv
from torch._subclasses.fake_tensor import FakeTensorMode

from vitfw.models import resample
from vitfw.models.resample import (
    adapt_in_chans,
    guess_grid,
    resample_pos_embed,
    resize_patch_kernel,
)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def triangle(x: np.ndarray) -> np.ndarray:
    return np.clip(1 - abs(x), 0, None)


def keys_cubic(x: np.ndarray) -> np.ndarray:
    """Keys 1981, a = -1/2, as Pillow and antialiased PyTorch have it."""
    x = abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


KERNELS = {"bilinear": triangle, "bicubic": keys_cubic}


def resize_line(old: int, new: int, interpolation: str) -> np.ndarray:
    """[new, old]: the kernel about each new pixel's centre, widened where pixels are dropped."""
    stretch = max(old / new, 1.0)
    centres = (np.arange(new) + 0.5) * old / new
    weights = KERNELS[interpolation]((np.arange(old) + 0.5 - centres[:, None]) / stretch)
    return weights / weights.sum(axis=1, keepdims=True)


def resize_matrix(old: tuple[int, int], new: tuple[int, int], interpolation: str) -> np.ndarray:
    """[new pixels, old pixels] of a flattened image."""
    down, across = (resize_line(o, n, interpolation) for o, n in zip(old, new, strict=True))
    return np.kron(down, across)


GRIDS = [((4, 4), (7, 7)), ((14, 14), (6, 6)), ((4, 9), (6, 6)), ((3, 5), (8, 2)), ((5, 3), (5, 9))]


@pytest.mark.parametrize("old, new", GRIDS)
@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_pos_embed_equals_timms(old, new, prefix):
    table = torch.randn(1, prefix + old[0] * old[1], 8)
    expected = resample_abs_pos_embed(table, list(new), list(old), num_prefix_tokens=prefix)
    assert torch.equal(resample_pos_embed(table, old, new, prefix), expected)


@pytest.mark.parametrize("old, new", [*GRIDS, ((6, 1), (9, 1)), ((4, 5), (3, 1)), ((1, 6), (1, 4))])
def test_pos_embed_in_float64_equals_the_cubic_kernel_written_out(old, new):
    table = torch.randn(1, 1 + old[0] * old[1], 8, dtype=torch.float64)
    matrix = torch.from_numpy(resize_matrix(old, new, "bicubic"))
    ours = resample_pos_embed(table, old, new, num_prefix=1)
    torch.testing.assert_close(ours[0, 1:], matrix @ table[0, 1:], rtol=0, atol=1e-12)
    assert torch.equal(ours[:, :1], table[:, :1])


def test_an_equal_grid_returns_the_very_table():
    table = torch.randn(1, 37, 8)
    assert resample_pos_embed(table, (4, 9), (4, 9), num_prefix=1) is table


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32_and_keeps_its_dtype(dtype):
    table = torch.randn(1, 16, 8).to(dtype)
    ours = resample_pos_embed(table, (4, 4), (6, 6))
    assert torch.equal(ours, resample_pos_embed(table.float(), (4, 4), (6, 6)).to(dtype))
    weight = torch.randn(2, 3, 4, 4).to(dtype)
    small = resize_patch_kernel(weight, (3, 3))
    assert torch.equal(small, resize_patch_kernel(weight.float(), (3, 3)).to(dtype))
    assert adapt_in_chans(weight, 4).dtype == adapt_in_chans(weight, 1).dtype == dtype


def test_a_table_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"\[1, 36, 8\] does not fit a grid of 4 x 9 with 1 pref"):
        resample_pos_embed(torch.zeros(1, 36, 8), (4, 9), (6, 6), num_prefix=1)


def test_guess_grid_knows_squares_and_refuses_the_rest():
    assert guess_grid(196) == (14, 14)
    for tokens in (0, 195, 197):
        with pytest.raises(ValueError, match=f"{tokens} patch tokens do not fill a square"):
            guess_grid(tokens)


SIZES = [((4, 4), (7, 7)), ((8, 8), (5, 5)), ((4, 6), (6, 4)), ((16, 16), (8, 8)), ((3, 5), (4, 8))]


@pytest.mark.parametrize("old, new", SIZES)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_patch_kernel_equals_timms(old, new, interpolation):
    weight = torch.randn(6, 3, *old, dtype=torch.float64)
    expected = resample_patch_embed(weight, list(new), interpolation, verbose=False)
    ours = resize_patch_kernel(weight, new, interpolation)
    assert ours.dtype == torch.float64
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)  # timm inverts in float32


@pytest.mark.parametrize("old, new", SIZES)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_patch_kernel_is_the_least_squares_solution_of_the_flexivit_equation(
    old, new, interpolation
):
    """FlexiViT, eq. 4: w' = argmin |Bᵀ w' - w|, of least norm, by numpy's own solver."""
    weight = torch.randn(6, 3, *old, dtype=torch.float64)
    matrix = resize_matrix(old, new, interpolation)
    expected = np.linalg.lstsq(matrix.T, weight.flatten(2).flatten(0, 1).numpy().T, rcond=1e-12)[0]
    ours = resize_patch_kernel(weight, new, interpolation).flatten(2).flatten(0, 1).numpy()
    np.testing.assert_allclose(ours, expected.T, atol=1e-10)


@settings(deadline=None, max_examples=25)
@given(
    old=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    more=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
)
def test_grown_patches_give_the_same_tokens(old, more, interpolation):
    new = (old[0] + more[0], old[1] + more[1])
    weight = torch.randn(5, 3, *old, dtype=torch.float64)
    patches = torch.randn(7, 3, *old, dtype=torch.float64)
    grown = patches.flatten(2) @ torch.from_numpy(resize_matrix(old, new, interpolation)).T
    before = torch.einsum("bcij,dcij->bd", patches, weight)
    kernel = resize_patch_kernel(weight, new, interpolation)
    after = torch.einsum("bcij,dcij->bd", grown.unflatten(2, new), kernel)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-10)


def test_patch_kernel_is_differentiable():
    weight = torch.randn(2, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: resize_patch_kernel(w, (5, 4)), weight)


def test_autocast_does_not_coarsen_the_patch_kernel():
    weight = torch.randn(2, 3, 4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = resize_patch_kernel(weight, (6, 6))
    assert torch.equal(ours, resize_patch_kernel(weight, (6, 6)))


def test_the_inverse_is_computed_once_and_serves_training_after_inference(monkeypatch):
    monkeypatch.setattr(resample, "INVERSES", {})
    weight = torch.randn(2, 3, 4, 4, requires_grad=True)
    with torch.inference_mode():
        resize_patch_kernel(weight, (6, 6))
    monkeypatch.setattr(torch.linalg, "pinv", None)
    resize_patch_kernel(weight, (6, 6)).sum().backward()
    assert weight.grad is not None
    assert len(resample.INVERSES) == 1


def test_patch_kernel_works_on_meta_and_fake_tensors_and_keeps_nothing_of_the_latter(monkeypatch):
    monkeypatch.setattr(resample, "INVERSES", {})
    weight = torch.randn(2, 3, 4, 4, device="meta")
    assert resize_patch_kernel(weight, (6, 5)).shape == (2, 3, 6, 5)
    with FakeTensorMode():
        assert resize_patch_kernel(torch.randn(2, 3, 4, 4), (6, 5)).shape == (2, 3, 6, 5)
    assert resize_patch_kernel(torch.randn(2, 3, 4, 4), (6, 5)).isfinite().all()


def test_an_equal_size_returns_the_very_weight_and_an_unknown_interpolation_is_refused():
    weight = torch.randn(2, 3, 4, 4)
    assert resize_patch_kernel(weight, (4, 4)) is weight
    with pytest.raises(ValueError, match="unknown interpolation 'area'; there are: bicubic, bili"):
        resize_patch_kernel(weight, (6, 6), "area")


@pytest.mark.parametrize("chans", [1, 3, 4])
@pytest.mark.parametrize("in_chans", [1, 2, 3, 4, 6, 8])
def test_adapted_channels_equal_timms(chans, in_chans):
    weight = torch.randn(5, chans, 4, 4)
    expected = adapt_input_conv(in_chans, weight.clone(), base_chans=chans)
    torch.testing.assert_close(adapt_in_chans(weight, in_chans), expected)


@pytest.mark.parametrize("chans, in_chans", [(3, 1), (1, 3), (3, 6), (1, 5)])
def test_a_grey_image_gives_the_same_response_in_any_number_of_channels(chans, in_chans):
    weight = torch.randn(5, chans, 4, 4, dtype=torch.float64)
    grey = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    conv = torch.nn.functional.conv2d
    before = conv(grey.expand(-1, chans, -1, -1), weight, stride=4)
    after = conv(grey.expand(-1, in_chans, -1, -1), adapt_in_chans(weight, in_chans), stride=4)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-12)


def test_no_channels_at_all_are_refused():
    with pytest.raises(ValueError, match="in_chans must be at least 1, not 0"):
        adapt_in_chans(torch.randn(5, 3, 4, 4), 0)
