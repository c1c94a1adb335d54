"""report.html: whole, harmless and readable whatever the run did."""

import base64
import io
import math
import re
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from report_page import ATTACK, SUMMARY, Page, curve_count, prediction, written

from vitfw.callbacks.prediction_tally import totals_of
from vitfw.figure import Figure
from vitfw.report import Advice, Ending, Predictions, page, write_report
from vitfw.report.page import DARK, LIGHT
from vitfw.report.pictures import BUDGET, fitted
from vitfw.report.summary import HEADLINES


def counted(split, confusion, worst=(), best=()) -> Predictions:
    return Predictions(split, totals_of(confusion), confusion, worst, best)


@pytest.fixture
def html(tmp_path):
    return partial(written, tmp_path)


@pytest.fixture
def read(html):
    return lambda **changes: Page(html(**changes))


def test_every_value_of_the_summary_is_shown(read):
    text = read().text
    for shown in (
        *("94.32 %", "99.87 %", "0.2135", "95.12 %", "9 min 17 s", "20", "8,400", "812"),
        *("86.6 M", "17.6 G", "Intel Xeon (AMX)", "bf16-mixed", "20240", "4f2a9c1"),
        *("2.14.1", "2.6.6"),
    ):
        assert shown in text
    for key in SUMMARY["versions"]:
        assert key in text


def test_title_command_overrides_and_config_are_shown(read):
    text = read().text
    assert "fashion_mnist / vit_ti" in text
    assert "python train.py optimizer.lr=0.003 seed=20240" in text
    assert "optimizer:\n  lr: 0.003\n" in text


def test_every_logged_point_can_be_hovered(html):
    text = html()
    assert curve_count(text) == 5
    for title in (
        *("train: 2.25 at step 49", "val: 1.75 at step 99", "val: 1.25 at step 199"),
        *("train: 12.50 % at step 49", "val: 62.50 % at step 199", "AdamW: 0.0005 at step 149"),
    ):
        assert f"<title>{title}</title>" in text


def test_nothing_is_loaded_and_nothing_runs(read):
    result = read(
        predictions=counted(
            "test", torch.eye(3), [prediction(), prediction(3, 300)], [prediction()]
        ),
        figures=[Figure("Attention", Image.new("RGB", (900, 200)))],
        config_text="url: https://example.org/x.png",
        ending=Ending("failed", cause="see http://example.org"),
    )
    assert result.loads and all(load.startswith("data:") for load in result.loads)
    assert "script" not in result.tags
    assert "https://example.org/x.png" in result.text


def test_style_loads_nothing(html):
    style = re.search(r"<style>(.*?)</style>", html(), re.DOTALL).group(1)
    assert "url(" not in style and "@import" not in style


@pytest.mark.parametrize("classes", [2, 20, 40])
def test_text_from_outside_is_escaped_everywhere(html, classes):
    names = [f"{ATTACK}{i}" for i in range(classes)]
    text = html(
        title=ATTACK,
        summary={ATTACK: ATTACK, "git_commit": ATTACK, "versions": {"vitfw": ATTACK}},
        history=[
            {"step": i, f"lr/{ATTACK}": i, f"gradient_norm/{ATTACK}": i, "step_seconds/data": 1}
            for i in (1, 2)
        ],
        config_text=ATTACK,
        overrides=[ATTACK],
        command=ATTACK,
        facts=ATTACK,
        environment={ATTACK: ATTACK},
        unreadable={ATTACK: ATTACK},
        predictions=counted(
            "test",
            torch.ones(classes, classes),
            [prediction(name=ATTACK, guess=ATTACK)],
            [prediction(name=ATTACK, guess=ATTACK)],
        ),
        classes=names,
        figures=[Figure(ATTACK, Image.new("L", (9, 9)), ATTACK)],
        ending=Ending(ATTACK, ATTACK, ATTACK, ATTACK, [Advice(ATTACK, ATTACK)], ATTACK, [ATTACK]),
    )
    assert "script" not in Page(text).tags
    assert "<script" not in text
    assert Page(text).text.count(ATTACK) >= 25 + classes


def test_name_of_the_run_directory_is_escaped(tmp_path):
    path = write_report(
        tmp_path / "<b>bold",
        title="",
        summary={},
        history=[],
        config_text="",
        overrides=[],
        command="",
    )
    assert "<b>bold" in Page(path.read_text("utf-8")).text


def test_empty_run_gives_a_whole_read(read):
    result = read(summary={}, history=[], config_text="", overrides=[], command="")
    assert "svg" not in result.tags
    assert "No overrides." in result.text


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None, 1e308])
def test_values_that_cannot_be_drawn_are_left_out(html, value):
    rows = [{"step": i, "train/loss": value, "val/loss": 1.0 + i} for i in range(4)]
    text = html(history=rows, summary=dict.fromkeys(HEADLINES, value) | {"test/loss": value})
    assert curve_count(text) == 1
    assert not re.search(r'="[^"]*\b(nan|inf)\b[^"]*"', text.split("<svg")[1])
    Page(text)


def test_diverged_run_says_nan(read):
    text = read(summary={"test/accuracy": math.nan, "test/loss": math.nan, "fit_seconds": 2}).text
    assert text.count("NaN") == 2


def test_run_of_one_epoch_is_drawn(html):
    text = html(history=[{"step": 9, "epoch": 0, "val/loss": 0.5, "val/accuracy": 1.0}])
    assert curve_count(text) == 2
    assert "<title>val: 0.5 at step 9</title>" in text
    Page(text)


def test_accuracy_axis_ends_at_100_percent(html):
    for accuracy in (0.0, 0.95, 1.0):
        text = html(history=[{"step": 9, "val/accuracy": accuracy}])
        labels = [float(label) for label in re.findall(r">(-?[\d.]+) %</text>", text)]
        assert min(labels) >= 0 and max(labels) == 100


def test_validation_keeps_its_colour_when_training_was_not_logged(html):
    both, alone = html(), html(history=[{"step": 9, "val/loss": 0.5}])
    assert 'class="key s1"><i></i>val' in both and 'class="key s1"><i></i>val' in alone


def test_rows_without_steps_are_drawn_by_epoch_or_by_row(html):
    assert "at epoch 3<" in html(history=[{"epoch": i, "val/loss": 1.0} for i in range(4)])
    assert "at row 3<" in html(history=[{"val/loss": 1.0} for _ in range(4)])


def test_step_logged_twice_by_a_resumed_run_counts_once(html):
    rows = [{"step": s, "train/loss": loss} for s, loss in ((1, 3.0), (2, 2.0), (2, 1.0), (3, 0.5))]
    text = html(history=rows)
    assert "train: 1 at step 2<" in text and "train: 2 at step 2<" not in text


def test_parameter_groups_on_one_schedule_share_a_curve(html):
    rows = [
        {"step": s, "lr/Muon": 1 / (1 + s)} | {f"lr/AdamW/pg{i}": 0.5 / (1 + s) for i in (1, 2)}
        for s in range(5)
    ]
    assert curve_count(html(history=rows)) == 2


def test_many_schedules_are_sampled_and_the_page_says_so(html):
    rows = [{"step": s} | {f"lr/A/pg{i}": (i + 1.0) * s for i in range(26)} for s in range(5)]
    text = html(history=rows)
    assert curve_count(text) == 6
    assert "6 of 26 schedules" in text and "A/pg25" in text


@pytest.mark.parametrize("k", [2, 10, 12, 13, 25, 26, 100])
def test_heat_map_up_to_25_classes_and_a_table_for_all(html, k):
    names = [f"class{i:03d}" for i in range(k)]
    text = html(predictions=counted("test", torch.eye(k) * 7 + 1), classes=names, history=[])
    assert all(name in text for name in names)
    assert text.count('class="right" f') + text.count('class="wrong" f') == (
        k * k if k <= 25 else 0
    )
    assert (f"All {k} classes" in text) == (k > 12)
    assert text.count(f"<td>{100 * 8 / (7 + k):.1f} %</td>") == 2 * k
    Page(text)


def test_recall_and_precision_agree_with_a_count_by_hand(read):
    # truth a: 3 right of 4; truth b: 1 right of 6; c never occurs, but is guessed twice
    confusion = torch.tensor([[3, 1, 0], [3, 1, 2], [0, 0, 0]])
    text = read(predictions=counted("test", confusion), classes=["a", "b", "c"], history=[]).text
    table = text[text.index("images", text.index("weakest first")) :]
    assert table.startswith("imagesb16.7 %50.0 %6a75.0 %50.0 %4c–0.0 %0")


def test_without_a_matrix_the_classes_are_there_and_the_page_says_why(read):
    confusion = torch.tensor([[3, 1, 0], [3, 1, 2], [0, 0, 0]])
    whole = read(predictions=counted("test", confusion), classes=["a", "b", "c"])
    without = read(predictions=Predictions("test", totals_of(confusion)), classes=["a", "b", "c"])
    said = "No confusion matrix is kept of so many classes."
    assert said in without.text and said not in whole.text
    assert "Rows are the truth" not in without.text
    assert "b16.7 %50.0 %6a75.0 %50.0 %4c–0.0 %0" in without.text


def test_classes_without_names_are_numbered(read):
    assert "only" in read(predictions=counted("test", torch.eye(3)), classes=["only"]).text


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "L"), (3, "RGB"), (4, "RGB")])
def test_image_of_a_mistake_keeps_its_pixels(read, channels, mode):
    wrong = prediction(channels)
    result = read(predictions=Predictions(worst=[wrong]))
    data = next(load for load in result.loads if load.startswith("data:image/png;base64,"))
    image = Image.open(io.BytesIO(base64.b64decode(data.split(",")[1])))
    assert (image.mode, image.size) == (mode, (28, 28))
    expected = wrong.image[:3] if channels >= 3 else wrong.image[:1]
    flat = expected.permute(1, 2, 0).flatten()
    assert bytes(flat.tolist()) == image.tobytes()
    assert "cat→ dog 87.5 %" in result.text


def test_small_images_keep_hard_edges_and_large_ones_are_shrunk(html):
    assert '<img class="pixelated"' in html(predictions=Predictions(worst=[prediction(3, 32)]))
    large = html(predictions=Predictions(worst=[prediction(3, 1024)]))
    assert '<img class="pixelated"' not in large
    assert len(large) < 300_000


def test_page_is_replaced_whole(html, tmp_path, monkeypatch):
    html(title="first")

    def refuse(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        html(title="second")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["report.html"]
    assert "first" in (tmp_path / "run/report.html").read_text("utf-8")


def test_text_that_is_not_unicode_does_not_stop_the_report(read):
    assert "\\udcff" in read(ending=Ending("failed", cause="file \udcff")).text


def test_long_run_stays_a_small_page_and_keeps_its_spikes(html):
    rows = [{"step": i, "train/loss": 1.0 + 9.0 * (i == 54_321)} for i in range(100_000)]
    text = html(history=rows)
    assert "train: 10 at step 54,321<" in text
    assert len(text) < 200_000


EVERYTHING = {
    "predictions": counted("validation", torch.eye(3), [prediction()], [prediction()]),
    "figures": [Figure("Rollout", Image.new("L", (900, 300)), "How far each patch reaches.")],
    "ending": Ending("stopped"),
}


def test_worst_and_best_predictions_say_of_which_split_they_are(read):
    text = read(**EVERYTHING).text
    assert "Predictions of validation images" in text and "Of 3 validation images." in text
    worst, best = text.split("Best: right")
    assert "cat→ dog 87.5 %" in worst and "→ dog" not in best.split("Rollout")[0]


def test_headings_go_down_one_level_at_a_time_and_every_picture_is_told_in_words(read):
    result = read(**EVERYTHING)
    assert result.headings[0] == 1 and result.headings.count(1) == 1
    assert all(b <= a + 1 for a, b in zip(result.headings, result.headings[1:], strict=False))
    alts = [image["alt"] for image in result.images]
    assert alts == ["cat, taken for dog", "cat, recognised", "How far each patch reaches."]


def test_a_wide_picture_is_scrolled_on_a_phone_and_no_wider_than_it_is(html):
    text = html(figures=[Figure("Wide", Image.new("L", (900, 300)))])
    style = re.search(r'<div class="scroll"[^>]*tabindex="0"[^>]*><img [^>]*style="(.*?)"', text)
    assert style and style[1] == "width:100%;max-width:900px;min-width:640px"


def test_pictures_of_noise_stay_within_the_budget_of_a_page(html):
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (500, 600, 3), dtype=np.uint8))
    text = html(figures=[Figure(f"{i}", noise) for i in range(5)])
    sizes = [len(uri) for uri in re.findall(r'src="(data:image/[^"]+)"', text)]
    assert len(sizes) == 5 and 0.3 * BUDGET < sum(sizes) <= BUDGET


def test_a_picture_that_fits_keeps_its_pixels():
    stripes = Image.fromarray(np.tile(np.uint8([[0, 255]]), (40, 200)))
    source, width = fitted(stripes, 10_000)
    image = Image.open(io.BytesIO(base64.b64decode(source.split(",")[1])))
    assert width == 400 and source.startswith("data:image/png")
    assert image.tobytes() == stripes.tobytes()


def test_reproducing_checks_out_the_commit_and_names_the_seed(read):
    text = read(overrides=["run_dir=r"]).text
    assert "git checkout 4f2a9c1\nmake setup\npython train.py optimizer.lr=0.003" in text
    assert "The seed is 20240" in text and "This run_dir is taken" in text
    wheel = read(summary={**SUMMARY, "git_commit": None, "versions": {"vitfw": "1.2"}}).text
    assert "git checkout" not in wheel and "installed vitfw 1.2" in wheel


def luminance(colour: str) -> float:
    digits = colour if len(colour) == 6 else "".join(2 * digit for digit in colour)
    shares = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return sum(w * s for w, s in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_text_stands_out_from_its_background_as_wcag_asks(theme):
    colours = dict(re.findall(r"--([\w-]+):#(\w+)", theme))
    pairs = (
        *(("ink", "bg"), ("ink", "card"), ("muted", "bg"), ("muted", "card")),
        *(("bad", "bad-bg"), ("ink", "bad-bg"), ("warn", "warn-bg"), ("ink", "warn-bg")),
        *(("on-right", "s0"), ("on-wrong", "s1")),
    )
    for text, ground in pairs:
        low, high = sorted(luminance(colours[name]) for name in (text, ground))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (text, ground)


def test_page_has_a_dark_theme_and_is_as_wide_as_the_phone():
    text = page("<&>", "<p>body</p>")
    assert "@media (prefers-color-scheme:dark)" in text
    assert 'name="viewport" content="width=device-width' in text
    assert "<title>&lt;&amp;&gt;</title>" in text and "<p>body</p>" in text
