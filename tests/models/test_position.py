"""Fixed position embeddings against the published formula."""

import numpy as np
import pytest
import torch

from vitfw.models.position import sincos_2d


def big_vision_posemb_sincos_2d(h: int, w: int, width: int, temperature: float) -> np.ndarray:
    """`posemb_sincos_2d` of google-research/big_vision, models/vit.py (MoCo v3's order)."""
    y, x = np.mgrid[:h, :w].astype(np.float64)
    omega = np.arange(width // 4) / (width // 4 - 1)
    omega = 1.0 / (temperature**omega)
    y = np.einsum("m,d->md", y.flatten(), omega)
    x = np.einsum("m,d->md", x.flatten(), omega)
    return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1)


@pytest.mark.parametrize("grid, dim", [((14, 14), 384), ((3, 5), 16), ((1, 1), 8)])
@pytest.mark.parametrize("temperature", [10_000.0, 100.0])
def test_sincos_2d_is_big_visions(grid, dim, temperature):
    expected = big_vision_posemb_sincos_2d(*grid, dim, temperature)
    ours = sincos_2d(grid, dim, temperature)
    assert ours.dtype == torch.float32
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-7)


def test_tokens_of_one_row_share_the_y_half_and_of_one_column_the_x_half():
    table = sincos_2d((3, 5), 16).reshape(3, 5, 16)
    assert torch.equal(table[1, 0, 8:], table[1, 4, 8:])
    assert torch.equal(table[0, 2, :8], table[2, 2, :8])


def test_no_two_tokens_share_a_position():
    assert len(sincos_2d((14, 14), 64).unique(dim=0)) == 14 * 14


def test_the_smallest_width_is_finite():
    assert sincos_2d((4, 4), 4).isfinite().all()


def test_a_width_that_4_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="pos_embed sincos2d .*not 6"):
        sincos_2d((2, 2), 6)
