"""Axes: where a value lies, and which ticks there are."""

import math

import pytest

from vitfw.comparison.axes import axis_of, looks_logarithmic, padded_axis


def test_a_logarithmic_axis_puts_the_geometric_mean_in_the_middle():
    axis = axis_of([1e-4, 1e-3, 1e-2, 2e-4, 3e-4, 5e-3, 7e-3], logarithmic=True)
    assert axis.share(1e-3) == pytest.approx(0.5)
    assert [axis.share(v) for v in (1e-4, 1e-2)] == [0, 1]
    assert {label: share for share, label in axis.marks}["0.001"] == pytest.approx(0.5)


def test_what_spans_magnitudes_looks_logarithmic_and_what_is_crowded_above_does_not():
    assert looks_logarithmic([1e-4, 1e-3, 1e-2])
    assert not looks_logarithmic([1, 90, 95, 100])
    assert not looks_logarithmic([0, 1e-3, 1]) and not looks_logarithmic([64, 128, 256])


def test_names_are_spread_evenly_and_numbers_among_them_are_in_order():
    axis = axis_of(["256", "64", "128"])
    assert [axis.share(v) for v in ("64", "128", "256")] == [0, 0.5, 1]
    switches = axis_of([True, None, False])
    assert sorted(label for _, label in switches.marks) == ["false", "null", "true"]


def test_one_value_and_none_at_all_have_an_axis():
    assert axis_of([3]).share(3) == 0.5 and axis_of(["a"]).share("a") == 0.5
    assert axis_of(["–"]).share("–") is None and axis_of([1, 2, "–"]).share("–") is None


@pytest.mark.parametrize("values", [[0.871, 0.9535], [1e-3, 40.0], [5, 5], [1e-9, 1e9], [-3, 2]])
@pytest.mark.parametrize("logarithmic", [False, True])
def test_a_padded_axis_holds_its_values_and_at_least_one_tick(values, logarithmic):
    if logarithmic and min(values) <= 0:
        pytest.skip("no logarithm")
    axis = padded_axis(values, logarithmic)
    assert all(0 <= axis.share(v) <= 1 for v in values)
    assert axis.marks and all(-1e-6 <= share <= 1 + 1e-6 for share, _ in axis.marks)
    for share, label in axis.marks:
        scaled = math.log10(float(label)) if logarithmic else float(label)
        assert axis.low + share * (axis.high - axis.low) == pytest.approx(scaled, abs=1e-3)
