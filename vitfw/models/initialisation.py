"""What the weights of a Vision Transformer are drawn from before training.

C channels (embed_dim), P patch size, `in` and `out` the sides of a linear layer.
"""

import math

import torch
from torch import Tensor, nn

SCHEMES = ("timm", "vit", "big_vision", "moco")
TRUNCATED_STD = 0.87962566103423978  # of a standard normal cut off at ±2


@torch.no_grad()
def initialise(net: nn.Module, scheme: str = "timm", zero_head: bool = False) -> None:
    """Draw the weights of a `VisionTransformer` anew, in place.

    | tensor | `timm` | `vit` | `big_vision` | `moco` |
    |---|---|---|---|---|
    | linear weights | TN(0.02) | Xavier | Xavier | Xavier |
    | `head`, `head_dist` weights | TN(0.02) | 0 | 0 | Xavier |
    | linear biases of an MLP | 0 | N(1e-6) | N(1e-6) | 0 |
    | every other linear bias | 0 | 0 | 0 | 0 |
    | patch projection, weight | PyTorch's | LeCun | LeCun | Xavier |
    | patch projection, bias | PyTorch's | 0 | 0 | 0 |
    | learned `pos_embed` | TN(0.02) | N(0.02) | N(1/√C) | TN(0.02) |
    | `cls_token` | N(1e-6) | 0 | 0 | N(1e-6) |
    | `reg_token` | N(1e-6) | N(1e-6) | N(1e-6) | N(1e-6) |
    | `dist_token` | TN(0.02) | TN(0.02) | TN(0.02) | TN(0.02) |
    | `attn_pool.latent` | cut N(1/√C) | Xavier | Xavier | cut N(1/√C) |
    | conv stem, norms, LayerScale, rotary frequencies | untouched in all four ||||

    N(s) is a normal of mean 0 and std s. TN(s) is the same cut off at ±2, which for these s cuts
    nothing; "cut" is at ±2 s. Xavier is uniform in ±√(6 / (in + out)). Matrices kept in one
    tensor count one by one: the three of `qkv`, the two of `kv`, the gate and value of a packed
    SwiGLU, the four of a parallel block's `in_proj` (whose biases are all 0); so fused and
    separate layers start alike. LeCun is a normal cut off at ±2 of its own
    std, then scaled to std 1/√in. The patch projection is a matrix from in = in_chans · P · P to
    C, whether it is stored as a convolution or as a linear layer; the latent one from 1 to C.

    `zero_head` sets `head` and `head_dist` to 0 under any scheme. What a source does not have
    (registers, a distillation token, pooling by attention) is drawn as the one that has it does.

    Raises:
        ValueError: there is no such scheme.

    Source: `timm`: DeiT (Touvron et al. 2021) and timm's default. `vit`: Dosovitskiy et al. 2021,
    google-research/vision_transformer, `models_vit.py`. `big_vision`: Beyer et al. 2022, "Better
    plain ViT baselines", google-research/big_vision, `models/vit.py`; pooling by attention: Zhai
    et al. 2022. `moco`: Chen et al. 2021, "An empirical study of training self-supervised vision
    transformers". Registers: Darcet et al. 2024. LeCun is Flax's default for a convolution.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"weight_init {scheme!r} is not one of: {', '.join(SCHEMES)}")
    patch = patch_projection(net)
    draw_linear_layers(net, scheme, skip=patch)
    draw_tokens(net, scheme)
    if patch is not None and scheme != "timm":
        if scheme == "moco":
            xavier_uniform(patch.weight)
        else:
            lecun_normal(patch.weight)
        if patch.bias is not None:
            nn.init.zeros_(patch.bias)
    if zero_head or scheme in ("vit", "big_vision"):
        for name, parameter in net.named_parameters():
            if name.startswith(("head.", "head_dist.")):
                nn.init.zeros_(parameter)


def patch_projection(net: nn.Module) -> nn.Conv2d | nn.Linear | None:
    """The layer that makes a token of a patch; None where a stem of convolutions does."""
    embed = getattr(net, "patch_embed", None)
    layer = getattr(embed, "proj", None)
    if embed is None or not isinstance(layer, (nn.Conv2d, nn.Linear)):
        return None
    layers = [m for m in embed.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    return layer if len(layers) == 1 else None


def stacked_rows(net: nn.Module) -> dict[nn.Module, list[int]]:
    """The rows of each matrix in the linear layers that hold several on top of each other."""
    rows: dict[nn.Module, list[int]] = {}
    for module in net.modules():
        layers = {name: m for name, m in module.named_children() if isinstance(m, nn.Linear)}
        for name, count in (("qkv", 3), ("kv", 2)):
            if name in layers:
                rows[layers[name]] = [layers[name].out_features // count] * count
        if {"fc1", "fc2"} <= set(layers):
            hidden = layers["fc2"].in_features
            rows[layers["fc1"]] = [hidden] * (layers["fc1"].out_features // hidden)
        if {"in_proj", "mlp_out_proj"} <= set(layers):
            hidden, dim = layers["mlp_out_proj"].in_features, layers["in_proj"].in_features
            rows[layers["in_proj"]] = [hidden, dim, dim, dim]
    return rows


def draw_linear_layers(net: nn.Module, scheme: str, skip: nn.Module | None) -> None:
    rows = stacked_rows(net)
    small_biases = scheme in ("vit", "big_vision")
    for name, module in net.named_modules():
        if not isinstance(module, nn.Linear) or module is skip:
            continue
        if scheme == "timm":
            nn.init.trunc_normal_(module.weight, std=0.02)
        else:
            for matrix in module.weight.split(rows.get(module, [module.out_features])):
                xavier_uniform(matrix)
        if module.bias is not None:
            if small_biases and (".mlp." in f".{name}." or name.endswith("mlp_out_proj")):
                nn.init.normal_(module.bias, std=1e-6)
            else:
                nn.init.zeros_(module.bias)
    for name, parameter in net.named_parameters():
        if name.endswith((".q_bias", ".v_bias", ".mlp_bias")):  # biases kept outside their layer
            nn.init.zeros_(parameter)


def draw_tokens(net: nn.Module, scheme: str) -> None:
    """Everything learned that is neither a layer's weight nor its bias."""
    google = scheme in ("vit", "big_vision")
    if (token := getattr(net, "cls_token", None)) is not None:
        if google:
            nn.init.zeros_(token)
        else:
            nn.init.normal_(token, std=1e-6)
    if (token := getattr(net, "reg_token", None)) is not None:
        nn.init.normal_(token, std=1e-6)
    table = getattr(net, "pos_embed", None)
    if table is not None and table.requires_grad:
        if google:
            nn.init.normal_(table, std=0.02 if scheme == "vit" else table.shape[-1] ** -0.5)
        else:
            nn.init.trunc_normal_(table, std=0.02)
    if (token := getattr(net, "dist_token", None)) is not None:
        nn.init.trunc_normal_(token, std=0.02)
    latent = getattr(getattr(net, "attn_pool", None), "latent", None)  # [1, L, C]
    if latent is not None:
        if google:
            xavier_uniform(latent[0].T)
        else:
            std = latent.shape[-1] ** -0.5
            nn.init.trunc_normal_(latent, std=std, a=-2 * std, b=2 * std)


def xavier_uniform(weight: Tensor) -> None:
    """Uniform in ±√(6 / (in + out)); [out, in] or [out, in_chans, P, P].

    Unlike PyTorch's, which counts the `out` of a convolution P · P times.

    Source: Glorot & Bengio 2010, eq. 16.
    """
    bound = math.sqrt(6 / (weight[0].numel() + weight.shape[0]))
    nn.init.uniform_(weight, -bound, bound)


def lecun_normal(weight: Tensor) -> None:
    """Std 1/√in after a cut at ±2 of the std before it; [out, in] or [out, in_chans, P, P]."""
    std = weight[0].numel() ** -0.5 / TRUNCATED_STD
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
