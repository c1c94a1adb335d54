"""What the report says of a run that did not finish, and of a loss that is not finite."""

import math
from functools import partial

import pytest
from report_page import HISTORY, Page, written

from vitfw.report import Advice, Ending

FAILED = Ending(
    "failed",
    "training, epoch 3 of 8, batch 120 of 421",
    "RuntimeError: out of memory",
    "Epochs done: 2 of 8.",
    [Advice("The same command goes on:", "python train.py seed=1")],
    "Traceback (most recent call last):\n  File x",
    ["10:00 INFO epoch 2/8", "10:01 INFO epoch 3/8"],
)


@pytest.fixture
def html(tmp_path):
    return partial(written, tmp_path)


def test_a_failed_run_says_where_and_why_and_what_to_type_before_all_else(html):
    text = Page(html(ending=FAILED)).text
    said = [
        *("Failed: training, epoch 3 of 8, batch 120 of 421", "RuntimeError: out of memory"),
        *("Epochs done: 2 of 8.", "The same command goes on:", "python train.py seed=1"),
        *("Traceback (most recent call last):\n  File x", "10:01 INFO epoch 3/8", "Curves"),
    ]
    places = [text.index(words) for words in said]
    assert places == sorted(places)


def test_traceback_and_log_are_folded(html):
    text = html(ending=FAILED)
    for heading in ("Traceback", "Log"):
        assert f"<details><summary>{heading}</summary>" in text
    assert "<details open" not in text


@pytest.mark.parametrize(
    ("status", "headline"), [("stopped", "Stopped: "), ("pruned", "Pruned by the search: ")]
)
def test_a_stopped_or_pruned_run_is_no_failure(html, status, headline):
    text = html(ending=Ending(status, "after epoch 3 of 8"))
    assert f"{headline}after epoch 3 of 8" in Page(text).text
    assert 'class="banner stopped"' in text and 'class="banner failed"' not in text


def test_a_finished_run_shows_no_banner(html):
    assert 'class="banner' not in html()


def losses(*values: float, key: str = "train/loss") -> list[dict[str, float]]:
    return [{"step": 50 * (i + 1), key: value} for i, value in enumerate(values)]


def test_a_loss_that_became_nan_is_told_with_its_step(html):
    text = Page(html(history=losses(2.5, 1.25, math.nan, math.nan))).text
    assert "The training loss is NaN from step 150 on; at step 100 it was 1.25." in text
    assert "optimizer.lr" in text


def test_a_validation_loss_that_became_infinite_is_told_too(html):
    text = Page(html(history=losses(2.5, math.inf, key="val/loss"))).text
    assert "The validation loss is ∞ from step 100 on" in text


def test_a_loss_that_recovered_is_told_as_such(html):
    text = Page(html(history=losses(2.5, math.inf, math.nan, 2.0))).text
    assert "was not finite 2 times, first ∞ at step 100; it recovered." in text


def test_a_loss_that_never_was_finite_is_told_as_such(html):
    assert "NaN since it was first logged" in Page(html(history=losses(math.nan))).text


def test_finite_losses_are_not_remarked_upon(html):
    assert "Loss not finite" not in html(history=HISTORY)
