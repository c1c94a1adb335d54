"""A walk through a Vision Transformer, one step at a time.

B batch, N tokens, C channels (embed_dim), H heads, D head dim (C / H), P patch size, G grid side,
K classes. `walk_block.py` holds the steps inside a block.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from vitfw.models.conv_stem import Stem
from vitfw.models.patch_embed import (
    ConvRearrangeEmbed,
    LinearPatchEmbed,
    Size,
    TokenEmbed,
    as_pair,
)
from vitfw.models.pooling import AttentionPool
from vitfw.models.profile import Recorder, Stage, dtype_of, on_meta
from vitfw.models.token_merging import Tokens, merged_block
from vitfw.models.vit import VisionTransformer
from vitfw.models.walk_block import Turn, attend, run_block, run_merging_block, run_mlp


def walk(
    net: VisionTransformer, batch_size: int | None = None, img_size: Size | None = None
) -> list[Stage]:
    """Every step of one batch through `net`, in evaluation mode, on the meta device.

    The first block is spelled out; the others, which are like it, make one stage, or one each
    where tokens merge. Over all stages, parameters add up to `count_parameters`, and FLOPs to
    `count_flops`. `img_size` is for nets with `dynamic_img_size`.
    """
    net = on_meta(net)
    size = net.patch_embed.img_size if img_size is None else as_pair(img_size)
    shape = (batch_size or 1, net.patch_embed.in_chans, *size)
    recorder = Recorder(batch_size)
    recorded_forward(net, torch.empty(shape, device="meta", dtype=dtype_of(net)), recorder)
    return recorder.stages


def recorded_forward(net: VisionTransformer, x: Tensor, recorder: Recorder) -> Tensor:
    """`net(x)` in evaluation mode, step by step: [B, C, H, W] → [B, K]."""
    x = recorder.step("input", "a batch of images", lambda x: x, x)
    grid = net.patch_embed.grid(x)
    x = embed_patches(net.patch_embed, x, recorder)  # [B, C, H, W] → [B, G · G, C]
    x = add_tokens(net, x, grid, recorder)  # [B, G · G, C] → [B, N, C]
    x = recorder.module("norm_pre", net.norm_pre, x)
    x = merge_through(net, x, recorder) if net.tome_r else run_blocks(net, x, grid, recorder)
    x = recorder.module("norm", net.norm, x)
    x = pool(net, x, recorder)  # [B, N, C] → [B, C]
    x = recorder.module("fc_norm", net.fc_norm, x)
    return classify(net, x, recorder)  # [B, C] → [B, K]


def embed_patches(embed: TokenEmbed, x: Tensor, recorder: Recorder) -> Tensor:
    name = "patch_embed"
    if isinstance(embed, LinearPatchEmbed):
        height, width = embed.patch_size
        cut = f"cut into {height}×{width} patches"
        cut += "" if embed.stride == embed.patch_size else ", overlapping"
        x = recorder.step(name, cut, embed.cut, x)  # [B, N, P · P · C]
        x = recorder.module(f"{name}.proj", embed.proj, x)
        return recorder.module(f"{name}.norm", embed.norm, x)
    for i, layer in enumerate(embed.stem if isinstance(embed, Stem) else ()):
        x = recorder.module(f"{name}.stem.{i}", layer, x)
    x = recorder.module(f"{name}.proj", embed.get_submodule("proj"), x)  # [B, C, G, G]
    if isinstance(embed, ConvRearrangeEmbed):
        x = recorder.step(name, "move the channels last", lambda x: x.permute(0, 2, 3, 1), x)
        x = recorder.step(name, "flatten the grid", lambda x: x.flatten(1, 2), x)
    else:
        x = recorder.step(name, "flatten the grid", lambda x: x.flatten(2), x)
        x = recorder.step(name, "transpose: row = token", lambda x: x.transpose(1, 2), x)
    return recorder.module(f"{name}.norm", embed.norm, x)


def add_tokens(
    net: VisionTransformer, x: Tensor, grid: tuple[int, int], recorder: Recorder
) -> Tensor:
    """Prefix tokens, the last ones first: what ends in front is put there last."""

    def add_positions(x: Tensor) -> Tensor:
        if (table := net.pos_embed) is None:
            return x
        down, across = made_for = net.patch_embed.grid_size
        what = "add position table"
        if grid != made_for:
            what = f"add position table, stretched from {down}×{across}"
        return recorder.step(
            "pos_embed", what, lambda x: x + net.positions(grid), x, parameters=[table]
        )

    def prepend(token: Tensor, x: Tensor) -> Tensor:
        return torch.cat([token.expand(x.shape[0], -1, -1), x], dim=1)

    if net.no_embed_class:
        x = add_positions(x)
    registers = 0 if net.reg_token is None else net.reg_token.shape[1]
    for name, what in (
        ("reg_token", f"prepend {registers} register{'s' * (registers > 1)}"),
        ("dist_token", "prepend distillation token"),
        ("cls_token", "prepend class token"),
    ):
        if (token := getattr(net, name)) is not None:
            x = recorder.step(name, what, partial(prepend, token), x, parameters=[token])
    return x if net.no_embed_class else add_positions(x)


def run_blocks(
    net: VisionTransformer, x: Tensor, grid: tuple[int, int], recorder: Recorder
) -> Tensor:
    rotations = [None] * len(net.blocks)
    turn, freqs = None, []
    if net.rope is not None:
        rotations = net.rope(grid, x.device, x.dtype)
        learned = net.rope.freqs  # [2, L, H, D / 2], a slice for each block
        turn = Turn(rotations[0], [] if learned is None else [learned[:, :1]])
        freqs = [] if learned is None else [learned[:, 1:]]
    x = run_block("blocks.0", net.blocks[0], x, turn, recorder)
    others = net.blocks[1:]
    if not len(others):
        return x

    def run_others(x: Tensor) -> Tensor:
        for block, rotation in zip(others, rotations[1:], strict=True):
            x = block(x, rotation)
        return x

    count = len(others)
    name = "blocks.1" if count == 1 else f"blocks.1 … blocks.{count}"
    parameters = [*others.parameters(), *freqs]
    return recorder.step(name, f"the same, {count} × more", run_others, x, parameters=parameters)


def merge_through(net: VisionTransformer, x: Tensor, recorder: Recorder) -> Tensor:
    """The blocks of a net with `tome_r`; a merged token's value goes back to all its places."""
    tokens = Tokens(x, net.num_prefix_tokens)
    tokens = run_merging_block("blocks.0", net.blocks[0], tokens, net.tome_r, recorder)
    for i, block in enumerate(net.blocks[1:], start=1):
        length = tokens.x.shape[1]
        fewer = min(net.tome_r, (length - net.num_prefix_tokens) // 2)
        what = f"the same, merge {fewer} more" if fewer > 0 else "the same"
        run = partial(merged_block, block, r=net.tome_r)
        tokens = recorder.step(f"blocks.{i}", what, run, tokens, parameters=block.parameters())
    if tokens.x.shape[1] == x.shape[1]:
        return tokens.x
    return recorder.step("unmerge", "copy to every place", Tokens.spread, tokens)


def pool(net: VisionTransformer, x: Tensor, recorder: Recorder) -> Tensor:
    if net.dist_token is not None:
        return recorder.step("pool", "take the first 2 tokens", net.pool, x)  # [B, 2, C]
    if net.global_pool == "token":
        return recorder.step("pool", "take the class token", net.pool, x)
    prefix = net.num_prefix_tokens
    everything = x
    if prefix:
        drop = f"drop the first {prefix} (prefix)"
        x = recorder.step("pool", drop, lambda x: x[:, prefix:], x)
    if net.attn_pool is not None:
        return attention_pool(net.attn_pool, x, recorder)
    if net.seq_pool is not None:
        weights = recorder.module("seq_pool.score", net.seq_pool.score, x)  # [B, G · G, 1]
        weights = recorder.step(
            "seq_pool", "softmax over tokens", lambda w: w.softmax(dim=1), weights
        )
        return recorder.step("seq_pool", "weighted mean", lambda x: (weights * x).sum(dim=1), x)
    x = recorder.step("pool", "mean of the tokens", lambda x: x.mean(dim=1), x)
    if net.global_pool == "token_avg":
        beside: Callable = lambda x: torch.cat([everything[:, 0], x], dim=1)  # noqa: E731
        x = recorder.step("pool", "class token beside it", beside, x)  # [B, 2C]
    return x


def attention_pool(attn_pool: AttentionPool, x: Tensor, recorder: Recorder) -> Tensor:
    """[B, N, C] → [B, C]"""
    name, heads = "attn_pool", attn_pool.num_heads
    latent = attn_pool.latent
    query = recorder.step(
        f"{name}.latent",
        "a learned query token",
        lambda x: latent.expand(x.shape[0], -1, -1),
        x,
        parameters=[latent],
    )  # [B, 1, C]
    q = recorder.module(f"{name}.q", attn_pool.q, query)
    q = recorder.step(
        name,
        f"split: q, {heads} heads",
        lambda q: q.unflatten(2, (heads, -1)).transpose(1, 2),
        q,
    )  # [B, H, 1, D]
    kv = recorder.module(f"{name}.kv", attn_pool.kv, x)  # [B, N, 2C]
    split = f"split: k v, {heads} heads"
    kv = recorder.step(name, split, lambda x: x.unflatten(2, (2, heads, -1)), kv)
    k, v = recorder.step(
        name, "permute, unbind k v", lambda x: x.permute(2, 0, 3, 1, 4).unbind(0), kv
    )  # 2 × [B, H, N, D]
    x = attend(name, q, k, v, attn_pool.scale, recorder)  # [B, 1, C]
    x = recorder.module(f"{name}.proj", attn_pool.proj, x)
    y = recorder.module(f"{name}.norm", attn_pool.norm, x)
    y = run_mlp(f"{name}.mlp", attn_pool.mlp, y, recorder)
    x = recorder.step(name, "add the branch's input", x.add, y)
    return recorder.step(name, "take the one token", lambda x: x[:, 0], x)


def classify(net: VisionTransformer, x: Tensor, recorder: Recorder) -> Tensor:
    if net.head_dist is None:
        return recorder.module("head", net.head, x)
    first = recorder.step("head", "take the class token", lambda x: x[:, 0], x)
    first = recorder.module("head", net.head, first)
    second = recorder.step("head_dist", "take distillation token", lambda x: x[:, 1], x)
    second = recorder.module("head_dist", net.head_dist, second)
    what = "mean of both heads" if net.num_classes else "mean of both tokens"
    return recorder.step("logits", what, lambda a, b: (a + b) / 2, first, second)
