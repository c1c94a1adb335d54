"""Features of a frozen net: what they are, and that they are computed once."""

import copy
from functools import partial
from pathlib import Path

import lightning as L
import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

from vitfw.config import config_folder
from vitfw.data.datamodule import ImageData
from vitfw.errors import ConfigError
from vitfw.features import data_module
from vitfw.features.cache import cached_features, depends_on, features_key
from vitfw.features.compute import Features, compute_features
from vitfw.features.data_module import FeatureData, data_to_fit
from vitfw.models.vit import VisionTransformer
from vitfw.training.linear_probe import LinearProbe
from vitfw.training.optimizers import sgd
from vitfw.training.pooled_features import pooled

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ImageData:
    digits = ImageData("digits", tmp_path_factory.mktemp("data"), batch_size=64, seed=7)
    digits.setup("fit")
    return digits


def small_net(**options) -> VisionTransformer:
    torch.manual_seed(0)
    sizes = {"img_size": 8, "patch_size": 4, "in_chans": 1, "embed_dim": 16, "depth": 1}
    return VisionTransformer(**{**sizes, "num_heads": 2, "num_classes": 10, **options})


def test_features_are_the_output_of_a_net_without_its_head(data):
    net = small_net(global_pool="avg", drop_rate=0.5, drop_path_rate=0.5)
    headless = small_net(global_pool="avg", num_classes=0)
    headless.load_state_dict(net.state_dict(), strict=False)
    batch = next(iter(data.val_dataloader()))
    found = compute_features(net, data, "val", CPU)
    expected = headless.eval()(data.prepare_evaluation(batch)[0])
    torch.testing.assert_close(found.values[: len(expected), 0], expected)
    assert torch.equal(found.labels[: len(expected)], batch.labels)
    assert len(found.labels) == data.count("val")
    assert net.training


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet10t", "convnext_atto"])
def test_features_of_timms_nets_are_their_pre_logits(name, data):
    more = {"depth": 1, "img_size": 32} if name.startswith("vit") else {}
    net = timm.create_model(name, in_chans=1, num_classes=10, **more).eval()
    images = torch.randn(2, 1, 32, 32)
    expected = net.forward_head(net.forward_features(images), pre_logits=True)
    torch.testing.assert_close(pooled(net, images), expected)


def test_the_second_view_is_of_the_mirror_image(data):
    net = small_net()
    found = compute_features(net, data, "val", CPU, views=2)
    images, _ = data.prepare_evaluation(next(iter(data.val_dataloader())))
    mirrored = pooled(net.eval(), torch.flip(images, [3]))
    torch.testing.assert_close(found.values[: len(mirrored), 1], mirrored)


def test_under_autocast_features_are_what_the_head_would_get(data):
    net = small_net()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        found = compute_features(net, data, "val", CPU)
        images, _ = data.prepare_evaluation(next(iter(data.val_dataloader())))
        logits = net.eval()(images)
        assert found.values.dtype == torch.bfloat16
        assert torch.equal(net.head(found.values[: len(images), 0]), logits)


def test_the_key_changes_with_the_weights_and_the_data_but_not_with_the_head():
    net = small_net()
    key = features_key(net, {"name": "digits"})
    assert features_key(copy.deepcopy(net), {"name": "digits"}) == key
    assert features_key(net, {"name": "mnist"}) != key
    nn.init.ones_(net.head.weight)
    assert features_key(net, {"name": "digits"}) == key
    net.blocks[0].mlp.fc1.bias.data[3] += 1e-6
    assert features_key(net, {"name": "digits"}) != key


@pytest.mark.parametrize(
    "one, other, same",
    [
        ({"model": {"tome_r": 2}}, {"model": {"tome_r": 0}}, False),
        ({"model": {"global_pool": "avg"}}, {"model": {"global_pool": "token"}}, False),
        ({"limit": 0.5}, {"limit": None}, False),
        ({"batch_size": 7}, {"batch_size": 8}, True),
        ({"name": "mnist", "root": "/a"}, {"name": "mnist", "root": "/b"}, True),
        ({"name": "image_folder", "root": "/a"}, {"name": "image_folder", "root": "/b"}, False),
        ({"name": "csv", "root": "~/a"}, {"name": "csv", "root": "a"}, True),
        ({"name": "csv", "root": "/home/me/a"}, {"name": "csv", "root": "/home/me/b/a"}, False),
        ({"name": "huggingface", "root": "o/a"}, {"name": "huggingface", "root": "o/b"}, False),
    ],
)
def test_the_key_tells_nets_and_folders_apart_whose_weights_are_the_same(
    tmp_path, monkeypatch, one, other, same
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))

    def key(model: dict | None = None, **data) -> str:
        return features_key(small_net(), depends_on(data, model or {}))

    assert (key(**one) == key(**other)) is same


def test_a_pack_is_its_root_whatever_the_set_in_it_is_called():
    pack = yaml.safe_load((config_folder() / "data" / "stream.yaml").read_text())
    pack |= {"name": "mnist", "root": "s3://bucket/a"}
    keys = [depends_on({**pack, "root": f"s3://bucket/{name}"}, {}) for name in "ab"]
    assert keys[0] != keys[1]


def test_only_a_linear_probe_is_fitted_to_features(data, tmp_path):
    net = small_net(global_pool="avg")
    probe = LinearProbe(net, num_classes=10, lr_factors=[1.0])
    assert data_to_fit(L.LightningModule(), data, tmp_path, {}, {}) is data
    given = data_to_fit(probe, data, tmp_path, {"name": "digits"}, {"tome_r": 1})
    assert isinstance(given, FeatureData)
    assert given.described == {"data": {"name": "digits"}, "model": {"tome_r": 1}}


def test_a_file_is_read_instead_of_computed_unless_the_key_is_another(tmp_path):
    computed = []

    def compute() -> Features:
        computed.append(1)
        return Features(torch.full((3, 1, 2), len(computed)), torch.arange(3))

    path = tmp_path / "features" / "train.safetensors"
    for key, count in (("a", 1), ("a", 1), ("b", 2)):
        found = cached_features(path, key, compute)
        assert len(computed) == count
        assert torch.equal(found.values, torch.full((3, 1, 2), count))
    path.write_bytes(path.read_bytes()[:40])  # cut off
    assert cached_features(path, "b", compute).values[0, 0, 0] == 3


def fit(data: ImageData, folder: Path, epochs: int, views: int = 1, resume: Path | None = None):
    """A probe trained on cached features; returns it and the batches it saw."""
    net = small_net(global_pool="avg")
    probe = LinearProbe(
        net,
        num_classes=10,
        lr_factors=[0.1, 1.0],
        batch_norm=True,
        views=views,
        optimizer=partial(sgd, lr=0.1),
    )
    seen = []

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            seen.append(batch)

    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        callbacks=[Watch()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    given = FeatureData(data, net, folder, {"name": "digits"}, views=views)
    trainer.fit(probe, datamodule=given, ckpt_path=resume, weights_only=True)
    return probe, seen, trainer


def test_a_resumed_fit_reads_the_cache_and_ends_as_one_that_was_not_stopped(
    data, tmp_path, monkeypatch
):
    whole, batches, _ = fit(data, tmp_path / "a", epochs=3, views=2)
    _, _, stopped = fit(data, tmp_path / "b", epochs=1, views=2)
    stopped.save_checkpoint(tmp_path / "last.ckpt")
    monkeypatch.setattr(
        data_module, "compute_features", lambda *given: pytest.fail("computed again")
    )
    resumed, later, _ = fit(data, tmp_path / "b", epochs=3, views=2, resume=tmp_path / "last.ckpt")
    assert len(later) == 2 * data.steps_per_epoch()
    for (x, y), (x2, y2) in zip(batches[-len(later) :], later, strict=True):
        assert torch.equal(x, x2)
        assert torch.equal(y, y2)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_both_views_are_drawn_and_every_epoch_has_another_order(data, tmp_path):
    _, batches, _ = fit(data, tmp_path, epochs=2, views=2)
    stored = load_file(tmp_path / "train.safetensors")["values"]
    steps = data.steps_per_epoch()
    first = torch.cat([x for x, _ in batches[:steps]])
    second = torch.cat([x for x, _ in batches[steps:]])
    assert not torch.equal(first, second)
    plain, mirrored = ({tuple(row) for row in view.tolist()} for view in stored.unbind(1))
    drawn = [tuple(row) for row in first.tolist()]
    share = sum(row in mirrored for row in drawn) / len(drawn)
    assert all(row in plain or row in mirrored for row in drawn)
    assert 0.4 < share < 0.6


def test_validation_on_features_equals_validation_of_the_whole_net_on_images(data, tmp_path):
    probe, _, trainer = fit(data, tmp_path, epochs=2)
    batches = list(data.val_dataloader())
    with torch.no_grad():
        right = sum(
            int((probe.net(images).argmax(1) == labels).sum())
            for images, labels in map(data.prepare_evaluation, batches)
        )
    measured = float(trainer.callback_metrics["val/accuracy"])
    assert measured == pytest.approx(right / data.count("val"))
    assert measured > 0.4, "chance is 0.1"


def test_without_validation_images_a_grid_is_refused(tmp_path):
    bare = ImageData("digits", tmp_path, val_share=0.0, batch_size=64)
    bare.setup("fit")
    probe = LinearProbe(small_net(), num_classes=10, lr_factors=[0.1, 1.0])
    with pytest.raises(ConfigError, match="data.val_share=0.1"):
        probe.check_data(bare.count("val"))
    LinearProbe(small_net(), num_classes=10, lr_factors=[1.0]).check_data(0)
