"""Tables of tensor names that are read in both directions, and the options that go with them.

A table is a sequence of (their name, our name). In both names `{i}` stands for the number of a
block and `{p}` for `weight` or `bias`. In their name `{a|b|c}` stands for several tensors which,
stacked along their first dimension in that order, are one of ours. Where several rows have the
same name of ours, any of them is read and the first is written.
"""

import inspect
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

from vitfw.errors import ConfigError, nearest
from vitfw.models.attention import fuse_qkv
from vitfw.models.vit import VisionTransformer

Table = Sequence[tuple[str, str]]

# Options that a peer need not have: in evaluation, at the model's own image size, they change
# nothing, or only the spelling of the weights.
WITHOUT_EFFECT = frozenset(
    "drop_rate pos_drop_rate patch_drop_rate attn_drop_rate proj_drop_rate drop_path_rate "
    "drop_path_subset weight_init zero_head grad_checkpointing fused_qkv "
    "dynamic_img_size flexi_patch_sizes".split()
)
# Values other than the default whose tensors and computation are those of the default.
AS_DEFAULT = (("pos_embed", "sincos2d"), ("embed_layer", "conv_rearrange"), ("fc_norm", False))


@dataclass
class Translated:
    """Somebody's tensors under our names, and what became of all others.

    `ignored` says of each tensor left out on purpose why; `unknown` lists those that no row of the
    table names, and those that two rows name alike. Every tensor of the input is in exactly one of
    the three.
    """

    state: dict[str, Tensor] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)


def to_ours(table: Table, ignored: Table, state: Mapping[str, Tensor]) -> Translated:
    """Rename and stack `state` by `table`; `ignored` has rows of (their name, reason)."""
    found: dict[tuple[str, int], dict[int, str]] = {}  # (our name, row) → part → their name
    translated = Translated()
    rows_of: dict[str, set[int]] = {}  # our name → the rows that give it
    for name in state:
        reason = next((why for theirs, why in ignored if _regex(theirs).fullmatch(name)), None)
        place = _place_of(name, table)
        if reason is not None:
            translated.ignored[name] = reason
        elif place is None:
            translated.unknown.append(name)
        else:
            ours, row, part = place
            found.setdefault((ours, row), {})[part] = name
            rows_of.setdefault(ours, set()).add(row)
    for (ours, row), parts in found.items():
        tensors = [state[parts[part]] for part in sorted(parts)]
        whole = len(parts) == len(_parts(table[row][0])) and can_be_stacked(tensors)
        if whole and len(rows_of[ours]) == 1:
            translated.state[ours] = torch.cat(tensors) if len(tensors) > 1 else tensors[0]
        else:
            translated.unknown.extend(parts.values())
    return translated


def our_name(name: str, table: Table) -> str | None:
    """What `name`, one of theirs, is called here, or is a part of."""
    place = _place_of(name, table)
    return None if place is None else place[0]


def can_be_stacked(tensors: Sequence[Tensor]) -> bool:
    """Whether they can be parts of one; a single tensor is always one."""
    return len(tensors) == 1 or (tensors[0].ndim > 0 and len({t.shape for t in tensors}) == 1)


def add_rows_of_registers(ours: dict[str, Tensor]) -> None:
    """Rows of zeros in `pos_embed` for registers, which had no position where they come from.

    [1, 1 + N, C] → [1, 1 + R + N, C]; shapes that do not fit are left for others to refuse.
    """
    table, registers = ours.get("pos_embed"), ours.get("reg_token")
    if table is None or registers is None or not table.ndim == registers.ndim == 3:
        return
    if len(table) == len(registers) and table.shape[2] == registers.shape[2]:
        rows = torch.zeros_like(registers).to(table)
        ours["pos_embed"] = torch.cat([table[:, :1], rows, table[:, 1:]], dim=1)


def to_theirs(table: Table, state: Mapping[str, Tensor], peer: str) -> dict[str, Tensor]:
    """The inverse of `to_ours`: rename our tensors, and split those that were stacked.

    Raises:
        ConfigError: the table has no row for some of our tensors; the message names them.
    """
    written: dict[str, Tensor] = {}
    homeless: list[str] = []
    for name, tensor in fuse_qkv(state).items():
        matches = ((theirs, _regex(ours).fullmatch(name)) for theirs, ours in table)
        theirs, match = next(((theirs, match) for theirs, match in matches if match), ("", None))
        if match is None:
            homeless.append(name)
            continue
        parts = [part.format(**match.groupdict()) for part in _parts(theirs)]
        # A clone, as safetensors refuses to write tensors that share their storage.
        pieces = [tensor] if len(parts) == 1 else [t.clone() for t in tensor.chunk(len(parts))]
        written.update(zip(parts, pieces, strict=True))
    if homeless:
        kinds = dict.fromkeys(re.sub(r"\bblocks\.\d+\.", "blocks.*.", name) for name in homeless)
        raise ConfigError(
            f"{peer} has no place for {', '.join(kinds)}; write these weights as `timm` or keep "
            "them as a vitfw checkpoint"
        )
    return written


def check_tokens(state: Mapping[str, Tensor], peer: str) -> None:
    """A ConfigError where `state` lacks what `peer` always has."""
    for name, option in (("cls_token", "class_token=true"), ("pos_embed", "pos_embed=learn")):
        if name not in state:
            raise ConfigError(f"{peer} needs {name}; these weights have none, train with {option}")


def expressible(peer: str, options: Mapping[str, Any], carried: Collection[str]) -> dict[str, Any]:
    """`options` of our VisionTransformer with its defaults filled in, fit for `peer`.

    `carried` are the options that `peer` can have at other values than our default.

    Raises:
        ConfigError: an option that VisionTransformer does not have, or one that changes what the
            model computes and is not carried.
    """
    parameters = inspect.signature(VisionTransformer).parameters
    for name in options:
        if name not in parameters:
            raise ConfigError(
                f"VisionTransformer has no option {name!r}{nearest(name, parameters)}"
            )
    lacking = [
        f"{name}={value}"
        for name, value in options.items()
        if name not in carried
        and name not in WITHOUT_EFFECT
        and value != parameters[name].default
        and (name, value) not in AS_DEFAULT
    ]
    if lacking:
        raise ConfigError(f"{peer} cannot express {', '.join(lacking)}")
    return {name: p.default for name, p in parameters.items()} | dict(options)


def mlp_ratio_of(hidden: int, embed_dim: int) -> float:
    """The `mlp_ratio` for which `int(embed_dim * mlp_ratio)` is `hidden`."""
    ratio = hidden / embed_dim
    return ratio if int(embed_dim * ratio) == hidden else math.nextafter(ratio, math.inf)


@cache
def _parts(theirs: str) -> list[str]:
    """`a.{x|y}.{p}` → `a.x.{p}`, `a.y.{p}`; a name without alternatives stays as it is."""
    choice = re.search(r"\{(\w+(?:\|\w+)+)\}", theirs)
    if choice is None:
        return [theirs]
    return [theirs.replace(choice[0], word) for word in choice[1].split("|")]


@cache
def _regex(name: str) -> re.Pattern[str]:
    pattern = re.escape(name).replace(r"\{i\}", r"(?P<i>\d+)")
    return re.compile(pattern.replace(r"\{p\}", r"(?P<p>weight|bias)"))


def _place_of(name: str, table: Table) -> tuple[str, int, int] | None:
    """Our name, the row and the part of the row that their `name` is."""
    for row, (theirs, ours) in enumerate(table):
        for part, pattern in enumerate(_parts(theirs)):
            if match := _regex(pattern).fullmatch(name):
                return ours.format(**match.groupdict()), row, part
    return None
