"""The parts of a masked autoencoder: hide most patches, encode the rest, predict the hidden pixels.

B batch, N patches, V visible patches, T prefix tokens, C channels of the image or the encoder,
D channels of the decoder, P patch size, G grid side, H and W the image's sides.

Source: He et al. 2022, "Masked autoencoders are scalable vision learners".
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vitfw.models.attention import Attention, check_heads
from vitfw.models.block import Block
from vitfw.models.initialisation import draw_linear_layers
from vitfw.models.options import check_sizes
from vitfw.models.patch_embed import as_pair
from vitfw.models.position import sincos_2d
from vitfw.models.resample import resample_pos_embed
from vitfw.models.vit import VisionTransformer

Pair = tuple[int, int]
MLP_RATIO = 4  # of the decoder's blocks
SMALLEST_VARIANCE = 1e-6  # added to that of a patch, which may be of one colour

# Of a VisionTransformer, what only a classifier has a use for; pre-training does not touch it.
CLASSIFIER_PARTS = ("head", "head_dist", "attn_pool", "seq_pool")


def patchify(images: Tensor, patch_size: Pair) -> Tensor:
    """[B, C, H, W] → [B, N, P · P · C]; patches row-major, in each row, column, channel."""
    height, width = patch_size
    x = images.unflatten(3, (-1, width)).unflatten(2, (-1, height))  # → [B, C, G, P, G, P]
    return x.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(patches: Tensor, patch_size: Pair, grid: Pair) -> Tensor:
    """The inverse of `patchify`: [B, N, P · P · C] → [B, C, H, W]."""
    x = patches.unflatten(2, (*patch_size, -1)).unflatten(1, grid)  # → [B, G, G, P, P, C]
    return x.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


class Masking(NamedTuple):
    """Which patches of each image the encoder sees.

    `kept` [B, V]: their indices, in the order that it sees them. `masked` [B, N] bool: the others.
    `restore` [B, N]: where each patch lies once the visible ones stand first.
    """

    kept: Tensor
    masked: Tensor
    restore: Tensor


def mask_by_noise(noise: Tensor, visible: int) -> Masking:
    """Keep the `visible` patches of least noise [B, N] in every image."""
    order = noise.argsort(dim=1, stable=True)
    restore = order.argsort(dim=1)  # the rank of each patch
    return Masking(order[:, :visible], restore >= visible, restore)


def visible_patches(patches: int, mask_ratio: float) -> int:
    """How many of an image's patches are left to see, rounded down.

    Raises:
        ValueError: that is none of them, or all.
    """
    visible = int(patches * (1 - mask_ratio)) if 0 < mask_ratio < 1 else 0
    if not 0 < visible < patches:
        raise ValueError(
            f"mask_ratio {mask_ratio} does not split {patches} patches into hidden and visible "
            f"ones; choose method.mask_ratio between 0 and 1, such as 0.75, and at least 4 patches"
        )
    return visible


def check_maskable(options: Mapping[str, Any]) -> None:
    """Whether a VisionTransformer of these options can be pre-trained as a masked autoencoder.

    Raises:
        ValueError: it cannot; says what to type.
    """
    embed_layer, stride = options.get("embed_layer", "conv"), options.get("patch_stride")
    if embed_layer in ("conv_stem", "pool_stem"):
        raise ValueError(
            f"embed_layer {embed_layer} mixes neighbouring patches before any can be hidden; "
            "choose model.embed_layer=conv"
        )
    if options.get("flexi_patch_sizes"):
        raise ValueError(
            "flexi_patch_sizes changes the patches from batch to batch, and the decoder predicts "
            "those of one size; choose model.flexi_patch_sizes=null"
        )
    patch_size = as_pair(options.get("patch_size", 16), "patch_size")
    if stride is not None and as_pair(stride, "patch_stride") != patch_size:
        raise ValueError(
            f"patch_stride {stride} makes patches overlap, so that hidden pixels are seen in their "
            "neighbours; choose model.patch_stride=null"
        )
    if options.get("dist_token"):
        raise ValueError(
            "dist_token learns from a teacher's labels, and a masked autoencoder has none; choose "
            "model.dist_token=false"
        )
    if options.get("patch_drop_rate"):
        raise ValueError(
            "patch_drop_rate leaves patches out, as masking does already; choose "
            "model.patch_drop_rate=0.0"
        )


def check_decoder(dim: int, depth: int, num_heads: int) -> None:
    """Raises ValueError for a decoder that cannot be built."""
    check_sizes(1, decoder_dim=dim, decoder_depth=depth, decoder_num_heads=num_heads)
    if dim % 4:
        raise ValueError(
            f"decoder_dim {dim} must be a multiple of 4, for its sine-cosine positions; nearest: "
            f"{max(dim // 4, 1) * 4}, {dim // 4 * 4 + 4}"
        )
    try:
        check_heads(dim, num_heads)
    except ValueError as error:
        raise ValueError(f"the decoder: {error}") from error


def token_norm(net: VisionTransformer) -> nn.Module:
    """The encoder's last norm; one that stands behind the pooling of patches is taken before it."""
    behind = isinstance(net.norm, nn.Identity) and net.global_pool != "token_avg"
    return net.fc_norm if behind else net.norm


def unused_parameters(net: VisionTransformer) -> list[nn.Parameter]:
    """Those of the pooling and the head, which only a classifier has a use for."""
    parts = [getattr(net, name) for name in CLASSIFIER_PARTS]
    if token_norm(net) is not net.fc_norm:
        parts.append(net.fc_norm)
    return [parameter for part in parts if part is not None for parameter in part.parameters()]


class PatchMean(nn.Module):
    """The mean of the encoded patches: [B, C, H, W] → [B, C of the encoder].

    It stands in for the net's own pooling, which pre-training does not touch. `head` does nothing;
    features are what enters it.
    """

    def __init__(self, net: VisionTransformer):
        super().__init__()
        self.net = net
        self.head = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        x = self.net.forward_features(images)  # [B, T + N, C]
        norm = token_norm(self.net)
        x = x if norm is self.net.norm else norm(x)
        return self.head(x[:, self.net.num_prefix_tokens :].mean(dim=1))


def encode_visible(net: VisionTransformer, images: Tensor, kept: Tensor) -> Tensor:
    """Images to the encoded prefix tokens and `kept` [B, V] patches: → [B, T + V, C].

    All patches are embedded; the blocks see the kept ones only, with the positions they have in
    the image.
    """
    x, rotations = net.embed(images)  # [B, C, H, W] → [B, T + N, C]
    prefix = torch.arange(net.num_prefix_tokens, device=kept.device).expand(len(kept), -1)
    index = torch.cat([prefix, kept + net.num_prefix_tokens], dim=1)  # [B, T + V]
    x = x.gather(1, index[:, :, None].expand(-1, -1, x.shape[2]))
    turned = [None if rotation is None else rotation.take(index) for rotation in rotations]
    return token_norm(net)(net.run_blocks(x, turned))


class MaeDecoder(nn.Module):
    """Predict the pixels of every patch from what the encoder made of the visible ones.

    [B, T + V, C] → [B, N, P · P · C of the image]. Hidden patches are one learned token; fixed
    sine-cosine positions are added to all patches, nothing to the T prefix tokens. `grid` is the
    one that the positions are made for; they are resampled where an image has another.

    Raises:
        ValueError: `decoder_dim` is no multiple of 4, or not of `num_heads`.

    Source: He et al. 2022, §3; weights drawn as in its appendix A.1 (Xavier).
    """

    def __init__(
        self,
        embed_dim: int,
        grid: Pair,
        patch_size: Pair,
        in_chans: int = 3,
        num_prefix_tokens: int = 1,
        decoder_dim: int = 512,
        depth: int = 8,
        num_heads: int = 16,
    ):
        super().__init__()
        check_decoder(decoder_dim, depth, num_heads)
        self.grid = grid
        self.num_prefix_tokens = num_prefix_tokens
        make_norm = partial(nn.LayerNorm, eps=1e-6)
        attention = partial(Attention, num_heads=num_heads, norm_layer=make_norm)
        make_block = partial(Block, attn_layer=attention, norm_layer=make_norm)
        self.embed = nn.Linear(embed_dim, decoder_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_dim))
        table = torch.zeros(1, num_prefix_tokens + grid[0] * grid[1], decoder_dim)
        table[0, num_prefix_tokens:] = sincos_2d(grid, decoder_dim)
        self.pos_embed = nn.Parameter(table, requires_grad=False)  # [1, T + N, D]
        self.blocks = nn.Sequential(
            *[make_block(decoder_dim, MLP_RATIO * decoder_dim) for _ in range(depth)]
        )
        self.norm = make_norm(decoder_dim)
        self.pred = nn.Linear(decoder_dim, patch_size[0] * patch_size[1] * in_chans)
        with torch.no_grad():
            draw_linear_layers(self, "moco", skip=None)
            nn.init.normal_(self.mask_token, std=0.02)

    def no_weight_decay(self) -> set[str]:
        return {"mask_token", "pos_embed"}

    def forward(self, x: Tensor, restore: Tensor, grid: Pair) -> Tensor:
        """`restore` [B, N] is that of the `Masking` that `x` was encoded with."""
        x = self.embed(x)  # [B, T + V, C] → [B, T + V, D]
        hidden = restore.shape[1] + self.num_prefix_tokens - x.shape[1]
        prefix, visible = x[:, : self.num_prefix_tokens], x[:, self.num_prefix_tokens :]
        patches = torch.cat([visible, self.mask_token.expand(len(x), hidden, -1)], dim=1)
        patches = patches.gather(1, restore[:, :, None].expand(-1, -1, x.shape[2]))  # [B, N, D]
        x = torch.cat([prefix, patches], dim=1)  # [B, T + N, D]
        x = x + resample_pos_embed(self.pos_embed, self.grid, grid, self.num_prefix_tokens)
        x = self.norm(self.blocks(x))
        return self.pred(x[:, self.num_prefix_tokens :])  # [B, T + N, D] → [B, N, P · P · C]


def patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each patch: [B, N, P · P · C] → 2 × [B, N, 1]."""
    variance = patches.var(dim=2, keepdim=True)
    return patches.mean(dim=2, keepdim=True), (variance + SMALLEST_VARIANCE).sqrt()


def masked_error(predicted: Tensor, target: Tensor, masked: Tensor) -> Tensor:
    """Mean squared error over the masked patches: 2 × [B, N, P · P · C], [B, N] → scalar."""
    error = (predicted - target).square().mean(dim=2)  # [B, N]
    return (error * masked).sum() / masked.sum()
