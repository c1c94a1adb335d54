"""The pre-norm transformer block and its parts.

B batch, N tokens, C channels (embed_dim).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vitfw.models.attention import Attention

Layer = Callable[..., nn.Module]  # a module class, or a partial of one


class Mlp(nn.Module):
    """Two linear layers with an activation between: [B, N, C] → [B, N, hidden] → [B, N, C].

    Source: Vaswani et al. 2017, §3.3.
    """

    def __init__(self, dim: int, hidden_dim: int, act_layer: Layer = nn.GELU, drop: float = 0.0):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = act_layer()
        self.drop1 = nn.Dropout(drop)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.drop2 = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop2(self.fc2(self.drop1(self.act(self.fc1(x)))))


class SwiGLU(nn.Module):
    """A gated MLP, fc2(silu(fc1_g x) · fc1_x x): [B, N, C] → [B, N, hidden] → [B, N, C].

    Source: Shazeer 2020, "GLU variants improve transformer". The gate is always SiLU.
    """

    def __init__(self, dim: int, hidden_dim: int, act_layer: Layer = nn.SiLU, drop: float = 0.0):
        super().__init__()
        self.fc1_g = nn.Linear(dim, hidden_dim)
        self.fc1_x = nn.Linear(dim, hidden_dim)
        self.act = nn.SiLU()
        self.drop1 = nn.Dropout(drop)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.drop2 = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop2(self.fc2(self.drop1(self.act(self.fc1_g(x)) * self.fc1_x(x))))


class LayerScale(nn.Module):
    """Multiply each channel by a learned factor that starts at `init_values`.

    Source: Touvron et al. 2021, "Going deeper with image transformers", §2.
    """

    def __init__(self, dim: int, init_values: float):
        super().__init__()
        self.init_values = init_values
        self.gamma = nn.Parameter(torch.full((dim,), float(init_values)))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class DropPath(nn.Module):
    """Stochastic depth: drop a residual branch for a whole sample, scale the kept ones up.

    Source: Huang et al. 2016, "Deep networks with stochastic depth".
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        mask = x.new_empty(x.shape[0], *[1] * (x.ndim - 1)).bernoulli_(keep)  # [B, 1, 1]
        return x * mask / keep


class Block(nn.Module):
    """Pre-norm transformer block: x + attention(norm x), then x + MLP(norm x). [B, N, C] kept.

    Source: Dosovitskiy et al. 2021, eq. 2 and 3.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        qk_norm: bool = False,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        init_values: float | None = None,
        drop_path: float = 0.0,
        norm_layer: Layer = nn.LayerNorm,
        act_layer: Layer = nn.GELU,
        mlp_layer: Layer = Mlp,
    ):
        super().__init__()

        def layer_scale() -> nn.Module:
            return LayerScale(dim, init_values) if init_values else nn.Identity()

        self.norm1 = norm_layer(dim)
        self.attn = Attention(
            dim, num_heads, qkv_bias, qk_scale, qk_norm, attn_drop, proj_drop, norm_layer
        )
        self.ls1 = layer_scale()
        self.drop_path1 = DropPath(drop_path)
        self.norm2 = norm_layer(dim)
        self.mlp = mlp_layer(dim, int(dim * mlp_ratio), act_layer=act_layer, drop=proj_drop)
        self.ls2 = layer_scale()
        self.drop_path2 = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x))))
        x = x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
        return x  # noqa: RET504 - a block is two lines
