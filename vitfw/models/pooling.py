"""From all tokens to one vector for the head.

B batch, N tokens, C channels (embed_dim).
"""

from torch import Tensor, nn


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
