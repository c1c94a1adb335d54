"""Learning-rate schedules against closed forms and torch's own."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.scheduler import CosineLRScheduler
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR
from transformers import get_inverse_sqrt_schedule, get_wsd_schedule

from vitfw.training.schedules import (
    constant,
    cooldown,
    cosine,
    inverse_sqrt,
    linear,
    steps_of,
    wsd,
)

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


# ── wsd, inverse_sqrt, cooldown, against other people's ───────────────────────────────────────


def theirs_from_step_1(make, steps: int) -> list[float]:
    """Rates of another library's schedule, without its first step, which is made at a rate of 0."""
    optimizer = make_optimizer()
    schedule = make(optimizer)
    found = []
    for _ in range(steps + 1):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found[1:]


@pytest.mark.parametrize(
    "shape, decay_type", [("linear", "linear"), ("cosine", "cosine"), ("sqrt", "1-sqrt")]
)
@pytest.mark.parametrize("final", [0.0, 0.1])
def test_wsd_equals_that_of_transformers(shape, decay_type, final):
    """One step later there: their warm-up begins at 0, or where there is a `final`, at that."""
    expected = theirs_from_step_1(
        lambda optimizer: get_wsd_schedule(
            optimizer,
            num_warmup_steps=11,
            num_stable_steps=60,
            num_decay_steps=30,
            decay_type=decay_type,
            min_lr_ratio=final,
        ),
        steps=101,
    )
    found = rates(wsd, 100, warmup=10, cooldown=30, shape=shape, final=final)
    alike = 0 if final == 0.0 else 10
    assert found[alike:] == pytest.approx(expected[alike:])


def test_wsd_with_a_linear_cooldown_to_the_end_equals_torchs_linear_lr():
    optimizer = make_optimizer()
    theirs = LinearLR(optimizer, start_factor=1.0, end_factor=0.25, total_iters=40)
    expected = []
    for _ in range(41):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    found = rates(wsd, 100, warmup=0, cooldown="40%", shape="linear", final=0.25)
    assert found[60:] == pytest.approx(expected)


def test_the_sqrt_cooldown_is_that_of_haegele_et_al():
    """1 − sqrt((n − (N − N_decay)) / N_decay), their equation 1."""
    found = rates(wsd, 100, warmup=0, cooldown=25, shape="sqrt")
    assert found[74:76] == [PEAK, PEAK]
    assert found[81] == pytest.approx(PEAK * (1 - math.sqrt(6 / 25)))
    assert found[99] == pytest.approx(PEAK * (1 - math.sqrt(24 / 25)))
    assert found[100] == pytest.approx(0.0, abs=1e-12)


def test_inverse_sqrt_equals_that_of_transformers():
    expected = theirs_from_step_1(
        lambda optimizer: get_inverse_sqrt_schedule(optimizer, num_warmup_steps=11, timescale=20),
        steps=101,
    )
    assert rates(inverse_sqrt, 100, warmup=10, timescale=20) == pytest.approx(expected)


def test_inverse_sqrt_with_a_cooldown_is_big_visions_rsqrt():
    """lr / sqrt(1 + (step − warmup) / timescale) · min(1, steps left / cooldown)."""
    found = rates(inverse_sqrt, 100, warmup=0, timescale=50, cooldown=20)
    for step in (0, 10, 79, 80, 90, 99):
        left = min(1.0, (100 - step) / 20)
        assert found[step] == pytest.approx(PEAK / (1 + step / 50) ** 0.5 * left)


def test_inverse_sqrt_does_not_depend_on_the_length_of_the_run():
    short = rates(inverse_sqrt, 50, warmup=5, timescale=30)
    assert rates(inverse_sqrt, 500, warmup=5, timescale=30)[:51] == short


def test_cosine_without_warm_up_equals_timms():
    optimizer = make_optimizer()
    theirs = CosineLRScheduler(optimizer, t_initial=60, lr_min=0.05 * PEAK, t_in_epochs=False)
    expected = []
    for step in range(60):
        theirs.step_update(step)
        expected.append(optimizer.param_groups[0]["lr"])
    assert rates(cosine, 60, warmup=0, final=0.05)[:60] == pytest.approx(expected)


@pytest.mark.parametrize("shape", ["linear", "sqrt", "cosine"])
def test_a_constant_run_cooled_down_has_the_rates_of_wsd(shape):
    found = rates(cooldown, 100, length=20, shape=shape, final=0.1, start_step=80)
    expected = rates(wsd, 100, warmup=0, cooldown=20, shape=shape, final=0.1)
    assert found == pytest.approx(expected)


def test_a_cooldown_begins_where_the_other_schedule_stood():
    whole = rates(cosine, 100, warmup=10)
    factor = whole[40] / PEAK
    found = rates(cooldown, 50, length=10, shape="linear", start_step=40, start_factor=factor)
    assert found[40] == pytest.approx(whole[40])
    assert found[45] == pytest.approx(whole[40] / 2)
    assert found[50] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("length, steps", [("25%", 20), (20, 20), ("2ep", 20)])
def test_the_length_of_a_cooldown_is_counted_from_the_steps_so_far(length, steps):
    found = rates(cooldown, 200, length=length, start_step=80, shape="linear")
    assert found[80] == PEAK > found[81]
    assert found[80 + steps - 1] > 0.0
    assert found[80 + steps] == found[199] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    "schedule, options, said",
    [
        (
            wsd,
            {"warmup": "50%", "cooldown": "60%"},
            "50 and 60 steps, more than the 100 of the run",
        ),
        (wsd, {"shape": "log"}, "scheduler.shape=log does not exist; known: linear, sqrt, cosine"),
        (wsd, {"final": 2.0}, "scheduler.final=2.0"),
        (inverse_sqrt, {"timescale": 0}, "scheduler.timescale=0 is 0 steps"),
        (inverse_sqrt, {"cooldown": 200}, "more than the 100 of the run"),
        (cooldown, {"length": 0}, "scheduler.length=0 is no step"),
        (cooldown, {"start_step": 50, "start_factor": 0.0}, "stands at 0 of its peak"),
        (
            cooldown,
            {"start_step": 50, "start_factor": 0.1, "final": 0.2},
            "not above scheduler.final",
        ),
    ],
)
def test_what_cannot_be_scheduled_is_told(schedule, options, said):
    with pytest.raises(ValueError, match=said):
        rates(schedule, 100, **options)


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


@given(
    total=st.integers(2, 80),
    warmup=st.integers(0, 30),
    fall=st.integers(0, 30),
    shape=st.sampled_from(["linear", "sqrt", "cosine"]),
)
def test_wsd_rises_stays_and_falls_and_wastes_no_step(total, warmup, fall, shape):
    fall = min(fall, max(total - warmup, 0))
    found = rates(wsd, total, warmup=warmup, cooldown=fall, shape=shape)
    begin = total - fall
    assert all(rate == PEAK for rate in found[warmup:begin])
    assert all(after < before for before, after in itertools.pairwise(found[max(begin, warmup) :]))
    assert all(rate > 0.0 for rate in found[:-1])
