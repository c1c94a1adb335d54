"""What the attention of a VisionTransformer looks at, and how far.

B batch, N tokens, T prefix tokens, P patches (N - T), H heads, D head dim, L blocks, G grid side.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vitfw.models.attention import attention_weights, split_heads
from vitfw.models.pooling import AttentionPool
from vitfw.models.vit import VisionTransformer

Pair = tuple[int, int]


def rollout(maps: Sequence[Tensor]) -> Tensor:
    """How much of each input token is in each output token: L × [B, H, N, N] → [B, N, N].

    Attention is averaged over the heads, the residual connection counts as much as it, and the
    blocks are multiplied, the last one leftmost. Rows sum to 1.

    Source: Abnar and Zuidema 2020, "Quantifying attention flow in transformers", §3.
    """
    identity = torch.eye(maps[0].shape[-1]).to(maps[0])  # [N, N]
    rolled = identity
    for weights in maps:
        mixed = (weights.mean(dim=1) + identity) / 2  # [B, H, N, N] → [B, N, N]
        rolled = mixed / mixed.sum(dim=-1, keepdim=True) @ rolled
    return rolled


def patch_distances(grid: Pair, spacing: Pair) -> Tensor:
    """Pixels between the centres of any two patches of a grid, row-major: [P, P].

    `spacing` is the pixels from one patch to the next, down and across.
    """
    down, across = (torch.arange(n) * float(step) for n, step in zip(grid, spacing, strict=True))
    centres = torch.cartesian_prod(down, across)  # [P, 2]
    return (centres[:, None] - centres).square().sum(dim=-1).sqrt()


def uniform_distance(net: VisionTransformer, images: Tensor) -> float:
    """The mean attention distance, in pixels, of a head that attends to all patches alike."""
    grid = net.patch_embed.grid(images)
    return float(patch_distances(grid, net.patch_embed.stride).mean())


def mean_distance(weights: Tensor, distances: Tensor) -> Tensor:
    """How many pixels from itself a patch looks, on average: [B, H, N, N] → [B, H].

    `distances` [P, P] as `patch_distances` gives them; the N - P first tokens are no patches, and
    what patches give to them is not counted: the rest is scaled up to sum to 1.

    Source: Dosovitskiy et al. 2021, appendix D.7 (figure 7, right).
    """
    prefix = weights.shape[-1] - len(distances)
    patches = weights[..., prefix:, prefix:]  # [B, H, P, P]
    total = patches.sum(dim=-1).clamp(min=torch.finfo(patches.dtype).tiny)
    return ((patches * distances.to(patches)).sum(dim=-1) / total).mean(dim=-1)


def patch_query(net: VisionTransformer, grid: Pair, row: int, column: int) -> Tensor:
    """The query that is one patch: [1, N].

    Raises:
        ValueError: there is no such patch.
    """
    if not (0 <= row < grid[0] and 0 <= column < grid[1]):
        raise ValueError(
            f"query [{row}, {column}] lies outside of the {grid[0]} × {grid[1]} patches; rows are "
            f"0 to {grid[0] - 1}, columns 0 to {grid[1] - 1}"
        )
    query = torch.zeros(1, net.num_prefix_tokens + grid[0] * grid[1])
    query[0, net.num_prefix_tokens + row * grid[1] + column] = 1.0
    return query


def all_patches(net: VisionTransformer, grid: Pair) -> Tensor:
    """The query that is the mean of all patches: [1, N]."""
    patches = grid[0] * grid[1]
    prefix = torch.zeros(1, net.num_prefix_tokens)
    return torch.cat([prefix, torch.full((1, patches), 1 / patches)], dim=1)


def reads_class_token(net: VisionTransformer) -> bool:
    """Whether the head sees the class token, by itself or beside the mean of the patches."""
    return net.cls_token is not None and net.global_pool in ("token", "token_avg")


@torch.no_grad()
def pooling_query(net: VisionTransformer, images: Tensor) -> Tensor:
    """The share that each token has in what the head sees: [1 or B, N], rows sum to 1.

    The class token alone, where the head sees that; else the patches, with equal shares or those
    that a learned pooling gives them (`map`: the mean of its heads).
    """
    grid, prefix = net.patch_embed.grid(images), net.num_prefix_tokens
    if reads_class_token(net):
        return torch.eye(1, prefix + grid[0] * grid[1])
    if net.seq_pool is None and net.attn_pool is None:
        return all_patches(net, grid)
    x = net.norm(net.run_blocks(*net.embed(images)))  # [B, N, C]
    patches = x[:, prefix:]
    if net.seq_pool is not None:
        shares = net.seq_pool.score(patches).softmax(dim=1)[:, :, 0]
    else:
        assert net.attn_pool is not None
        shares = map_shares(net.attn_pool, patches)
    return torch.cat([shares.new_zeros(len(x), prefix), shares], dim=1)


def map_shares(pool: AttentionPool, patches: Tensor) -> Tensor:
    """What the learned query attends to, over all heads: [B, P, C] → [B, P]."""
    key, _ = pool.kv(patches).chunk(2, dim=-1)
    q, k = (split_heads(part, pool.num_heads) for part in (pool.q(pool.latent), key))
    return attention_weights(q, k, pool.scale)[:, :, 0].mean(dim=1)  # [B, H, 1, P] → [B, P]


def query_of(
    net: VisionTransformer, images: Tensor, patch: Sequence[int] | None = None, pooled: bool = True
) -> tuple[Tensor, str]:
    """Whose attention to look at, [1 or B, N], and what that is called.

    The `patch` at [row, column] if given; else what the head sees, or without `pooled`, where
    nothing of the pooling is trained, the mean of all patches.

    Raises:
        ValueError: there is no such patch.
    """
    grid = net.patch_embed.grid(images)
    if patch is not None:
        row, column = patch
        return patch_query(net, grid, row, column), f"the patch in row {row}, column {column}"
    if not pooled:
        return all_patches(net, grid), "the mean of all patches"
    if reads_class_token(net):
        return pooling_query(net, images), "the class token"
    learned = net.global_pool in ("seq", "map")
    what = "the pooled patches" if learned else "the mean of all patches"
    return pooling_query(net, images), what


class Seen(NamedTuple):
    """What a query attends to, as a share of all its attention; prefix tokens are left out.

    `heads` [B, H, G, G] of one block, `rollout` [B, G, G] of all, and the mean distances of all
    patches' attention in pixels, `distances` [B, L, H].
    """

    heads: Tensor
    rollout: Tensor
    distances: Tensor


@torch.no_grad()
def seen_by(net: VisionTransformer, images: Tensor, query: Tensor, block: int = -1) -> Seen:
    """Attention in float32 on the CPU, for images [B, C, H, W] in the net's own number format.

    `query` [1 or B, N] weighs the tokens whose attention is wanted; rows sum to 1.
    """
    grid, prefix = net.patch_embed.grid(images), net.num_prefix_tokens
    maps = [weights.float() for weights in net.attention_maps(images)]
    query = query.to(maps[0]).expand(len(images), -1)
    heads = torch.einsum("bn,bhnm->bhm", query, maps[block])  # [B, H, N]
    rolled = torch.einsum("bn,bnm->bm", query, rollout(maps))  # [B, N]
    between = patch_distances(grid, net.patch_embed.stride)
    return Seen(
        heads[..., prefix:].unflatten(-1, grid).cpu(),
        rolled[..., prefix:].unflatten(-1, grid).cpu(),
        torch.stack([mean_distance(weights, between) for weights in maps], dim=1).cpu(),
    )


def heads_of(net: VisionTransformer) -> int:
    """Heads of a block; both attentions of a pair."""
    pair = net.options["block_layer"] == "pair"
    return net.options["num_heads"] * (2 if pair else 1)


def bytes_of_maps(net: VisionTransformer, grid: Pair) -> int:
    """What `attention_maps` of one image takes in float32."""
    tokens = net.num_prefix_tokens + grid[0] * grid[1]
    return len(net.blocks) * heads_of(net) * tokens**2 * 4
