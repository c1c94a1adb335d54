"""Blocks whose branches run side by side.

B batch, N tokens, C channels (embed_dim), H heads, D head dim (C / H).
"""

import torch
from torch import Tensor, nn

from vitfw.models.attention import (
    Attention,
    attend,
    attention_weights,
    check_heads,
    split_heads,
)
from vitfw.models.block import DropPath, Mlp, layer_scale
from vitfw.models.options import Layer
from vitfw.models.rotary import Rotation, rotate


class ParallelBlock(nn.Module):
    """Attention and MLP of the same norm, with one input projection: [B, N, C] kept.

    x + attention(norm x) + MLP(norm x). The first rows of `in_proj` are the MLP's, then q, k, v.
    Without `qkv_bias` the MLP still has one, of its own (`mlp_bias`).

    Source: Dehghani et al. 2023, "Scaling vision transformers to 22 billion parameters", §2.
    """

    def __init__(
        self,
        dim: int,
        mlp_dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        qk_norm: bool = False,
        proj_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        init_values: float | None = None,
        drop_path: float = 0.0,
        act_layer: Layer = nn.GELU,
        norm_layer: Layer = nn.LayerNorm,
    ):
        super().__init__()
        check_heads(dim, num_heads)
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.scale = self.head_dim**-0.5 if qk_scale is None else qk_scale
        self.in_norm = norm_layer(dim)
        self.in_proj = nn.Linear(dim, mlp_dim + 3 * dim, bias=qkv_bias)
        self.in_split = [mlp_dim, dim, dim, dim]
        self.mlp_bias = None if qkv_bias else nn.Parameter(torch.zeros(mlp_dim))
        self.q_norm = norm_layer(self.head_dim) if qk_norm else nn.Identity()
        self.k_norm = norm_layer(self.head_dim) if qk_norm else nn.Identity()
        self.attn_drop = nn.Dropout(attn_drop)
        self.mlp_act = act_layer()
        self.mlp_drop = nn.Dropout(proj_drop)
        self.attn_out_proj = nn.Linear(dim, dim, bias=proj_bias)
        self.mlp_out_proj = nn.Linear(mlp_dim, dim, bias=proj_bias)
        self.ls = layer_scale(dim, init_values)
        self.drop_path = DropPath(drop_path)

    def project(self, x: Tensor, rotation: Rotation | None = None) -> list[Tensor]:
        """[B, N, C] → hidden [B, N, mlp_dim] and q, k, v, 3 × [B, H, N, D]"""
        hidden, *parts = self.in_proj(self.in_norm(x)).split(self.in_split, dim=-1)
        if self.mlp_bias is not None:
            hidden = hidden + self.mlp_bias
        q, k, v = (split_heads(part, self.num_heads) for part in parts)
        q, k = self.q_norm(q), self.k_norm(k)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        return [hidden, q, k, v]

    def forward(self, x: Tensor, rotation: Rotation | None = None) -> Tensor:
        hidden, q, k, v = self.project(x, rotation)
        y = attend(q, k, v, self.scale, self.attn_drop.p if self.training else 0.0)
        y = self.attn_out_proj(y.transpose(1, 2).flatten(2))  # [B, H, N, D] → [B, N, C]
        y = y + self.mlp_out_proj(self.mlp_drop(self.mlp_act(hidden)))
        return x + self.drop_path(self.ls(y))

    def weights(self, x: Tensor, rotation: Rotation | None = None) -> Tensor:
        """The attention weights [B, H, N, N] of the block's input."""
        _, q, k, _ = self.project(x, rotation)
        return attention_weights(q, k, self.scale)


class AttentionBranch(nn.Module):
    """What `PairBlock` adds to its input for one attention: [B, N, C] → [B, N, C]."""

    def __init__(self, norm: nn.Module, attn: nn.Module, ls: nn.Module, drop_path: nn.Module):
        super().__init__()
        self.norm, self.attn, self.ls, self.drop_path = norm, attn, ls, drop_path

    def forward(self, x: Tensor, rotation: Rotation | None) -> Tensor:
        return self.drop_path(self.ls(self.attn(self.norm(x), rotation)))

    def weights(self, x: Tensor, rotation: Rotation | None) -> Tensor:
        return self.attn(self.norm(x), rotation, need_weights=True)[1]


class MlpBranch(nn.Module):
    """What `PairBlock` adds to its input for one MLP: [B, N, C] → [B, N, C]."""

    def __init__(self, norm: nn.Module, mlp: nn.Module, ls: nn.Module, drop_path: nn.Module):
        super().__init__()
        self.norm, self.mlp, self.ls, self.drop_path = norm, mlp, ls, drop_path

    def forward(self, x: Tensor) -> Tensor:
        return self.drop_path(self.ls(self.mlp(self.norm(x))))


class PairBlock(nn.Module):
    """Two attentions side by side, then two MLPs side by side: [B, N, C] kept.

    x + attention₁ + attention₂, then x + MLP₁ + MLP₂, each branch with a norm of its own.

    Source: Touvron et al. 2022, "Three things everyone should know about Vision Transformers", §3.
    """

    def __init__(
        self,
        dim: int,
        mlp_dim: int,
        attn_layer: Layer = Attention,
        mlp_layer: Layer = Mlp,
        init_values: float | None = None,
        drop_path: float = 0.0,
        norm_layer: Layer = nn.LayerNorm,
    ):
        super().__init__()

        def branch(kind: Layer, layer: nn.Module) -> nn.Module:
            return kind(norm_layer(dim), layer, layer_scale(dim, init_values), DropPath(drop_path))

        self.attns = nn.ModuleList(branch(AttentionBranch, attn_layer(dim)) for _ in range(2))
        self.ffns = nn.ModuleList(branch(MlpBranch, mlp_layer(dim, mlp_dim)) for _ in range(2))

    def forward(self, x: Tensor, rotation: Rotation | None = None) -> Tensor:
        x = x + sum(attn(x, rotation) for attn in self.attns)
        x = x + sum(mlp(x) for mlp in self.ffns)
        return x

    def weights(self, x: Tensor, rotation: Rotation | None = None) -> Tensor:
        """The attention weights of both attentions on the block's input, [B, 2H, N, N]."""
        branches = [branch for branch in self.attns if isinstance(branch, AttentionBranch)]
        return torch.cat([branch.weights(x, rotation) for branch in branches], dim=1)
