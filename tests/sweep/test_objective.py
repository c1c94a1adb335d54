"""What can be searched for: what a run measures, and never the test set."""

import pytest
from lightning import LightningModule
from torch import nn

from vitfw.config import compose, to_plain
from vitfw.errors import ConfigError
from vitfw.sweep.objective import (
    check_metrics,
    column,
    direction_of,
    known_metrics,
    objective_of,
    pruning_metric,
)
from vitfw.training.classifier import Classifier, Evaluation

CLASSIFY = "vitfw.training.classifier.Classifier"


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("test/accuracy", "must not choose on the test set; use val/accuracy"),
        ("val/acuracy", "never logged by this run, .*; did you mean .*val/accuracy"),
        ("val_raw/loss", "never logged"),
        ("class_accuracy/cat", "never logged"),  # TensorBoard alone has it
        ("memory/process_gib", "never logged"),
    ],
)
def test_a_metric_that_is_not_measured_is_refused(metric, message):
    with pytest.raises(ConfigError, match=message):
        check_metrics([metric], known_metrics(CLASSIFY, averaged=False))


def test_an_empty_list_is_refused():
    with pytest.raises(ConfigError, match="hydra.sweeper.metric is empty: give one"):
        check_metrics([], known_metrics(CLASSIFY, averaged=False))


def test_what_the_default_callbacks_log_in_every_run_is_known():
    cfg = to_plain(compose("train", []))
    known = known_metrics(CLASSIFY, False, [each["_target_"] for each in cfg["callbacks"].values()])
    added = known - known_metrics(CLASSIFY, False)
    assert {name.partition("/")[0] for name in added} == {
        "speed",
        "memory",
        "step_seconds",
        "gradient_norm",
    }


def test_what_a_run_needs_is_the_most_that_it_took(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,memory/process_gib\n1,0.5\n2,2.0\n3,1.0\n")
    assert objective_of(tmp_path, {}, "memory/process_gib", "minimize") == 2.0


def test_callbacks_of_others_may_log_anything():
    assert known_metrics(CLASSIFY, False, ["mine.Callback"]) == set()


def test_the_best_accuracy_is_found_where_another_metric_chose_the_checkpoint(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,val/accuracy\n1,0.5\n2,0.75\n3,0.625\n")
    metrics = {"val/accuracy_best": None}
    assert objective_of(tmp_path, metrics, "val/accuracy_best", "maximize") == 0.75


def test_a_masked_autoencoder_has_no_accuracy():
    known = known_metrics("vitfw.training.masked_autoencoder.MaskedAutoencoder", averaged=True)
    assert "val/loss" in known
    assert not any("accuracy" in name for name in known)


def test_all_that_a_validation_measures_is_known():
    learner: LightningModule = Classifier(nn.Identity(), num_classes=3)
    measured = {*Evaluation(3, "val").metrics.keys(keep_base=False), "val/loss"}
    assert f"{type(learner).__module__}.{type(learner).__name__}" == CLASSIFY
    assert measured == {n for n in known_metrics(CLASSIFY, False) if n.startswith("val/")} - {
        "val/accuracy_best"
    }


@pytest.mark.parametrize(
    ("metric", "direction", "pruned_by"),
    [
        ("val/accuracy_best", "maximize", "val/accuracy"),
        ("val/loss", "minimize", "val/loss"),
        ("train/loss_epoch", "minimize", None),
        ("fit_seconds", "minimize", None),
        ("train/images_per_second", "maximize", None),
        ("flops_per_image", "minimize", None),
        ("val/distill_loss", "minimize", "val/distill_loss"),
        ("val/error", "minimize", "val/error"),
        ("speed/images_per_second", "maximize", None),
        ("memory/process_gib", "minimize", None),
        ("epochs", "minimize", None),
    ],
)
def test_a_metric_has_a_better_side_and_may_be_known_early(metric, direction, pruned_by):
    assert direction_of(metric) == direction
    assert pruning_metric(metric) == pruned_by


def test_a_column_has_what_was_logged_and_nothing_for_empty_cells(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,val/loss,train/loss\n1,,2.5\n2,0.5,\n3,0.25,1.5\n")
    assert column(path, "val/loss") == [0.5, 0.25]
    assert column(path, "val/none") == []
    assert column(tmp_path / "absent.csv", "val/loss") == []
