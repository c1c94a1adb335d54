"""Multi-head self-attention, and which kernel computes it.

B batch, N tokens, C channels (embed_dim), H heads, D head dim (C / H).
"""

import re
from collections.abc import Mapping
from typing import Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitfw.models.options import Layer
from vitfw.models.rotary import Rotation, rotate

LONGEST_WRITTEN_OUT = 1024  # tokens


def explicit_is_faster(q: Tensor) -> bool:
    """Whether softmax(q kᵀ) v written out beats PyTorch's fused kernel for this `q`.

    On a CPU in bfloat16 it does, with or without gradients (`vitfw benchmark suite=attention`
    measures it). Everywhere else the fused kernel is taken, and for long sequences, where the
    [N, N] matrix would take too much memory.
    """
    short = q.shape[-2] <= LONGEST_WRITTEN_OUT
    return q.device.type == "cpu" and q.dtype == torch.bfloat16 and short


def attention_weights(q: Tensor, k: Tensor, scale: float, bias: Tensor | None = None) -> Tensor:
    """softmax(scale · q kᵀ + bias): 2 × [B, H, N, D] → [B, H, N, N], rows sum to 1."""
    scores = (q * scale) @ k.transpose(-2, -1)
    return (scores if bias is None else scores + bias).softmax(dim=-1)


def attend(
    q: Tensor, k: Tensor, v: Tensor, scale: float, dropout: float = 0.0, bias: Tensor | None = None
) -> Tensor:
    """Attention by whichever kernel is faster: 3 × [B, H, N, D] → [B, H, N, D].

    `dropout` is the share of attention weights to drop, `bias` is added to the scores.
    """
    if explicit_is_faster(v):
        return F.dropout(attention_weights(q, k, scale, bias), dropout) @ v
    return F.scaled_dot_product_attention(q, k, v, bias, dropout, scale=scale)


def check_heads(dim: int, num_heads: int) -> None:
    if num_heads < 1 or dim % num_heads:
        fitting = ", ".join(str(h) for h in range(1, min(dim, 64) + 1) if dim % h == 0)
        raise ValueError(
            f"num_heads {num_heads} does not divide embed_dim {dim}; heads that do: {fitting}"
        )


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """[B, N, C] → [B, H, N, D]"""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention: [B, N, C] → [B, N, C].

    `fused_qkv` is one projection `qkv` with rows q, k, v, head-major; without it there are three,
    `q_proj`, `k_proj` and `v_proj`. The two are the same function (`split_qkv`, `fuse_qkv`).
    `k_bias=False` leaves the key without a bias, which softmax could not see anyway. Scores are
    multiplied by `qk_scale`, or `head_dim ** -0.5` where that is None. `qk_norm` normalises each
    head's queries and keys, `scale_norm` the heads' joint output. `attn_drop` is the dropout on
    the attention weights, `proj_drop` the one after the projection.

    Raises:
        ValueError: `num_heads` does not divide `dim`.

    Source: Vaswani et al. 2017, §3.2; `qk_norm` is Dehghani et al. 2023, §2; `k_bias` is Bao et
    al. 2022 (BEiT); `scale_norm` is Wang et al. 2022 (Foundation transformers).
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        k_bias: bool = True,
        qk_scale: float | None = None,
        qk_norm: bool = False,
        fused_qkv: bool = True,
        proj_bias: bool = True,
        scale_norm: bool = False,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        norm_layer: Layer = nn.LayerNorm,
    ):
        super().__init__()
        check_heads(dim, num_heads)
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.scale = self.head_dim**-0.5 if qk_scale is None else qk_scale
        self.fused_qkv = fused_qkv
        k_bias = k_bias and qkv_bias
        if fused_qkv:
            self.qkv = nn.Linear(dim, 3 * dim, bias=k_bias)
            without_key = qkv_bias and not k_bias
            self.q_bias = nn.Parameter(torch.zeros(dim)) if without_key else None
            self.v_bias = nn.Parameter(torch.zeros(dim)) if without_key else None
        else:
            self.q_proj = nn.Linear(dim, dim, bias=qkv_bias)
            self.k_proj = nn.Linear(dim, dim, bias=k_bias)
            self.v_proj = nn.Linear(dim, dim, bias=qkv_bias)
        self.q_norm = norm_layer(self.head_dim) if qk_norm else nn.Identity()
        self.k_norm = norm_layer(self.head_dim) if qk_norm else nn.Identity()
        self.attn_drop = nn.Dropout(attn_drop)
        self.norm = norm_layer(dim) if scale_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim, bias=proj_bias)
        self.proj_drop = nn.Dropout(proj_drop)

    def project(self, x: Tensor, rotation: Rotation | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, normalised and rotated: [B, N, C] → 3 × [B, H, N, D]."""
        if self.fused_qkv:
            qkv = self.qkv(x)  # [B, N, C] → [B, N, 3C]
            if self.q_bias is not None and self.v_bias is not None:
                qkv = qkv + torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
            parts = qkv.chunk(3, dim=-1)  # 3 × [B, N, C]
        else:
            parts = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        q, k, v = (split_heads(part, self.num_heads) for part in parts)
        q, k = self.q_norm(q), self.k_norm(k)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        return q, k, v

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """3 × [B, H, N, D] → [B, H, N, D]"""
        dropout = self.attn_drop.p if self.training else 0.0
        return attend(q, k, v, self.scale, dropout, bias)

    def output(self, x: Tensor) -> Tensor:
        """Join the heads and project: [B, H, N, D] → [B, N, C]."""
        x = x.transpose(1, 2).flatten(2)
        return self.proj_drop(self.proj(self.norm(x)))

    @overload
    def forward(
        self, x: Tensor, rotation: Rotation | None = None, need_weights: Literal[False] = False
    ) -> Tensor: ...

    @overload
    def forward(
        self, x: Tensor, rotation: Rotation | None = None, *, need_weights: Literal[True]
    ) -> tuple[Tensor, Tensor]: ...

    def forward(
        self, x: Tensor, rotation: Rotation | None = None, need_weights: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """With `need_weights`, also the attention weights [B, H, N, N], before any dropout."""
        q, k, v = self.project(x, rotation)
        if not need_weights:
            return self.output(self.attend(q, k, v))
        weights = attention_weights(q, k, self.scale)
        return self.output(self.attn_drop(weights) @ v), weights


def split_qkv(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with `q_proj`, `k_proj`, `v_proj` in the place of every `qkv`."""
    split: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if found := re.fullmatch(r"(.*\.)?qkv\.(weight|bias)", name):
            stem, kind = found.groups("")
            for part, rows in zip("qkv", tensor.chunk(3), strict=True):
                split[f"{stem}{part}_proj.{kind}"] = rows.clone()
        elif found := re.fullmatch(r"(.*\.)?([qv])_bias", name):
            stem, part = found.groups("")
            split[f"{stem}{part}_proj.bias"] = tensor
        else:
            split[name] = tensor
    return split


def fuse_qkv(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `split_qkv`: one `qkv` in the place of every `q_proj`, `k_proj`, `v_proj`."""
    fused: dict[str, Tensor] = {}
    for name, tensor in state.items():
        found = re.fullmatch(r"(.*\.)?([qkv])_proj\.(weight|bias)", name)
        if not found:
            fused[name] = tensor
            continue
        stem, part, kind = found.groups("")
        rows = [state[key] for p in "qkv" if (key := f"{stem}{p}_proj.{kind}") in state]
        if len(rows) < 3 and kind == "bias":
            fused[f"{stem}{part}_bias"] = tensor  # the key has none
        elif len(rows) < 3:
            fused[name] = tensor  # not a whole attention
        elif part == "q":
            fused[f"{stem}qkv.{kind}"] = torch.cat(rows)
    return fused
