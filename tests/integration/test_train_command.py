"""`python train.py`: what it leaves behind, and that it can be repeated."""

import csv
import json
import re

import pytest
import torch
import yaml
from commands import TINY, Run, run, run_from_start
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

PROMISED_METRICS = (
    "test/accuracy",
    "test/accuracy_top5",
    "test/loss",
    "val/accuracy_best",
    "fit_seconds",
    "epochs",
    "steps",
    "train/images_per_second",
    "params",
    "params_trained",
    "flops_per_image",
    "device",
    "precision",
    "seed",
    "git_commit",
    "versions",
)


def test_the_run_directory_holds_what_is_promised(digits_run: Run):
    files = {str(p.relative_to(digits_run.path)) for p in digits_run.path.rglob("*")}
    assert {
        "config.yaml",
        "overrides.yaml",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "metrics.csv",
        "metrics.json",
        "train.log",
        "report.html",
    } <= files
    assert any(name.startswith("events.out.") for name in files)
    assert not any(name.endswith(".part") for name in files)


def test_metrics_json_holds_every_promised_key(digits_run: Run):
    metrics = json.loads((digits_run.path / "metrics.json").read_text())
    assert set(PROMISED_METRICS) <= set(metrics)
    assert 0.0 <= metrics["test/accuracy"] <= metrics["test/accuracy_top5"] <= 1.0
    assert metrics["epochs"] == 3
    assert metrics["steps"] == 3 * (1295 // 64)
    assert metrics["versions"]["torch"] == str(torch.__version__)


def test_config_and_overrides_are_what_was_typed(digits_run: Run):
    overrides = yaml.safe_load((digits_run.path / "overrides.yaml").read_text())
    assert overrides == [*TINY, "trainer.max_epochs=3"]
    config = yaml.safe_load((digits_run.path / "config.yaml").read_text())
    assert config["model"]["embed_dim"] == 32
    assert config["data"]["num_classes"] == 10  # resolved, not an interpolation


def test_every_epoch_is_in_metrics_csv_once(digits_run: Run):
    with open(digits_run.path / "metrics.csv") as source:
        rows = [row for row in csv.DictReader(source) if row["val/accuracy"]]
    assert [float(row["step"]) for row in rows] == [20, 40, 60]


def test_tensorboard_events_can_be_read_back(digits_run: Run):
    events = EventAccumulator(str(digits_run.path))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {"train/loss", "train/accuracy", "val/loss", "val/accuracy", "test/accuracy"} <= tags
    assert any(tag.startswith("lr/") for tag in tags)
    assert events.Scalars("val/accuracy_best")[-1].value > 0  # the hparams page's metric
    assert [event.step for event in events.Scalars("val/accuracy")] == [20, 40, 60]


def test_the_end_says_where_the_run_is_and_how_to_look_at_it(digits_run: Run):
    out = digits_run.outcome.out
    assert "test accuracy" in out
    assert "runs/vit_nano-digits/" in out
    assert "tensorboard --logdir" in out
    assert "vitfw evaluate checkpoint=" in out
    assert digits_run.outcome.err == ""


def test_the_log_has_a_line_an_epoch_and_no_bar(digits_run: Run):
    log = (digits_run.path / "train.log").read_text()
    assert len(re.findall(r"epoch \d/3 .*train loss .*val accuracy .*img/s", log)) == 3
    assert "\x1b" not in log


def test_the_same_command_again_makes_a_second_run(digits_run: Run):
    outcome = run("train.py", *TINY, "trainer.max_epochs=3", cwd=digits_run.folder)
    assert outcome.code == 0
    first, second = sorted(digits_run.path.parent.iterdir())
    assert second.name == f"{first.name}-2"
    weights = [torch.load(p / "checkpoints/last.ckpt")["state_dict"] for p in (first, second)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_another_seed_gives_other_weights(digits_run: Run):
    words = [*TINY, "trainer.max_epochs=1", "run_dir=other", "seed=1"]
    assert run("train", *words, cwd=digits_run.folder).code == 0
    other = torch.load(digits_run.folder / "other/checkpoints/last.ckpt")["state_dict"]
    mine = torch.load(digits_run.path / "checkpoints/last.ckpt")["state_dict"]
    assert not torch.equal(other["net.head.weight"], mine["net.head.weight"])


@pytest.mark.slow
def test_two_processes_train_and_test_every_image_once(tmp_path):
    words = [*TINY, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
    options = ["trainer.max_epochs=2", "data.batch_size=32", "trainer.precision=32"]
    outcome = run_from_start("train.py", *words, *options, cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    (run_dir,) = (tmp_path / "runs" / "vit_nano-digits").iterdir()
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert metrics["steps"] == 2 * (1295 // 64)
    with open(run_dir / "metrics.csv") as source:
        rows = [row for row in csv.DictReader(source) if row["train/loss_epoch"]]
    assert [float(row["step"]) for row in rows] == [20, 40]
    assert all(0.0 < float(row["train/loss"]) < 5.0 for row in rows)
    assert all(0.0 <= float(row["train/accuracy"]) <= 1.0 for row in rows)
    again = run("evaluate", f"checkpoint={run_dir}/checkpoints/best.ckpt", cwd=tmp_path)
    found = re.search(r"test/accuracy\s+([\d.]+)", again.out)
    assert found and float(found[1]) == pytest.approx(metrics["test/accuracy"], abs=1e-6)


def test_a_run_of_so_many_steps_is_scheduled_over_them(tmp_path):
    words = [*TINY, "trainer.max_epochs=null", "trainer.max_steps=30", "test_after_fit=false"]
    options = ["scheduler=linear", "scheduler.warmup=0", "trainer.log_every_n_steps=5"]
    outcome = run("train", *words, *options, "run_dir=r", cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    with open(tmp_path / "r/metrics.csv") as source:
        rates = {
            row["step"]: float(row["lr/muon"]) for row in csv.DictReader(source) if row["lr/muon"]
        }
    assert rates["30"] == pytest.approx(3e-3 * (1 - 29 / 30))  # the 30th step, from 1 to 0


@pytest.mark.slow
def test_a_compiled_net_trains_and_its_checkpoint_has_clean_keys(tmp_path):
    outcome = run("train.py", *TINY, "trainer=debug", "compile=true", "run_dir=r", cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    keys = torch.load(tmp_path / "r/checkpoints/last.ckpt")["state_dict"]
    assert not [key for key in keys if "_orig_mod" in key]


@pytest.mark.slow
def test_digits_reach_97_percent_within_three_minutes(tmp_path):
    outcome = run_from_start("train.py", cwd=tmp_path, env={"OMP_NUM_THREADS": "2"})
    assert outcome.code == 0, outcome.err
    (path,) = tmp_path.rglob("metrics.json")
    metrics = json.loads(path.read_text())
    assert metrics["test/accuracy"] >= 0.97
    assert metrics["fit_seconds"] < 180
