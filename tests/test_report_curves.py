"""Curves by epoch, raw beside averaged weights, and what goes on inside the net and a step."""

import math
import re
from functools import partial

import pytest
from report_page import curve_count, written


@pytest.fixture
def html(tmp_path):
    return partial(written, tmp_path)


def rows(count: int = 40, **columns) -> list[dict[str, float]]:
    """`columns` are functions of the step, 10 to 10 · count; `__` stands for a slash."""
    return [
        {"step": step} | {key.replace("__", "/"): make(step) for key, make in columns.items()}
        for step in range(10, 10 * count + 1, 10)
    ]


def test_past_the_first_epoch_curves_are_by_epoch_and_points_name_both(html):
    history = rows(train__loss=lambda step: 1 / step)
    assert "train: 0.01 at epoch 0.5 (step 100)<" in html(history=history, steps_per_epoch=200)
    assert "train: 0.01 at step 100<" in html(history=history, steps_per_epoch=400)


def test_averaged_weights_are_drawn_beside_those_that_were_trained(html):
    history = rows(val__accuracy=lambda step: 0.9, val_raw__accuracy=lambda step: 0.8)
    text = html(history=history)
    assert curve_count(text) == 2
    assert "val, averaged weights <small>90.00 %" in text
    assert "val, as trained <small>80.00 %" in text


def test_each_kind_of_monitoring_has_its_plot_and_none_without_values(html):
    columns = {
        "gradient_norm__total": "Gradient norm",
        "speed__images_per_second": "Images per second",
        "speed__model_flop_utilisation": "Model FLOP utilisation",
        "memory__process_gib": "Memory, GiB",
        "gradient_norm__head": "Gradient norm by part",
        "update_ratio__head": "Update to weight by part",
        "attention_distance__block_0": "Mean attention distance",
        "step_seconds__forward": "A training step",
    }
    for column, title in columns.items():
        titles = re.findall(r"<figcaption><b>(.*?)</b>", html(history=rows(**{column: float})))
        assert titles == [title]


def test_speed_of_the_steps_is_preferred_to_that_of_the_epochs(html):
    text = html(
        history=rows(
            speed__images_per_second=lambda step: 700, train__images_per_second=lambda step: 600
        )
    )
    assert curve_count(text) == 1 and "training <small>700" in text


def test_a_step_is_split_by_the_medians_of_its_phases(html):
    spike = {10: 9.0}
    history = rows(
        step_seconds__data=lambda step: spike.get(step, 0.01),
        step_seconds__forward=lambda step: 0.03,
        step_seconds__backward=lambda step: 0.05,
        step_seconds__optimizer=lambda step: 0.01,
    )
    text = html(history=history)
    for told in ("data: 10 ms, 10%", "forward: 30 ms, 30%", "backward: 50 ms, 50%"):
        assert f"<title>{told}</title>" in text
    assert "100 ms in all" in text
    widths = [float(w) for w in re.findall(r'class="phase s\d"[^>]* width="([\d.]+)"', text)]
    assert widths == pytest.approx([36, 108, 180, 36])


def strip_cells(text: str) -> list[tuple[str, float]]:
    pattern = r'<rect class="(right|wrong)" x=[^>]*fill-opacity="([\d.]+)"'
    return [(kind, float(opacity)) for kind, opacity in re.findall(pattern, text)]


def test_strips_are_strongest_at_the_largest_value_and_lightest_at_the_least(html):
    history = rows(3, gradient_norm__a=lambda step: step / 10, gradient_norm__b=lambda step: 100)
    cells = [strength for _, strength in strip_cells(html(history=history))]
    assert cells[0] == 0.06 and cells[3:] == [1.0] * 3
    # 2 and 3 of 1 to 100, on a logarithmic scale
    expected = [0.06 + 0.94 * math.log10(value) / 2 for value in (2, 3)]
    assert cells[1:3] == pytest.approx(expected, abs=0.005)


def test_a_part_whose_gradient_is_nan_has_the_colour_of_errors(html):
    history = rows(
        4,
        gradient_norm__a=lambda step: 1.0,
        gradient_norm__b=lambda step: math.nan if step > 20 else 2.0,
    )
    kinds = [kind for kind, _ in strip_cells(html(history=history))]
    assert kinds == ["right"] * 6 + ["wrong"] * 2


def test_very_deep_nets_and_long_runs_stay_a_small_page(html):
    columns = {f"gradient_norm__blocks.{i}": float for i in range(80)}
    text = html(history=rows(2000, **columns))
    assert "28 of 80 parts" in text and "blocks.0<" in text and "blocks.79<" in text
    assert len(strip_cells(text)) == 28 * 30 and len(text) < 250_000
