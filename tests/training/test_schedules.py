"""Learning-rate schedules against closed forms and torch's own."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import CosineAnnealingLR

from vitfw.training.schedules import constant, cosine, linear, steps_of

PEAK = 0.4


def make_optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)


def rates(schedule, total_steps: int, steps_per_epoch: int = 10, **options) -> list[float]:
    """The learning rate each optimizer step is made with, and the one after the last."""
    optimizer = make_optimizer()
    scheduler = schedule(
        optimizer, total_steps=total_steps, steps_per_epoch=steps_per_epoch, **options
    )
    found = []
    for _ in range(total_steps + 1):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


# ── durations ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "duration, steps",
    [
        (500, 500),
        (0, 0),
        ("500", 500),
        ("5%", 50),
        ("100%", 1000),
        ("0.05%", 0),
        ("12.5%", 125),
        ("2ep", 50),
        ("0.5ep", 12),
        (" 3 ep ", 75),
    ],
)
def test_durations_are_steps_shares_of_the_run_or_epochs(duration, steps):
    assert steps_of(duration, total_steps=1000, steps_per_epoch=25) == steps


@pytest.mark.parametrize(
    "duration", ["five", "", "%", "ep", "5percent", "2epochs", "-1", "-5%", "nan", "inf", "1e999%"]
)
def test_other_durations_are_refused_with_what_to_write(duration):
    with pytest.raises(ValueError, match="write steps .500., a share of the run"):
        steps_of(duration, 1000, 25)


@given(st.integers(0, 10**6), st.integers(1, 10**6), st.integers(1, 10**4))
def test_a_number_of_steps_is_itself(steps, total, per_epoch):
    assert steps_of(steps, total, per_epoch) == steps_of(str(steps), total, per_epoch) == steps


# ── closed forms ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("schedule", [cosine, linear, constant])
def test_warm_up_is_a_straight_line_that_reaches_the_peak_at_its_end(schedule):
    found = rates(schedule, 100, warmup=9)
    assert found[:10] == pytest.approx([PEAK * k / 10 for k in range(1, 11)])
    assert max(found) == pytest.approx(PEAK)


@pytest.mark.parametrize("schedule", [cosine, linear, constant])
def test_without_warm_up_the_first_step_is_made_at_the_peak(schedule):
    assert rates(schedule, 20, warmup=0)[0] == PEAK


def test_cosine_at_its_quarter_points_and_end():
    found = rates(cosine, 100, warmup=20)
    assert found[20] == pytest.approx(PEAK)
    assert found[40] == pytest.approx(PEAK * (2 + math.sqrt(2)) / 4)
    assert found[60] == pytest.approx(PEAK / 2)
    assert found[80] == pytest.approx(PEAK * (2 - math.sqrt(2)) / 4)
    assert found[99] == pytest.approx(PEAK * math.sin(math.pi / 160) ** 2)  # the last step made
    assert found[100] == pytest.approx(0.0, abs=1e-12)


def test_linear_at_its_quarter_points_and_end():
    found = rates(linear, 100, warmup=20)
    assert found[20] == pytest.approx(PEAK)
    assert found[40] == pytest.approx(PEAK * 0.75)
    assert found[60] == pytest.approx(PEAK * 0.5)
    assert found[99] == pytest.approx(PEAK / 80)
    assert found[100] == pytest.approx(0.0, abs=1e-12)


def test_constant_stays_at_the_peak():
    assert rates(constant, 100, warmup="5%")[5:] == [PEAK] * 96


def test_cosine_after_the_warm_up_equals_torchs_cosine_annealing():
    warmup, total, final = 7, 50, 0.1
    optimizer = make_optimizer()
    theirs = CosineAnnealingLR(optimizer, total - warmup, eta_min=final * PEAK)
    expected = []
    for _ in range(total - warmup + 1):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    assert rates(cosine, total, warmup=warmup, final=final)[warmup:] == pytest.approx(expected)


@pytest.mark.parametrize("schedule", [cosine, linear])
@pytest.mark.parametrize("final", [0.0, 0.01, 0.5, 1.0])
def test_the_end_is_the_final_share_of_the_peak(schedule, final):
    found = rates(schedule, 40, warmup="10%", final=final)
    assert found[40] == pytest.approx(PEAK * final)
    middle = 4 + 18
    assert found[middle] == pytest.approx(PEAK * (1 + final) / 2)


def test_the_rate_stays_at_its_final_share_after_the_planned_steps():
    optimizer = make_optimizer()
    scheduler = cosine(optimizer, total_steps=10, steps_per_epoch=5, warmup=0, final=0.2)
    for _ in range(25):
        optimizer.step()
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.2 * PEAK)


def test_warm_up_in_epochs_and_in_steps_are_the_same_schedule():
    assert rates(cosine, 60, steps_per_epoch=10, warmup="2ep") == rates(cosine, 60, warmup=20)


def test_groups_keep_the_ratio_of_their_rates():
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": [p], "lr": lr} for p, lr in zip(parameters, (1.0, 0.1), strict=True)]
    optimizer = torch.optim.SGD(groups)
    scheduler = linear(optimizer, total_steps=10, steps_per_epoch=5, warmup=2)
    for _ in range(7):
        optimizer.step()
        scheduler.step()
        first, second = (group["lr"] for group in optimizer.param_groups)
        assert second == pytest.approx(first / 10)


@pytest.mark.parametrize("final", [-0.1, 1.5])
def test_a_final_share_outside_zero_to_one_is_refused(final):
    with pytest.raises(ValueError, match=f"scheduler.final={final}"):
        rates(cosine, 10, final=final)


# ── properties ────────────────────────────────────────────────────────────────────────────────


@given(
    schedule=st.sampled_from([cosine, linear, constant]),
    total=st.integers(1, 80),
    warmup=st.integers(0, 40),
    final=st.floats(0, 1),
)
def test_rises_to_the_end_of_the_warm_up_then_never_again(schedule, total, warmup, final):
    found = rates(schedule, total, warmup=warmup, final=final)
    rising, falling = found[: warmup + 1], found[warmup:]
    assert all(after > before for before, after in itertools.pairwise(rising))
    assert all(after <= before + 1e-12 for before, after in itertools.pairwise(falling))
    assert all(0.0 <= rate <= PEAK + 1e-12 for rate in found)
    assert all(rate > 0.0 for rate in found[:-1])  # no step is wasted
