"""Masked autoencoding against transformers, and as the first half of a fine-tuning."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from vitfw.checkpoint import AtomicCheckpointIO, Passport, PassportCallback
from vitfw.errors import ConfigError
from vitfw.interop.fit import initialise_from
from vitfw.models.vit import VisionTransformer
from vitfw.training.masked_autoencoder import (
    CROSS_ENTROPY,
    OURS,
    MaskedAutoencoder,
    check_config,
)
from vitfw.training.optimizers import adamw, muon

MODEL: dict[str, Any] = {
    "img_size": 16,
    "patch_size": 4,
    "num_classes": 3,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
}
METHOD: dict[str, Any] = {
    "mask_ratio": 0.75,
    "decoder_dim": 8,
    "decoder_depth": 1,
    "decoder_num_heads": 2,
}


def make_learner(model: dict[str, Any] | None = None, **options: Any) -> MaskedAutoencoder:
    torch.manual_seed(0)
    return MaskedAutoencoder(make_net(**(model or {})), **METHOD, **options)


def make_net(**options: Any) -> VisionTransformer:
    return VisionTransformer(**(MODEL | options))


def make_loader(count: int = 37, batch_size: int = 8) -> DataLoader:
    """Images of one random colour each: what is hidden follows from what is seen."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 3, 1, 1, generator=generator).repeat(1, 1, 16, 16)
    return DataLoader(TensorDataset(images, torch.zeros(count).long()), batch_size)


def make_trainer(folder: Path, *callbacks: L.Callback, epochs: int = 1) -> L.Trainer:
    return L.Trainer(
        max_epochs=epochs,
        enable_checkpointing=False,
        default_root_dir=folder,
        accelerator="cpu",
        devices=1,
        logger=False,
        callbacks=list(callbacks),
        plugins=[AtomicCheckpointIO()],
        enable_progress_bar=False,
        enable_model_summary=False,
    )


# ── transformers ──────────────────────────────────────────────────────────────────────────────


def theirs(norm_pix_loss: bool) -> ViTMAEForPreTraining:
    config = ViTMAEConfig(
        image_size=32,
        patch_size=8,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=96,
        decoder_hidden_size=16,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=4,
        decoder_intermediate_size=64,
        layer_norm_eps=1e-6,
        norm_pix_loss=norm_pix_loss,
    )
    model = ViTMAEForPreTraining(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def under_our_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a ViTMAEForPreTraining under the names of a MaskedAutoencoder."""
    renamed = (
        ("vit.embeddings.cls_token", "net.cls_token"),
        ("vit.embeddings.position_embeddings", "net.pos_embed"),
        ("vit.embeddings.patch_embeddings.projection", "net.patch_embed.proj"),
        ("vit.layers", "net.blocks"),
        ("vit.layernorm.", "net.norm."),
        ("decoder.decoder_layers", "decoder.blocks"),
        ("decoder.decoder_pos_embed", "decoder.pos_embed"),
        ("decoder.decoder_", "decoder."),
        ("layernorm_before", "norm1"),
        ("layernorm_after", "norm2"),
        ("attention.o_proj", "attn.proj"),
        ("attention.", "attn."),
    )
    ours = {}
    for name, tensor in state.items():
        for old, new in renamed:
            name = name.replace(old, new)
        ours[name] = tensor
    for name in [name for name in ours if "q_proj" in name]:
        parts = [ours.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        ours[name.replace("q_proj", "qkv")] = torch.cat(parts)
    return ours


@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_loss_prediction_mask_and_gradient_are_those_of_transformers(norm_pix_loss: bool):
    reference = theirs(norm_pix_loss)
    net = VisionTransformer(32, 8, embed_dim=24, depth=2, num_heads=2, num_classes=0)
    learner = MaskedAutoencoder(
        net,
        decoder_dim=16,
        decoder_depth=2,
        decoder_num_heads=4,
        norm_pix_loss=norm_pix_loss,
    ).eval()
    own = learner.state_dict()
    state = under_our_names(reference.state_dict())
    learner.load_state_dict({**{k: v for k, v in own.items() if "loss" in k}, **state})
    images, noise = torch.randn(4, 3, 32, 32), torch.rand(4, 16)
    found = reference(images, noise=noise)

    predicted, masked = learner.predict(images, noise)
    close = partial(torch.testing.assert_close, rtol=0, atol=1e-5)
    assert torch.equal(masked, found.mask.bool())
    close(predicted, found.logits)
    loss = learner.error(images, noise)
    close(loss, found.loss)
    (gradient,) = torch.autograd.grad(loss, [net.get_parameter("patch_embed.proj.weight")])
    embeddings = reference.vit.embeddings.patch_embeddings.projection.weight
    close(gradient, *torch.autograd.grad(found.loss, [embeddings]))


# ── training ──────────────────────────────────────────────────────────────────────────────────


def names_of(learner: MaskedAutoencoder, optimizer: torch.optim.Optimizer) -> dict[str, set[str]]:
    names = {id(parameter): name for name, parameter in learner.named_parameters()}
    return {g["name"]: {names[id(p)] for p in g["params"]} for g in optimizer.param_groups}


@pytest.mark.parametrize(
    "model, unused",
    [
        ({}, ["head"]),
        ({"class_token": False, "global_pool": "avg"}, ["head"]),
        ({"class_token": False, "global_pool": "seq"}, ["head", "seq_pool"]),
        ({"global_pool": "map"}, ["head", "attn_pool"]),
        ({"global_pool": "token_avg", "fc_norm": True}, ["head", "fc_norm"]),
    ],
    ids=lambda value: str(value),
)
def test_the_optimizer_has_encoder_and_decoder_without_pooling_and_head(model, unused):
    learner = make_learner(model)
    groups = names_of(learner, adamw(learner.trained))
    optimised = set().union(*groups.values())
    everything = {name for name, _ in learner.named_parameters()} - {"decoder.pos_embed"}
    assert everything - optimised == {n for n in everything if n.split(".")[1] in unused}
    images, noise = torch.randn(8, 3, 16, 16), torch.rand(8, 16)
    learner.error(images, noise).backward()  # unused parameters would stop a DDP run
    reached = {name for name, p in learner.named_parameters() if p.grad is not None}
    assert reached == optimised


def test_tokens_and_positions_are_not_decayed():
    learner = make_learner({"reg_tokens": 2})
    exempt = names_of(learner, adamw(learner.trained))["no_decay"]
    assert exempt >= {"net.cls_token", "net.pos_embed", "net.reg_token", "decoder.mask_token"}


def test_layer_decay_leaves_the_decoder_the_whole_learning_rate():
    learner = make_learner()
    rates = {}
    for group in adamw(learner.trained, lr=1.0, layer_decay=0.5).param_groups:
        rates |= {id(parameter): group["lr"] for parameter in group["params"]}
    named = {name: rates.get(id(p)) for name, p in learner.named_parameters()}
    assert {named[name] for name in named if name.startswith("decoder.")} == {1.0, None}
    assert [named[f"net.blocks.{i}.mlp.fc1.weight"] for i in range(2)] == [0.25, 0.5]
    assert (named["net.cls_token"], named["net.norm.weight"]) == (0.125, 0.5)


def test_muon_steps_the_matrices_of_the_encoders_blocks():
    learner = make_learner()
    matrices = names_of(learner, muon(learner.trained))["muon"]
    assert matrices >= {
        name for name, p in learner.named_parameters() if "net.blocks" in name and p.ndim == 2
    }


def test_a_fit_learns_and_leaves_the_head_alone(tmp_path: Path):
    learner = make_learner(optimizer=partial(adamw, lr=5e-3), norm_pix_loss=False)
    before = {name: tensor.clone() for name, tensor in learner.state_dict().items()}
    trainer = make_trainer(tmp_path, epochs=60)
    trainer.fit(learner, make_loader(32, 16))
    (trained,) = trainer.validate(learner, make_loader(32), verbose=False)
    images = next(iter(make_loader(32, 32)))[0]
    blind = images.var().item()  # the loss of who predicts the mean colour
    assert trained["val/loss"] < 0.3 * blind
    after = learner.state_dict()
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert moved & {"net.head.weight", "net.head.bias", "decoder.pos_embed"} == set()
    assert moved >= {"net.patch_embed.proj.weight", "net.cls_token", "decoder.mask_token"}


@pytest.mark.parametrize("batch_size", [5, 37])
def test_the_validation_loss_is_the_same_whatever_the_batches_and_the_seed(tmp_path, batch_size):
    learner, trainer = make_learner(), make_trainer(tmp_path)
    (first,) = trainer.validate(learner, make_loader(), verbose=False)
    torch.manual_seed(123)
    (again,) = trainer.validate(learner, make_loader(batch_size=batch_size), verbose=False)
    (tested,) = trainer.test(learner, make_loader(batch_size=batch_size), verbose=False)
    assert set(first) == {"val/loss"}
    assert first["val/loss"] == pytest.approx(again["val/loss"], rel=1e-5)
    assert first["val/loss"] == pytest.approx(tested["test/loss"], rel=1e-5)


def test_images_are_masked_differently(tmp_path: Path):
    learner, trainer = make_learner(), make_trainer(tmp_path)
    trainer.validate(learner, make_loader(), verbose=False)
    images = torch.zeros(50, 3, 16, 16)
    noise = learner.fixed_noise(images, 0)
    assert torch.equal(learner.fixed_noise(images[:20], 30), noise[30:])
    assert len(noise.argsort(dim=1).unique(dim=0)) == 50
    assert noise.mean().item() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    "model", [{}, {"class_token": False, "global_pool": "avg"}, {"rope": "mixed", "reg_tokens": 1}]
)
def test_a_classifier_starts_from_the_encoder(tmp_path: Path, model: dict):
    learner = make_learner(model, optimizer=partial(adamw, lr=1e-2))
    passport = Passport(
        config={"model": {"_target_": OURS, **MODEL, **model}},
        classes=["a", "b", "c"],
        channels=3,
        img_size=[16, 16],
        crop_share=1.0,
        mean=[0.5] * 3,
        std=[0.5] * 3,
        versions={},
    )
    trainer = make_trainer(tmp_path, PassportCallback(passport))
    trainer.fit(learner, make_loader())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    classifier = make_net(**model | {"num_classes": 7})
    report = initialise_from(classifier, str(tmp_path / "last.ckpt"))
    assert set(report.remade) == {"head.weight", "head.bias"}
    encoder = learner.encoder.state_dict()
    for name, tensor in classifier.state_dict().items():
        assert name.startswith("head.") or torch.equal(tensor, encoder[name]), name


def test_a_reconstruction_has_its_patches_where_they_were():
    learner = make_learner(norm_pix_loss=True).eval()
    images = torch.randn(4, 3, 16, 16) * 5 + 3
    with torch.no_grad():
        nn.init.zeros_(learner.decoder.pred.weight)  # then every patch is predicted as its mean
        nn.init.zeros_(learner.decoder.pred.bias)
        predicted, masked = learner.reconstruct(images, torch.rand(4, 16))
    pooled = nn.functional.avg_pool2d(images.mean(dim=1, keepdim=True), 4)
    expected = nn.functional.interpolate(pooled, scale_factor=4).expand(-1, 3, -1, -1)
    torch.testing.assert_close(predicted, expected)
    assert masked.shape == (4, 1, 16, 16)
    assert masked.float().mean(dim=(1, 2, 3)).tolist() == [0.75] * 4


# ── refusals ──────────────────────────────────────────────────────────────────────────────────


def config(**changes: Any) -> dict[str, Any]:
    """A config that fits, with entries changed by their dotted names."""
    cfg: dict[str, Any] = {
        "model": {"_target_": OURS, **MODEL},
        "method": dict(METHOD),
        "augment": {"mixing": {"_target_": "…", "mixup": 0.0, "cutmix": 0.0}},
        "average": {"_target_": None},
        "loss": {"_target_": CROSS_ENTROPY, "label_smoothing": 0.1},
        "data": {"class_weights": None},
        "callbacks": {"best": {"monitor": "val/loss"}},
        "compile": False,
    }
    for key, value in changes.items():
        *path, last = key.split("__")
        inside = cfg
        for name in path:
            inside = inside[name]
        inside[last] = value
    return cfg


def test_a_config_that_fits_is_accepted():
    check_config(config())
    check_config(config(callbacks={"best": None}, augment={"mixing": None}))


@pytest.mark.parametrize(
    "changes, remedy",
    [
        ({"model__embed_layer": "conv_stem"}, "model.embed_layer=conv"),
        ({"model___target_": "vitfw.interop.timm_model.timm_model"}, "model=vit_mini4"),
        ({"method__mask_ratio": 0.97}, "method.mask_ratio"),
        ({"method__decoder_dim": 10}, "nearest: 8, 12"),
        ({"method__decoder_num_heads": 3}, "heads that do: 1, 2, 4, 8"),
        ({"model__patch_size": 5}, "nearest img_size: 15, 20"),
        ({"augment__mixing__mixup": 0.8}, "augment.mixing.mixup=0.0"),
        ({"average___target_": "vitfw.training.weight_average.ema"}, "average=none"),
        ({"callbacks__best__monitor": "val/accuracy"}, "callbacks.best.monitor=val/loss"),
        ({"compile": True}, "leave it out"),
        ({"loss": {"_target_": "vitfw.training.losses.Focal"}}, "leave loss out"),
        ({"data__class_weights": "balanced"}, "data.class_weights=null"),
    ],
    ids=lambda value: str(value),
)
def test_a_config_that_does_not_fit_is_refused_with_the_remedy(changes, remedy):
    with pytest.raises(ConfigError) as refusal:
        check_config(config(**changes))
    assert remedy in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_net_that_is_no_vit_of_ours_is_refused():
    with pytest.raises(ValueError, match="Linear"):
        MaskedAutoencoder(nn.Linear(2, 2))


def test_averaged_weights_are_refused():
    with pytest.raises(ValueError, match="average=none"):
        make_learner(average=lambda net, **_: net)
