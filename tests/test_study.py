"""The studies of benchmarks/studies: what they ask for exists, and what is made of the results."""

import json
import sys
from pathlib import Path
from queue import Queue

import pytest
import study
import yaml

from vitfw.config import as_yaml, compose, to_plain

STUDIES = sorted((Path(__file__).parents[1] / "benchmarks" / "studies").glob("*.yaml"))


def ended(accuracy: float, speed: float) -> dict:
    return {"val/accuracy_best": accuracy, "train/images_per_second": speed, "params": 7}


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_run_of_every_study_composes(path):
    asked = yaml.safe_load(path.read_text(encoding="utf-8"))
    for stage in ("first", "runs"):
        for _, seed, words in study.jobs_of({**asked, "seeds": [0]}, stage):
            told = [word.format(folder="runs", seed=seed) for word in words]
            compose("train", [*told, f"seed={seed}"])


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_what_a_run_begins_from_is_one_of_the_first(path):
    asked = yaml.safe_load(path.read_text(encoding="utf-8"))
    folders = {study.folder_of(Path("x"), name, 0).name for name in asked.get("first", {})}
    for _, _, words in study.jobs_of({**asked, "seeds": [0]}, "runs"):
        for word in words:
            if "{folder}" in word:
                assert word.format(folder="x", seed=0).split("x/")[1].split("/")[0] in folders


def test_differences_are_taken_seed_by_seed():
    found = {"whole": [ended(0.9, 100), ended(0.8, 100)], "less": [ended(0.8, 150), ended(0.8, 50)]}
    rows = study.summary({"metric": "val/accuracy_best"}, found)
    assert rows["less"]["difference"] == pytest.approx(-0.05)
    assert rows["whole"]["deviation"] == pytest.approx(0.0707, abs=1e-4)
    assert rows["less"]["relative_speed"] == 1.0
    assert "| less | 80.00 ± 0.00 | -5.00 | 1.00 × |" in study.table(rows)


def keep_run(place: Path, *words: str) -> None:
    """As `vitfw train` leaves it behind."""
    place.mkdir(parents=True)
    (place / "metrics.json").write_text(json.dumps(ended(0.5, 10.0)))
    (place / "config.yaml").write_text(as_yaml(to_plain(compose("train", list(words)))))


def test_the_run_of_a_study_that_has_changed_is_not_taken_for_its_own(tmp_path):
    keep_run(tmp_path / "plain-0", "trainer.max_epochs=4", "seed=0")
    job = ("Plain", 0, ["trainer.max_epochs=4"])
    study.refuse_another(job, tmp_path)
    assert study.run(job, tmp_path, Queue())["val/accuracy_best"] == 0.5
    study.refuse_another(("Other", 0, ["trainer.max_epochs=8"]), tmp_path)  # is not made yet
    with pytest.raises(SystemExit, match=r"trainer\.max_epochs: 4 → 8.* --folder"):
        study.refuse_another(("Plain", 0, ["trainer.max_epochs=8"]), tmp_path)


@pytest.mark.slow
def test_a_run_that_has_ended_is_not_made_again(tmp_path, monkeypatch, capsys):
    asked = {
        "metric": "val/accuracy_best",
        "seeds": [0],
        "common": ["data=fake", "model.depth=1", "trainer=debug", "test_after_fit=false"],
        "runs": {"Plain": [], "no decay": ["optimizer.weight_decay=0.0"]},
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(asked))
    keep_run(study.folder_of(tmp_path / "runs/small", "Plain", 0), *asked["common"], "seed=0")
    monkeypatch.setattr(study, "ROOT", tmp_path)
    words = [str(tmp_path / "small.yaml"), "--folder", str(tmp_path / "runs"), "--workers", "1"]
    monkeypatch.setattr(sys, "argv", ["study.py", *words])
    study.main()
    result = json.loads((tmp_path / "benchmarks/results/study_small.json").read_text())
    assert result["runs"]["Plain"]["values"] == [0.5]
    assert 0.0 <= result["runs"]["no decay"]["mean"] <= 1.0
    assert "| Plain | 50.00 | +0.00 |" in capsys.readouterr().out
