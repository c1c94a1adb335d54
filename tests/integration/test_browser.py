"""What a person sees of a finished run: TensorBoard and report.html in headless Chromium."""

import pytest
from browser import CHROMIUM, look
from commands import run
from screenshots import PAGES, PHONE, SIZE, page_of_report, page_of_tensorboard, tensorboard

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt install chromium"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seen")
    words = ["trainer.max_epochs=3", "trainer.log_every_n_steps=5", "run_dir=run"]
    outcome = run("train.py", *words, cwd=folder)
    assert outcome.code == 0, outcome.err
    return folder / "run"


@pytest.fixture(scope="module")
def address(finished):
    with tensorboard(finished) as address:
        yield address


@pytest.mark.parametrize("page", list(PAGES))
def test_each_page_of_tensorboard_shows_data_without_errors(address, page):
    assert page_of_tensorboard(address, page, 1.0).errors == []


def test_the_projector_has_a_point_for_each_validation_image(address):
    width, height = SIZE
    seen = look(f"{address}/#projector", width, height, ("143x",), timeout=120.0)
    assert "label" in seen.text


@pytest.mark.parametrize("size", [SIZE, PHONE])
def test_the_report_fits_the_screen_and_has_no_errors(finished, size):
    seen = page_of_report(finished, size)
    assert seen.errors == []
    assert seen.overflow <= 0
    for heading in ("Curves", "Confusion matrix", "Attention rollout", "Environment"):
        assert heading in seen.text
