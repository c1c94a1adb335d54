"""`metrics.csv`, read back with the standard library, over restarts and crashes."""

import csv

import pytest

from vitfw.callbacks.csv_logger import CsvLogger, read_metrics


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.csv"


def rows_of(path) -> list[dict[str, str]]:
    with open(path, newline="") as source:
        return list(csv.DictReader(source))


def write(path, *logged: tuple[int, dict[str, float]]) -> None:
    logger = CsvLogger(str(path))
    for step, metrics in logged:
        logger.log_metrics(metrics, step)
    logger.finalize("success")


def test_a_row_a_step_in_the_order_they_were_logged(path):
    write(path, (0, {"loss": 2.5}), (50, {"loss": 1.25}), (100, {"loss": 0.5}))
    assert path.read_text().splitlines() == ["step,loss", "0,2.5", "50,1.25", "100,0.5"]


def test_what_is_logged_at_one_step_shares_a_row(path):
    write(path, (9, {"lr": 0.1}), (9, {"loss": 2.0}), (9, {"val": 3.0}), (19, {"lr": 0.2}))
    assert rows_of(path) == [
        {"step": "9", "lr": "0.1", "loss": "2.0", "val": "3.0"},
        {"step": "19", "lr": "0.2", "loss": "", "val": ""},
    ]


def test_a_new_metric_is_a_new_column_and_earlier_rows_are_kept(path):
    write(path, (0, {"loss": 2.0}), (1, {"loss": 1.0}), (2, {"val": 0.5}), (3, {"loss": 0.25}))
    assert rows_of(path) == [
        {"step": "0", "loss": "2.0", "val": ""},
        {"step": "1", "loss": "1.0", "val": ""},
        {"step": "2", "loss": "", "val": "0.5"},
        {"step": "3", "loss": "0.25", "val": ""},
    ]


def test_a_resumed_run_drops_the_steps_it_does_again(path):
    write(path, *((step, {"loss": float(step)}) for step in (9, 19, 29, 39)))
    write(path, (29, {"loss": 290.0}), (39, {"loss": 390.0}), (49, {"loss": 490.0}))
    assert read_metrics(path) == [
        {"step": 9, "loss": 9},
        {"step": 19, "loss": 19},
        {"step": 29, "loss": 290},
        {"step": 39, "loss": 390},
        {"step": 49, "loss": 490},
    ]


def test_a_resumed_run_may_log_new_metrics(path):
    write(path, (9, {"loss": 1.0}))
    write(path, (19, {"val": 2.0}))
    assert read_metrics(path) == [{"step": 9, "loss": 1}, {"step": 19, "val": 2}]


def test_a_crash_leaves_every_row_but_the_last_one(path):
    logger = CsvLogger(str(path))
    for step in range(5):
        logger.log_metrics({"loss": float(step)}, step)
    assert [row["step"] for row in read_metrics(path)] == [0, 1, 2, 3]


def test_a_file_cut_off_at_any_byte_can_be_read_and_gone_on_with(path):
    """As after a full disk or a power cut in the middle of a write."""
    write(path, (10, {"loss": 1.5e-07, "val": 0.25}), (20, {"loss": 2.5e-07, "val": 0.5}))
    whole = path.read_bytes()
    rows = read_metrics(path)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        left = read_metrics(path)
        assert left == rows[: len(left)], whole[:length]
        write(path, (30, {"loss": 3.0}))
        assert read_metrics(path) == [*left, {"step": 30, "loss": 3}], whole[:length]


def test_a_failure_while_rewriting_leaves_the_old_file(path, monkeypatch):
    write(path, (0, {"loss": 2.0}))
    logger = CsvLogger(str(path))
    logger.log_metrics({"loss": 1.0, "val": 1.0}, 1)
    before = path.read_bytes()

    def full_disk(*args):
        raise OSError("no space left on device")

    monkeypatch.setattr(csv.DictWriter, "writerows", full_disk)
    with pytest.raises(OSError, match="no space"):
        logger.finalize("success")
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["metrics.csv"]


def test_nothing_is_written_before_something_is_logged(path):
    logger = CsvLogger(str(path))
    logger.log_hyperparams({"lr": 1})
    logger.finalize("success")
    assert not path.exists()


def test_values_that_are_no_number_are_read_back(path):
    write(path, (0, {"loss": float("nan"), "grad": float("inf")}))
    (row,) = read_metrics(path)
    assert row["loss"] != row["loss"]
    assert row["grad"] == float("inf")


def test_a_row_written_with_a_checkpoint_is_still_added_to(path):
    logger = CsvLogger(str(path))
    logger.log_metrics({"loss": 2.0}, 9)
    logger.log_metrics({"val": 0.5}, 19)
    logger.write()
    assert read_metrics(path) == [{"step": 9, "loss": 2}, {"step": 19, "val": 0.5}]
    logger.log_metrics({"loss": 1.0, "lr": 0.1}, 19)
    assert read_metrics(path)[1] == {"step": 19, "val": 0.5, "loss": 1, "lr": 0.1}
    logger.log_metrics({"loss": 0.5}, 29)
    logger.finalize("success")
    assert [row["step"] for row in read_metrics(path)] == [9, 19, 29]
