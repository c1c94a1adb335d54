"""From all tokens to one vector for the head.

B batch, N tokens, C channels (embed_dim), H heads, D head dim (C / H).
"""

import torch
from torch import Tensor, nn

from vitfw.models.attention import attend, check_heads, split_heads
from vitfw.models.block import Mlp
from vitfw.models.options import Layer


class SequencePool(nn.Module):
    """A learned weighted mean of the tokens: [B, N, C] → [B, C].

    Source: Hassani et al. 2021, "Escaping the big data paradigm with compact transformers", §3.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.score = nn.Linear(dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.score(x).softmax(dim=1)  # [B, N, C] → [B, N, 1]
        return (weights * x).sum(dim=1)  # [B, C]


class AttentionPool(nn.Module):
    """Multi-head attention pooling (MAP): a learned query attends to all tokens, then an MLP.

    [B, N, C] → [B, C].

    Source: Zhai et al. 2022, "Scaling vision transformers", §3.2; as in SigLIP.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_dim: int,
        act_layer: Layer = nn.GELU,
        norm_layer: Layer = nn.LayerNorm,
    ):
        super().__init__()
        check_heads(dim, num_heads)
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.latent = nn.Parameter(torch.zeros(1, 1, dim))
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm = norm_layer(dim)
        self.mlp = Mlp(dim, mlp_dim, act_layer)

    def forward(self, x: Tensor) -> Tensor:
        query = self.q(self.latent.expand(x.shape[0], -1, -1))  # [B, 1, C]
        parts = [query, *self.kv(x).chunk(2, dim=-1)]
        q, k, v = (split_heads(part, self.num_heads) for part in parts)
        x = attend(q, k, v, self.scale)  # [B, H, 1, D]
        x = self.proj(x.transpose(1, 2).flatten(2))  # [B, H, 1, D] → [B, 1, C]
        x = x + self.mlp(self.norm(x))
        return x[:, 0]
