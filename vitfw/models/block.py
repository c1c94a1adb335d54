"""The pre-norm transformer block and its parts.

B batch, N tokens, C channels (embed_dim).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vitfw.models.attention import Attention
from vitfw.models.options import Layer
from vitfw.models.rotary import Rotation


class Mlp(nn.Module):
    """Two linear layers with an activation between: [B, N, C] → [B, N, hidden] → [B, N, C].

    `norm_layer` normalises the hidden channels before the second (Wang et al. 2022).

    Source: Vaswani et al. 2017, §3.3.
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        act_layer: Layer = nn.GELU,
        drop: float = 0.0,
        bias: bool = True,
        norm_layer: Layer | None = None,
    ):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim, bias=bias)
        self.act = act_layer()
        self.drop1 = nn.Dropout(drop)
        self.norm = norm_layer(hidden_dim) if norm_layer else nn.Identity()
        self.fc2 = nn.Linear(hidden_dim, dim, bias=bias)
        self.drop2 = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop2(self.fc2(self.norm(self.drop1(self.act(self.fc1(x))))))


class SwiGLU(nn.Module):
    """A gated MLP, fc2(silu(fc1_g x) · fc1_x x): [B, N, C] → [B, N, hidden] → [B, N, C].

    `align_to` rounds `hidden_dim` up to a multiple. The gate is always SiLU.

    Source: Shazeer 2020, "GLU variants improve transformer".
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        drop: float = 0.0,
        bias: bool = True,
        norm_layer: Layer | None = None,
        align_to: int = 0,
    ):
        super().__init__()
        hidden_dim += -hidden_dim % align_to if align_to else 0
        self.fc1_g = nn.Linear(dim, hidden_dim, bias=bias)
        self.fc1_x = nn.Linear(dim, hidden_dim, bias=bias)
        self.act = nn.SiLU()
        self.drop1 = nn.Dropout(drop)
        self.norm = norm_layer(hidden_dim) if norm_layer else nn.Identity()
        self.fc2 = nn.Linear(hidden_dim, dim, bias=bias)
        self.drop2 = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.fc1_g(x)) * self.fc1_x(x)  # [B, N, C] → [B, N, hidden]
        return self.drop2(self.fc2(self.norm(self.drop1(x))))


class SwiGLUPacked(nn.Module):
    """`SwiGLU` whose two first layers are the halves of one: [B, N, C] → [B, N, hidden / 2] → …

    `hidden_dim` counts both halves, gate first: what DINOv2's giant and EVA-02 are stored as.

    Raises:
        ValueError: `hidden_dim` is odd.
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        drop: float = 0.0,
        bias: bool = True,
        norm_layer: Layer | None = None,
    ):
        super().__init__()
        if hidden_dim % 2:
            raise ValueError(
                f"mlp_ratio gives mlp_layer swiglu_packed {hidden_dim} hidden channels, which are "
                "no two halves; choose a ratio that gives an even number"
            )
        self.fc1 = nn.Linear(dim, hidden_dim, bias=bias)
        self.act = nn.SiLU()
        self.drop1 = nn.Dropout(drop)
        self.norm = norm_layer(hidden_dim // 2) if norm_layer else nn.Identity()
        self.fc2 = nn.Linear(hidden_dim // 2, dim, bias=bias)
        self.drop2 = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        gate, x = self.fc1(x).chunk(2, dim=-1)  # [B, N, C] → 2 × [B, N, hidden / 2]
        return self.drop2(self.fc2(self.norm(self.drop1(self.act(gate) * x))))


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


def layer_scale(dim: int, init_values: float | None) -> nn.Module:
    return LayerScale(dim, init_values) if init_values else nn.Identity()


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

    def add_on_subset(self, x: Tensor, branch: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """x + branch(x) for a random subset of the batch, which alone is computed.

        `branch` takes the kept samples [B', N, C] and their indices [B']. B' is the share that
        is kept on average, rounded, and at least 1; each sample's branch is scaled by B / B'.

        Source: Oquab et al. 2023 (DINOv2), §5.
        """
        batch = x.shape[0]
        kept = max(round(batch * (1.0 - self.rate)), 1)
        chosen = torch.randperm(batch, device=x.device)[:kept]
        y = branch(x[chosen], chosen) * (batch / kept)
        return x.index_add(0, chosen, y.to(x.dtype))


class Block(nn.Module):
    """Pre-norm transformer block: x + attention(norm x), then x + MLP(norm x). [B, N, C] kept.

    With `drop_path_subset` stochastic depth leaves samples out of the computation instead of
    throwing their results away.

    Source: Dosovitskiy et al. 2021, eq. 2 and 3.
    """

    def __init__(
        self,
        dim: int,
        mlp_dim: int,
        attn_layer: Layer = Attention,
        mlp_layer: Layer = Mlp,
        init_values: float | None = None,
        drop_path: float = 0.0,
        drop_path_subset: bool = False,
        norm_layer: Layer = nn.LayerNorm,
    ):
        super().__init__()
        self.norm1 = norm_layer(dim)
        self.attn = attn_layer(dim)
        self.ls1 = layer_scale(dim, init_values)
        self.drop_path1 = DropPath(drop_path)
        self.norm2 = norm_layer(dim)
        self.mlp = mlp_layer(dim, mlp_dim)
        self.ls2 = layer_scale(dim, init_values)
        self.drop_path2 = DropPath(drop_path)
        self.drop_path_subset = drop_path_subset and drop_path > 0.0

    def forward(self, x: Tensor, rotation: Rotation | None = None) -> Tensor:
        if self.training and self.drop_path_subset:
            return self.forward_subset(x, rotation)
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x), rotation)))
        x = x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
        return x  # noqa: RET504 - a block is two lines

    def forward_subset(self, x: Tensor, rotation: Rotation | None) -> Tensor:
        def attend(x: Tensor, chosen: Tensor) -> Tensor:
            turned = None if rotation is None else rotation.of_samples(chosen)
            return self.ls1(self.attn(self.norm1(x), turned))

        x = self.drop_path1.add_on_subset(x, attend)
        return self.drop_path2.add_on_subset(x, lambda x, _: self.ls2(self.mlp(self.norm2(x))))

    def weights(self, x: Tensor, rotation: Rotation | None = None) -> Tensor:
        """The attention weights [B, H, N, N] of the block's input."""
        return self.attn(self.norm1(x), rotation, need_weights=True)[1]
