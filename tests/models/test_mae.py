"""The parts of a masked autoencoder against einops, transformers, and what gradients can reach."""

from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange
from torch import Tensor
from transformers import ViTMAEConfig, ViTMAEModel

from vitfw.models.mae import (
    MaeDecoder,
    check_maskable,
    encode_visible,
    mask_by_noise,
    masked_error,
    patchify,
    unpatchify,
    visible_patches,
)
from vitfw.models.vit import VisionTransformer

KINDS: dict[str, dict[str, Any]] = {
    "class token": {},
    "average": {"class_token": False, "global_pool": "avg"},
    "both averaged": {"global_pool": "token_avg", "fc_norm": True},
    "sequence": {"class_token": False, "global_pool": "seq"},
    "map": {"global_pool": "map"},
    "registers": {"reg_tokens": 2, "no_embed_class": True},
    "axial": {"rope": "axial", "pos_embed": "none", "reg_tokens": 1},
    "mixed": {"rope": "mixed", "class_token": False, "global_pool": "avg"},
    "linear": {"embed_layer": "linear"},
    "pre-norm, checkpointed": {"pre_norm": True, "grad_checkpointing": True},
    "subset": {"rope": "axial", "drop_path_rate": 0.5, "drop_path_subset": True},
}


def make_net(**options: Any) -> VisionTransformer:
    torch.manual_seed(0)
    small: dict[str, Any] = {"img_size": (8, 16), "patch_size": 4, "embed_dim": 16, "depth": 2}
    return VisionTransformer(**small | {"num_heads": 2, "num_classes": 3} | options)


def make_decoder(net: VisionTransformer) -> MaeDecoder:
    embed = net.patch_embed
    where = embed.grid_size, embed.patch_size, embed.in_chans, net.num_prefix_tokens
    return MaeDecoder(net.embed_dim, *where, decoder_dim=8, depth=1, num_heads=2)


def test_patches_are_cut_as_einops_cuts_them():
    images = torch.randn(2, 3, 8, 12)
    patches = patchify(images, (4, 2))
    assert torch.equal(patches, rearrange(images, "b c (h p) (w q) -> b (h w) (p q c)", p=4, q=2))
    assert torch.equal(unpatchify(patches, (4, 2), (2, 6)), images)


@pytest.mark.parametrize(
    "patches, ratio, visible", [(196, 0.75, 49), (49, 0.75, 12), (64, 0.5, 32), (16, 0.9, 1)]
)
def test_every_image_keeps_the_exact_share_of_its_patches_of_least_noise(patches, ratio, visible):
    noise = torch.rand(5, patches)
    kept, masked, restore = mask_by_noise(noise, visible_patches(patches, ratio))
    assert (~masked).sum(dim=1).tolist() == [visible] * 5
    ranks = np.argsort(noise.numpy(), axis=1)
    assert kept.tolist() == ranks[:, :visible].tolist()
    shuffled = torch.from_numpy(ranks)
    assert torch.equal(shuffled.gather(1, restore), torch.arange(patches).expand(5, -1))


def test_masks_are_those_of_transformers():
    config = ViTMAEConfig(image_size=32, patch_size=4, hidden_size=8, num_hidden_layers=1)
    config.num_attention_heads = 2
    noise = torch.rand(3, 64)
    tokens = torch.randn(3, 64, 8)
    visible, mask, restore = ViTMAEModel(config).embeddings.random_masking(tokens, noise)
    ours = mask_by_noise(noise, visible_patches(64, config.mask_ratio))
    assert torch.equal(ours.masked, mask.bool())
    assert torch.equal(ours.restore, restore)
    assert torch.equal(tokens.gather(1, ours.kept[:, :, None].expand(-1, -1, 8)), visible)


@pytest.mark.parametrize("kind", KINDS)
def test_masked_pixels_are_out_of_sight(kind: str):
    net = make_net(**KINDS[kind]).train()
    decoder = make_decoder(net)
    images = torch.randn(4, 3, 8, 16, requires_grad=True)
    masking = mask_by_noise(torch.rand(4, 8), 2)
    tokens = encode_visible(net, images, masking.kept)
    assert tokens.shape == (4, net.num_prefix_tokens + 2, 16)
    predicted = decoder(tokens, masking.restore, net.patch_embed.grid(images))
    assert predicted.shape == (4, 8, 4 * 4 * 3)
    (gradient,) = torch.autograd.grad(predicted.square().sum(), images)
    reached = patchify(gradient, (4, 4)).abs().sum(dim=2)  # [B, N]
    assert torch.equal(reached > 0, ~masking.masked)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"average", "mixed", "subset"}))
def test_with_every_patch_visible_it_is_the_plain_encoder(kind: str):
    net = make_net(**KINDS[kind]).eval()
    images = torch.randn(3, 3, 8, 16)
    order = torch.rand(3, 8).argsort(dim=1)
    tokens = encode_visible(net, images, order)
    prefix = net.num_prefix_tokens
    whole = net.forward_features(images)
    torch.testing.assert_close(tokens[:, :prefix], whole[:, :prefix], rtol=0, atol=1e-5)
    shuffled = whole[:, prefix:].gather(1, order[:, :, None].expand(-1, -1, 16))
    torch.testing.assert_close(tokens[:, prefix:], shuffled, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["average", "mixed"])
def test_a_norm_behind_the_average_is_taken_before_it(kind: str):
    net = make_net(**KINDS[kind]).eval()
    images = torch.randn(3, 3, 8, 16)
    tokens = encode_visible(net, images, torch.arange(8).expand(3, -1))
    torch.testing.assert_close(tokens, net.fc_norm(net.forward_features(images)))


def test_an_image_of_another_size_is_predicted_on_its_own_grid():
    net = make_net(img_size=16, dynamic_img_size=True)
    images = torch.randn(2, 3, 24, 8)
    masking = mask_by_noise(torch.rand(2, 12), 3)
    tokens = encode_visible(net, images, masking.kept)
    assert make_decoder(net)(tokens, masking.restore, (6, 2)).shape == (2, 12, 48)


def test_only_masked_patches_count():
    target, masked = torch.randn(2, 5, 6), torch.rand(2, 5) > 0.5
    masked[0, 0] = True
    wrong = target + torch.where(masked[:, :, None], 2.0, 77.0)
    assert masked_error(wrong, target, masked).item() == pytest.approx(4.0, rel=1e-5)


def refusals() -> list[tuple[dict, str]]:
    return [
        ({"embed_layer": "conv_stem"}, "model.embed_layer=conv"),
        ({"embed_layer": "pool_stem"}, "model.embed_layer=conv"),
        ({"flexi_patch_sizes": [2, 4]}, "model.flexi_patch_sizes=null"),
        ({"patch_size": 4, "patch_stride": 2}, "model.patch_stride=null"),
        ({"patch_size": 4, "patch_stride": [4, 2]}, "model.patch_stride=null"),
        ({"dist_token": True}, "model.dist_token=false"),
        ({"patch_drop_rate": 0.5}, "model.patch_drop_rate=0.0"),
    ]


@pytest.mark.parametrize("options, remedy", refusals(), ids=lambda value: str(value))
def test_a_model_that_cannot_be_masked_is_refused_with_the_remedy(options, remedy):
    with pytest.raises(ValueError, match=remedy):
        check_maskable(options)


@pytest.mark.parametrize("kind", KINDS)
def test_every_other_model_is_accepted(kind: str):
    check_maskable(make_net(**KINDS[kind], patch_stride=4).options)


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.5, 0.99])
def test_a_share_that_hides_nothing_or_everything_is_refused(ratio: float):
    with pytest.raises(ValueError, match=r"method\.mask_ratio between 0 and 1"):
        visible_patches(16, ratio)


@pytest.mark.parametrize("dim, heads", [(30, 2), (32, 3), (2, 1), (32, 0)])
def test_a_decoder_that_cannot_be_built_is_refused(dim: int, heads: int):
    with pytest.raises(ValueError, match="decoder"):
        MaeDecoder(16, (2, 2), (4, 4), decoder_dim=dim, num_heads=heads)


def test_patches_are_told_apart_by_fixed_positions():
    decoder = make_decoder(make_net())
    assert not decoder.pos_embed.requires_grad
    table: Tensor = decoder.pos_embed[0]
    assert torch.equal(table[0], torch.zeros(8))  # the class token's
    assert len(table[1:].unique(dim=0)) == 8
