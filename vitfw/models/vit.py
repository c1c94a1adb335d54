"""The Vision Transformer.

B batch, N tokens, C channels (embed_dim), P patch size, G grid side, H heads, K classes.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vitfw.models.construction import EMBED_LAYERS, check_options, make_blocks, make_rope
from vitfw.models.initialisation import initialise
from vitfw.models.options import ACT_LAYERS, NORM_LAYERS
from vitfw.models.patch_embed import Size
from vitfw.models.pooling import AttentionPool, SequencePool
from vitfw.models.position import sincos_2d
from vitfw.models.resample import resample_pos_embed
from vitfw.models.rotary import Rotation
from vitfw.models.token_merging import Tokens, merged_block


class VisionTransformer(nn.Module):
    """A plain Vision Transformer: [B, in_chans, H, W] → logits [B, K].

    Patch embedding, class token, position embeddings, `depth` blocks, pooling, linear head. What
    timm's VisionTransformer has, too, has its names here, arguments and state-dict keys;
    `vitfw.interop` maps the rest. `docs/models.md` explains every option; those whose name says
    too little:

    - `num_classes=0` leaves the head out and gives the pooled features [B, C].
    - `dist_token` adds DeiT's distillation token and its head. The logits are the mean of both
      heads; set `distilled_training` to get the two, for a teacher's loss, while training.
    - `no_embed_class` leaves prefix tokens without a position embedding; `rope` turns queries and
      keys by their place, beside `pos_embed` or instead of it.
    - `pre_norm` normalises the tokens before the first block (and takes the bias from the patch
      embedding, as CLIP does), `final_norm` after the last. `fc_norm` moves that one behind the
      pooling; null does so where `global_pool` is avg.
    - `global_pool`: the class token, the mean of the patches (avg), both side by side
      (token_avg), a learned query's attention (map), a learned weighted mean (seq).
    - `drop_rate` is the dropout before the head, `pos_drop_rate` the one after the position
      embeddings, `proj_drop_rate` those after the attention and in the MLP, `patch_drop_rate`
      the share of patch tokens left out in training, `drop_path_rate` the stochastic depth of
      the last block (it rises linearly from 0).
    - `stem_layers` are channels and stride of each convolution of `embed_layer=conv_stem`.
    - `dynamic_img_size` takes images of any size that patches fill, `flexi_patch_sizes` draws
      the patch size of every training batch, `tome_r` merges that many tokens in every block at
      inference.

    Raises:
        ValueError: options that do not fit each other; the message names the option, and what
            would fit.

    Source: Dosovitskiy et al. 2021, "An image is worth 16x16 words".
    """

    def __init__(
        self,
        img_size: Size = 224,
        patch_size: Size = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        k_bias: bool = True,
        qk_scale: float | None = None,
        qk_norm: bool = False,
        fused_qkv: bool = True,
        proj_bias: bool = True,
        scale_attn_norm: bool = False,
        scale_mlp_norm: bool = False,
        drop_rate: float = 0.0,
        pos_drop_rate: float = 0.0,
        patch_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        drop_path_subset: bool = False,
        init_values: float | None = None,
        class_token: bool = True,
        dist_token: bool = False,
        reg_tokens: int = 0,
        pos_embed: Literal["learn", "sincos2d", "none"] = "learn",
        no_embed_class: bool = False,
        rope: Literal["none", "axial", "dinov3", "mixed"] = "none",
        rope_temperature: float | None = None,
        rope_ref_grid: Size | None = None,
        rope_grid_offset: float = 0.0,
        rope_indexing: Literal["ij", "xy"] = "ij",
        rope_rotate_half: bool | None = None,
        rope_shift_coords: float | None = None,
        rope_jitter_coords: float | None = None,
        rope_rescale_coords: float | None = None,
        pre_norm: bool = False,
        final_norm: bool = True,
        fc_norm: bool | None = None,
        global_pool: Literal["token", "avg", "token_avg", "map", "seq"] = "token",
        embed_layer: Literal["conv", "conv_rearrange", "linear", "conv_stem", "pool_stem"] = "conv",
        stem_layers: Sequence[Sequence[int]] | None = None,
        patch_stride: Size | None = None,
        embed_norm: bool = False,
        norm_layer: Literal["layernorm", "rmsnorm"] = "layernorm",
        norm_eps: float = 1e-6,
        act_layer: Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "silu"] = "gelu",
        mlp_layer: Literal["mlp", "swiglu", "swiglu_packed"] = "mlp",
        swiglu_align_to: int = 0,
        block_layer: Literal["serial", "parallel", "pair"] = "serial",
        weight_init: Literal["timm", "vit", "big_vision", "moco"] = "timm",
        zero_head: bool = False,
        dynamic_img_size: bool = False,
        flexi_patch_sizes: Sequence[int] | None = None,
        tome_r: int = 0,
        grad_checkpointing: bool = False,
    ):
        given = locals()  # the arguments: nothing else is bound yet
        super().__init__()
        self.options = {k: v for k, v in given.items() if k not in ("self", "__class__")}
        check_options(self.options)
        make_norm = partial(NORM_LAYERS[norm_layer], eps=norm_eps)
        make_act = ACT_LAYERS[act_layer]
        self.num_classes = num_classes
        self.embed_dim = embed_dim
        self.global_pool = global_pool
        self.num_prefix_tokens = int(class_token) + int(dist_token) + reg_tokens
        self.no_embed_class = no_embed_class
        self.flexi_patch_sizes = tuple(flexi_patch_sizes or ())
        self.drawn_patch_size: int | None = None
        self.tome_r = tome_r
        self.grad_checkpointing = grad_checkpointing
        self.distilled_training = False

        self.patch_embed = EMBED_LAYERS[embed_layer](
            img_size,
            patch_size,
            in_chans,
            embed_dim,
            norm_layer=make_norm if embed_norm else None,
            bias=not pre_norm,
            patch_stride=patch_stride,
            dynamic_img_size=dynamic_img_size,
            **({} if stem_layers is None else {"stem_layers": stem_layers}),
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if class_token else None
        self.dist_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if dist_token else None
        self.reg_token = nn.Parameter(torch.zeros(1, reg_tokens, embed_dim)) if reg_tokens else None
        self.pos_embed = self._make_pos_embed(pos_embed)
        self.pos_drop = nn.Dropout(pos_drop_rate)
        self.patch_drop_rate = patch_drop_rate
        self.norm_pre = make_norm(embed_dim) if pre_norm else nn.Identity()
        self.blocks = make_blocks(self.options)
        self.rope = make_rope(self.options, self.num_prefix_tokens)
        # As in timm, an average is taken first and normalised after; else the other way round.
        after = global_pool == "avg" if fc_norm is None else fc_norm
        features = 2 * embed_dim if global_pool == "token_avg" else embed_dim
        self.norm = make_norm(embed_dim) if final_norm and not after else nn.Identity()
        self.seq_pool = SequencePool(embed_dim) if global_pool == "seq" else None
        self.attn_pool = None
        if global_pool == "map":
            self.attn_pool = AttentionPool(
                embed_dim, num_heads, int(embed_dim * mlp_ratio), make_act, make_norm
            )
        self.fc_norm = make_norm(features) if final_norm and after else nn.Identity()
        self.head_drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(features, num_classes) if num_classes else nn.Identity()
        self.head_dist = None
        if dist_token:
            self.head_dist = nn.Linear(features, num_classes) if num_classes else nn.Identity()
        self.init_weights()

    def _make_pos_embed(self, kind: str) -> nn.Parameter | None:
        if kind == "none":
            return None
        prefix = 0 if self.no_embed_class else self.num_prefix_tokens
        table = torch.zeros(1, prefix + self.patch_embed.num_patches, self.embed_dim)  # [1, N, C]
        if kind == "sincos2d":
            table[0, prefix:] = sincos_2d(self.patch_embed.grid_size, self.embed_dim)
        return nn.Parameter(table, requires_grad=kind == "learn")

    def init_weights(self) -> None:
        """Draw the weights anew, as `weight_init` and `zero_head` say."""
        if self.rope is not None:
            self.rope.reset_parameters()
        initialise(self, self.options["weight_init"], self.options["zero_head"])

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that are neither matrices nor kernels, whatever their shape."""
        tokens = {"cls_token", "dist_token", "reg_token", "pos_embed"}
        return {*tokens, "rope.freqs", "attn_pool.latent"} & {n for n, _ in self.named_parameters()}

    def add_tokens(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Prefix tokens in front, and positions: [B, G · G, C] → [B, N, C]."""
        tokens = [t for t in (self.cls_token, self.dist_token, self.reg_token) if t is not None]
        prefix = [token.expand(x.shape[0], -1, -1) for token in tokens]
        if self.no_embed_class:
            x = torch.cat([*prefix, x + self.positions(grid)], dim=1)
        else:
            x = torch.cat([*prefix, x], dim=1) + self.positions(grid)
        return self.pos_drop(x)

    def positions(self, grid: tuple[int, int]) -> Tensor | float:
        """The position table for a grid [1, N, C], resampled where it was made for another."""
        if self.pos_embed is None:
            return 0.0
        prefix = 0 if self.no_embed_class else self.num_prefix_tokens
        return resample_pos_embed(self.pos_embed, self.patch_embed.grid_size, grid, prefix)

    def kept_tokens(self, x: Tensor) -> Tensor:
        """Indices [B, N'] of all prefix tokens and a random share of the patches, per image."""
        batch, length, _ = x.shape
        patches = length - self.num_prefix_tokens
        keep = max(1, int(patches * (1.0 - self.patch_drop_rate)))
        order = torch.rand(batch, patches, device=x.device).argsort(dim=1)[:, :keep]
        prefix = torch.arange(self.num_prefix_tokens, device=x.device).expand(batch, -1)
        return torch.cat([prefix, order + self.num_prefix_tokens], dim=1)

    def patch_size_of_batch(self) -> int | None:
        """In training with `flexi_patch_sizes`: what was set as `drawn_patch_size`, or a draw."""
        if not (self.training and self.flexi_patch_sizes):
            return None
        if self.drawn_patch_size is not None:
            return self.drawn_patch_size
        return self.flexi_patch_sizes[int(torch.randint(len(self.flexi_patch_sizes), ()))]

    def embed(self, x: Tensor) -> tuple[Tensor, list[Rotation | None]]:
        """Images to the tokens of the first block, [B, N, C], and the rotation of each block."""
        patch_size = self.patch_size_of_batch()
        grid = self.patch_embed.grid(x, patch_size)
        x = self.patch_embed(x, patch_size) if patch_size else self.patch_embed(x)
        x = self.add_tokens(x, grid)
        rotations: list[Rotation | None] = [None] * len(self.blocks)
        if self.rope is not None:
            rotations = list(self.rope(grid, x.device, x.dtype))
        if self.training and self.patch_drop_rate > 0.0:
            kept = self.kept_tokens(x)
            x = x.gather(1, kept[:, :, None].expand(-1, -1, x.shape[2]))
            rotations = [None if r is None else r.take(kept) for r in rotations]
        return self.norm_pre(x), rotations

    def forward_features(self, x: Tensor) -> Tensor:
        """Images to all tokens after the last norm: [B, in_chans, H, W] → [B, N, C]."""
        x, rotations = self.embed(x)
        if self.tome_r and not self.training:
            tokens = Tokens(x, self.num_prefix_tokens)
            for block in self.blocks:
                tokens = merged_block(block, tokens, self.tome_r)
            return self.norm(tokens.spread())
        return self.norm(self.run_blocks(x, rotations))

    def run_blocks(self, x: Tensor, rotations: Sequence[Rotation | None]) -> Tensor:
        """All blocks, one after the other: [B, N, C] kept."""
        for block, rotation in zip(self.blocks, rotations, strict=True):
            if self.grad_checkpointing and self.training:
                x = checkpoint(block, x, rotation, use_reentrant=False)
            else:
                x = block(x, rotation)
        return x

    def attention_maps(self, x: Tensor) -> list[Tensor]:
        """The attention weights of every block, [B, H, N, N] each; rows sum to 1.

        2H where `block_layer` is pair. No tokens are merged, whatever `tome_r` is.
        """
        maps = []
        x, rotations = self.embed(x)
        blocks: list[Any] = list(self.blocks)
        for block, rotation in zip(blocks, rotations, strict=True):
            maps.append(block.weights(x, rotation))
            x = block(x, rotation)
        return maps

    def pool(self, x: Tensor) -> Tensor:
        """All tokens to one vector: [B, N, C] → [B, C], or [B, 2C] where the head takes two.

        With a distillation token the two are a sequence, [B, 2, C].
        """
        patches = x[:, self.num_prefix_tokens :]
        if self.dist_token is not None:
            return x[:, :2]
        if self.global_pool == "token":
            return x[:, 0]
        if self.global_pool == "token_avg":
            return torch.cat([x[:, 0], patches.mean(dim=1)], dim=1)
        if self.attn_pool is not None:
            return self.attn_pool(patches)
        return patches.mean(dim=1) if self.seq_pool is None else self.seq_pool(patches)

    def forward_head(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Pooled features to logits: [B, C] → [B, K].

        With `distilled_training`, while training, those of both heads: 2 × [B, K].
        """
        x = self.head_drop(self.fc_norm(x))
        if self.head_dist is None:
            return self.head(x)
        logits, distilled = self.head(x[:, 0]), self.head_dist(x[:, 1])
        if self.distilled_training and self.training:
            return logits, distilled
        return (logits + distilled) / 2

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return self.forward_head(self.pool(self.forward_features(x)))
