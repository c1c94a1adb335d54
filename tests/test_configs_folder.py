"""Every file of `configs/`: it composes, what it names can be built, and its figures are true.

The folder is globbed: a new file is tested without anyone adding a test.
"""

import re
import shlex
from functools import cache
from pathlib import Path

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from datasets import ClassLabel, Features
from datasets import Dataset as HubDataset
from datasets import Image as HubImage
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import DictConfig
from PIL import Image

from vitfw.assemble import (
    build_each,
    build_learner,
    build_net,
    resolve_trainer,
    try_optimizer,
)
from vitfw.building import build
from vitfw.callbacks.loggers import end_logging
from vitfw.cli.main import main
from vitfw.config import compose, to_plain
from vitfw.data.augment.batch_augment import BatchAugment
from vitfw.data.catalog import CATALOG, DATASETS
from vitfw.data.classification_data import ClassificationData
from vitfw.data.datamodule import ImageData
from vitfw.models.profile import count_parameters
from vitfw.training.adaptation import adapt

CONFIGS = Path(__file__).parents[1] / "configs"
PUBLISHED_PARAMETERS = {  # timm's and the papers' counts, with 1,000 classes at 224 px
    "vit_ti16": 5_717_416,
    "vit_s16": 22_050_664,
    "vit_b16": 86_567_656,
    "vit_b32": 88_224_232,
    "vit_l16": 304_326_632,
    "vit_l32": 306_535_400,
    "vit_h14": 632_045_800,
}
SMALL = 12_000_000  # parameters that train a step in a moment
SHRUNK = {"depth": 2, "embed_dim": 96, "num_heads": 3}
FROM_WEIGHTS = ("finetune", "lora", "bitfit", "linear_probe")  # recipes that begin with some
NEEDED = {"timm": ["model.name=resnet18"]}  # what an option cannot do without


def options(group: str) -> list[str]:
    return sorted(p.stem for p in (CONFIGS / group).glob("*.yaml") if not p.name.startswith("_"))


def head_of(path: Path) -> str:
    """The comment at the top of a YAML file, without its package line."""
    lines = path.read_text(encoding="utf-8").splitlines()
    head = []
    for line in lines:
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            head.append(line.removeprefix("#").strip())
    return "\n".join(head)


ALL = [
    (group.name, name)
    for group in sorted(CONFIGS.iterdir())
    if group.is_dir() and group.name != "hydra"
    for name in options(group.name)
]
TOLD = [  # what is there to be run as it stands; `default` sets nothing
    CONFIGS / group / f"{name}.yaml"
    for group, name in ALL
    if group in ("recipe", "experiment") and name != "default"
]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for name in ("cat", "dog"):
        (folder / name).mkdir()
        for number in range(4):
            Image.new("RGB", (8, 8)).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def roots(pictures, tmp_path_factory) -> dict[str, Path]:
    """Where the data lie that a config of `data` asks its user for."""
    folder = tmp_path_factory.mktemp("roots")
    rows = [f"{path},{path.parent.name}" for path in sorted(pictures.rglob("*.png"))]
    (folder / "list.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    kind = Features({"image": HubImage(), "label": ClassLabel(names=["cat", "dog"])})
    images = {"image": [Image.new("RGB", (8, 8))] * 4, "label": [0, 1, 0, 1]}
    HubDataset.from_dict(images, kind).save_to_disk(folder / "hub")
    fake = ["data=fake", "data.num_classes=2", "data.num_images=40"]
    assert main(["pack", *fake, f"output={folder}/pack", "num_workers=0"]) == 0
    return {
        "image_folder": pictures,
        "csv": folder / "list.csv",
        "huggingface": folder / "hub",
        "stream": folder / "pack",
    }


@pytest.fixture
def configured(roots, tmp_path):
    """The plain config for overrides, with data where they are needed."""

    def make(*overrides: str) -> dict:
        words = [f"run_dir={tmp_path}/run", *overrides]
        for name, root in roots.items():
            if f"data={name}" in words:
                words.append(f"data.root={root}")
        if any(f"recipe={name}" in words for name in FROM_WEIGHTS):
            words.append("init_from=weights.ckpt")
        return to_plain(compose("train", words))

    return make


def test_the_groups_are_those_of_the_documentation():
    groups = {p.name for p in CONFIGS.iterdir() if p.is_dir()}
    assert groups >= {
        *("model", "data", "augment", "optimizer", "scheduler"),
        *("recipe", "trainer", "callbacks", "logger", "experiment"),
    }


@pytest.mark.parametrize(
    "group, name", [pair for pair in ALL if pair[0] != "data"], ids=lambda word: word
)
def test_every_option_of_every_group_composes(configured, group, name):
    whole = group != "model"  # the models are many: each by itself, with the data it asks for
    config = configured(f"{group}={name}") if whole else to_plain(composed_model(name))
    assert config["model"]["num_classes"] == config["data"]["num_classes"]


@pytest.mark.parametrize("command", ["train", "evaluate", "predict", "attend", "explain"])
def test_every_command_has_a_config_that_composes(command):
    compose(command, [])


# ── models ────────────────────────────────────────────────────────────────────────────────────


@cache
def composed_model(name: str) -> DictConfig:
    data = ["+data.num_classes=10", "+data.channels=3", "+data.native_size=224"]
    return compose(f"model/{name}", [*data, *NEEDED.get(name, [])])


def model_options(name: str) -> dict:
    return to_plain(composed_model(name))["model"]


def follows_the_data(name: str) -> bool:
    unresolved = to_plain(composed_model(name), resolve=False)
    return isinstance(unresolved["model"]["img_size"], str)


def build_on_meta(options: dict) -> torch.nn.Module:
    with torch.device("meta"):
        return build(options)


@pytest.mark.parametrize("name", options("model"))
def test_every_model_builds_without_memory_and_gives_logits(name):
    model = model_options(name)
    two_blocks = {} if name in NEEDED else {"depth": 2}  # the others are like them
    net, size = build_on_meta({**model, **two_blocks}), model["img_size"]
    assert net(torch.empty(2, 3, size, size, device="meta")).shape == (2, 10)


@pytest.mark.parametrize("name, published", PUBLISHED_PARAMETERS.items())
def test_standard_models_have_the_published_number_of_parameters(name, published):
    net = build_on_meta({**model_options(name), "num_classes": 1000})
    assert count_parameters(net) == published


@pytest.mark.parametrize("name", options("model"))
def test_every_model_takes_steps_that_change_all_its_weights(name):
    """Small models for small images as they are, all others with two narrow blocks."""
    model = {**model_options(name), "in_chans": 1}
    as_it_is = {**model, "img_size": 28}
    narrow = {**model, **SHRUNK, "img_size": 2 * model.get("patch_size", 1)}
    if follows_the_data(name) and count_parameters(build_on_meta(as_it_is)) <= SMALL:
        check_steps_change_all_weights(build(as_it_is), as_it_is["img_size"])
    else:
        check_steps_change_all_weights(build(narrow), narrow["img_size"])


@cache
def default_optimizer() -> dict:
    return to_plain(compose("train", []))["optimizer"]


def check_steps_change_all_weights(net: torch.nn.Module, size: int) -> None:
    """Two steps: what lies behind a layer that starts at zero has no gradient in the first."""
    learned = {key: p for key, p in net.named_parameters() if p.requires_grad}
    before = {key: p.detach().clone() for key, p in learned.items()}
    optimizer = build(default_optimizer())(net)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(net(torch.randn(4, 1, size, size)), torch.arange(4)).backward()
        optimizer.step()
    for key, parameter in learned.items():
        assert parameter.isfinite().all(), key
        assert not torch.equal(parameter, before[key]), key


# ── what trains them ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", options("optimizer"))
def test_every_optimizer_takes_a_step(configured, name):
    config = configured(f"optimizer={name}", "model=vit_nano")
    net = build(config["model"])
    optimizer = build(config["optimizer"])(net)
    before = net.head.weight.detach().clone()
    if hasattr(optimizer, "train"):  # schedule-free
        optimizer.train()

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = net(torch.randn(2, 1, 8, 8)).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert not torch.equal(net.head.weight, before)


@pytest.mark.parametrize("name", options("scheduler"))
def test_every_scheduler_sets_a_rate_for_every_step(configured, name):
    begin = ["scheduler.start_step=39", "scheduler.length=2"] if name == "cooldown" else []
    config = configured(f"scheduler={name}", *begin)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = build(config["scheduler"])(optimizer, total_steps=40, steps_per_epoch=10)
    rates = []
    for _ in range(40):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert max(rates) == 2.0 and min(rates) > 0.0


@pytest.mark.parametrize("data", ["digits", "imagenet"])
@pytest.mark.parametrize("name", options("augment"))
def test_every_augmentation_fits_small_and_large_grey_and_coloured_sets(configured, name, data):
    config = configured(f"augment={name}", f"data={data}")
    check_augmentation(build(config["augment"]), config["data"]["channels"])


def check_augmentation(augment: object, channels: int) -> None:
    assert isinstance(augment, BatchAugment)
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (3, channels, 32, 32), dtype=torch.uint8, generator=random)
    changed = augment(images, torch.arange(3))
    assert changed.shape == images.shape and changed.dtype == torch.uint8
    floats = torch.randn(3, channels, 32, 32, generator=random)
    assert augment.after_normalise(floats, torch.arange(3)).isfinite().all()


@pytest.mark.parametrize("name", options("trainer"))
def test_every_trainer_is_lightnings(configured, name, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: name == "gpu")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    options = resolve_trainer(configured(f"trainer={name}")["trainer"])
    if name == "gpu":
        assert (options["accelerator"], options["precision"]) == ("cuda", "bf16-mixed")
        return
    trainer = build({**options, "devices": 1}, logger=False, default_root_dir=str(tmp_path))
    assert isinstance(trainer, L.Trainer)


@pytest.mark.parametrize("name", options("callbacks"))
def test_every_callback_can_be_built(configured, name):
    callbacks = build_each(configured(f"callbacks={name}")["callbacks"])
    assert callbacks and all(isinstance(one, L.Callback) for one in callbacks.values())


@pytest.mark.parametrize("name", options("logger"))
def test_every_logger_writes_into_the_run_folder_only(configured, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/run/mlflow")
    loggers = build_each(configured(f"logger={name}")["logger"])
    assert "csv" in loggers
    for logger in loggers.values():
        logger.log_metrics({"loss": 1.0}, step=1)
    end_logging(loggers.values(), "finished")
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_the_slurm_example_asks_for_a_gpu_a_trial():
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS.resolve())):
        words = ["hydra/launcher=slurm", "hydra.launcher.partition=gpu"]
        launcher = hydra_compose("train", words, return_hydra_config=True).hydra.launcher
    assert launcher._target_.endswith("SlurmLauncher")
    assert (launcher.gpus_per_node, launcher.partition, launcher.timeout_min) == (1, "gpu", 240)


# ── recipes and experiments ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "group, name", [pair for pair in ALL if pair[0] in ("recipe", "experiment")]
)
def test_every_recipe_and_experiment_builds_all_that_trains(configured, group, name, monkeypatch):
    taught = ["model=deit_ti16_distilled", "method.teacher=timm:resnet18"]
    config = configured(f"{group}={name}", *(taught if name == "deit_distilled" else []))
    monkeypatch.setattr("vitfw.assemble.load_teacher", lambda *_: torch.nn.Identity())
    fake = ImageData(
        "fake",
        num_classes=config["data"]["num_classes"],
        channels=config["data"]["channels"],
        native_size=8,
        num_images=4 * config["data"]["batch_size"],
        batch_size=config["data"]["batch_size"],
        augment=build(config["augment"]),
    )
    fake.setup("fit")
    trainer = resolve_trainer({**config["trainer"], "accelerator": "cpu"})
    with torch.device("meta"):
        net = build_net(config)
        adapt(net, config["freeze"], config["train_only"], config["lora"])
        learner = build_learner(config, net, fake, trainer)
        try_optimizer(learner)
    assert learner.total_steps >= 1
    assert build_each(config["callbacks"])


@pytest.mark.parametrize("path", TOLD, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_its_head_has_a_command_that_composes(path):
    (line, *_) = re.findall(r"^(?:python train\.py|vitfw train) .*$", head_of(path), re.MULTILINE)
    words = shlex.split(line.removeprefix("python train.py").removeprefix("vitfw train"))
    assert f"{path.parent.name}={path.stem}" in words
    compose("train", [word for word in words if word != "-m" and "," not in word])


@pytest.mark.parametrize("path", TOLD, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_its_head_has_a_measured_result_or_says_that_there_is_none(path):
    """A figure in percent with the date of its measurement, or where such a figure stands."""
    head = head_of(path)
    measured = re.search(r"\d+(\.\d+)? ?%", head) and re.search(r"\b20\d\d-\d\d-\d\d\b", head)
    elsewhere = re.search(r"configs/experiment/(\w+)\.yaml", head)
    if elsewhere:
        assert elsewhere[1] in options("experiment")
    assert measured or elsewhere or "not yet run" in head.lower(), head


# ── data ──────────────────────────────────────────────────────────────────────────────────────


def test_every_data_set_of_the_catalogue_has_a_file_and_every_file_a_data_set():
    assert options("data") == sorted(CATALOG)


@pytest.mark.parametrize("name", options("data"))
def test_every_data_file_agrees_with_the_catalogue(configured, name):
    whole = configured(f"data={name}")
    config, facts = whole["data"], CATALOG[name]
    assert whole["model"]["num_classes"] == config["num_classes"]
    if name == "stream":  # all that it says is the pack's
        assert isinstance(build({**config, "augment": None}), ClassificationData)
        return
    assert config["name"] == name
    assert config["channels"] == facts.channels == len(facts.mean) == len(facts.std)
    assert tuple(config["mean"]) == facts.mean
    assert tuple(config["std"]) == facts.std
    assert config["native_size"] == facts.native_size
    assert config["num_classes"] == (facts.num_classes or config["num_classes"])
    data = build({**config, "augment": None})
    assert isinstance(data, ImageData)
    assert data.num_classes == config["num_classes"]
    check_augmentation(build(whole["augment"]), facts.channels)


@pytest.mark.parametrize("name", DATASETS)
def test_what_a_data_file_says_of_size_and_download_is_the_catalogues(name):
    head = head_of(CONFIGS / "data" / f"{name}.yaml")
    facts = CATALOG[name]
    counts = [f"{count:,}" for count in facts.splits.values()]
    assert all(count in head for count in counts) or f"{sum(facts.splits.values()):,}" in head
    if facts.same_size:
        assert f"{facts.native_size} × {facts.native_size}" in head
    size, by_hand = facts.download_mb, "no download" in head or "by hand" in head
    sizes = [f"{size:,} MB", f"{size} MB", f"{size / 1000:.0f} GB", f"{size / 1000:.1f} GB"]
    assert by_hand or (size and any(text in head for text in sizes))
