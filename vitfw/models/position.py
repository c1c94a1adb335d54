"""Where a token comes from: position embeddings.

G grid side, C channels (embed_dim).
"""

import torch
from torch import Tensor


def sincos_2d(grid: tuple[int, int], dim: int, temperature: float = 10_000.0) -> Tensor:
    """Fixed sine-cosine position embeddings of a grid: [G · G, C], row-major.

    The four quarters of the channels are sin x, cos x, sin y, cos y.

    Raises:
        ValueError: `dim` is not a multiple of 4.

    Source: Beyer et al. 2022, "Better plain ViT baselines for ImageNet-1k".
    """
    if dim % 4:
        raise ValueError(f"pos_embed sincos2d needs an embed_dim that 4 divides, not {dim}")
    height, width = grid
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    quarter = dim // 4
    omega = 1.0 / temperature ** (torch.arange(quarter, dtype=torch.float64) / (quarter - 1 or 1))
    y = y.flatten()[:, None] * omega  # [G · G, C / 4]
    x = x.flatten()[:, None] * omega
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1).float()  # [G · G, C]
