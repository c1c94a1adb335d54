"""Multi-head self-attention, and which kernel computes it.

B batch, N tokens, C channels (embed_dim), H heads, D head dim (C / H).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LONGEST_WRITTEN_OUT = 1024  # tokens


def explicit_is_faster(q: Tensor) -> bool:
    """Whether softmax(q kᵀ) v written out beats PyTorch's fused kernel for this `q`.

    On a CPU in bfloat16 it does, with or without gradients (measured by
    `benchmarks/attention.py`); everywhere else the fused kernel is taken, which is faster on a
    GPU. So it is for long sequences, where the [N, N] matrix would take too much memory.
    """
    short = q.shape[-2] <= LONGEST_WRITTEN_OUT
    return q.device.type == "cpu" and q.dtype == torch.bfloat16 and short


class Attention(nn.Module):
    """Multi-head self-attention with one fused `qkv` projection.

    [B, N, C] → [B, N, C]. Rows of `qkv` are q, k, v, head-major. Scores are multiplied by
    `qk_scale`, or `head_dim ** -0.5` where that is None. `attn_drop` is the dropout on the
    attention weights, `proj_drop` the one after the projection.

    Raises:
        ValueError: `num_heads` does not divide `dim`.

    Source: Vaswani et al. 2017, §3.2; `qk_norm` is Dehghani et al. 2023, §2.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        qk_norm: bool = False,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        norm_layer: Callable[..., nn.Module] = nn.LayerNorm,
    ):
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            fitting = ", ".join(str(h) for h in range(1, min(dim, 64) + 1) if dim % h == 0)
            raise ValueError(
                f"num_heads {num_heads} does not divide embed_dim {dim}; heads that do: {fitting}"
            )
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.scale = self.head_dim**-0.5 if qk_scale is None else qk_scale
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.q_norm = norm_layer(self.head_dim) if qk_norm else nn.Identity()
        self.k_norm = norm_layer(self.head_dim) if qk_norm else nn.Identity()
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, self.head_dim)  # [B, N, 3, H, D]
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # 3 × [B, H, N, D]
        q, k = self.q_norm(q), self.k_norm(k)
        if explicit_is_faster(v):
            weights = (q * self.scale) @ k.transpose(-2, -1)  # [B, H, N, N]
            x = self.attn_drop(weights.softmax(dim=-1)) @ v  # [B, H, N, D]
        else:
            dropout = self.attn_drop.p if self.training else 0.0
            x = F.scaled_dot_product_attention(
                q, k, v, dropout_p=dropout, scale=self.scale
            )  # [B, H, N, D]
        x = x.transpose(1, 2).reshape(B, N, C)  # [B, H, N, D] → [B, N, C]
        return self.proj_drop(self.proj(x))
