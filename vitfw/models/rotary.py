"""Rotary position embeddings: queries and keys are turned by an angle their patch's place sets.

B batch, N tokens (prefix and patches), H heads, D head dim, L depth, G grid side.
A score between two turned vectors depends on how far apart the patches are, not on where.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TEMPERATURES = {"axial": 10_000.0, "dinov3": 100.0, "mixed": 10.0}
MOST_TABLES = 32  # grids kept; images of ever new sizes would otherwise fill the memory


class Rotation(NamedTuple):
    """The angle of every token, as its sine and cosine: each [B or 1, H or 1, N, D].

    `half` tells which channels turn together: (i, i + D / 2), or else (2 i, 2 i + 1). Prefix
    tokens have angle 0.
    """

    sin: Tensor
    cos: Tensor
    half: bool

    def take(self, kept: Tensor) -> "Rotation":
        """The rotation of the tokens `kept` [B, N'], indices into the whole sequence with prefix.

        Sine and cosine become [B, H or 1, N', D], different for each image.
        """
        _, heads, _, dim = self.sin.shape
        index = kept[:, None, :, None].expand(-1, heads, -1, dim)  # [B, H or 1, N', D]
        sin = self.sin.expand(len(kept), -1, -1, -1).gather(2, index)
        cos = self.cos.expand(len(kept), -1, -1, -1).gather(2, index)
        return Rotation(sin, cos, self.half)

    def of_samples(self, chosen: Tensor) -> "Rotation":
        """The rotation of the images `chosen` [B'] out of the batch."""
        if len(self.sin) == 1:
            return self
        return Rotation(self.sin[chosen], self.cos[chosen], self.half)


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn queries or keys: [B, H, N, D] → [B, H, N, D], in the dtype of `x`.

    Computed in the wider dtype of `x` and the rotation, so in float32 under autocast.
    """
    sin, cos, half = rotation
    if half:
        first, second = x.chunk(2, dim=-1)
        turned = torch.cat([-second, first], dim=-1)
    else:
        turned = torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)
    return (x * cos + turned * sin).to(x.dtype)


def check_rotary(kind: str, head_dim: int, indexing: str, augmentation: dict) -> None:
    if kind not in TEMPERATURES:
        raise ValueError(f"unknown rope {kind!r}; there are: none, {', '.join(TEMPERATURES)}")
    if head_dim < 4 or head_dim % 4:
        raise ValueError(
            f"rope needs embed_dim / num_heads to be a multiple of 4, not {head_dim}; "
            "change embed_dim or num_heads"
        )
    if indexing not in ("ij", "xy"):
        raise ValueError(f"unknown rope_indexing {indexing!r}; there are: ij, xy")
    for name, value in augmentation.items():
        lowest, what = (0, "a distance") if name == "shift_coords" else (1, "a factor")
        if value is not None and not lowest <= value < math.inf:
            raise ValueError(
                f"rope_{name} is {what} and must be at least {lowest}, not {value}; "
                "null turns it off"
            )


class RotaryEmbedding(nn.Module):
    """The rotations of a ViT whose patches lie on a grid, one for each of its `depth` blocks.

    - `axial`: half of the channel pairs turn with the row, half with the column, at frequencies
      temperature^(-4 i / D). With `ref_grid`, the grid of pre-training, places are scaled to it.
    - `dinov3`: the same with places from -1 to 1 and periods temperature^(4 i / D).
    - `mixed`: each block and head learns its own frequencies along both axes, `freqs`
      [2, L, H, D / 2]. The other kinds have no parameters and nothing in the state dict.

    `temperature` None is 10000, 100 and 10 in that order, `rotate_half` None is on for dinov3
    only. `indexing` says whether the row (ij) or the column (xy) comes first among the channels,
    `grid_offset` is added to both. While training, one draw for the whole batch moves the places:
    each axis by up to `shift_coords`, each by a factor up to `jitter_coords` or its inverse, both
    by a factor up to `rescale_coords` or its inverse, factors log-uniform.

    Raises:
        ValueError: an option is unknown, out of range, or not of this kind.

    Source: Fang et al. 2023, "EVA-02", §2.1; Siméoni et al. 2025, "DINOv3", §3.2; Heo et al. 2024,
    "Rotary Position Embedding for Vision Transformer", §3.2.
    """

    def __init__(
        self,
        kind: str,
        head_dim: int,
        num_heads: int = 1,
        depth: int = 1,
        temperature: float | None = None,
        num_prefix: int = 0,
        ref_grid: tuple[int, int] | None = None,
        grid_offset: float = 0.0,
        indexing: str = "ij",
        rotate_half: bool | None = None,
        shift_coords: float | None = None,
        jitter_coords: float | None = None,
        rescale_coords: float | None = None,
    ):
        super().__init__()
        augmentation = {
            "shift_coords": shift_coords,
            "jitter_coords": jitter_coords,
            "rescale_coords": rescale_coords,
        }
        check_rotary(kind, head_dim, indexing, augmentation)
        if temperature is not None and temperature <= 0:
            raise ValueError(f"rope_temperature must be above 0, not {temperature}")
        if ref_grid is not None and kind != "axial":
            raise ValueError(f"rope_ref_grid is for rope=axial, not {kind}; leave it out")
        if kind == "mixed" and (grid_offset or rotate_half):
            raise ValueError(
                "rope=mixed has no rope_grid_offset or rope_rotate_half; leave them out"
            )
        self.kind = kind
        self.head_dim = head_dim
        self.depth = depth
        self.temperature = float(TEMPERATURES[kind] if temperature is None else temperature)
        self.num_prefix = num_prefix
        self.ref_grid = ref_grid
        self.grid_offset = grid_offset
        self.indexing = indexing
        self.rotate_half = kind == "dinov3" if rotate_half is None else rotate_half
        self.shift_coords = shift_coords
        self.jitter_coords = jitter_coords
        self.rescale_coords = rescale_coords
        self.augments = any(value is not None for value in augmentation.values())
        self.tables: dict[tuple, Rotation] = {}
        if kind == "mixed":
            self.freqs = nn.Parameter(torch.empty(2, depth, num_heads, head_dim // 2))
            self.reset_parameters()
        else:
            self.register_parameter("freqs", None)

    def reset_parameters(self) -> None:
        """Start `freqs` as two orthogonal axes of axial frequencies, turned at random by head."""
        if self.freqs is None:
            return
        with torch.no_grad():
            turn = torch.rand_like(self.freqs[0, ..., :1]) * 2 * math.pi  # [L, H, 1]
            angle = torch.cat([turn, turn + math.pi / 2], dim=-1)[..., None]  # [L, H, 2, 1]
            size = 1 / self.periods(self.freqs.device, self.freqs.dtype)  # [D / 4]
            self.freqs[0] = (size * angle.cos()).flatten(-2)  # [L, H, D / 2]
            self.freqs[1] = (size * angle.sin()).flatten(-2)

    def forward(
        self,
        grid: tuple[int, int],
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> list[Rotation]:
        """The rotations of all tokens, a list of `depth`; except for mixed one object repeated.

        They lie on `device`, by default that of `freqs` or else torch's default, in `dtype` but
        at least in float32 (float32 is what published weights were trained with).
        """
        if self.freqs is not None:
            device, dtype = self.freqs.device, torch.promote_types(dtype, self.freqs.dtype)
        elif device is None:
            device = torch.get_default_device()
        dtype = torch.promote_types(dtype, torch.float32)
        if self.freqs is not None:
            return self.mixed(grid, dtype)
        drawn = self.training and self.augments
        if drawn or torch.compiler.is_compiling():
            return [self.shared(grid, device, dtype)] * self.depth
        return [self.remembered(grid, device, dtype)] * self.depth

    def remembered(self, grid, device: torch.device, dtype: torch.dtype) -> Rotation:
        """`shared`, computed once for each grid; usable for training even if first in inference."""
        key = (*grid, device, dtype)
        if key in self.tables:
            return self.tables[key]
        with torch.inference_mode(False):
            rotation = self.shared(grid, device, dtype)
        if type(rotation.sin) is Tensor:  # a tracer's stand-in is of no use later
            if len(self.tables) >= MOST_TABLES:
                self.tables.clear()
            self.tables[key] = rotation
        return rotation

    def shared(self, grid, device: torch.device, dtype: torch.dtype) -> Rotation:
        places = self.places(grid, device, dtype)[..., None]  # [G · G, 2, 1]
        periods = self.periods(device, dtype)
        turns = self.kind == "dinov3"  # a period is a full turn there, and one radian elsewhere
        angles = 2 * math.pi * places / periods if turns else places * (1 / periods)
        return self.rotation(angles.flatten(1)[None, None])  # [1, 1, G · G, D / 2]

    def mixed(self, grid, dtype: torch.dtype) -> list[Rotation]:
        freqs = self.freqs.to(dtype)[..., None, :]  # [2, L, H, 1, D / 2]
        first, second = self.places(grid, freqs.device, dtype)[..., None].unbind(1)  # [G · G, 1]
        angles = first * freqs[0] + second * freqs[1]  # [L, H, G · G, D / 2]
        return [self.rotation(block) for block in angles.split(1)]

    def periods(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """From 1 up to almost `temperature`: [D / 4]."""
        quarter = self.head_dim // 4
        return self.temperature ** (torch.arange(quarter, device=device, dtype=dtype) / quarter)

    def places(self, grid, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Where each patch lies along both axes, row-major: [G · G, 2]."""
        axes = []
        for i, side in enumerate(grid):
            axis = torch.arange(side, device=device, dtype=dtype) + self.grid_offset
            if self.kind == "dinov3":
                axis = 2 * ((axis + 0.5) / side) - 1
            elif self.ref_grid is not None:
                axis = axis / side * self.ref_grid[i]
            axes.append(axis)
        places = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 1)
        places = places.flip(1) if self.indexing == "xy" else places
        return self.moved(places) if self.training and self.augments else places

    def moved(self, places: Tensor) -> Tensor:
        """The training-time augmentation, drawn on the device of `places`."""
        if self.shift_coords is not None:
            places = places + places.new_empty(2).uniform_(-self.shift_coords, self.shift_coords)
        if self.jitter_coords is not None:
            most = math.log(self.jitter_coords)
            places = places * places.new_empty(2).uniform_(-most, most).exp()
        if self.rescale_coords is not None:
            most = math.log(self.rescale_coords)
            places = places * places.new_empty(1).uniform_(-most, most).exp()
        return places

    def rotation(self, angles: Tensor) -> Rotation:
        """Give each channel of a pair its angle and put the prefix, which is not turned, before."""
        sin, cos = angles.sin(), angles.cos()  # [1, H or 1, G · G, D / 2]
        if self.rotate_half:
            sin, cos = torch.cat([sin, sin], dim=-1), torch.cat([cos, cos], dim=-1)
        else:
            sin, cos = sin.repeat_interleave(2, dim=-1), cos.repeat_interleave(2, dim=-1)
        before = (0, 0, self.num_prefix, 0)
        return Rotation(F.pad(sin, before), F.pad(cos, before, value=1.0), self.rotate_half)
