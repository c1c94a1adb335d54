"""From an image to a sequence of tokens.

B batch, N tokens, C channels, P patch size, S stride (P unless patches overlap), G grid side
((H - P) / S + 1, W likewise), D embed_dim.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from vitfw.models.options import Layer
from vitfw.models.resample import resize_patch_kernel

Size = int | tuple[int, int] | list[int]


def as_pair(size: Size, option: str = "size") -> tuple[int, int]:
    """`224` → `(224, 224)`; a pair (height, width) stays one.

    Raises:
        ValueError: it is neither; names the `option`.
    """
    sides = [size, size] if isinstance(size, int) else size
    if not isinstance(sides, Sequence) or len(sides) != 2:
        raise ValueError(f"{option} {size} must be a whole number, or height and width: [224, 196]")
    height, width = sides
    return int(height), int(width)


def grid_of(
    img_size: tuple[int, int], patch_size: tuple[int, int], stride: tuple[int, int] | None = None
) -> tuple[int, int]:
    """Patches down and across.

    Raises:
        ValueError: patches do not fill the image; names the nearest sizes that work.
    """
    stride = stride or patch_size
    for side, patch, step in zip(img_size, patch_size, stride, strict=True):
        if patch < 1 or side < 1:
            raise ValueError(f"img_size {side} and patch_size {patch} must both be at least 1")
        if not 1 <= step <= patch:
            raise ValueError(f"patch_stride {step} must lie between 1 and patch_size {patch}")
        if side < patch or (side - patch) % step:
            below = patch + (side - patch) // step * step
            nearest = f"{below}, {below + step}" if side > patch else f"{patch}"
            if step != patch:
                raise ValueError(
                    f"patches of patch_size {patch} every patch_stride {step} do not fill "
                    f"img_size {side}; nearest img_size: {nearest}"
                )
            divisors = ", ".join(str(p) for p in range(2, side + 1) if side % p == 0 and p <= 32)
            raise ValueError(
                f"img_size {side} is not a multiple of patch_size {patch}; nearest img_size: "
                f"{nearest}; patch sizes that divide {side}: {divisors or side}"
            )
    down, across = (
        (side - patch) // step + 1
        for side, patch, step in zip(img_size, patch_size, stride, strict=True)
    )
    return down, across


def kernel_to_linear(kernel: Tensor) -> Tensor:
    """The weight of `LinearPatchEmbed` that does what a strided convolution's kernel does.

    [D, C, P, P] → [D, P · P · C].
    """
    return kernel.permute(0, 2, 3, 1).flatten(1)


def linear_to_kernel(weight: Tensor, patch_size: Size) -> Tensor:
    """The inverse of `kernel_to_linear`: [D, P · P · C] → [D, C, P, P]."""
    return weight.unflatten(1, (*as_pair(patch_size), -1)).permute(0, 3, 1, 2)


class TokenEmbed(nn.Module):
    """What every way to cut an image into tokens shares: its sizes, and the check of the input.

    [B, C, H, W] → [B, N, D], N = G · G, row-major. With `dynamic_img_size` an image may have any
    size that patches fill.

    Raises:
        ValueError: the image is not `img_size`; patches do not fill it.
    """

    def __init__(
        self,
        img_size: Size = 224,
        patch_size: Size = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        norm_layer: Layer | None = None,
        bias: bool = True,
        patch_stride: Size | None = None,
        dynamic_img_size: bool = False,
    ):
        super().__init__()
        self.img_size = as_pair(img_size, "img_size")
        self.patch_size = as_pair(patch_size, "patch_size")
        self.stride = self.patch_size
        if patch_stride is not None:
            self.stride = as_pair(patch_stride, "patch_stride")
        self.grid_size = grid_of(self.img_size, self.patch_size, self.stride)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        self.in_chans = in_chans
        self.embed_dim = embed_dim
        self.dynamic_img_size = dynamic_img_size
        self.make_layers(bias)
        self.norm = norm_layer(embed_dim) if norm_layer else nn.Identity()

    def make_layers(self, bias: bool) -> None:
        """Set `proj`, the layer that gives D channels, and what comes before it."""
        raise NotImplementedError

    def grid(self, x: Tensor, patch_size: int | None = None) -> tuple[int, int]:
        """The grid of tokens that the images `x` [B, C, H, W] give.

        Raises:
            ValueError: they are not the images that the model was built for.
        """
        if x.ndim != 4 or x.shape[1] != self.in_chans:
            raise ValueError(
                f"expected images [B, {self.in_chans}, H, W]; got a tensor {list(x.shape)}"
            )
        height, width = x.shape[-2:]
        if (height, width) != self.img_size and not self.dynamic_img_size:
            want_height, want_width = self.img_size
            raise ValueError(
                f"image is {height}×{width}, but the model was built for "
                f"{want_height}×{want_width}; resize the image, set model.img_size, or allow any "
                "size with model.dynamic_img_size=true"
            )
        if patch_size is not None:
            return grid_of((height, width), as_pair(patch_size))
        if (height, width) == self.img_size:
            return self.grid_size
        return grid_of((height, width), self.patch_size, self.stride)


class PatchEmbed(TokenEmbed):
    """Cut an image into patches and project each to a token, as one strided convolution.

    [B, C, H, W] → [B, N, D]. `patch_size` in `forward` takes other patches than the kernel was
    made for; the kernel is resized to them (FlexiViT).

    Source: Dosovitskiy et al. 2021, §3.1.
    """

    proj: nn.Conv2d

    def make_layers(self, bias: bool) -> None:
        self.proj = nn.Conv2d(
            self.in_chans, self.embed_dim, self.patch_size, self.stride, bias=bias
        )

    def project(self, x: Tensor, patch_size: int | None = None) -> Tensor:
        """[B, C, H, W] → [B, D, G, G]"""
        if patch_size is None or as_pair(patch_size) == self.patch_size:
            return self.proj(x)
        kernel = resize_patch_kernel(self.proj.weight, as_pair(patch_size))
        return F.conv2d(x, kernel, self.proj.bias, stride=patch_size)

    def forward(self, x: Tensor, patch_size: int | None = None) -> Tensor:
        self.grid(x, patch_size)
        x = self.project(x, patch_size)  # [B, C, H, W] → [B, D, G, G]
        x = x.flatten(2).transpose(1, 2)  # [B, D, G, G] → [B, N, D]
        return self.norm(x)


class ConvRearrangeEmbed(PatchEmbed):
    """`PatchEmbed` with its channels moved last before the grid is flattened.

    The same numbers, keys and arguments. Tokens come out contiguous in memory, where `PatchEmbed`
    hands on a transposed view.
    """

    def forward(self, x: Tensor, patch_size: int | None = None) -> Tensor:
        self.grid(x, patch_size)
        x = self.project(x, patch_size)  # [B, C, H, W] → [B, D, G, G]
        x = x.permute(0, 2, 3, 1).contiguous()  # [B, D, G, G] → [B, G, G, D]
        x = x.flatten(1, 2)  # [B, G, G, D] → [B, N, D]
        return self.norm(x)


class LinearPatchEmbed(TokenEmbed):
    """Cut an image into patches, flatten each, and project it with one linear layer.

    [B, C, H, W] → [B, N, P · P · C] → [B, N, D]. A patch is flattened row, column, channel, as
    einops writes `b c (h s1) (w s2) -> b (h w) (s1 s2 c)`. `kernel_to_linear` and
    `linear_to_kernel` take weights from and to `PatchEmbed`.
    """

    proj: nn.Linear

    def make_layers(self, bias: bool) -> None:
        height, width = self.patch_size
        self.proj = nn.Linear(height * width * self.in_chans, self.embed_dim, bias=bias)

    def cut(self, x: Tensor) -> Tensor:
        """[B, C, H, W] → [B, N, P · P · C]"""
        (height, width), (down, across) = self.patch_size, self.stride
        x = x.unfold(2, height, down).unfold(3, width, across)  # [B, C, G, G, P, P]
        return x.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        self.grid(x)
        return self.norm(self.proj(self.cut(x)))
