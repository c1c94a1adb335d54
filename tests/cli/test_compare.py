"""`vitfw compare`: a table at 80 columns, a page, and one line where it cannot be."""

import json

import pytest

from vitfw.cli.compare import main


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Three runs that differ in more than there is room for, in `tmp_path/runs`."""
    monkeypatch.setattr("vitfw.cli.compare.console.width", 80)
    monkeypatch.chdir(tmp_path)
    for i, accuracy in enumerate([0.5, 0.75, 0.625]):
        folder = tmp_path / "runs" / f"a_long_run_name_{i}"
        folder.mkdir(parents=True)
        options = [f"a_rather_long_option_{n}: {i + 2**i * n}" for n in range(4)]
        (folder / "config.yaml").write_text("\n".join(options))
        metrics = {"val/accuracy_best": accuracy, "fit_seconds": 10 - i, "params": 567019}
        (folder / "metrics.json").write_text(json.dumps(metrics))
    return tmp_path / "runs"


def test_the_table_is_ranked_and_fits_80_columns(runs, capsys):
    assert main([str(runs)]) == 0
    page = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in page if "finished" in line]
    assert [row[1][-1] for row in rows] == ["1", "2", "0"]
    assert [row[-5] for row in rows] == ["0.7500", "0.6250", "0.5000"]
    assert all(len(line) <= 80 for line in page if "│" in line or "finished" in line)
    assert any(line.startswith("3 more that differ are on the page: ") for line in page)
    assert (runs.parent / "compare.html").is_file()


def test_sort_and_output_are_obeyed(runs, capsys):
    assert main([f"{runs}/", "sort=fit_seconds", "output=there/page.html"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "finished" in line]
    assert [row[1][-1] for row in rows] == ["2", "1", "0"]
    assert (runs.parent / "there" / "page.html").is_file()


def test_the_page_of_a_sweep_lies_in_its_folder(runs):
    (runs / "multirun.yaml").write_text("hydra: {}")
    assert main([str(runs)]) == 0
    assert (runs / "sweep_report.html").is_file() and not (runs.parent / "compare.html").exists()


def test_a_damaged_run_is_named_and_the_others_are_compared(runs, capsys):
    damaged = runs / "damaged"
    damaged.mkdir()
    (damaged / "metrics.json").write_text('{"val/accuracy_best": 0.')
    assert main([str(runs)]) == 0
    out = capsys.readouterr().out
    assert out.count("finished") == 3 and "damaged/metrics.json cannot be read" in out


@pytest.mark.parametrize(
    "words, said",
    [
        ([], "compare what?"),
        (["sort=fit_seconds"], "compare what?"),
        (["nowhere"], "nowhere does not exist"),
        (["empty"], "empty is no run and holds none"),
        (["runs", "sort=fit_second"], "no run has such a metric; did you mean fit_seconds?"),
        (["runs", "sorted=fit_seconds"], "no option 'sorted'; did you mean sort?"),
        (["runs", "--sort"], "there is no flag --sort"),
        (["runs", "output=empty"], "output=empty is a folder"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_code_2(runs, capsys, words, said):
    (runs.parent / "empty").mkdir()
    assert main(words) == 2
    captured = capsys.readouterr()
    assert said in captured.err and len(captured.err.splitlines()) == 1
    assert captured.out == ""


def test_help_shows_the_usage(capsys):
    assert main(["--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: vitfw compare RUN_DIR…")
