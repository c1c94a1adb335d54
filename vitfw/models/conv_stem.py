"""Stems of 3×3 convolutions in the place of one large patch.

B batch, N tokens, C channels, P patch size, G grid side (H / P, W / P), D embed_dim.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from vitfw.models.patch_embed import TokenEmbed

POOL_STEM_WIDTH = 64  # channels between the convolutions


class Stem(TokenEmbed):
    """What the stems share: they halve the image step by step to the grid of `patch_size`.

    Raises:
        ValueError: `patch_size` is not a power of two; patches overlap.
    """

    name: str
    stem: nn.Sequential
    proj: nn.Module

    def make_layers(self, bias: bool) -> None:
        height, width = self.patch_size
        if height != width or height < 2 or height & (height - 1):
            asked = height if height == width else self.patch_size
            raise ValueError(
                f"embed_layer {self.name} halves the image step by step: patch_size must be a "
                f"power of two (2, 4, 8, 16, 32), not {asked}"
            )
        if self.stride != self.patch_size:
            raise ValueError(
                f"patch_stride is for embed_layer conv and linear; the convolutions of {self.name} "
                "overlap as they are"
            )
        self.make_stem(height.bit_length() - 1, bias)

    def make_stem(self, halvings: int, bias: bool) -> None:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        self.grid(x)
        x = self.proj(self.stem(x))  # [B, C, H, W] → [B, D, G, G]
        x = x.flatten(2).transpose(1, 2)  # [B, D, G, G] → [B, N, D]
        return self.norm(x)


class ConvStem(Stem):
    """3×3 convolutions with batch norm and ReLU, then 1×1 to D: [B, C, H, W] → [B, N, D].

    One convolution of stride 2 for each halving, whose channels double on the way and end at D / 2;
    or those of `stem_layers`: channels and stride of each, such as [[32, 1], [64, 2], [128, 2]].

    Raises:
        ValueError: the strides of `stem_layers` do not make `patch_size`.

    Source: Xiao et al. 2021, "Early convolutions help transformers see better".
    """

    name = "conv_stem"

    def __init__(
        self, *sizes: Any, stem_layers: Sequence[Sequence[int]] | None = None, **options: Any
    ):
        self.stem_layers = stem_layers  # super().__init__ calls make_stem
        super().__init__(*sizes, **options)

    def make_stem(self, halvings: int, bias: bool) -> None:
        last = self.embed_dim // 2
        doublings = reversed(range(halvings))
        wanted = self.stem_layers or [(max(last >> twice, 8), 2) for twice in doublings]
        check_stem_layers(wanted, self.patch_size[0])
        layers: list[nn.Module] = []
        before = self.in_chans
        for channels, stride in wanted:
            layers += [
                nn.Conv2d(before, channels, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(inplace=True),
            ]
            before = channels
        self.stem = nn.Sequential(*layers)
        self.proj = nn.Conv2d(before, self.embed_dim, 1, bias=bias)


def check_stem_layers(layers: Sequence[Sequence[int]], patch_size: int) -> None:
    """Raises ValueError for what are no pairs of channels and stride, or another patch size."""
    if any(len(layer) != 2 or min(layer) < 1 for layer in layers):
        raise ValueError(
            f"stem_layers {layers} must be pairs of channels and stride: [[32, 1], [64, 2]]"
        )
    strides = [stride for _, stride in layers]
    if math.prod(strides) != patch_size or not {1, 2}.issuperset(strides):
        raise ValueError(
            f"stem_layers {layers} have strides {strides}, which make patches of "
            f"{math.prod(strides)}; of 1 and 2, they must make patch_size {patch_size}"
        )


class PoolStem(Stem):
    """3×3 convolutions, each with ReLU and a 3×3 max-pool that halves: [B, C, H, W] → [B, N, D].

    The tokenizer of the Compact Convolutional Transformer: patch_size 2 is its «3×1», patch_size 4
    its «3×2». Its convolutions have no bias, whatever `bias` says.

    Source: Hassani et al. 2021, "Escaping the big data paradigm with compact transformers", §3.
    """

    name = "pool_stem"

    def make_stem(self, halvings: int, bias: bool) -> None:
        widths = [POOL_STEM_WIDTH] * (halvings - 1) + [self.embed_dim]
        layers: list[nn.Module] = []
        for before, after in pairwise([self.in_chans, *widths]):
            layers += [
                nn.Conv2d(before, after, 3, padding=1, bias=False),
                nn.ReLU(inplace=True),
                nn.MaxPool2d(3, stride=2, padding=1),
            ]
        self.stem = nn.Sequential(*layers)
        self.proj = nn.Identity()
