"""What a network costs, and where: a walk through a Vision Transformer, one step at a time.

B batch, N tokens, C channels (embed_dim), H heads, D head dim (C / H), G grid side, K classes.
"""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vitfw.models.attention import Attention
from vitfw.models.block import LayerScale, Mlp, SwiGLU
from vitfw.models.vit import VisionTransformer

Net = TypeVar("Net", bound=nn.Module)


@dataclass(frozen=True)
class Stage:
    """One step of the forward pass: `shape_in` → `tensors_out` tensors of `shape_out`.

    The first entry of a shape is the batch, None where it was left open. `flops` are those of
    one image, whatever the batch.
    """

    name: str
    operation: str
    shape_in: tuple[int | None, ...]
    shape_out: tuple[int | None, ...]
    parameters: int
    flops: int
    tensors_out: int = 1


def count_parameters(net: nn.Module) -> int:
    """All parameters of `net`, frozen ones too; one that several modules share counts once."""
    return sum(parameter.numel() for parameter in net.parameters())


def count_flops(net: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """FLOPs of the forward pass of one image [C, H, W], in evaluation mode.

    Matrix products, convolutions and attention count, a multiplication and an addition as two;
    norms, activations and sums do not. Papers that give ViT-B/16 «17.6 GFLOPs» count the two as
    one. Nothing is computed and no memory is taken: the pass runs on the meta device.
    """
    net = on_meta(net)
    return flops_of(net, torch.empty(1, *image_shape, device="meta", dtype=dtype_of(net)))[1]


def walk(net: VisionTransformer, batch_size: int | None = None) -> list[Stage]:
    """Every step of one batch through `net`, in evaluation mode, on the meta device.

    The first block is spelled out; the others, which are like it, make one stage. Over all
    stages, parameters add up to `count_parameters`, and FLOPs to `count_flops`.
    """
    net = on_meta(net)
    shape = (batch_size or 1, net.patch_embed.in_chans, *net.patch_embed.img_size)
    recorder = Recorder(batch_size)
    recorded_forward(net, torch.empty(shape, device="meta", dtype=dtype_of(net)), recorder)
    return recorder.stages


def on_meta(net: Net) -> Net:
    """A copy of `net` in evaluation mode whose tensors have shapes, but no memory."""
    stand_ins: dict[int, object] = {}
    for tensor in net.parameters():
        empty = torch.empty_like(tensor, device="meta")
        stand_ins[id(tensor)] = nn.Parameter(empty, requires_grad=tensor.requires_grad)
    for tensor in net.buffers():
        stand_ins[id(tensor)] = torch.empty_like(tensor, device="meta")
    return copy.deepcopy(net, stand_ins).eval()


def dtype_of(net: nn.Module) -> torch.dtype:
    floating = (p.dtype for p in net.parameters() if p.is_floating_point())
    return next(floating, torch.get_default_dtype())


def flops_of(function: Callable, x: Tensor):
    """`function(x)`, and the FLOPs it took."""
    with FlopCounterMode(display=False) as counter:
        y = function(x)
    return y, counter.get_total_flops()


class Recorder:
    """Runs steps, and writes each down as a `Stage`."""

    def __init__(self, batch_size: int | None = None):
        self.batch_size = batch_size
        self.stages: list[Stage] = []

    def module(self, name: str, module: nn.Module, x: Tensor) -> Tensor:
        """Run a submodule. An Identity is no step."""
        if isinstance(module, nn.Identity):
            return x
        return self.step(name, describe(module), module, x, module.parameters())

    def step(
        self, name: str, operation: str, run: Callable, x: Tensor, parameters: Iterable[Tensor] = ()
    ):
        y, flops = flops_of(run, x)
        first, tensors_out = (y[0], len(y)) if isinstance(y, tuple) else (y, 1)
        self.stages.append(
            Stage(
                name,
                operation,
                shape_in=(self.batch_size, *x.shape[1:]),
                shape_out=(self.batch_size, *first.shape[1:]),
                parameters=sum(parameter.numel() for parameter in parameters),
                flops=flops // x.shape[0],
                tensors_out=tensors_out,
            )
        )
        return y


def describe(module: nn.Module) -> str:
    match module:
        case nn.Conv2d(kernel_size=(height, width), stride=(down, across)):
            stride = f"{down}" if down == across else f"{down}×{across}"
            return f"conv {height}×{width}, stride {stride}"
        case nn.Linear():
            return f"linear {module.in_features} → {module.out_features}"
        case LayerScale():
            return "scale each channel"
    return type(module).__name__


def recorded_forward(net: VisionTransformer, x: Tensor, recorder: Recorder) -> Tensor:
    """`net(x)` in evaluation mode, step by step: [B, C, H, W] → [B, K]."""
    x = recorder.step("input", "a batch of images", lambda x: x, x)
    x = embed_patches(net, x, recorder)  # [B, C, H, W] → [B, G · G, C]
    x = add_tokens(net, x, recorder)  # [B, G · G, C] → [B, N, C]
    x = run_block("blocks.0", net.blocks[0], x, recorder)
    others = net.blocks[1:]
    if count := len(others):
        name = "blocks.1" if count == 1 else f"blocks.1 … blocks.{count}"
        x = recorder.step(name, f"the same, {count} × more", others, x, others.parameters())
    x = recorder.module("norm", net.norm, x)
    x = pool(net, x, recorder)  # [B, N, C] → [B, C]
    x = recorder.module("fc_norm", net.fc_norm, x)
    return recorder.module("head", net.head, x)  # [B, C] → [B, K]


def embed_patches(net: VisionTransformer, x: Tensor, recorder: Recorder) -> Tensor:
    embed = net.patch_embed
    for i, layer in enumerate(getattr(embed, "stem", ())):
        x = recorder.module(f"patch_embed.stem.{i}", layer, x)
    x = recorder.module("patch_embed.proj", embed.proj, x)  # [B, C, G, G]
    x = recorder.step("patch_embed", "flatten the grid", lambda x: x.flatten(2), x)
    x = recorder.step("patch_embed", "transpose: row = token", lambda x: x.transpose(1, 2), x)
    return recorder.module("patch_embed.norm", embed.norm, x)


def add_tokens(net: VisionTransformer, x: Tensor, recorder: Recorder) -> Tensor:
    def prepend(token: Tensor) -> Callable:
        return lambda x: torch.cat([token.expand(x.shape[0], -1, -1), x], dim=1)

    if (token := net.reg_token) is not None:
        what = f"prepend {token.shape[1]} registers"
        x = recorder.step("reg_token", what, prepend(token), x, [token])
    if (token := net.cls_token) is not None:
        x = recorder.step("cls_token", "prepend class token", prepend(token), x, [token])
    if (table := net.pos_embed) is not None:
        x = recorder.step("pos_embed", "add position table", table.add, x, [table])
    return x


def run_block(name: str, block: Any, x: Tensor, recorder: Recorder) -> Tensor:
    y = recorder.module(f"{name}.norm1", block.norm1, x)
    y = attend(f"{name}.attn", block.attn, y, recorder)
    y = recorder.module(f"{name}.ls1", block.ls1, y)
    x = recorder.step(name, "add the branch's input", x.add, y)
    y = recorder.module(f"{name}.norm2", block.norm2, x)
    y = run_mlp(f"{name}.mlp", block.mlp, y, recorder)
    y = recorder.module(f"{name}.ls2", block.ls2, y)
    return recorder.step(name, "add the branch's input", x.add, y)


def attend(name: str, attn: Attention, x: Tensor, recorder: Recorder) -> Tensor:
    heads, dim = attn.num_heads, attn.head_dim
    x = recorder.module(f"{name}.qkv", attn.qkv, x)  # [B, N, 3C]
    split = f"split: q k v, {heads} heads"
    x = recorder.step(name, split, lambda x: x.unflatten(2, (3, heads, dim)), x)  # [B, N, 3, H, D]
    q, k, v = recorder.step(
        name, "permute, unbind q k v", lambda x: x.permute(2, 0, 3, 1, 4).unbind(0), x
    )  # 3 × [B, H, N, D]
    q = recorder.module(f"{name}.q_norm", attn.q_norm, q)
    k = recorder.module(f"{name}.k_norm", attn.k_norm, k)
    scores = f"scores q kᵀ · {attn.scale:.3g}"
    x = recorder.step(name, scores, lambda q: (q * attn.scale) @ k.mT, q)  # [B, H, N, N]
    x = recorder.step(name, "softmax over the keys", lambda x: x.softmax(dim=-1), x)
    x = recorder.step(name, "weights times v", lambda x: x @ v, x)  # [B, H, N, D]
    x = recorder.step(name, "merge the heads", lambda x: x.transpose(1, 2).flatten(2), x)
    return recorder.module(f"{name}.proj", attn.proj, x)  # [B, N, C]


def run_mlp(name: str, mlp: Mlp | SwiGLU, x: Tensor, recorder: Recorder) -> Tensor:
    if isinstance(mlp, SwiGLU):
        gate = recorder.module(f"{name}.fc1_g", mlp.fc1_g, x)  # [B, N, hidden]
        gate = recorder.module(f"{name}.act", mlp.act, gate)
        x = recorder.module(f"{name}.fc1_x", mlp.fc1_x, x)
        x = recorder.step(name, "times the gate", gate.mul, x)
    else:
        x = recorder.module(f"{name}.fc1", mlp.fc1, x)  # [B, N, hidden]
        x = recorder.module(f"{name}.act", mlp.act, x)
    return recorder.module(f"{name}.fc2", mlp.fc2, x)  # [B, N, C]


def pool(net: VisionTransformer, x: Tensor, recorder: Recorder) -> Tensor:
    if net.global_pool == "token":
        return recorder.step("pool", "take the class token", net.pool, x)
    if prefix := net.num_prefix_tokens:
        drop = f"drop the first {prefix} (prefix)"
        x = recorder.step("pool", drop, lambda x: x[:, prefix:], x)
    if net.seq_pool is None:
        return recorder.step("pool", "mean of the tokens", lambda x: x.mean(dim=1), x)
    weights = recorder.module("seq_pool.score", net.seq_pool.score, x)  # [B, G · G, 1]
    weights = recorder.step("seq_pool", "softmax over tokens", lambda w: w.softmax(dim=1), weights)
    return recorder.step("seq_pool", "weighted mean", lambda x: (weights * x).sum(dim=1), x)
