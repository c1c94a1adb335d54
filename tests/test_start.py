"""How a run starts: which way comes first, and what may have changed since."""

import copy

import pytest
import torch

from vitfw.checkpoint import AtomicCheckpointIO, Passport
from vitfw.config import compose, to_plain
from vitfw.errors import ConfigError
from vitfw.models.vit import VisionTransformer
from vitfw.run_directory import RunDirectory
from vitfw.start import Start, differences, find_start

TINY = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}
MODEL = {"_target_": "vitfw.models.vit.VisionTransformer", **TINY}


@pytest.fixture(scope="module")
def config() -> dict:
    return to_plain(compose("train", ["run_dir=somewhere"]))


@pytest.fixture
def net() -> VisionTransformer:
    return VisionTransformer(**TINY, num_classes=3)


@pytest.fixture
def directory(tmp_path) -> RunDirectory:
    return RunDirectory(tmp_path / "run")


@pytest.fixture
def save(config, net):
    """Write a checkpoint of `net`, trained with `config`, or with `model` instead of its own."""

    def write(path, model=None):
        told = config if model is None else {**config, "model": model}
        passport = Passport(told, ["a", "b", "c"], 3, [8, 8], 1.0, [0.5], [0.5], {})
        weights = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
        content = {"state_dict": weights, "vitfw": vars(passport)}
        AtomicCheckpointIO().save_checkpoint(content, path)
        return path

    return write


def changed(config: dict, key: str, value) -> dict:
    changed = copy.deepcopy(config)
    *groups, last = key.split(".")
    node = changed
    for group in groups:
        node = node[group]
    assert node[last] != value
    node[last] = value
    return changed


# ── the order ─────────────────────────────────────────────────────────────────────────────────


def test_its_own_last_checkpoint_comes_before_init_from(directory, save):
    save(directory.last_checkpoint)
    found = find_start(directory, resume="auto", init_from="timm:vit_tiny_patch16_224")
    assert found == Start(checkpoint=directory.last_checkpoint)


def test_without_a_checkpoint_auto_starts_from_init_from(directory):
    assert find_start(directory, "auto", "weights.pth") == Start(weights="weights.pth")
    assert find_start(directory, "auto", None) == Start()


def test_resume_null_leaves_its_own_checkpoint_alone(directory, save):
    save(directory.last_checkpoint)
    assert find_start(directory, None, None) == Start()
    assert find_start(directory, None, "weights.pth") == Start(weights="weights.pth")


def test_a_path_to_resume_comes_before_its_own_checkpoint_and_init_from(directory, save, tmp_path):
    save(directory.last_checkpoint)
    other = save(tmp_path / "other.ckpt")
    assert find_start(directory, str(other), "weights.pth") == Start(checkpoint=other)


def test_a_run_folder_can_be_resumed_as_well_as_a_file(directory, save, tmp_path):
    last = save(tmp_path / "old" / "checkpoints" / "last.ckpt")
    assert find_start(directory, str(tmp_path / "old"), None) == Start(checkpoint=last)


@pytest.mark.parametrize("there", [True, False], ids=["empty folder", "nothing"])
def test_a_path_where_nothing_is_cannot_be_resumed(directory, tmp_path, there):
    path = tmp_path / "old"
    if there:
        path.mkdir()
    with pytest.raises(ConfigError, match=f"resume={path}: there is no checkpoint"):
        find_start(directory, str(path), None)


def test_each_start_tells_its_story(tmp_path):
    assert Start().story == "starting"
    assert Start(weights="timm:vit").story == "starting from the weights of timm:vit"
    path = tmp_path / "last.ckpt"
    assert Start(checkpoint=path).story == f"going on from {path}"


# ── what may have changed ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "key, value",
    [
        ("data.root", "/elsewhere"),
        ("data.num_workers", 3),
        ("data.eval_batch_size", 7),
        ("data.download", False),
        ("trainer.log_every_n_steps", 7),
        ("run_dir", "elsewhere"),
        ("resume", "x.ckpt"),
    ],
)
def test_what_does_not_decide_the_optimisation_may_change(config, net, save, tmp_path, key, value):
    start = Start(checkpoint=save(tmp_path / "last.ckpt"))
    start.check(changed(config, key, value), net)


@pytest.mark.parametrize(
    "key, value",
    [
        ("model.drop_path_rate", 0.1),
        ("data.batch_size", 32),
        ("data.split_seed", 5),
        ("augment.shift", 7),
        ("optimizer.lr", 0.5),
        ("optimizer._target_", "vitfw.training.optimizers.sgd"),
        ("scheduler.warmup", "2ep"),
        ("loss.label_smoothing", 0.2),
        ("seed", 9),
        ("trainer.max_epochs", 99),
        ("trainer.accumulate_grad_batches", 4),
        ("trainer.gradient_clip_val", 1.0),
    ],
)
def test_what_decides_it_may_not_and_the_message_names_old_and_new(
    config, net, save, tmp_path, key, value
):
    path = save(tmp_path / "last.ckpt")
    old = config
    for part in key.split("."):
        old = old[part]
    with pytest.raises(ConfigError) as caught:
        Start(checkpoint=path).check(changed(config, key, value), net)
    message = str(caught.value)
    assert f"{key}: {old} → {value}" in message
    assert f"resume=null init_from={path}" in message
    assert "\n" not in message


def test_a_key_that_was_added_or_taken_away_is_a_difference(config):
    longer = copy.deepcopy(config)
    longer["optimizer"]["caution"] = True
    assert differences(config, longer) == ["optimizer.caution: absent → True"]
    assert differences(longer, config) == ["optimizer.caution: True → absent"]
    assert differences(config, copy.deepcopy(config)) == []


def test_a_checkpoint_of_another_net_is_refused_before_anything_is_written(config, save, tmp_path):
    path = save(tmp_path / "last.ckpt")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match="is of another model: tensors 12 missing"):
        Start(checkpoint=path).check(config, VisionTransformer(**TINY | {"depth": 2}))
    assert sorted(tmp_path.rglob("*")) == before


# ── the weights ───────────────────────────────────────────────────────────────────────────────


def test_only_a_new_run_takes_weights(net, save, tmp_path):
    path = save(tmp_path / "last.ckpt", model=MODEL)
    other = VisionTransformer(**TINY, num_classes=3)
    images = {"mean": [0.5], "std": [0.5], "classes": []}
    assert Start(checkpoint=path, weights=str(path)).initialise(other, **images) is None
    assert Start().initialise(other, **images) is None
    assert not torch.equal(other.head.weight, net.head.weight)
    report = Start(weights=str(path)).initialise(other, **images)
    assert report is not None and not report.remade
    assert torch.equal(other.head.weight, net.head.weight)


def test_a_new_run_says_which_tensors_it_made_anew(save, tmp_path):
    path = save(tmp_path / "last.ckpt", model=MODEL)
    other = VisionTransformer(**TINY, num_classes=8)
    report = Start(weights=str(path)).initialise(other, [0.5], [0.5], classes=[])
    assert report is not None and list(report.remade) == ["head.weight", "head.bias"]
