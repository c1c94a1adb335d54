"""`recipe=linear_probe` and `vitfw evaluate knn=…`, on a net that was trained on the digits."""

import csv
import itertools
import json
from pathlib import Path

import pytest
import torch
from commands import TINY, Run, run

from vitfw.assemble import resolve_trainer
from vitfw.cli.main import main
from vitfw.config import compose, to_plain
from vitfw.errors import ConfigError
from vitfw.request_check import check_request
from vitfw.training.linear_probe import check_config

LIMITED = ["trainer.limit_val_batches=0"]
SHORT = ["trainer.max_epochs=2", "data.val_share=0.2"]


@pytest.fixture(scope="module")
def probe_run(digits_run: Run) -> Run:
    words = ["recipe=linear_probe", *TINY, *SHORT, f"init_from={digits_run.best}", "run_dir=probe"]
    outcome = run("train.py", *words, cwd=digits_run.folder)
    assert outcome.code == 0, outcome.err
    return Run(digits_run.folder, digits_run.folder / "probe", outcome)


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    state = torch.load(path)["state_dict"]
    return {name: tensor for name, tensor in state.items() if name.startswith("net.")}


def test_only_the_classifier_is_another_than_in_the_checkpoint(probe_run: Run, digits_run: Run):
    before, after = weights_of(digits_run.best), weights_of(probe_run.best)
    assert set(before) == set(after)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"net.head.weight", "net.head.bias"}


def test_every_learning_rate_is_measured_and_the_best_is_told(probe_run: Run):
    with open(probe_run.path / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    named = {name for row in rows for name in row if name.startswith("val_grid/lr_")}
    assert len(named) == 15
    metrics = json.loads((probe_run.path / "metrics.json").read_text())
    every = [float(row[name]) for row in rows for name in named if row.get(name)]
    assert metrics["val/accuracy_best"] == pytest.approx(max(every), abs=1e-6)
    assert "the best of 15 heads is lr_" in probe_run.outcome.out


def test_what_a_probe_saves_is_an_ordinary_classifier(probe_run: Run, tmp_path):
    out = tmp_path / "metrics.json"
    words = [f"checkpoint={probe_run.best}", f"output={out}"]
    outcome = run("evaluate", *words, cwd=probe_run.folder)
    assert outcome.code == 0, outcome.err
    logged = json.loads((probe_run.path / "metrics.json").read_text())
    assert json.loads(out.read_text())["test/accuracy"] == logged["test/accuracy"]
    assert logged["test/accuracy"] > 0.5
    assert (probe_run.path / "report.html").is_file()


def test_neighbours_vote_without_the_head(digits_run: Run, tmp_path):
    """With a head of zeros."""
    content = torch.load(digits_run.best)
    content["state_dict"]["net.head.weight"].zero_()
    headless, out = tmp_path / "headless.ckpt", tmp_path / "out.json"
    torch.save(content, headless)
    words = [f"checkpoint={headless}", "knn=[1,20]", f"output={out}"]
    outcome = run("evaluate", *words, cwd=digits_run.folder)
    assert outcome.code == 0, outcome.err
    found = json.loads(out.read_text())
    assert list(found) == ["test/accuracy_knn_1", "test/accuracy_knn_20"]
    assert all(accuracy > 0.5 for accuracy in found.values())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["augment=shift"], "augment=none"),
        (["augment.hflip=0.5"], "method.views=2"),
        (["augment.mixing.mixup=0.2"], "augment=none"),
        (["augment.progressive.sizes=[4]"], "augment=none"),
        (["average=ema"], "average=none"),
        (["trainer.gradient_clip_val=1.0"], "^trainer.gradient_clip_val=1.0 .*clip_val=null"),
        (LIMITED, "limit_val_batches=0 leaves none"),
        (
            [*LIMITED, "method.lr_factors=[1.0]", "method.weight_decays=[0.0,1e-4]"],
            "method.weight_decays=null",
        ),
        (["trainer.check_val_every_n_epoch=90"], "check_val_every_n_epoch=90 leaves none"),
        (["init_from=null"], "random weights; give init_from=…"),
        (["freeze=[blocks.0.*]"], "recipe=finetune"),
        (["lora.rank=4"], "recipe=finetune"),
        (["method.weight_decays=1e-4"], r"method\.weight_decays=\[0\.0001\]"),
        (["method.weight_decays=0"], r"method\.weight_decays=\[0\]"),
        (["method.lr_factors=0.1"], r"method\.lr_factors=\[0\.1\]"),
    ],
)
def test_options_that_a_probe_has_no_use_for_are_refused(words, told):
    recipe = ["recipe=linear_probe", "init_from=x", "run_dir=r"]
    check_config(to_plain(compose("train", recipe)))
    check_config(to_plain(compose("train", [*recipe, "augment.mixing=null"])))
    with pytest.raises(ConfigError, match=told):
        check_config(to_plain(compose("train", [*recipe, *words])))


@pytest.mark.parametrize("words", [["optimizer=sam"], ["optimizer=lamb"], ["optimizer=timm"]])
def test_an_optimizer_that_couples_heads_is_refused_before_data_are_read(words):
    told = "max_grad_norm=null" if words != ["optimizer=sam"] else "optimizer=sgd"
    common = ["recipe=linear_probe", "init_from=x", "run_dir=r"]
    cfg = to_plain(compose("train", [*common, *words]))
    with pytest.raises(ConfigError, match=told):
        check_request(cfg, resolve_trainer(cfg["trainer"]))


def test_one_head_needs_no_validation_to_be_saved_and_tested(digits_run: Run):
    words = ["recipe=linear_probe", *TINY, f"init_from={digits_run.best}", "run_dir=alone"]
    words += ["data.val_share=0", "method.lr_factors=[1.0]", "trainer.max_epochs=2"]
    outcome = run("train", *words, cwd=digits_run.folder)
    assert outcome.code == 0, outcome.err
    assert "heads is" not in outcome.out
    metrics = json.loads((digits_run.folder / "alone/metrics.json").read_text())
    assert metrics["test/accuracy"] > 0.3, "chance is 0.1"


def test_a_grid_that_nobody_can_compare_is_refused_before_there_is_a_run(digits_run: Run):
    words = ["recipe=linear_probe", *TINY, f"init_from={digits_run.best}", "run_dir=none"]
    outcome = run("train", *words, "data.val_share=0", cwd=digits_run.folder)
    assert outcome.code == 2 and "data.val_share=0.1, or give one head" in outcome.err
    assert not (digits_run.folder / "none").exists()


def test_a_number_of_neighbours_that_is_none_is_refused(digits_run: Run, monkeypatch, capfd):
    monkeypatch.chdir(digits_run.folder)
    for wrong in ("0", "x", "[]", "[5,-1]", "2.5"):
        assert main(["evaluate", f"checkpoint={digits_run.best}", f"knn={wrong}"]) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert "is a number of neighbours, 1 to" in line


def test_the_grid_of_the_config_is_of_fifteen_learning_rates_evenly_apart():
    method = to_plain(compose("train", ["method=linear_probe", "run_dir=r"]))["method"]
    factors = method["lr_factors"]
    ratios = [b / a for a, b in itertools.pairwise(factors)]
    assert len(factors) == 15 and all(1.9 < ratio < 2.6 for ratio in ratios)
