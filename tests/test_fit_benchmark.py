"""`vitfw benchmark suite=fit`: what a time to accuracy is, and that every contestant trains."""

import io
import itertools
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from rich.console import Console

from vitfw.assemble import build_data
from vitfw.benchmarks import fit, fit_huggingface, fit_peers, fit_timm
from vitfw.benchmarks.fit_clock import TrainingClock, read_clock
from vitfw.benchmarks.fit_images import images_of
from vitfw.benchmarks.fit_peers import CLOCK, Order, Progress, measure_speed, prepare
from vitfw.benchmarks.fit_request import Request
from vitfw.benchmarks.fit_result import compare, first_time, limit_of, read_earlier, time_to
from vitfw.benchmarks.record import store
from vitfw.cli import benchmark, main
from vitfw.config import compose, to_plain
from vitfw.data.datamodule import ImageData
from vitfw.data.splits import stratified_split

CPU = torch.device("cpu")
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
TINY_NET = ["model=vit_nano", "model.embed_dim=16", "model.depth=1", "model.num_heads=2"]
TINY_PEER = {"patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2, "batch_size": 32}
TINY_PEER |= {"lr": 1e-2, "weight_decay": 0.05, "warmup_share": 0.1}
TINY_PEER |= {"crop_scale": [0.9, 1.0], "workers": 0}


def points(*pairs: tuple[float, float]) -> list[dict]:
    return [{"seconds": s, "accuracy": a, "step": i} for i, (s, a) in enumerate(pairs, 1)]


def one_run(
    curve: list[dict],
    startup: float = 0.0,
    limit: float = 3600.0,
    schedule: str = "60 min",
    seed: int = 0,
) -> dict:
    about = {"schedule": schedule, "seed": seed}
    return {**about, "curve": curve, "startup_s": startup, "limit_s": limit}


def result(curve: list[dict], startup: float = 0.0, limit: float = 3600.0) -> dict:
    return {"asked": {}, "runs": [one_run(curve, startup, limit)]}


def order_for(peer: dict, **changes: Any) -> Order:
    clock: dict[str, Any] = {"validate_every": 0.2, "cap": 20.0, "stop_at": 0.9}
    shape = {"img_size": (8, 8), "channels": 1, "num_classes": 2, "mean": [0.5], "std": [0.5]}
    rest = {"device": "cpu", "bf16": False, "seed": 0, "epochs": 40, "probe_seconds": 0.1}
    rest |= {"schedule_seconds": None}
    options: dict[str, Any] = {**clock, **shape, **rest, **peer, **changes}
    return Order(**options)


def halves(count: int) -> dict[str, torch.Tensor]:
    """Images whose upper (class 0) or lower half (class 1) is bright."""
    labels = torch.arange(count) % 2
    images = torch.zeros(count, 1, 8, 8, dtype=torch.uint8)
    images[labels == 0, :, :4], images[labels == 1, :, 4:] = 200, 200
    val = (images[:32].float() / 255 - 0.5) / 0.5
    train = {"train_images": images, "train_labels": labels}
    return {**train, "val_images": val, "val_labels": labels[:32]}


# ── times ─────────────────────────────────────────────────────────────────────────────────────


def test_the_time_is_that_of_the_first_validation_at_the_level_without_interpolation():
    curve = points((10, 0.80), (20, 0.85), (30, 0.70), (40, 0.91))
    assert first_time(curve, 0.85) == 20
    assert first_time(curve, 0.86) == 40
    assert first_time(curve, 0.80) == 10
    assert first_time(curve, 0.92) is None and first_time([], 0.1) is None


def test_a_peer_that_does_not_get_there_counts_as_the_cap():
    contestants = {
        "vitfw": result(points((60, 0.86), (200, 0.91)), startup=20),
        "timm": result(points((900, 0.86), (3601, 0.89)), startup=10),
    }
    rows = {(row["contestant"], row["level"]): row for row in compare(contestants, [0.85, 0.9])}
    assert rows["timm", 0.85]["reached"] and rows["timm", 0.85]["ratio"] == 900 / 60
    capped = rows["timm", 0.9]
    assert not capped["reached"] and capped["seconds"] == 3600 and capped["ratio"] == 3600 / 200
    assert capped["ratio_with_startup"] == pytest.approx(3610 / 220, abs=0.01)
    assert "ratio" not in rows["vitfw", 0.9]


@pytest.mark.parametrize(
    "ours, said",
    [
        ({}, "vitfw was not run"),
        ({"vitfw": result(points((60, 0.5)))}, "vitfw did not get there"),
    ],
)
def test_where_vitfw_has_no_time_the_table_says_why_there_is_no_ratio(ours, said):
    rows = compare({**ours, "timm": result(points((900, 0.95)))}, [0.9])
    assert rows[-1]["seconds"] == 900 and "ratio" not in rows[-1]
    ratios = list(fit.table({"rows": rows}).columns[4].cells)
    assert ratios[-1] == said


def test_each_level_has_the_best_time_of_all_schedules():
    short = one_run(points((300, 0.86), (850, 0.89)), 5, limit=850, schedule="15 min")
    long = one_run(points((1200, 0.86), (3000, 0.91)), 7, schedule="60 min")
    for runs in ([short, long], [long, short]):
        low, high, never = (time_to(runs, level) for level in (0.85, 0.9, 0.95))
        assert (low.schedule, low.seconds, low.with_startup) == ("15 min", 300, 305)
        assert (high.schedule, high.seconds, high.with_startup) == ("60 min", 3000, 3007)
        assert (never.schedule, never.seconds, never.reached) == ("60 min", 3600, False)


def test_several_seeds_give_a_mean_and_a_deviation_and_all_must_get_there():
    seconds = (100.0, 110.0, 130.0)
    runs = [one_run(points((s, 0.9)), seed=seed) for seed, s in enumerate(seconds)]
    other = [one_run(points((105, 0.9)), limit=400, schedule="b"), one_run([], limit=400)]
    other[1] |= {"schedule": "b", "seed": 1}
    contestants = {"vitfw": {"runs": [*runs, *other]}, "timm": result(points((340, 0.9)))}
    ours, theirs = compare(contestants, [0.9])
    assert ours["schedule"] == "60 min", "one of the other's seeds does not get there"
    assert ours["seconds"] == pytest.approx(340 / 3, abs=1e-3) and theirs["ratio"] == 3.0
    assert ours["deviation"] == pytest.approx(torch.tensor(seconds).std().item(), abs=1e-3)
    assert "deviation" not in theirs
    assert list(fit.table({"rows": [ours]}).columns[3].cells) == ["113 ± 15"]
    assert compare({"vitfw": {"runs": other}}, [0.9])[0]["seconds"] == 400


def test_what_was_not_reached_counts_as_the_cap_only_if_the_run_nearly_filled_it():
    assert limit_of(points((400, 0.5), (3241, 0.6)), 3600) == 3600
    assert limit_of(points((400, 0.5), (3239, 0.6)), 3600) == 3239
    assert limit_of(points((3605, 0.6)), 3600) == 3600
    assert limit_of([], 3600) == 0


def test_the_table_marks_what_was_not_reached():
    contestants = {
        "vitfw": result(points((100, 0.9))),
        "timm": result(points((3500, 0.8))),
    }
    table = fit.table({"rows": compare(contestants, [0.9])})
    cells = [list(column.cells) for column in table.columns]
    assert cells[0] == ["90%", "90%"] and cells[1] == ["vitfw", "timm"]
    assert cells[3] == ["100", "> 3,600"] and cells[4] == ["", "≥ 36.0"]


def test_the_stored_table_fits_80_columns_with_every_name_whole():
    stored = json.loads((RESULTS / "fit_cpu.json").read_text(encoding="utf-8"))
    console = Console(width=80, file=io.StringIO())
    table = fit.table(stored)
    console.print(table)
    printed = console.file.getvalue()
    assert all(f" {row['schedule']} " in printed for row in stored["rows"])
    whole = [line.split() for line in printed.splitlines()]
    for cells in zip(*(column.cells for column in table.columns), strict=True):
        assert " ".join(cells).split() in whole


# ── the clock ─────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def time_is(monkeypatch):
    def put(seconds: float) -> None:
        monkeypatch.setattr("vitfw.benchmarks.fit_clock.time.perf_counter", lambda: seconds)

    put(0.0)
    return put


def test_the_clock_stands_while_it_is_validated(tmp_path, time_is):
    clock = TrainingClock(tmp_path / CLOCK, validate_every=10, cap=25, stop_at=0.9)
    clock.begin()
    time_is(9)
    assert not clock.due
    time_is(12)
    assert clock.due
    clock.stop()
    time_is(1000)
    clock.resume(0.5, 3)
    assert clock.seconds == 12 and not clock.due and not clock.over
    time_is(1013)
    assert clock.due and clock.over  # 25 seconds of training
    clock.stop()
    clock.resume(0.6, 7)
    curve = read_clock(tmp_path / CLOCK).curve
    assert [(p["seconds"], p["accuracy"], p["step"]) for p in curve] == [(12, 0.5, 3), (25, 0.6, 7)]


def test_it_is_over_when_the_highest_level_is_reached(tmp_path, time_is):
    clock = TrainingClock(tmp_path / CLOCK, validate_every=10, cap=100, stop_at=0.9)
    clock.begin()
    for accuracy, over in ((0.89, False), (0.9, True)):
        clock.stop()
        clock.resume(accuracy, 1)
        assert clock.over is over


def test_half_a_line_of_a_clock_that_is_being_written_is_not_read(tmp_path):
    path = tmp_path / CLOCK
    assert read_clock(path).curve == []
    path.write_text(
        '{"began": 5.0}\n{"seconds": 1, "accuracy": 0.5, "step": 1}\n{"seconds": 2, "acc'
    )
    found = read_clock(path)
    assert found.began == 5.0 and len(found.curve) == 1


# ── contestants ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("peer", [fit_timm, fit_huggingface], ids=["timm", "huggingface"])
def test_a_peer_learns_and_stops_at_the_level(tmp_path, peer):
    prepare(tmp_path, order_for(TINY_PEER), halves(256))
    fit_peers.run(tmp_path, peer.train, peer.versions())
    found = read_clock(tmp_path / CLOCK)
    assert found.curve[-1]["accuracy"] >= 0.9
    assert all(point["accuracy"] < 0.9 for point in found.curve[:-1])
    assert found.curve[-1]["step"] <= 40 * 8 and found.about["epochs"] == 40
    patches, d = 4, 16  # [C·P·P + 1] → d, class token and positions, one block, norm, head
    block = 4 * (d * d + d) + (d * 4 * d + 4 * d) + (4 * d * d + d) + 2 * 2 * d
    assert found.about["parameters"] == 17 * d + (patches + 2) * d + block + 2 * d + 2 * (d + 1)


@pytest.mark.parametrize("peer", [fit_timm, fit_huggingface], ids=["timm", "huggingface"])
def test_a_peer_ends_with_its_schedule_and_is_validated_then(tmp_path, peer):
    never = order_for(TINY_PEER, epochs=1, validate_every=1e9, stop_at=2.0)
    prepare(tmp_path, never, halves(64))
    fit_peers.run(tmp_path, peer.train, {})
    assert [point["step"] for point in read_clock(tmp_path / CLOCK).curve] == [2]


def ten_steps_a_second(data, order: Order, total_steps: int, progress: Progress, now: list) -> None:
    """A training whose clock stands still but for its steps; the first five take a second each."""
    progress.begin()
    net, step = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)), 0
    while True:
        now[0] += 1.0 if step < 5 else 0.1
        step += 1
        if progress.after_step(net, step):
            return


@pytest.fixture
def now(monkeypatch) -> list[float]:
    at = [0.0]
    monkeypatch.setattr("vitfw.benchmarks.fit_peers.time.perf_counter", lambda: at[0])
    return at


def test_the_schedule_is_laid_over_its_minutes_at_the_speed_measured(tmp_path, now):
    asked = []

    def train(data, order: Order, total_steps: int, progress: Progress) -> None:
        asked.append(total_steps)
        ten_steps_a_second(data, order, total_steps, progress, now)

    open_end = order_for(TINY_PEER, epochs=None, cap=200.0, probe_seconds=20.0, stop_at=2.0)
    open_end = replace(open_end, schedule_seconds=100.0)
    prepare(tmp_path, open_end, halves(64))
    fit_peers.run(tmp_path, train, {})
    probe, laid = asked
    assert probe > 100_000 and abs(laid - 0.95 * 100.0 * 10) <= 1  # of the schedule, not of the cap
    found = read_clock(tmp_path / CLOCK)
    assert found.about["epochs"] == laid / 2 and found.curve[-1]["step"] == laid


def test_a_gpu_is_waited_for_at_the_ends_of_the_speed_measured_only(monkeypatch, now):
    waited = []

    def synchronise() -> None:
        waited.append(now[0])
        now[0] += 2.0 * len(waited)  # what was queued

    monkeypatch.setattr(torch.cuda, "synchronize", synchronise)
    order = replace(order_for(TINY_PEER), device="cuda", probe_seconds=20.0)
    speed = measure_speed(partial(ten_steps_a_second, now=now), None, order)  # pyrefly: ignore
    assert len(waited) == 2
    counted = 10 * (waited[1] - waited[0] - 2.0)  # after the first wait of two seconds
    assert speed == pytest.approx(counted / (counted / 10 + 4.0), rel=0.01)


def test_vitfw_is_validated_within_epochs_and_at_its_last_step(tmp_path, monkeypatch):
    monkeypatch.setenv("VITFW_TARGETS", "vitfw.benchmarks.")
    monkeypatch.setattr("vitfw.cli.train.prepare_process", lambda: None)
    path, steps_per_epoch = tmp_path / CLOCK, 1295 // 64
    clock = "_target_:vitfw.benchmarks.fit_callback.ValidationClock,monitor:val/accuracy"
    words = [*TINY_NET, "data=digits", "trainer.max_epochs=2", "trainer.accelerator=cpu"]
    words += [f"run_dir={tmp_path / 'run'}", "test_after_fit=false"]
    words += ["++trainer.val_check_interval={seconds:0.1}"]
    words += [f"+callbacks.validation_clock={{{clock},path:'{path}',cap:60,stop_at:1.0}}"]
    assert main.main(["train", *words]) == 0
    curve = read_clock(path).curve
    assert curve[-1]["step"] == 2 * steps_per_epoch
    assert any(point["step"] % steps_per_epoch for point in curve)
    seconds = [point["seconds"] for point in curve]
    assert seconds == sorted(seconds)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert seconds[-1] < metrics["fit_seconds"]
    assert metrics["test/accuracy"] is None
    assert metrics["val/accuracy_best"] == max(point["accuracy"] for point in curve)


def test_peers_get_vitfws_split_and_the_test_images_are_not_read(monkeypatch):
    read = ImageData._read
    splits = []

    def watched(self, split):
        splits.append(split)
        return read(self, split)

    monkeypatch.setattr(ImageData, "_read", watched)
    data = build_data(to_plain(compose("train", ["data=digits"])))
    assert isinstance(data, ImageData)
    images = images_of(data)
    assert splits == ["train"]
    labels = torch.cat([images["train_labels"], images["val_labels"]])
    assert labels.bincount().sum() == 1438
    whole = read(data, "train").labels
    kept, held_out = stratified_split(whole, 0.1, 0)
    assert torch.equal(images["train_labels"], whole[kept])
    assert torch.equal(images["val_labels"], whole[held_out])


# ── results ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def vitfw(monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "prepare_process", lambda: None)
    monkeypatch.setattr("vitfw.cli.benchmark.console.width", 80)

    def run(*words: str) -> tuple[int, list[str], list[str]]:
        code = main.main(["benchmark", "accelerator=cpu", "suite=fit", *words])
        said = capsys.readouterr()
        return code, said.out.splitlines(), said.err.splitlines()

    return run


DIGITS = ["fit.experiments=[]", "fit.overrides=[data=digits]", "fit.peer.patch_size=2"]


def test_parts_add_to_the_file_and_a_later_one_that_breaks_loses_none(vitfw, tmp_path, monkeypatch):
    times = {"15 min": 900, "30 min": 950, "60 min": 1000}

    def of_peer(name, folder, order):
        assert {file.name for file in folder.iterdir()} == {"order.json", "images.pt"}
        if name == "huggingface":
            raise RuntimeError("it broke")
        minutes = order.schedule_seconds / 60
        return one_run(points((times[f"{minutes:g} min"], 0.92)))

    def ours(folder, words, *rest):
        assert words == ["data=digits", "seed=3"]
        return one_run(points((50, 0.92)))

    monkeypatch.setattr(fit, "run_peer", lambda *given: without_names(of_peer(*given)))
    monkeypatch.setattr(fit, "run_ours", lambda *given: without_names(ours(*given)))
    path = tmp_path / "fit.json"
    words = [*DIGITS, "fit.seeds=[3]", f"output={path}"]
    assert vitfw(*words, "fit.only=[timm,huggingface]")[0] == 1
    (name, timm), *none = json.loads(path.read_text())["contestants"].items()
    assert name == "timm" and not none
    assert [(run["schedule"], run["seed"]) for run in timm["runs"]] == [
        ("15 min", 3),
        ("30 min", 3),
        ("60 min", 3),
    ]
    code, out, _ = vitfw(*words, "fit.only=[vitfw]")
    figures = json.loads(path.read_text())
    assert code == 0 and set(figures["contestants"]) == {"vitfw", "timm"}
    assert [row["ratio"] for row in figures["rows"] if "ratio" in row] == [18.0] * 3
    assert all(len(line) <= 80 for line in out[:-1])


def without_names(run: dict) -> dict:
    return {key: value for key, value in run.items() if key not in ("schedule", "seed")}


@pytest.mark.parametrize(
    "changed, left_out, said",
    [
        ({"peer": {"patch_size": 4, "lr": 2e-3}}, "timm", "another peer.lr"),
        ({"peer_minutes": [5, 60]}, "timm", "another schedules"),
        ({"probe_seconds": 20}, "timm", "another probe_seconds"),
        ({"experiments": ["b"]}, "vitfw", "another experiments"),
        ({"overrides": ["optimizer.lr=0.01"]}, "vitfw", "another overrides"),
        ({"seeds": [0, 1]}, "vitfw", "another seeds"),
    ],
)
def test_a_contestant_that_was_asked_for_something_else_is_left_out(
    tmp_path, caplog, changed, left_out, said
):
    options = to_plain(compose("benchmark", ["suite=fit"]))["fit"]
    options |= {"experiments": ["a"], "peer": {"patch_size": 4, "lr": 1e-3}}

    def asked(**options) -> dict[str, dict]:
        request = Request(**options)
        return {name: request.asked_of(name) for name in ("vitfw", "timm")}

    path = tmp_path / "fit.json"
    before = {name: {"asked": words, "runs": []} for name, words in asked(**options).items()}
    store({"settings": {}, "contestants": before}, CPU, path)
    assert read_earlier(path, {}, asked(**options), CPU) == before and not caplog.text
    kept = read_earlier(path, {}, asked(**options | changed), CPU)
    assert set(before) - set(kept) == {left_out}
    assert f"{left_out} was run with {said}: left out now" in caplog.text


def test_every_experiment_is_run_with_every_seed(vitfw, tmp_path, monkeypatch):
    told = []

    def ours(folder, words, cfg, device, clock):
        told.append((*words, cfg["optimizer"]["lr"]))
        return without_names(one_run(points((50, 0.92))))

    lr = {"a": 0.1, "b": 0.2}

    def composed(name, words):
        (experiment,) = (word[-1] for word in words if word.startswith("experiment="))
        return compose(name, [*words[1:], f"optimizer.lr={lr[experiment]}"])

    monkeypatch.setattr(fit, "run_ours", ours)
    monkeypatch.setattr(fit, "compose", composed)
    path = tmp_path / "fit.json"
    words = [*DIGITS, "fit.experiments=[a,b]", "fit.seeds=[0,1]", "fit.only=[vitfw]"]
    assert vitfw(*words, f"output={path}")[0] == 0
    runs = json.loads(path.read_text())["contestants"]["vitfw"]["runs"]
    expected = list(itertools.product("ab", (0, 1)))
    assert [(run["schedule"], run["seed"]) for run in runs] == expected
    assert told == [
        (f"experiment={name}", "data=digits", f"seed={seed}", lr[name]) for name, seed in expected
    ]


def test_experiments_of_other_images_are_refused(vitfw, tmp_path, monkeypatch):
    shares = {"a": 0.1, "b": 0.2}

    def composed(name, words):
        (experiment,) = (word[-1] for word in words if word.startswith("experiment="))
        return compose(name, [*words[1:], f"data.val_share={shares[experiment]}"])

    monkeypatch.setattr(fit, "compose", composed)
    words = [*DIGITS, "fit.experiments=[a,b]", f"output={tmp_path / 'fit.json'}"]
    code, _, err = vitfw(*words)
    assert code == 2 and err == [err[0]] and "b has other images than a" in err[0]


def test_what_is_left_open_is_chosen_by_the_device(monkeypatch):
    options = to_plain(compose("benchmark", ["suite=fit"]))["fit"]
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    for device, every in (("cpu", 15.0), ("cuda", 2.0)):
        request = Request(**options | {"only": ["timm"]}).completed(torch.device(device))
        assert request.validate_every == every and request.peer["workers"] == 8
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    options["peer"]["workers"], options["validate_every"] = None, 7
    request = Request(**options | {"only": ["timm"]}).completed(CPU)
    assert request.clock["validate_every"] == 7.0 and request.peer["workers"] == 3


@pytest.mark.parametrize("changed", ["device", "versions", "settings", "text"])
def test_results_of_another_machine_version_or_setting_are_not_added_to(tmp_path, changed):
    path, settings = tmp_path / "fit.json", {"cap": 60.0}
    store({"settings": settings, "contestants": {"timm": result([])}}, CPU, path)
    assert set(read_earlier(path, settings, {}, CPU)) == {"timm"}
    earlier = json.loads(path.read_text())
    path.write_text("{" if changed == "text" else json.dumps({**earlier, changed: "another"}))
    assert read_earlier(path, settings, {}, CPU) == {}


@pytest.mark.parametrize(
    "words, said",
    [
        ("fit.only=[tim]", "no contestant tim; did you mean timm"),
        ("fit.only=[]", "must not be empty"),
        ("fit.levels=[85]", "fit.levels=[85] are shares of 1"),
        ("fit.levels=[]", "must not be empty"),
        ("fit.cap_minutes=0", "fit.cap_minutes=0 must be above 0"),
        ("fit.peer_minutes=[0,60]", "fit.peer_minutes=[0, 60] must be above 0"),
        ("fit.peer_minutes=[90]", "longer than fit.cap_minutes=60"),
        ("fit.peer_epochs=[]", "fit.peer_epochs must not be empty"),
        ("fit.seeds=[-1]", "fit.seeds=[-1] must be at least 0"),
        ("fit.validate_every=-0.5", "fit.validate_every=-0.5 must be above 0"),
        ("fit.peer.workers=-1", "fit.peer.workers=-1 must be at least 0"),
        ("fit.overrides=[data=digits,modle=vit_b16]", "'modle'; did you mean model"),
        ("fit.overrides=[data=digits,data.val_share=0]", "validation images"),
        ("fit.peer.patch_size=3", "fit.peer.patch_size=3 does not divide images of"),
        ("fit.peer.batch_size=2000", "is more than the 1295 training images"),
    ],
)
def test_a_wrong_request_is_one_line_before_anything_is_trained(vitfw, tmp_path, words, said):
    code, _, err = vitfw(*DIGITS, f"output={tmp_path / 'fit.json'}", *words.split())
    assert code == 2 and len(err) == 1 and said in err[0]


def test_files_are_refused_which_each_would_decode_in_its_own_way(vitfw, tmp_path):
    for split, name in itertools.product(("train", "val"), "ab"):
        folder = tmp_path / split / name
        folder.mkdir(parents=True)
        for number in range(20):
            Image.new("L", (8, 8)).save(folder / f"{number}.png")
    words = f"fit.overrides=[data=image_folder,data.root={tmp_path},data.resident=false]"
    code, _, err = vitfw(*DIGITS, words, f"output={tmp_path / 'fit.json'}")
    assert code == 2 and "needs images that are held in memory" in err[0]


@pytest.mark.slow
def test_the_three_contestants_run_as_processes(vitfw, tmp_path):
    path = tmp_path / "fit.json"
    overrides = ",".join([*TINY_NET, "data=digits", "trainer.max_epochs=2"])
    words = ["fit.experiments=[]", f"fit.overrides=[{overrides}]", f"output={path}"]
    words += [f"fit.peer.{key}={value}" for key, value in TINY_PEER.items() if key != "crop_scale"]
    words += ["fit.peer.patch_size=2", "fit.validate_every=0.3", "fit.cap_minutes=0.03"]
    words += ["fit.peer_minutes=[0.01,0.03]", "fit.seeds=[0,1]"]
    code, _, err = vitfw(*words, "fit.probe_seconds=0.2", "fit.peer.workers=2")
    assert code == 0, err
    figures = json.loads(path.read_text())
    assert set(figures["contestants"]) == {"vitfw", "timm", "huggingface"}
    for name, contestant in figures["contestants"].items():
        assert len(contestant["runs"]) == 2, name
        for found in contestant["runs"]:
            assert found["startup_s"] > 0.1 and found["images_per_second"] > 1, name
            assert 0 < found["curve"][-1]["seconds"] < 30, name
    for run in figures["contestants"]["vitfw"]["runs"]:
        assert run["curve"][-1]["step"] == 2 * (1295 // 64)
