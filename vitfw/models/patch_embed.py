"""From an image to a sequence of tokens.

B batch, N tokens, C channels, P patch size, G grid side (H / P, W / P), D embed_dim.
"""

from collections.abc import Callable
from itertools import pairwise

from torch import Tensor, nn


def as_pair(size: int | tuple[int, int] | list[int]) -> tuple[int, int]:
    """`224` → `(224, 224)`; a pair (height, width) stays one."""
    if isinstance(size, int):
        return size, size
    height, width = size
    return int(height), int(width)


def grid_of(img_size: tuple[int, int], patch_size: tuple[int, int]) -> tuple[int, int]:
    """Patches down and across.

    Raises:
        ValueError: a patch does not divide the image; names the nearest sizes that work.
    """
    for side, patch in zip(img_size, patch_size, strict=True):
        if patch < 1 or side < 1:
            raise ValueError(f"img_size {side} and patch_size {patch} must both be at least 1")
        if side % patch:
            below, above = side // patch * patch, (side // patch + 1) * patch
            nearest = f"{below}, {above}" if below else f"{above}"
            divisors = ", ".join(str(p) for p in range(2, side + 1) if side % p == 0 and p <= 32)
            raise ValueError(
                f"img_size {side} is not a multiple of patch_size {patch}; nearest img_size: "
                f"{nearest}; patch sizes that divide {side}: {divisors or side}"
            )
    return img_size[0] // patch_size[0], img_size[1] // patch_size[1]


class TokenEmbed(nn.Module):
    """What every way to cut an image into tokens shares: its sizes, and the check of the input."""

    proj: nn.Module
    norm: nn.Module

    def __init__(self, img_size, patch_size, in_chans: int, embed_dim: int):
        super().__init__()
        self.img_size = as_pair(img_size)
        self.patch_size = as_pair(patch_size)
        self.grid_size = grid_of(self.img_size, self.patch_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        self.in_chans = in_chans
        self.embed_dim = embed_dim

    def check(self, x: Tensor) -> None:
        if x.ndim != 4 or x.shape[1] != self.in_chans:
            raise ValueError(
                f"expected images [B, {self.in_chans}, H, W]; got a tensor {list(x.shape)}"
            )
        if tuple(x.shape[-2:]) != self.img_size:
            (height, width), (want_height, want_width) = x.shape[-2:], self.img_size
            raise ValueError(
                f"image is {height}×{width}, but the model was built for "
                f"{want_height}×{want_width}; resize the image, or set model.img_size"
            )


class PatchEmbed(TokenEmbed):
    """Cut an image into patches and project each to a token, as one strided convolution.

    [B, C, H, W] → [B, N, D], N = (H / P) · (W / P), row-major.

    Raises:
        ValueError: the image is not `img_size`; the patch does not divide it.

    Source: Dosovitskiy et al. 2021, §3.1.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int | tuple[int, int] = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        norm_layer: Callable[..., nn.Module] | None = None,
        bias: bool = True,
    ):
        super().__init__(img_size, patch_size, in_chans, embed_dim)
        self.proj = nn.Conv2d(in_chans, embed_dim, self.patch_size, self.patch_size, bias=bias)
        self.norm = norm_layer(embed_dim) if norm_layer else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        self.check(x)
        x = self.proj(x)  # [B, C, H, W] → [B, D, G, G]
        x = x.flatten(2).transpose(1, 2)  # [B, D, G, G] → [B, N, D]
        return self.norm(x)


class ConvStem(TokenEmbed):
    """A few 3×3 convolutions instead of one large stride: one halving each, then 1×1 to D.

    [B, C, H, W] → [B, N, D]. The grid is the one `PatchEmbed` would give, so `patch_size` must
    be a power of two. Channels double on the way, ending at `width` (default D / 2).

    Raises:
        ValueError: `patch_size` is not a power of two; the image is not `img_size`.

    Source: Xiao et al. 2021, "Early convolutions help transformers see better".
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int | tuple[int, int] = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        norm_layer: Callable[..., nn.Module] | None = None,
        width: int | None = None,
    ):
        super().__init__(img_size, patch_size, in_chans, embed_dim)
        height, across = self.patch_size
        if height != across or height < 2 or height & (height - 1):
            raise ValueError(
                f"embed_layer conv_stem halves the image step by step: patch_size must be a "
                f"power of two (2, 4, 8, 16, 32), not {patch_size}"
            )
        halvings = height.bit_length() - 1
        width = width or embed_dim // 2
        channels = [in_chans] + [max(width >> (halvings - 1 - i), 8) for i in range(halvings)]
        layers: list[nn.Module] = []
        for before, after in pairwise(channels):
            layers += [
                nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(inplace=True),
            ]
        self.stem = nn.Sequential(*layers)
        self.proj = nn.Conv2d(channels[-1], embed_dim, 1)
        self.norm = norm_layer(embed_dim) if norm_layer else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        self.check(x)
        x = self.proj(self.stem(x))  # [B, C, H, W] → [B, D, G, G]
        x = x.flatten(2).transpose(1, 2)  # [B, D, G, G] → [B, N, D]
        return self.norm(x)
