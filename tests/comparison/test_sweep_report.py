"""sweep_report.html: the figures are those of the runs, and it needs nothing but itself."""

import logging
import re
from urllib.parse import unquote
from xml.etree import ElementTree

import optuna
import pytest
from omegaconf import OmegaConf
from run_folders import add_trial, new_study, write_run

from vitfw.comparison.gather import compare
from vitfw.comparison.page import write_page
from vitfw.comparison.sweep_end import WriteSweepReport

ATTACK = "<script>alert('x')</script>\"&"
RANGES = {
    "optimizer.lr": optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True),
    "augment": optuna.distributions.CategoricalDistribution(["none", ATTACK]),
}


def parsed(path):
    """The page as a tree: it is written so that it is XML, too."""
    html = path.read_text(encoding="utf-8").removeprefix("<!DOCTYPE html>")
    for void in ("meta", "link"):
        html = re.sub(rf"(<{void}\b[^>]*)>", r"\1/>", html)
    return ElementTree.fromstring(html)


def words(element):
    return " ".join("".join(element.itertext()).split())


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Four finished trials, one pruned; the cheapest is the worst, the second is beaten."""
    folder = tmp_path_factory.mktemp("sweeps") / "sweep of & <all>"
    study = new_study(folder)
    figures = [(0.9, 100, 1e-2), (0.8, 120, 1e-3), (0.95, 300, 3e-3), (0.7, 50, 1e-4)]
    for i, (accuracy, seconds, lr) in enumerate(figures):
        augment = ATTACK if i % 2 else "none"
        add_trial(study, {"optimizer.lr": lr, "augment": augment}, RANGES, [accuracy])
        metrics = {"val/accuracy_best": accuracy, "fit_seconds": seconds, "params": 1000}
        typed = ["data=digits", f"optimizer.lr={lr}", f"augment={augment}"]
        write_run(folder / str(i), {}, typed, metrics, [0.1, 0.5, accuracy])
    add_trial(study, {"optimizer.lr": 5e-2, "augment": "none"}, RANGES, None, "PRUNED")
    write_run(folder / "4", accuracies=[0.1, 0.2])
    (folder / "2" / "report.html").write_text("the run's own")
    return folder


@pytest.fixture(scope="module")
def page(sweep):
    return parsed(write_page(compare([sweep]), sweep / "sweep_report.html"))


def test_the_table_has_every_trial_best_first_with_its_figures(page):
    rows = [[words(cell) for cell in row] for row in page.findall(".//tbody/tr")]
    assert [row[:3] for row in rows] == [
        ["1", "2", "95.00 %"],
        ["2", "0", "90.00 %"],
        ["3", "1", "80.00 %"],
        ["4", "3", "70.00 %"],
        ["5", "4", "20.00 %"],
    ]
    assert [row[-1] for row in rows] == ["finished"] * 4 + ["pruned"]
    assert [row[3] for row in rows] == ["0.003", "0.01", "0.001", "0.0001", "0.05"]
    tiles = [words(tile) for tile in page.findall(".//div[@class='tile']")]
    assert "4of 5 runs done" in tiles and "1pruned" in tiles


def test_a_run_is_linked_where_it_has_a_report(sweep, page, tmp_path):
    place = tmp_path / "elsewhere" / "page.html"
    for folder, tree in [
        (sweep, page),
        (place.parent, parsed(write_page(compare([sweep]), place))),
    ]:
        links = tree.findall(".//tbody//a")
        assert [words(link) for link in links] == ["2"]
        assert (folder / unquote(links[0].get("href"))).read_text() == "the run's own"


def test_the_page_loads_nothing_runs_nothing_and_escapes_names(sweep, page):
    html = (sweep / "sweep_report.html").read_text(encoding="utf-8")
    assert page.find(".//script") is None and ATTACK not in html and "url(" not in html
    assert not re.search(r"""(?:src|href)=["']?(?:\w+:)?//|@import|\bon\w+=""", html)
    assert "default-src 'none'" in html
    assert any(cell.get("title") == ATTACK for cell in page.iter("td"))


def test_the_best_configuration_is_a_command(page):
    command = words(page.find(".//pre"))
    assert command == "vitfw train data=digits optimizer.lr=0.003 augment=none"


def test_every_finished_run_is_a_line_to_its_metric_and_a_pruned_one_ends_before(page):
    plot = page.find(".//svg[@aria-label='Parameters and metric']")
    lines = {words(line): line.get("points").split() for line in plot.findall("polyline")}
    assert sorted(len(points) for points in lines.values()) == [2, 3, 3, 3, 3]
    ends = {
        title.split(":")[0]: float(points[-1].split(",")[1])
        for title, points in lines.items()
        if len(points) == 3
    }
    top, bottom = ends["2"], ends["3"]  # 95 % and 70 %
    assert ends["0"] == pytest.approx(bottom + (top - bottom) * 0.8, abs=0.1)


def test_curves_end_where_the_runs_ended(page):
    plot = page.find(".//svg[@aria-label='val/accuracy by step']")
    counts = {
        words(line).split(":")[0]: len(line.get("points").split()) for line in plot.iter("polyline")
    }
    assert counts == {"0": 3, "1": 3, "2": 3, "3": 3, "4": 2}
    assert [words(e) for e in plot.iter("circle")] == [""]  # the pruned one's end


def test_the_front_is_marked_and_numbered_by_rank(page):
    plot = page.find(".//svg[@aria-label='val/accuracy_best against training seconds']")
    front = {words(e).split()[0] for e in plot.findall("circle") if "on-front" in e.get("class")}
    assert front == {"#1", "#2", "#4"}
    assert page.find(".//svg[@aria-label='val/accuracy_best against parameters']") is None


def test_two_objectives_are_the_axes(tmp_path):
    names = ["val/accuracy_best", "train/images_per_second"]
    study = new_study(tmp_path / "s", ["maximize", "maximize"], names)
    for lr, values in [(1e-3, [0.9, 10.0]), (1e-2, [0.8, 30.0]), (2e-2, [0.7, 20.0])]:
        add_trial(study, {"optimizer.lr": lr}, {"optimizer.lr": RANGES["optimizer.lr"]}, values)
    page = parsed(write_page(compare([tmp_path / "s"]), tmp_path / "p.html"))
    plot = page.find(f".//svg[@aria-label='{names[0]} against {names[1]}']")
    front = {words(e).split()[0] for e in plot.findall("circle") if "on-front" in e.get("class")}
    assert front == {"#1", "#2"}


def test_hydra_is_told_where_the_report_is_and_never_of_an_error(sweep, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("vitfw"), "propagate", True)
    caplog.set_level(logging.INFO, "vitfw")
    ended = WriteSweepReport()
    ended.on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(sweep)}}}))
    assert (sweep / "sweep_report.html").is_file() and "sweep_report.html" in caplog.text
    ended.on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(sweep / "nowhere")}}}))
    assert caplog.records[-1].levelname == "WARNING" and "does not exist" in caplog.text
