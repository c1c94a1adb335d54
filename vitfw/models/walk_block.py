"""The steps inside one block of a Vision Transformer, written down as they run.

B batch, N tokens, C channels (embed_dim), H heads, D head dim (C / H).
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from vitfw.models.attention import Attention
from vitfw.models.block import Mlp, SwiGLU, SwiGLUPacked
from vitfw.models.parallel import PairBlock, ParallelBlock
from vitfw.models.profile import Recorder
from vitfw.models.rotary import Rotation, rotate
from vitfw.models.token_merging import Tokens

Heads = tuple[Tensor, Tensor, Tensor]  # q, k, v: 3 × [B, H, N, D]


class Turn(NamedTuple):
    """How a block's queries and keys are turned, and the parameters that this costs it."""

    rotation: Rotation
    parameters: list[Tensor]


def run_block(name: str, block: Any, x: Tensor, turn: Turn | None, recorder: Recorder) -> Tensor:
    """[B, N, C] → [B, N, C]"""
    if isinstance(block, ParallelBlock):
        return run_parallel_block(name, block, x, turn, recorder)
    if isinstance(block, PairBlock):
        return run_pair_block(name, block, x, turn, recorder)
    x, _ = attention_branch(name, block, x, turn, recorder)
    return mlp_branch(name, block, x, recorder)


def run_merging_block(name: str, block: Any, tokens: Tokens, r: int, recorder: Recorder) -> Tokens:
    """The first block of a net that merges: `r` tokens fewer between attention and MLP."""
    x, k = attention_branch(name, block, tokens.x, None, recorder)
    patches = tokens.x.shape[1] - tokens.num_prefix
    tokens = tokens.replaced(x)
    if fewer := min(r, patches // 2):
        what = f"merge {fewer} into similar ones"
        tokens = recorder.step(f"{name}.merge", what, lambda t: t.merged(k.mean(dim=1), r), tokens)
    return tokens.replaced(mlp_branch(name, block, tokens.x, recorder))


def attention_branch(
    name: str, block: Any, x: Tensor, turn: Turn | None, recorder: Recorder
) -> tuple[Tensor, Tensor]:
    """x + attention(norm x), and the keys [B, H, N, D]."""
    y = recorder.module(f"{name}.norm1", block.norm1, x)
    y, k = run_attention(f"{name}.attn", block.attn, y, turn, recorder)
    y = recorder.module(f"{name}.ls1", block.ls1, y)
    return recorder.step(name, "add the branch's input", x.add, y), k


def mlp_branch(name: str, block: Any, x: Tensor, recorder: Recorder) -> Tensor:
    y = recorder.module(f"{name}.norm2", block.norm2, x)
    y = run_mlp(f"{name}.mlp", block.mlp, y, recorder)
    y = recorder.module(f"{name}.ls2", block.ls2, y)
    return recorder.step(name, "add the branch's input", x.add, y)


def run_pair_block(
    name: str, block: Any, x: Tensor, turn: Turn | None, recorder: Recorder
) -> Tensor:
    both = []
    for i, branch in enumerate(block.attns):
        y = recorder.module(f"{name}.attns.{i}.norm", branch.norm, x)
        y, _ = run_attention(f"{name}.attns.{i}.attn", branch.attn, y, turn, recorder)
        both.append(recorder.module(f"{name}.attns.{i}.ls", branch.ls, y))
        turn = turn and Turn(turn.rotation, [])  # both turn alike; parameters count once
    x = recorder.step(name, "add both to their input", lambda y, z: x + (y + z), *both)
    both = []
    for i, branch in enumerate(block.ffns):
        y = recorder.module(f"{name}.ffns.{i}.norm", branch.norm, x)
        y = run_mlp(f"{name}.ffns.{i}.mlp", branch.mlp, y, recorder)
        both.append(recorder.module(f"{name}.ffns.{i}.ls", branch.ls, y))
    return recorder.step(name, "add both to their input", lambda y, z: x + (y + z), *both)


def run_parallel_block(
    name: str, block: ParallelBlock, x: Tensor, turn: Turn | None, recorder: Recorder
) -> Tensor:
    width, *parts = block.in_split
    y = recorder.module(f"{name}.in_norm", block.in_norm, x)
    y = recorder.module(f"{name}.in_proj", block.in_proj, y)  # [B, N, hidden + 3C]
    qkv = recorder.step(name, f"attention: the last {sum(parts)}", lambda y: y[..., width:], y)
    heads = split_heads(name, qkv, block.num_heads, recorder)
    q, k, v = norm_and_turn(name, block, heads, turn, recorder)
    mixed = attend(name, q, k, v, block.scale, recorder)
    mixed = recorder.module(f"{name}.attn_out_proj", block.attn_out_proj, mixed)
    hidden = recorder.step(name, f"MLP: the first {width}", lambda y: y[..., :width], y)
    if (bias := block.mlp_bias) is not None:
        hidden = recorder.step(
            f"{name}.mlp_bias", "add to each channel", bias.add, hidden, parameters=[bias]
        )
    hidden = recorder.module(f"{name}.mlp_act", block.mlp_act, hidden)
    hidden = recorder.module(f"{name}.mlp_out_proj", block.mlp_out_proj, hidden)
    y = recorder.step(name, "attention plus MLP", mixed.add, hidden)
    y = recorder.module(f"{name}.ls", block.ls, y)
    return recorder.step(name, "add the block's input", x.add, y)


def run_attention(
    name: str, attn: Attention, x: Tensor, turn: Turn | None, recorder: Recorder
) -> tuple[Tensor, Tensor]:
    """[B, N, C] → [B, N, C], and the keys [B, H, N, D]."""
    if attn.fused_qkv:
        x = recorder.module(f"{name}.qkv", attn.qkv, x)  # [B, N, 3C]
        q_bias, v_bias = attn.q_bias, attn.v_bias
        if q_bias is not None and v_bias is not None:
            bias = torch.cat([q_bias, torch.zeros_like(q_bias), v_bias])
            what, both = "add q_bias and v_bias", [q_bias, v_bias]
            x = recorder.step(name, what, bias.add, x, parameters=both)
        heads = split_heads(name, x, attn.num_heads, recorder)
    else:
        heads = project_apart(name, attn, x, recorder)
    q, k, v = norm_and_turn(name, attn, heads, turn, recorder)
    x = attend(name, q, k, v, attn.scale, recorder)  # [B, N, C]
    x = recorder.module(f"{name}.norm", attn.norm, x)
    return recorder.module(f"{name}.proj", attn.proj, x), k


def split_heads(name: str, x: Tensor, heads: int, recorder: Recorder) -> Heads:
    """[B, N, 3C] → 3 × [B, H, N, D]"""
    split = f"split: q k v, {heads} heads"
    x = recorder.step(name, split, lambda x: x.unflatten(2, (3, heads, -1)), x)  # [B, N, 3, H, D]
    return recorder.step(
        name, "permute, unbind q k v", lambda x: x.permute(2, 0, 3, 1, 4).unbind(0), x
    )


def project_apart(name: str, attn: Attention, x: Tensor, recorder: Recorder) -> Heads:
    """Three projections: [B, N, C] → 3 × [B, H, N, D]"""
    heads = attn.num_heads
    q = recorder.module(f"{name}.q_proj", attn.q_proj, x)
    k = recorder.module(f"{name}.k_proj", attn.k_proj, x)
    v = recorder.module(f"{name}.v_proj", attn.v_proj, x)
    split = f"split each: {heads} heads"
    parts = recorder.step(
        name, split, lambda *parts: tuple(p.unflatten(2, (heads, -1)) for p in parts), q, k, v
    )  # 3 × [B, N, H, D]
    return recorder.step(
        name, "transpose: heads first", lambda *p: tuple(x.transpose(1, 2) for x in p), *parts
    )


def norm_and_turn(
    name: str, attn: Any, heads: Heads, turn: Turn | None, recorder: Recorder
) -> Heads:
    q, k, v = heads
    q = recorder.module(f"{name}.q_norm", attn.q_norm, q)
    k = recorder.module(f"{name}.k_norm", attn.k_norm, k)
    if turn is not None:
        q, k = recorder.step(
            name,
            "turn q and k by their place",
            lambda q, k: (rotate(q, turn.rotation), rotate(k, turn.rotation)),
            q,
            k,
            parameters=turn.parameters,
        )
    return q, k, v


def attend(name: str, q: Tensor, k: Tensor, v: Tensor, scale: float, recorder: Recorder) -> Tensor:
    """Attention written out: 3 × [B, H, N, D] → [B, N, C]"""
    scores = f"scores q kᵀ · {scale:.3g}"
    x = recorder.step(name, scores, lambda q: (q * scale) @ k.mT, q)  # [B, H, N, N]
    x = recorder.step(name, "softmax over the keys", lambda x: x.softmax(dim=-1), x)
    x = recorder.step(name, "weights times v", lambda x: x @ v, x)  # [B, H, N, D]
    return recorder.step(name, "merge the heads", lambda x: x.transpose(1, 2).flatten(2), x)


def run_mlp(name: str, mlp: Mlp | SwiGLU | SwiGLUPacked, x: Tensor, recorder: Recorder) -> Tensor:
    match mlp:
        case SwiGLU():
            gate = recorder.module(f"{name}.fc1_g", mlp.fc1_g, x)  # [B, N, hidden]
            gate = recorder.module(f"{name}.act", mlp.act, gate)
            x = recorder.module(f"{name}.fc1_x", mlp.fc1_x, x)
            x = recorder.step(name, "times the gate", gate.mul, x)
        case SwiGLUPacked():
            x = recorder.module(f"{name}.fc1", mlp.fc1, x)  # [B, N, hidden]
            gate, x = recorder.step(name, "halves: gate and value", lambda x: x.chunk(2, -1), x)
            gate = recorder.module(f"{name}.act", mlp.act, gate)  # [B, N, hidden / 2]
            x = recorder.step(name, "times the gate", gate.mul, x)
        case Mlp():
            x = recorder.module(f"{name}.fc1", mlp.fc1, x)  # [B, N, hidden]
            x = recorder.module(f"{name}.act", mlp.act, x)
    x = recorder.module(f"{name}.norm", mlp.norm, x)
    return recorder.module(f"{name}.fc2", mlp.fc2, x)  # [B, N, C]
