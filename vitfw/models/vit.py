"""The Vision Transformer.

B batch, N tokens, C channels (embed_dim), G grid side, K classes.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from vitfw.models.block import Block, Layer, Mlp, SwiGLU
from vitfw.models.patch_embed import ConvStem, PatchEmbed, TokenEmbed
from vitfw.models.pooling import SequencePool
from vitfw.models.position import sincos_2d

T = TypeVar("T")

EMBED_LAYERS: dict[str, Callable[..., TokenEmbed]] = {
    "conv": PatchEmbed,
    "conv_stem": ConvStem,
}
MLP_LAYERS: dict[str, Layer] = {"mlp": Mlp, "swiglu": SwiGLU}
ACT_LAYERS: dict[str, Layer] = {
    "gelu": nn.GELU,
    "gelu_tanh": partial(nn.GELU, approximate="tanh"),
    "relu": nn.ReLU,
    "silu": nn.SiLU,
}
NORM_LAYERS: dict[str, Layer] = {
    "layernorm": partial(nn.LayerNorm, eps=1e-6),
    "rmsnorm": partial(nn.RMSNorm, eps=1e-6),
}
POS_EMBEDS = ("learn", "sincos2d", "none")
GLOBAL_POOLS = ("token", "avg", "seq")


class VisionTransformer(nn.Module):
    """A plain Vision Transformer: [B, in_chans, H, W] → logits [B, K].

    Patch embedding, class token, position embeddings, `depth` pre-norm blocks, pooling, linear
    head. Arguments and state-dict keys are timm's, so published weights load without a map.
    `num_classes=0` leaves the head out and gives the pooled features [B, C].

    `drop_rate` is the dropout before the head, `pos_drop_rate` the one after the position
    embeddings, `patch_drop_rate` the share of patch tokens left out in training,
    `proj_drop_rate` the dropout after the attention projection and in the MLP, and
    `drop_path_rate` the stochastic depth of the last block (it rises linearly from 0).

    Raises:
        ValueError: options that do not fit each other; the message names the option, and what
            would fit.

    Source: Dosovitskiy et al. 2021, "An image is worth 16x16 words".
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int | tuple[int, int] = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        qk_norm: bool = False,
        drop_rate: float = 0.0,
        pos_drop_rate: float = 0.0,
        patch_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        init_values: float | None = None,
        class_token: bool = True,
        reg_tokens: int = 0,
        pos_embed: Literal["learn", "sincos2d", "none"] = "learn",
        global_pool: Literal["token", "avg", "seq"] = "token",
        embed_layer: Literal["conv", "conv_stem"] = "conv",
        norm_layer: Literal["layernorm", "rmsnorm"] = "layernorm",
        act_layer: Literal["gelu", "gelu_tanh", "relu", "silu"] = "gelu",
        mlp_layer: Literal["mlp", "swiglu"] = "mlp",
    ):
        super().__init__()
        make_embed = choose("embed_layer", embed_layer, EMBED_LAYERS)
        make_norm = choose("norm_layer", norm_layer, NORM_LAYERS)
        make_act = choose("act_layer", act_layer, ACT_LAYERS)
        make_mlp = choose("mlp_layer", mlp_layer, MLP_LAYERS)
        check_choice("pos_embed", pos_embed, POS_EMBEDS)
        check_choice("global_pool", global_pool, GLOBAL_POOLS)
        if mlp_layer == "swiglu" and act_layer not in ("gelu", "silu"):  # gelu is the default
            raise ValueError(f"mlp_layer=swiglu has a SiLU gate; leave act_layer={act_layer} out")
        if global_pool == "token" and not class_token:
            raise ValueError("global_pool=token needs class_token=true; or set global_pool=avg")
        check_sizes(1, embed_dim=embed_dim, depth=depth, in_chans=in_chans)
        check_sizes(0, num_classes=num_classes, reg_tokens=reg_tokens)
        if int(embed_dim * mlp_ratio) < 1:
            raise ValueError(f"mlp_ratio {mlp_ratio} leaves the MLP no hidden channel; usual: 4.0")
        check_rates(
            drop_rate=drop_rate,
            pos_drop_rate=pos_drop_rate,
            patch_drop_rate=patch_drop_rate,
            attn_drop_rate=attn_drop_rate,
            proj_drop_rate=proj_drop_rate,
            drop_path_rate=drop_path_rate,
        )
        self.num_classes = num_classes
        self.embed_dim = embed_dim
        self.global_pool = global_pool
        self.num_prefix_tokens = int(class_token) + reg_tokens

        self.patch_embed = make_embed(img_size, patch_size, in_chans, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if class_token else None
        self.reg_token = nn.Parameter(torch.zeros(1, reg_tokens, embed_dim)) if reg_tokens else None
        self.pos_embed = self._make_pos_embed(pos_embed)
        self.pos_drop = nn.Dropout(pos_drop_rate)
        self.patch_drop_rate = patch_drop_rate
        self.blocks = nn.Sequential(
            *[
                Block(
                    embed_dim,
                    num_heads,
                    mlp_ratio,
                    qkv_bias,
                    qk_scale,
                    qk_norm,
                    attn_drop_rate,
                    proj_drop_rate,
                    init_values,
                    drop_path=drop_path_rate * i / max(depth - 1, 1),
                    norm_layer=make_norm,
                    act_layer=make_act,
                    mlp_layer=make_mlp,
                )
                for i in range(depth)
            ]
        )
        # As in timm, an average is taken first and normalised after; else the other way round.
        self.norm = nn.Identity() if global_pool == "avg" else make_norm(embed_dim)
        self.seq_pool = SequencePool(embed_dim) if global_pool == "seq" else None
        self.fc_norm = make_norm(embed_dim) if global_pool == "avg" else nn.Identity()
        self.head_drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(embed_dim, num_classes) if num_classes else nn.Identity()
        self.init_weights()

    def _make_pos_embed(self, kind: str) -> nn.Parameter | None:
        if kind == "none":
            return None
        length = self.patch_embed.num_patches + self.num_prefix_tokens
        table = torch.zeros(1, length, self.embed_dim)  # [1, N, C]
        if kind == "sincos2d":
            grid = sincos_2d(self.patch_embed.grid_size, self.embed_dim)
            table[0, self.num_prefix_tokens :] = grid
        return nn.Parameter(table, requires_grad=kind == "learn")

    def init_weights(self) -> None:
        """Timm's and DeiT's initialisation.

        | tensor | drawn from |
        |---|---|
        | linear weights, head included | truncated normal, std 0.02 |
        | linear biases | 0 |
        | learned position embeddings | truncated normal, std 0.02 |
        | class token, register tokens | normal, std 1e-6 |
        | convolutions, norms, LayerScale | as their module starts |
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for token in (self.cls_token, self.reg_token):
            if token is not None:
                nn.init.normal_(token, std=1e-6)
        if self.pos_embed is not None and self.pos_embed.requires_grad:
            nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that are neither matrices nor kernels, whatever their shape."""
        return {"cls_token", "reg_token", "pos_embed"}

    def add_tokens(self, x: Tensor) -> Tensor:
        """Class and register tokens in front, then positions: [B, G · G, C] → [B, N, C]."""
        prefix = [token for token in (self.cls_token, self.reg_token) if token is not None]
        if prefix:
            x = torch.cat([*(token.expand(x.shape[0], -1, -1) for token in prefix), x], dim=1)
        if self.pos_embed is not None:
            x = x + self.pos_embed
        return self.drop_patches(self.pos_drop(x))

    def drop_patches(self, x: Tensor) -> Tensor:
        """In training, keep a random share of the patch tokens: [B, N, C] → [B, N', C]."""
        if not self.training or self.patch_drop_rate == 0.0:
            return x
        prefix, patches = x.split([self.num_prefix_tokens, x.shape[1] - self.num_prefix_tokens], 1)
        keep = max(1, int(patches.shape[1] * (1.0 - self.patch_drop_rate)))
        order = torch.rand(patches.shape[:2], device=x.device).argsort(dim=1)[:, :keep]
        kept = patches.gather(1, order[:, :, None].expand(-1, -1, patches.shape[2]))
        return torch.cat([prefix, kept], dim=1)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images to all tokens after the last norm: [B, in_chans, H, W] → [B, N, C]."""
        x = self.add_tokens(self.patch_embed(x))
        return self.norm(self.blocks(x))

    def pool(self, x: Tensor) -> Tensor:
        """All tokens to one vector: [B, N, C] → [B, C]."""
        if self.global_pool == "token":
            return x[:, 0]
        patches = x[:, self.num_prefix_tokens :]
        return patches.mean(dim=1) if self.seq_pool is None else self.seq_pool(patches)

    def forward_head(self, x: Tensor) -> Tensor:
        """Pooled features to logits: [B, C] → [B, K]."""
        return self.head(self.head_drop(self.fc_norm(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.pool(self.forward_features(x)))


def choose(option: str, name: str, choices: Mapping[str, T]) -> T:
    """The entry of `choices` called `name`; a ValueError that lists them if there is none."""
    check_choice(option, name, choices)
    return choices[name]


def check_choice(option: str, name: str, choices: Iterable[str]) -> None:
    if name not in choices:
        raise ValueError(f"{option} {name!r} is not one of: {', '.join(choices)}")


def check_sizes(least: int, **sizes: int) -> None:
    for option, size in sizes.items():
        if size < least:
            raise ValueError(f"{option} {size} must be at least {least}")


def check_rates(**rates: float) -> None:
    for option, rate in rates.items():
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"{option} {rate} must lie in [0, 1)")
