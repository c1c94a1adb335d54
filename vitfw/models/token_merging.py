"""Fewer tokens at inference: merge the most similar ones between attention and MLP.

B batch, N tokens now, L tokens at the start, C channels, H heads, D head dim.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitfw.models.attention import Attention
from vitfw.models.block import Block


@dataclass(frozen=True)
class Merge:
    """Which tokens become one: `target` [B, N] holds, for each token, its place afterwards.

    `length` is the number of places. Tokens that stay keep their order.
    """

    target: Tensor
    length: int

    def merge(self, x: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Means weighted by size, and the new sizes.

        x [B, N, C], sizes [B, N, 1] → [B, length, C], [B, length, 1].
        """
        batch, _, channels = x.shape
        index = self.target[:, :, None]  # [B, N, 1]
        total = sizes.new_zeros(batch, self.length, 1).scatter_add(1, index, sizes)
        sums = sizes.new_zeros(batch, self.length, channels).scatter_add(
            1, index.expand(-1, -1, channels), x * sizes
        )
        return (sums / total).to(x.dtype), total

    def follow(self, source: Tensor) -> Tensor:
        """Where those at `source` [B, L] lie afterwards."""
        return self.target.gather(1, source)


def match(keys: Tensor, r: int, num_prefix: int) -> Merge:
    """Bipartite soft matching: which `r` tokens merge into which others. keys [B, N, D].

    The patch tokens are dealt in turn to a set A and a set B. Each of A looks for the one of B
    whose key has the highest cosine similarity; the `r` most similar pairs merge. Several of A
    may end in the same one of B. The first `num_prefix` tokens are left alone, and so `r` is cut
    to half of the others. Of equal similarities the earlier token wins.

    Raises:
        ValueError: `r` is negative.

    Source: Bolya et al. 2023, "Token merging: your ViT but faster", §3.
    """
    if r < 0:
        raise ValueError(f"tome_r {r} must be at least 0")
    batch, length, _ = keys.shape
    r = min(r, (length - num_prefix) // 2)
    places = torch.arange(length, device=keys.device).expand(batch, -1)  # [B, N]
    if r <= 0:
        return Merge(places, length)
    keys = F.normalize(keys[:, num_prefix:], dim=-1)
    similarity = keys[:, ::2] @ keys[:, 1::2].transpose(1, 2)  # [B, A, B]
    highest, best = similarity.max(dim=2)  # [B, A]
    chosen = highest.argsort(dim=1, descending=True, stable=True)[:, :r]  # [B, r]
    merged = num_prefix + 2 * chosen
    into = num_prefix + 2 * best.gather(1, chosen) + 1
    stays = torch.ones_like(places, dtype=torch.bool).scatter(1, merged, False)
    target = stays.cumsum(dim=1) - 1
    target = target.scatter(1, merged, target.gather(1, into))
    return Merge(target, length - r)


class Tokens:
    """Tokens on their way through the blocks, some of them merged.

    `x` [B, N, C]; `sizes` [B, N, 1], how many of the first tokens each stands for; `source`
    [B, L], where each of the first L tokens lies now. Sizes are float32 even where `x` is half
    precision, which could not count past 256.
    """

    def __init__(
        self,
        x: Tensor,
        num_prefix: int = 0,
        sizes: Tensor | None = None,
        source: Tensor | None = None,
    ):
        if sizes is None:
            sizes = x.new_ones(*x.shape[:2], 1, dtype=torch.promote_types(x.dtype, torch.float32))
        if source is None:
            source = torch.arange(x.shape[1], device=x.device).expand(x.shape[0], -1)
        self.x = x
        self.num_prefix = num_prefix
        self.sizes = sizes
        self.source = source

    def attention_bias(self, dtype: torch.dtype) -> Tensor | None:
        """Log sizes [B, 1, 1, N], by which a token counts as often as it was merged."""
        if self.x.shape[1] == self.source.shape[1]:
            return None
        return self.sizes.log().to(dtype).transpose(1, 2)[:, None]  # [B, N, 1] → [B, 1, 1, N]

    def replaced(self, x: Tensor) -> "Tokens":
        """The same merging state around other values `x` [B, N, C]."""
        return Tokens(x, self.num_prefix, self.sizes, self.source)

    def merged(self, keys: Tensor, r: int) -> "Tokens":
        """`r` tokens fewer, by the similarity of `keys` [B, N, D]."""
        merge = match(keys, r, self.num_prefix)
        if merge.length == self.x.shape[1]:
            return self
        x, sizes = merge.merge(self.x, self.sizes)
        return Tokens(x, self.num_prefix, sizes, merge.follow(self.source))

    def spread(self) -> Tensor:
        """Each of the first tokens gets the value of the one it lies in: [B, N, C] → [B, L, C].

        A mean, or any attention, over the result then weighs every merged token by its size.
        """
        if self.x.shape[1] == self.source.shape[1]:
            return self.x
        return self.x.gather(1, self.source[:, :, None].expand(-1, -1, self.x.shape[2]))


def merged_block(block: nn.Module, tokens: Tokens, r: int) -> Tokens:
    """A pre-norm block at inference with `r` tokens merged in its middle.

    Attention is proportional: the log of the sizes is added to the scores. With `r = 0` and
    nothing merged yet this is the block itself.

    Raises:
        ValueError: the block's branches are not one attention, then one MLP.

    Source: Bolya et al. 2023, §3, "Tracking token size".
    """
    if not isinstance(block, Block) or not isinstance(attn := block.attn, Attention):
        raise ValueError("tome_r merges tokens in block_layer=serial only; or set tome_r=0")
    q, k, v = attn.project(block.norm1(tokens.x))  # 3 × [B, H, N, D]
    mixed = attn.attend(q, k, v, bias=tokens.attention_bias(q.dtype))  # [B, H, N, D]
    tokens = tokens.replaced(tokens.x + block.ls1(attn.output(mixed)))
    tokens = tokens.merged(k.mean(dim=1), r)
    return tokens.replaced(tokens.x + block.ls2(block.mlp(block.norm2(tokens.x))))
