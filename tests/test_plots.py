"""Line plots: axes that cover the data, curves that keep their spikes."""

import math
import re
from itertools import pairwise

import pytest

from vitfw.plots import Series, line_plot, log_ticks, thin, ticks


def test_thinning_keeps_ends_extremes_and_order():
    points = [(float(i), math.sin(i)) for i in range(5000)]
    kept = thin(points, buckets=50)
    assert kept == sorted(set(kept)) and set(kept) <= set(points) and len(kept) <= 102
    assert kept[0] == points[0] and kept[-1] == points[-1]
    assert {max(points, key=lambda p: p[1]), min(points, key=lambda p: p[1])} <= set(kept)


@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 1), (0.5, 0.5), (0, 0), (-3, 7), (1e-9, 1e-3), (1, 1 + 1e-15), (0, 5e-324), (0, 1e299)],
)
def test_ticks_cover_the_range_with_few_even_steps(low, high):
    marks = ticks(low, high)
    assert marks[0] <= low + 1e-12 and marks[-1] >= high - 1e-6 * abs(high)
    assert 2 <= len(marks) <= 9
    steps = [b - a for a, b in pairwise(marks)]
    assert min(steps) > 0 and max(steps) == pytest.approx(min(steps))


def test_plot_without_points_is_empty():
    assert line_plot("Loss", [Series("train", [])]) == ""


@pytest.mark.parametrize(
    ("low", "high"), [(0.3, 7.0), (1.0, 1.0), (2.0, 5.0), (1e-7, 3e4), (0.9, 11.0), (1e-290, 1e290)]
)
def test_logarithmic_ticks_cover_the_range_and_are_few(low, high):
    marks = log_ticks(low, high)
    assert marks[0] <= low * 1.001 and marks[-1] >= high * 0.999
    assert 2 <= len(marks) <= 9 and marks == sorted(set(marks))


def heights(figure: str) -> list[float]:
    return [float(y) for y in re.findall(r'cy="([\d.]+)"', figure)]


def test_equal_factors_are_equal_distances_on_a_logarithmic_axis():
    figure = line_plot("Norm", [Series("total", [(0, 1.0), (1, 10.0), (2, 100.0)])], log=True)
    a, b, c = heights(figure)
    assert a - b == pytest.approx(b - c, abs=0.11) and a - b > 20


def test_a_value_of_zero_makes_the_axis_linear():
    figure = line_plot("Norm", [Series("total", [(0, 0.0), (1, 50.0), (2, 100.0)])], log=True)
    a, b, c = heights(figure)
    assert a - b == pytest.approx(b - c, abs=0.11)


def test_the_axis_reaches_down_to_what_is_asked():
    labels = re.findall(r">([\d.]+)</text>", line_plot("x", [Series("s", [(0, 90), (1, 99)])]))
    assert "0" not in labels[:3]
    figure = line_plot("x", [Series("s", [(0, 90), (1, 99)])], y_min=0.0)
    assert re.findall(r">([\d.]+)</text>", figure)[0] == "0"
