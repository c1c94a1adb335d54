"""Whether two models compute the same with the same tensors: what no tensor tells."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from vitfw.errors import ConfigError
from vitfw.interop.report import LoadReport
from vitfw.interop.source import Weights
from vitfw.interop.translation import mlp_ratio_of
from vitfw.models.patch_embed import as_pair
from vitfw.models.rotary import TEMPERATURES
from vitfw.models.vit import VisionTransformer

# Options that change what is computed and that no tensor's shape shows.
DECISIVE = (
    "num_heads qk_scale act_layer mlp_layer block_layer norm_layer embed_layer "
    "rope rope_temperature rope_ref_grid rope_grid_offset rope_indexing rope_rotate_half"
).split()
WORTH_A_NOTE = ("norm_eps", "global_pool")
OFTEN_UNTOLD = ("num_heads", "act_layer", "norm_eps", "rope")


def note_on_images(
    weights: Weights, mean: Sequence[float] | None, std: Sequence[float] | None
) -> list[str]:
    """What to say where the images of this run are normalised otherwise than theirs were."""
    pairs = ((weights.mean, mean), (weights.std, std))
    if not any(theirs and ours and different(theirs, ours) for theirs, ours in pairs):
        return []
    typed = (
        f"data.{name}={listed(of)}" for name, of in (("mean", weights.mean), ("std", weights.std))
    )
    return [f"these weights saw images normalised otherwise; to match them: {' '.join(typed)}"]


def different(theirs: Sequence[float], ours: Sequence[float]) -> bool:
    """Whether they differ for the same number of channels."""
    return len(theirs) == len(ours) and any(
        abs(x - y) > 1e-3 for x, y in zip(theirs, ours, strict=True)
    )


def check_options(net: VisionTransformer, weights: Weights, report: LoadReport) -> None:
    """Compare what the source says of its model with the net.

    Raises:
        ConfigError: they would compute different things with the same tensors.
    """
    if untold := [name for name in OFTEN_UNTOLD if name not in weights.options]:
        here = " ".join(f"{name}={plain(net.options[name])}" for name in untold)
        report.notes.append(f"the weights do not tell these, taken as here: {here}")
    differing = disagreements(net, weights)
    if wrong := {name: values for name, values in differing.items() if name in DECISIVE}:
        asked = ", ".join(
            f"{n} {theirs} there and {ours} here" for n, (theirs, ours) in wrong.items()
        )
        typed = " ".join(f"model.{name}={theirs}" for name, (theirs, _) in wrong.items())
        raise ConfigError(f"{weights.source} is of another model: {asked}; to match it: {typed}")
    for name in WORTH_A_NOTE:
        if name in differing:
            theirs, ours = differing[name]
            report.notes.append(
                f"{name} is {theirs} there, {ours} here; to match it: model.{name}={theirs}"
            )


def disagreements(net: VisionTransformer, weights: Weights) -> dict[str, tuple[str, str]]:
    """The options that make the source's model compute otherwise: (there, here), as typed."""
    grid = net.patch_embed.grid_size
    there, here = meaning(weights.options, grid), meaning(net.options, grid)
    if there.get("rope") != here["rope"]:  # then its options have no common meaning
        there |= {name: value for name, value in weights.options.items() if "rope_" in name}
        here |= {name: value for name, value in net.options.items() if "rope_" in name}
    return {
        name: (plain(weights.options[name]), plain(net.options[name]))
        for name in (*DECISIVE, *WORTH_A_NOTE)
        if name in there and name in here and there[name] != here[name]
    }


def meaning(options: Mapping[str, Any], grid: tuple[int, int]) -> dict[str, Any]:
    """`options` so that what computes the same on this grid is equal.

    Defaults that depend on other options are filled in; options without effect are left out.
    """
    meant = dict(options)
    rope = meant.get("rope", "none")
    if meant.get("mlp_layer", "mlp") != "mlp" and meant.get("global_pool") != "map":
        meant.pop("act_layer", None)
    without_effect = {
        "none": [name for name in meant if name.startswith("rope_")],
        "mixed": ["rope_temperature", "rope_ref_grid"],  # its frequencies are tensors
        "dinov3": ["rope_ref_grid"],
    }
    for name in without_effect.get(rope, ()):
        meant.pop(name, None)
    if meant.get("rope_temperature", 0) is None:
        meant["rope_temperature"] = TEMPERATURES[rope]
    if meant.get("rope_rotate_half", False) is None:
        meant["rope_rotate_half"] = rope == "dinov3"
    if "rope_ref_grid" in meant:
        meant["rope_ref_grid"] = as_pair(meant["rope_ref_grid"] or grid)
    if meant.get("embed_layer") in ("conv_rearrange", "linear"):
        meant["embed_layer"] = "conv"
    if meant.get("qk_scale") is not None and {"embed_dim", "num_heads"} <= set(meant):
        usual = (meant["embed_dim"] // meant["num_heads"]) ** -0.5
        meant["qk_scale"] = None if math.isclose(meant["qk_scale"], usual) else meant["qk_scale"]
    return meant


def hint(net: VisionTransformer, weights: Weights) -> str:
    """What to type for the model in the weights, as far as they tell."""
    typed = [
        f"model.{name}={plain(size)}"
        for name, size in sizes_of(net, weights.state).items()
        if size != net.options[name]
    ]
    differing = disagreements(net, weights)
    typed += [f"model.{n}={theirs}" for n, (theirs, _) in differing.items() if n in DECISIVE]
    if (
        net.options["embed_layer"] in ("conv_stem", "pool_stem")
        and "embed_layer" not in differing
        and not any(".stem." in name for name in weights.state)
    ):
        typed.append("model.embed_layer=conv")
    return f"; to match them: {' '.join(typed)}" if typed else ""


def sizes_of(net: VisionTransformer, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The options that names and shapes of tensors tell; `mlp_ratio` where it is not the net's."""
    norm, block = state.get("blocks.0.norm1.weight"), "blocks.0."
    if norm is None or norm.ndim != 1:
        return {}
    dim = len(norm)
    blocks = {name.split(".")[1] for name in state if name.startswith("blocks.")}
    sizes: dict[str, Any] = {"embed_dim": dim, "depth": len(blocks)}
    first = state.get(f"{block}mlp.fc1.weight", state.get(f"{block}mlp.fc1_g.weight"))
    if first is not None and first.ndim == 2:
        align, hidden = net.options["swiglu_align_to"], int(dim * net.options["mlp_ratio"])
        if hidden + (-hidden % align if align else 0) != len(first):
            sizes["mlp_ratio"] = mlp_ratio_of(len(first), dim)
    query = {f"{block}attn.{name}" for name in ("q_bias", "q_proj.bias")}
    key = {f"{block}attn.{name}" for name in ("qkv.bias", "k_proj.bias")}
    if net.options["qkv_bias"] and (query | key) & set(state):
        sizes["k_bias"] = bool(key & set(state))
    return sizes


def plain(value: Any) -> str:
    """As it is typed in an override."""
    if value is None:
        return "null"
    if isinstance(value, list | tuple):
        return listed(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def listed(numbers: Sequence[float] | None) -> str:
    return f"[{','.join(f'{number:g}' for number in numbers or ())}]"
