"""What any network costs: parameters, FLOPs, and a walk through its modules.

B batch, C channels, H height, W width. `walk.py` goes step by step through a Vision Transformer.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from vitfw.models.block import LayerScale
from vitfw.models.token_merging import Tokens

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


def count_trained_parameters(net: nn.Module) -> int:
    """Those that are not frozen. A learner has more than its net's: a decoder, heads of a probe."""
    return sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)


def count_flops(net: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """FLOPs of the forward pass of one image [C, H, W], in evaluation mode.

    Matrix products, convolutions and attention count, a multiplication and an addition as two;
    norms, activations and sums do not. Papers that give ViT-B/16 «17.6 GFLOPs» count the two as
    one. Nothing is computed and no memory is taken: the pass runs on the meta device.
    """
    net = on_meta(net)
    return flops_of(net, torch.empty(1, *image_shape, device="meta", dtype=dtype_of(net)))[1]


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


def flops_of(function: Callable, *inputs):
    """`function(*inputs)`, and the FLOPs it took.

    With gradients: PyTorch's counter trips over views of parameters that were made without.
    """
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        y = function(*inputs)
    return y, counter.get_total_flops()


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors that a module was given or gave, whatever holds them."""
    if isinstance(value, Tokens):
        return [value.x]
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def describe(module: nn.Module, x: Tensor | None = None) -> str:
    """What `module` does to `x`, in a few words."""
    match module:
        case nn.Conv2d(kernel_size=(height, width), stride=(down, across)):
            stride = f"{down}" if down == across else f"{down}×{across}"
            return f"conv {height}×{width}, stride {stride}"
        case nn.MaxPool2d(kernel_size=int(side), stride=int(step)):
            return f"max-pool {side}×{side}, stride {step}"
        case nn.Linear():
            return f"linear {module.in_features} → {module.out_features}"
        case LayerScale():
            return "scale each channel"
        case nn.BatchNorm2d():
            return "BatchNorm of each channel"
        case nn.LayerNorm() | nn.RMSNorm() if x is not None:
            what = {3: " of each token", 4: " of each head"}.get(x.ndim, "")
            return f"{type(module).__name__}{what}"
        case nn.Sequential() | nn.ModuleList() if len({type(part) for part in module}) == 1:
            return f"{len(module)} × {type(module[0]).__name__}"
    return type(module).__name__


class Recorder:
    """Runs steps, and writes each down as a `Stage`."""

    def __init__(self, batch_size: int | None = None):
        self.batch_size = batch_size
        self.stages: list[Stage] = []

    def module(self, name: str, module: nn.Module, x: Tensor) -> Tensor:
        """Run a submodule. An Identity is no step."""
        if isinstance(module, nn.Identity):
            return x
        return self.step(name, describe(module, x), module, x, parameters=module.parameters())

    def step(
        self, name: str, operation: str, run: Callable, *inputs, parameters: Iterable[Tensor] = ()
    ):
        """`run(*inputs)`; the first input is the one whose shape is written down."""
        y, flops = flops_of(run, *inputs)
        before, after = tensors_in(inputs[0])[0], tensors_in(y)
        self.stages.append(
            Stage(
                name,
                operation,
                shape_in=(self.batch_size, *before.shape[1:]),
                shape_out=(self.batch_size, *after[0].shape[1:]),
                parameters=sum(parameter.numel() for parameter in parameters),
                flops=flops // before.shape[0],
                tensors_out=len(after),
            )
        )
        return y


def walk_modules(
    net: nn.Module, image_shape: tuple[int, int, int], batch_size: int | None = None
) -> list[Stage]:
    """The top-level modules of any net, in the order in which they run, on the meta device.

    Where a module is never called as a whole, such as a list of blocks, its parts are taken
    instead. What lies outside all of them makes a last stage, so that parameters add up to
    `count_parameters` and FLOPs to `count_flops`.
    """
    net = on_meta(net)
    x = torch.empty(batch_size or 1, *image_shape, device="meta", dtype=dtype_of(net))
    watched = dict(net.named_children())
    while True:
        calls, flops = watch(net, x, watched)
        idle = [name for name in watched if name not in calls and [*watched[name].children()]]
        if not idle:
            break
        for name in idle:
            parts = watched.pop(name).named_children()
            watched |= {f"{name}.{part}": module for part, module in parts}

    def shape(tensors: Sequence[Tensor]) -> tuple[int | None, ...]:
        first, *rest = tensors[0].shape or (None,)
        return (batch_size if first == len(x) else first, *rest)

    images = shape([x])
    stages = [Stage("input", "a batch of images", images, images, 0, 0)]
    seen: set[int] = set()
    for name, call in calls.items():
        module = watched[name]
        own = {id(p): p.numel() for p in module.parameters() if id(p) not in seen}
        seen |= own.keys()
        if not call.after or isinstance(module, nn.Identity | nn.Dropout):
            continue
        alike = len({tensor.shape for tensor in call.after}) == 1
        stages.append(
            Stage(
                name,
                describe(module),
                shape_in=shape(call.before or call.after),
                shape_out=shape(call.after),
                parameters=sum(own.values()),
                flops=call.flops // len(x),
                tensors_out=len(call.after) if alike else 1,
            )
        )
    parameters = count_parameters(net) - sum(stage.parameters for stage in stages)
    flops = flops // len(x) - sum(stage.flops for stage in stages)
    if parameters or flops:
        end = stages[-1].shape_out
        left = [name for name, p in net.named_parameters() if id(p) not in seen]
        what = ", ".join(left) if 0 < len(left) < 4 else "outside of these"
        stages.append(Stage("others", what, end, end, parameters, flops))
    return stages


@dataclass
class Call:
    """What went into a module the first time, what came out the last time, FLOPs of all calls."""

    before: list[Tensor]
    after: list[Tensor]
    flops: int = 0


def watch(net: nn.Module, x: Tensor, modules: dict[str, nn.Module]) -> tuple[dict[str, Call], int]:
    """Run `net(x)` and see which of `modules` are called, in that order; and all FLOPs."""
    calls: dict[str, Call] = {}
    running: list[int] = []  # FLOPs so far at the start of each running module
    handles = []
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        for name, module in modules.items():

            def begin(module, args, kwargs, name=name):
                calls.setdefault(name, Call(tensors_in((args, kwargs)), []))
                running.append(counter.get_total_flops())

            def end(module, args, kwargs, y, name=name):
                calls[name].after = tensors_in(y)
                start = running.pop()
                if not running:  # else they are those of the module that called this one
                    calls[name].flops += counter.get_total_flops() - start

            handles.append(module.register_forward_pre_hook(begin, with_kwargs=True))
            handles.append(module.register_forward_hook(end, with_kwargs=True))
        net(x)
    for handle in handles:
        handle.remove()
    return calls, counter.get_total_flops()
