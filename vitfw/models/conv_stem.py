"""Stems of 3×3 convolutions in the place of one large patch.

B batch, N tokens, C channels, P patch size, G grid side (H / P, W / P), D embed_dim.
"""

from itertools import pairwise

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
    """3×3 convolutions with batch norm, one halving each, then 1×1 to D: [B, C, H, W] → [B, N, D].

    Channels double on the way, ending at D / 2.

    Source: Xiao et al. 2021, "Early convolutions help transformers see better".
    """

    name = "conv_stem"

    def make_stem(self, halvings: int, bias: bool) -> None:
        last = self.embed_dim // 2
        widths = [max(last >> doublings, 8) for doublings in reversed(range(halvings))]
        layers: list[nn.Module] = []
        for before, after in pairwise([self.in_chans, *widths]):
            layers += [
                nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(inplace=True),
            ]
        self.stem = nn.Sequential(*layers)
        self.proj = nn.Conv2d(widths[-1], self.embed_dim, 1, bias=bias)


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
