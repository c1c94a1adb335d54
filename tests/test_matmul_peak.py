"""The measured matmul peak."""

import pytest
import torch

from vitfw import matmul_peak as measuring

CPU = torch.device("cpu")


@pytest.mark.parametrize("speed", [1e9, 1e12, 1e16])
def test_the_peak_is_the_speed_and_no_product_takes_long(monkeypatch, speed):
    taken = []

    def product(a, out):
        taken.append(2 * a.shape[0] ** 3 / speed)
        return taken[-1]

    monkeypatch.setattr(measuring, "timed_product", product)
    monkeypatch.setattr(measuring, "LARGEST", 2048)  # matrices are made all the same
    assert measuring.matmul_peak.__wrapped__(CPU, torch.float32) == pytest.approx(speed)
    smallest = 2 * 256**3 / speed
    assert max(taken) <= max(measuring.SECONDS, smallest)


def test_it_draws_no_random_numbers_and_is_measured_once():
    before = torch.get_rng_state()
    peak = measuring.matmul_peak(CPU, torch.bfloat16)
    assert torch.equal(torch.get_rng_state(), before)
    assert peak > 1e8 and measuring.matmul_peak(CPU, torch.bfloat16) == peak
