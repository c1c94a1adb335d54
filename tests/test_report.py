"""report.html: whole, harmless and readable whatever the run did."""

import base64
import io
import math
import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest
import torch
from PIL import Image

from vitfw.plots import Series, line_plot, thin, ticks
from vitfw.report import HEADLINES, Mistake, write_report

VOID = {"meta", "link", "img", "br", "hr", "input"}
LOADING = ("src", "href", "srcset", "data", "action", "poster", "xlink:href")
ATTACK = "<script>alert('x')</script>\"'&"

SUMMARY = {
    "test/accuracy": 0.94321,
    "test/accuracy_top5": 0.99871,
    "test/loss": 0.21348,
    "val/accuracy_best": 0.95118,
    "fit_seconds": 557.3,
    "epochs": 20,
    "steps": 8400,
    "train/images_per_second": 811.7,
    "params": 86_567_656,
    "flops_per_image": 17_580_000_000,
    "device": "Intel Xeon (AMX)",
    "precision": "bf16-mixed",
    "seed": 20240,
    "git_commit": "4f2a9c1",
    "versions": {"torch": "2.14.1", "lightning": "2.6.6"},
}
HISTORY = [
    {"step": 49, "epoch": 0, "train/loss": 2.25, "train/accuracy": 0.125, "lr/AdamW": 1e-3},
    {"step": 99, "epoch": 0, "val/loss": 1.75, "val/accuracy": 0.375, "train/loss": math.nan},
    {"step": 149, "epoch": 1, "train/loss": 1.5, "train/accuracy": 0.5, "lr/AdamW": 5e-4},
    {"step": 199, "epoch": 1, "val/loss": 1.25, "val/accuracy": 0.625},
]


class Page(HTMLParser):
    """Reads a page, refusing unbalanced tags."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.loads, self.text = [], [], [], ""
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> repeats an attribute: {names}"
        assert not any(name.startswith("on") for name in names), f"<{tag}> has a handler"
        self.tags.append(tag)
        self.loads += [value for name, value in attrs if name in LOADING]

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], ["script"]):
            self.text += data


@pytest.fixture
def html(tmp_path):
    def write(**changes):
        arguments = {
            "title": "fashion_mnist / vit_ti",
            "summary": SUMMARY,
            "history": HISTORY,
            "config_text": "optimizer:\n  lr: 0.003\n",
            "overrides": ["optimizer.lr=0.003"],
            "command": "python train.py optimizer.lr=0.003 seed=20240",
        }
        return write_report(tmp_path / "run", **arguments | changes).read_text("utf-8")

    return write


@pytest.fixture
def page(html):
    return lambda **changes: Page(html(**changes))


def mistake(channels=1, size=28, name="cat", guess="dog"):
    image = torch.randint(0, 256, (channels, size, size), dtype=torch.uint8)
    return Mistake(image, truth=name, guess=guess, confidence=0.875)


def curve_count(text):
    return text.count("<polyline")


def test_every_value_of_the_summary_is_shown(page):
    text = page().text
    for shown in (
        *("94.32 %", "99.87 %", "0.2135", "95.12 %", "9 min 17 s", "20", "8,400", "812"),
        *("86.6 M", "17.6 G", "Intel Xeon (AMX)", "bf16-mixed", "20240", "4f2a9c1"),
        *("2.14.1", "2.6.6"),
    ):
        assert shown in text
    for key in SUMMARY["versions"]:
        assert key in text


def test_title_command_overrides_and_config_are_shown(page):
    text = page().text
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


def test_nothing_is_loaded_and_nothing_runs(page):
    result = page(
        mistakes=[mistake(), mistake(3, 300)],
        confusion=torch.eye(3),
        config_text="url: https://example.org/x.png",
        error="see http://example.org",
        status="failed",
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
        summary={ATTACK: ATTACK, "device": ATTACK, "versions": {ATTACK: ATTACK}},
        history=[{"step": 1, f"lr/{ATTACK}": 0.1}, {"step": 2, f"lr/{ATTACK}": 0.2}],
        config_text=ATTACK,
        overrides=[ATTACK],
        command=ATTACK,
        confusion=torch.ones(classes, classes),
        classes=names,
        mistakes=[mistake(name=ATTACK, guess=ATTACK)],
        status=ATTACK,
        error=ATTACK,
    )
    assert "script" not in Page(text).tags
    assert "<script" not in text
    assert Page(text).text.count(ATTACK) >= 10 + classes


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


def test_empty_run_gives_a_whole_page(page):
    result = page(summary={}, history=[], config_text="", overrides=[], command="")
    assert "svg" not in result.tags
    assert "No overrides." in result.text


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None, 1e308])
def test_values_that_cannot_be_drawn_are_left_out(html, value):
    rows = [{"step": i, "train/loss": value, "val/loss": 1.0 + i} for i in range(4)]
    text = html(history=rows, summary=dict.fromkeys(HEADLINES, value) | {"test/loss": value})
    assert curve_count(text) == 1
    assert not re.search(r'="[^"]*\b(nan|inf)\b[^"]*"', text.split("<svg")[1])
    Page(text)


def test_diverged_run_says_nan(page):
    text = page(summary={"test/accuracy": math.nan, "test/loss": math.nan, "fit_seconds": 2}).text
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
    text = html(confusion=torch.eye(k) * 7 + 1, classes=names, history=[])
    assert all(name in text for name in names)
    assert text.count("<rect") == (k * k if k <= 25 else 0)
    assert (f"All {k} classes" in text) == (k > 12)
    assert text.count(f"<td>{100 * 8 / (7 + k):.1f} %</td>") == 2 * k
    Page(text)


def test_recall_and_precision_agree_with_a_count_by_hand(page):
    # truth a: 3 right of 4; truth b: 1 right of 6; c never occurs, but is guessed twice
    confusion = torch.tensor([[3, 1, 0], [3, 1, 2], [0, 0, 0]])
    text = page(confusion=confusion, classes=["a", "b", "c"], history=[]).text
    table = text[text.index("images", text.index("weakest first")) :]
    assert table.startswith("imagesb16.7 %50.0 %6a75.0 %50.0 %4c–0.0 %0")


def test_classes_without_names_are_numbered(page):
    assert "only" in page(confusion=torch.eye(3), classes=["only"]).text


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "L"), (3, "RGB"), (4, "RGB")])
def test_image_of_a_mistake_keeps_its_pixels(page, channels, mode):
    wrong = mistake(channels)
    result = page(mistakes=[wrong])
    data = next(load for load in result.loads if load.startswith("data:image/png;base64,"))
    image = Image.open(io.BytesIO(base64.b64decode(data.split(",")[1])))
    assert (image.mode, image.size) == (mode, (28, 28))
    expected = wrong.image[:3] if channels >= 3 else wrong.image[:1]
    flat = expected.permute(1, 2, 0).flatten()
    assert bytes(flat.tolist()) == image.tobytes()
    assert "cat→ dog 87.5 %" in result.text


def test_small_images_keep_hard_edges_and_large_ones_are_shrunk(html):
    assert '<img class="pixelated"' in html(mistakes=[mistake(3, 32)])
    large = html(mistakes=[mistake(3, 1024)])
    assert '<img class="pixelated"' not in large
    assert len(large) < 300_000


def test_failed_run_shows_a_banner_with_the_error(page):
    result = page(status="failed", error="RuntimeError: out of memory\n  at step 12", summary={})
    assert "Not finished: failed" in result.text
    assert "RuntimeError: out of memory\n  at step 12" in result.text


def test_finished_run_shows_no_banner(html):
    assert 'role="alert"' not in html()
    assert 'role="alert"' in html(status="stopped")


def test_page_is_replaced_whole(html, tmp_path, monkeypatch):
    html(title="first")

    def refuse(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        html(title="second")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["report.html"]
    assert "first" in (tmp_path / "run/report.html").read_text("utf-8")


def test_text_that_is_not_unicode_does_not_stop_the_report(page):
    assert "\\udcff" in page(error="file \udcff", status="failed").text


def test_long_run_stays_a_small_page_and_keeps_its_spikes(html):
    rows = [{"step": i, "train/loss": 1.0 + 9.0 * (i == 54_321)} for i in range(100_000)]
    text = html(history=rows)
    assert "train: 10 at step 54,321<" in text
    assert len(text) < 200_000


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
