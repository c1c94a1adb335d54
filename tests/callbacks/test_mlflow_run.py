"""MLflow's local stores, read back with MLflow's own client."""

import pytest
from mlflow.tracking import MlflowClient

from vitfw.building import build
from vitfw.callbacks.loggers import end_logging, log_config
from vitfw.callbacks.mlflow_run import MlflowRun, allowed
from vitfw.config import compose, to_plain
from vitfw.errors import ConfigError

CONFIG = {"optimizer.lr": 0.001, "data.name": "digits", "trainer.max_epochs": 3}


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")


@pytest.fixture
def store(tmp_path) -> str:
    return f"file:{tmp_path}/store"


@pytest.fixture
def begin(tmp_path, store):
    """A start of the training in a folder, as often as it is called."""

    def begin(folder: str = "run") -> MlflowRun:
        return MlflowRun(run_dir=str(tmp_path / folder), tracking_uri=store)

    return begin


def runs(store: str) -> list:
    client = MlflowClient(store)
    places = [one.experiment_id for one in client.search_experiments() if one.name == "vitfw"]
    return list(client.search_runs(places)) if places else []


def points(store: str, metric: str) -> list[tuple[int, float]]:
    (run,) = runs(store)
    history = MlflowClient(store).get_metric_history(run.info.run_id, metric)
    return sorted((point.step, point.value) for point in history)


@pytest.mark.parametrize(
    "kind",
    ["file", pytest.param("sqlite", marks=pytest.mark.slow)],  # its tables take long to make
)
def test_config_metrics_and_end_arrive(tmp_path, kind):
    where = {"file": f"file:{tmp_path}/new/store", "sqlite": f"sqlite:///{tmp_path}/new/m.db"}[kind]
    logger = MlflowRun(run_dir=str(tmp_path / "run"), tracking_uri=where, tags={"kind": "test"})
    log_config([logger], {**CONFIG, "data.only_classes": ["x" * 9000], "odd key [1]": 1})
    logger.log_metrics({"train/loss": 2.5, "lr/decayed": 0.1}, step=50)
    logger.log_metrics({"train/loss": 1.5, "class_accuracy/T-shirt/top": 0.75}, step=100)
    logger.finalize("success")  # as Lightning does after the fit, and before the test
    logger.log_metrics({"val/accuracy_best": 0.875}, step=100)
    (run,) = runs(where)
    assert run.info.status == "RUNNING"
    end_logging([logger], "finished")

    (run,) = runs(where)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "run"
    assert run.data.tags["kind"] == "test"
    assert run.data.params.items() >= {key: str(value) for key, value in CONFIG.items()}.items()
    assert len(run.data.params) == len(CONFIG) + 2
    assert points(where, "train/loss") == [(50, 2.5), (100, 1.5)]
    assert points(where, "lr/decayed") == [(50, 0.1)]
    assert points(where, "class_accuracy/T-shirt-top") == [(100, 0.75)]
    assert points(where, "val/accuracy_best") == [(100, 0.875)]


@pytest.mark.parametrize(
    "status, theirs", [("failed", "FAILED"), ("stopped", "KILLED"), ("finished", "FINISHED")]
)
def test_the_store_tells_how_the_run_ended(begin, store, status, theirs):
    logger = begin()
    logger.log_metrics({"train/loss": 2.5}, step=50)
    end_logging([logger], status)
    (run,) = runs(store)
    assert run.info.status == theirs


def test_a_run_that_goes_on_is_one_run_there_without_repeated_steps(begin, store):
    first = begin()
    log_config([first], CONFIG)
    for step in (50, 100, 150):
        first.log_metrics({"train/loss": float(step)}, step=step)
    end_logging([first], "stopped")
    second = begin()  # from a checkpoint of step 75
    log_config([second], {**CONFIG, "trainer.max_epochs": 5, "resume": "auto"})
    for step in (100, 150, 200):
        second.log_metrics({"train/loss": float(step), "val/loss": 1.0}, step=step)
    (run,) = runs(store)
    assert run.info.status == "RUNNING"
    assert points(store, "train/loss") == [(50, 50.0), (100, 100.0), (150, 150.0), (200, 200.0)]
    assert [step for step, _ in points(store, "val/loss")] == [100, 150, 200]
    assert run.data.params["resume"] == "auto"
    assert run.data.params["trainer.max_epochs"] == "3"  # MLflow keeps what it was told first


def test_another_folder_is_another_run(begin, store):
    for folder in ("one", "two"):
        begin(folder).log_metrics({"train/loss": 1.0}, step=1)
    assert sorted(run.info.run_name for run in runs(store)) == ["one", "two"]


def test_a_thousand_classes_and_more_are_told(begin, store):
    begin().log_metrics({f"class_accuracy/{i}": i / 1500 for i in range(1500)}, step=1)
    (run,) = runs(store)
    assert len(run.data.metrics) == 1500


ODD = ("a/b", "a//b", "", ".", "..", "../../x", "猫", "a+b (c) é", " a ", "x" * 400, "a\nb")


@pytest.mark.parametrize("tag", ["/x", "epoch", *(f"class_accuracy/{name}" for name in ODD)])
def test_every_name_of_a_class_is_taken(begin, store, tag):
    logger = begin()
    logger.log_metrics({"class_accuracy/a": 0.25, tag: 0.5}, step=1)
    (run,) = runs(store)
    assert run.data.metrics[allowed(tag)] == 0.5


@pytest.mark.parametrize(
    "tag", ["lr/decayed", "gradient_norm/blocks.0", "epoch", "class_accuracy/T-shirt"]
)
def test_plain_names_stay(tag):
    assert allowed(tag) == tag


def test_the_store_is_the_environments_where_none_is_given(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:1")
    node = to_plain(compose("train", ["logger=mlflow", f"run_dir={tmp_path}"]))["logger"]
    assert build(node["mlflow"]).tracking_uri == "http://localhost:1"


def test_a_store_that_cannot_be_opened_is_named(tmp_path):
    logger = MlflowRun(run_dir=str(tmp_path), tracking_uri="nonsense://x")
    with pytest.raises(ConfigError, match=r"tracking_uri=nonsense://x cannot be opened"):
        logger.log_metrics({"train/loss": 1.0}, step=1)


def test_a_missing_package_is_named(monkeypatch):
    node = to_plain(compose("train", ["logger=mlflow", "run_dir=x"]))["logger"]["mlflow"]
    monkeypatch.setattr("vitfw.callbacks.mlflow_run.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'vitfw\[mlflow\]'"):
        build(node)


def test_nothing_is_begun_before_something_is_logged(begin, tmp_path):
    end_logging([begin()], "finished")
    assert list(tmp_path.iterdir()) == []
