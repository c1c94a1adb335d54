"""`vitfw benchmark`: every suite in a tiny setting, contestants that do the same, errors."""

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from vitfw.assemble import build_data, make_passport
from vitfw.benchmarks import image_files, resident_images
from vitfw.benchmarks.photographs import CLASSES, write_photographs
from vitfw.benchmarks.record import default_path
from vitfw.benchmarks.turns import images_per_second, median_ratio, milliseconds
from vitfw.building import build
from vitfw.checkpoint import AtomicCheckpointIO
from vitfw.cli import benchmark, main
from vitfw.config import compose, to_plain

CPU = torch.device("cpu")
TINY_NET = ["model=vit_nano", "model.embed_dim=16", "model.depth=1", "model.num_heads=2"]
TINY_FILES = {"img_size": 32, "batch_size": 8, "workers": 0}
NORMALISED_BLACK, NORMALISED_WHITE = -1.8, 2.65  # the smallest and largest of all three channels


@pytest.fixture
def vitfw(monkeypatch, capsys):
    """Runs the command at 80 columns; gives its exit code and the lines it prints."""
    monkeypatch.setattr(benchmark, "prepare_process", lambda: None)
    monkeypatch.setattr("vitfw.cli.benchmark.console.width", 80)

    def run(*words: str) -> tuple[int, list[str], list[str]]:
        code = main.main(["benchmark", "accelerator=cpu", *words])
        said = capsys.readouterr()
        return code, said.out.splitlines(), said.err.splitlines()

    return run


@pytest.fixture
def measured(vitfw, tmp_path):
    """The JSON that a suite stores, after a look at what every suite prints and stores."""

    def run(*words: str) -> dict:
        path = tmp_path / "figures.json"
        code, out, err = vitfw(*words, f"output={path}")
        assert code == 0, err
        assert all(len(line) <= 80 for line in out[:-1]) and out[-1] == f"stored in {path}"
        figures = json.loads(path.read_text())
        assert {"what", "device", "date", "git_commit", "versions"} <= set(figures)
        assert figures["versions"]["torch"] == str(torch.__version__)
        return figures

    return run


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    write_photographs(root, 48)
    return root


# ── suites ────────────────────────────────────────────────────────────────────────────────────


def test_data_measures_its_three_parts(measured):
    figures = measured(
        "suite=data",
        "data.turns=1",
        *("data.resident.images=32", "data.resident.batch_size=16", "data.resident.workers=1"),
        *("data.files.images=8", "data.files.batch_size=4", "data.files.img_size=32"),
        "data.files.workers=[0,1]",
        *("data.policies.names=[none,trivial]", "data.policies.batches=1"),
        "data.policies.batch_size=8",
    )
    peers = {"torchvision, PIL", "torchvision, tensors"}
    assert set(figures["resident"]["images_per_second"]) == {"vitfw", *peers}
    assert set(figures["resident"]["ratios"]) == peers
    assert [row["workers"] for row in figures["files"]["rows"]] == [0, 1]
    assert figures["files"]["content"] == "photographs" and figures["files"]["mean_bytes"] > 10_000
    for row in figures["files"]["rows"]:
        speeds = row["images_per_second"]
        assert set(speeds) == {"vitfw", "timm", "timm, prefetcher", "torchvision"}
        assert speeds[row["peer"]] == max(speeds["timm"], speeds["timm, prefetcher"])
        ratio = speeds["vitfw"] / speeds[row["peer"]]  # one turn: then it is the median, too
        assert row["ratio_to_peer"] == pytest.approx(ratio, rel=0.01)
    assert set(figures["policies"]["images_per_second"]) == {"none", "trivial"}


def test_a_part_of_data_that_is_null_is_left_out(measured):
    parts = ["data.resident=null", "data.files=null", "data.policies.names=[none]"]
    figures = measured("suite=data", "data.turns=1", *parts, "data.policies.batches=1")
    assert "policies" in figures and not {"resident", "files"} & set(figures)


def test_step_compares_the_trainer_with_a_bare_loop(measured):
    asked = [*TINY_NET, "data=digits", "data.batch_size=16", "trainer.precision=32-true"]
    figures = measured(
        "suite=step", "step.turns=2", "step.steps=2", f"step.overrides=[{','.join(asked)}]"
    )
    assert figures["overrides"] == asked
    assert (figures["turns"], figures["steps_per_turn"], figures["batch_size"]) == (2, 2, 16)
    ratio = figures["trainer_images_per_second"] / figures["bare_images_per_second"]
    assert figures["ratio"] == pytest.approx(ratio, rel=0.01)


def test_attention_measures_each_shape_in_two_formats_with_and_without_backward(measured):
    figures = measured("suite=attention", "attention.turns=1", "attention.shapes=[[1,2,5,4]]")
    found = [(row["shape"], row["dtype"], row["pass"]) for row in figures["rows"]]
    passes = ("forward", "forward + backward")
    formats = ("float32", "bfloat16")
    assert found == [([1, 2, 5, 4], dtype, one) for dtype in formats for one in passes]
    assert all(set(r["milliseconds"]) == {"fused", "written out"} for r in figures["rows"])


def test_patch_embed_measures_the_three_ways(measured):
    figures = measured(
        "suite=patch_embed", "patch_embed.turns=1", "patch_embed.shapes=[[2,1,8,4,16]]"
    )
    assert len(figures["rows"]) == 4
    for row in figures["rows"]:
        assert set(row["milliseconds"]) == {"conv", "conv_rearrange", "linear"}


def test_token_merging_reads_a_checkpoint_and_fewer_tokens_are_fewer_flops(measured, tmp_path):
    words = [*TINY_NET, "data=digits", f"run_dir={tmp_path}"]
    cfg = to_plain(compose("train", words))
    net = build(cfg["model"])
    weights = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
    passport = vars(make_passport(cfg, build_data(cfg)))
    checkpoint = tmp_path / "a=b.ckpt"
    AtomicCheckpointIO().save_checkpoint({"state_dict": weights, "vitfw": passport}, checkpoint)
    steps = ["token_merging.steps=2", "token_merging.turns=1", "token_merging.batch_size=64"]
    figures = measured("suite=token_merging", f"checkpoint={checkpoint}", *steps)
    none, some = figures["rows"]
    assert none["tome_r"] == 0 and none["speed_up"] == 1.0
    assert some["tome_r"] == net.patch_embed.num_patches // 4
    assert some["flops"] < none["flops"] and 0.0 <= some["accuracy"] <= 1.0


# ── turns ─────────────────────────────────────────────────────────────────────────────────────


def test_contestants_take_turns_and_the_first_turn_is_not_counted():
    order = []

    def one(name: str):
        def batches():
            order.append(name)
            yield torch.zeros(4), torch.zeros(4)

        return batches

    speeds = images_per_second({"a": one("a"), "b": one("b")}, 2, CPU)
    assert order == ["a", "b", "b", "a", "a", "b"]  # each begins in its turn
    assert [len(speeds[name]) for name in "ab"] == [2, 2]
    order.clear()
    milliseconds({name: (lambda name=name: order.append(name)) for name in "ab"}, 2, CPU)
    assert order == ["a", "b"] * 3


def test_a_turn_that_was_slow_for_both_does_not_move_the_ratio():
    ours, theirs = [100.0, 10.0, 30.0], [50.0, 5.0, 30.0]
    assert median_ratio(ours, theirs) == 2.0  # that of the medians would be 1


# ── the contestants do the same ───────────────────────────────────────────────────────────────


def test_every_contestant_crops_erases_and_normalises_small_images_alike():
    images = resident_images.made_up(768)
    for name, epoch in resident_images.contestants(images, 128, 0, CPU).items():
        batches = list(epoch())
        pixels = torch.cat([pixels for pixels, _ in batches])
        labels = torch.cat([labels for _, labels in batches])
        assert pixels.shape == (768, 3, 32, 32) and pixels.dtype == torch.float32, name
        assert torch.equal(labels.sort().values, images.labels.sort().values), name
        zeros = (pixels == 0).all(dim=1).float().mean(dim=(1, 2))  # [N], share of the area
        assert (zeros > 0.01).float().mean() == pytest.approx(0.25, abs=0.06), name
        assert zeros[zeros > 0.01].mean() == pytest.approx(0.175, abs=0.03), name
        black = pixels.new_tensor([-m / s for m, s in zip(*mean_and_std(), strict=True)])
        padding = torch.isclose(pixels, black[:, None, None]).all(dim=1).float().mean(dim=(1, 2))
        assert padding.mean() == pytest.approx(1 - (1 - 20 / 9 / 32) ** 2, abs=0.02), name


def mean_and_std() -> tuple:
    return resident_images.CIFAR.mean, resident_images.CIFAR.std


def test_every_contestant_reads_each_file_once_and_prepares_it_alike(pictures):
    for name, epoch in image_files.contestants(pictures, device=CPU, **TINY_FILES).items():
        batches = list(epoch())
        pixels = torch.cat([pixels for pixels, _ in batches])
        labels = torch.cat([labels for _, labels in batches])
        assert pixels.shape == (48, 3, 32, 32) and pixels.dtype == torch.float32, name
        assert labels.bincount().tolist() == [6] * CLASSES, name
        assert NORMALISED_BLACK - 0.4 < pixels.min() < -1.2, name
        assert 1.2 < pixels.max() < NORMALISED_WHITE, name
        erased = ((pixels == 0).all(dim=1).float().mean(dim=(1, 2)) > 0.01).float().mean()
        assert 0.0 < erased < 0.6, name


@pytest.mark.parametrize("installed", [True, False])
def test_files_are_of_imagenets_size_with_or_without_scikit_image(tmp_path, monkeypatch, installed):
    if not installed:
        monkeypatch.setitem(sys.modules, "skimage", None)
    content = write_photographs(tmp_path, 10)
    assert content == ("photographs" if installed else "rendered textures")
    files = sorted(tmp_path.glob("*/*/*.jpg"))
    counts = {s: sum(f.parts[-3] == s for f in files) for s in ("train", "val", "test")}
    assert counts == {"train": 10, "val": CLASSES, "test": CLASSES}
    for file in files:
        with Image.open(file) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (500, 375))
    assert len({file.read_bytes() for file in files}) == len(files)


# ── where results go, and errors ──────────────────────────────────────────────────────────────


def test_results_lie_in_a_checkout_or_where_an_installed_command_is_typed(tmp_path):
    checkout = Path(benchmark.__file__).parents[2]
    assert default_path("data", CPU) == checkout / "benchmarks" / "results" / "data_cpu.json"
    installed = default_path("data", torch.device("cuda"), checkout=tmp_path)
    assert installed == Path("data_cuda.json")


@pytest.mark.parametrize(
    "words, said",
    [
        ("suite=stpe", "suite=stpe does not exist; did you mean step?"),
        ("suite=zzz", "does not exist; known: data, step, attention, patch_embed, token_merging"),
        ("", "give suite=NAME"),
        ("suite=step data.turns=3", "data.turns=3 is an option of suite=data"),
        ("suite=step step.turn=3", "did you mean step.turns"),
        ("suite=step step.turns=0", "step.turns=0 must be at least 1"),
        ("suite=step step.overrides=[modle=vit_b16]", "'modle'; did you mean model"),
        ("suite=data data.files.workers=[2,-1]", "data.files.workers=[2, -1] must be at least 0"),
        ("suite=data data.files.images=8", "do not fill one batch of data.files.batch_size=64"),
        ("suite=data data.files=3", "data.files=3 should be null, or have options inside"),
        ("suite=data data.policies.names=[trivail]", "did you mean trivial"),
        ("suite=data data.resident=null data.files=null data.policies=null", "leave one on"),
        ("suite=attention attention.shapes=[[1,2]]", "[1, 2] is not 4 whole numbers, B, H, N, D"),
        ("suite=patch_embed output=.", "output=. is a folder"),
        ("suite=token_merging", "needs a checkpoint: give checkpoint="),
        ("suite=token_merging checkpoint=none.ckpt", "none.ckpt"),
    ],
)
def test_a_wrong_request_is_one_line_that_says_what_to_type(vitfw, words, said):
    code, _, err = vitfw(*words.split())
    assert code == 2 and len(err) == 1 and said in err[0]
