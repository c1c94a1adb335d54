"""Any architecture of timm's as the net to train."""

import re
from functools import partial
from typing import Any

from torch import nn

from vitfw.errors import ConfigError, nearest
from vitfw.interop.folder import NO_ARGUMENTS
from vitfw.models.patch_embed import Size, as_pair, grid_of


def create(
    name: str,
    pretrained: bool = False,
    num_classes: int = 1000,
    in_chans: int = 3,
    img_size: Size | None = None,
    grad_checkpointing: bool = False,
    **more: Any,
) -> nn.Module:
    """timm's `name`: [B, in_chans, H, W] → logits [B, num_classes].

    `img_size` is passed on to architectures that are built for one size; most CNNs take any and
    are not told. `more` are the architecture's own options. With `pretrained`, weights are taken
    from the local cache or fetched, and the head is drawn anew where `num_classes` is not theirs.
    With `grad_checkpointing`, activations inside a block are computed again in the backward pass;
    running statistics of batch norms then move twice a step.

    Raises:
        ConfigError: timm knows no such architecture, or not with these options; its weights
            cannot be fetched; its patches do not fill the image; it cannot checkpoint gradients.
    """
    import timm

    for option in more:
        if option in NO_ARGUMENTS:
            raise ConfigError(
                f"model.{option} is no option of an architecture; weights of your own are loaded "
                "by init_from=FILE, timm's by model.pretrained=true"
            )
    if not timm.is_model(name):
        hint = nearest(name.partition(".")[0], timm.list_models())
        hint = hint or "; timm.list_models() gives all names"
        raise ConfigError(f"model.name={name} is no architecture of timm's{hint}")
    asked = {"num_classes": num_classes, "in_chans": in_chans, **more}
    build = partial(timm.create_model, name, pretrained=pretrained, **asked)
    try:
        net = build_for_size(build, img_size)
    except TypeError as error:
        raise ConfigError(refused(name, error)) from error
    except Exception as error:  # of the hub, of its client, of any of timm's files
        said = " ".join(str(error).split()) or type(error).__name__
        if pretrained:
            raise ConfigError(
                f"the weights of {name} cannot be had: {said[:300]}; with model.pretrained=false "
                "it starts from random ones"
            ) from error
        size = "" if img_size is None else f" with model.img_size={img_size}"
        raise ConfigError(f"timm cannot build {name}{size}: {said}") from error
    if img_size is not None:
        check_patches(net, img_size)
    if grad_checkpointing:
        checkpoint_gradients(net, name)
    return net


def build_for_size(build: partial[nn.Module], img_size: Size | None) -> nn.Module:
    """`build()`, with `img_size` if it takes one."""
    if img_size is None:
        return build()
    try:
        return build(img_size=as_pair(img_size))
    except TypeError as error:
        if "'img_size'" not in str(error):
            raise
    return build()


def refused(name: str, error: TypeError) -> str:
    unknown = re.search(r"unexpected keyword argument\D*'(\w+)'", str(error))
    if unknown:
        key = f"model.{unknown[1]}"
        return (
            f"timm's {name} has no option {unknown[1]!r}; leave {key} out, or where a recipe gives "
            f"it: ~{key}"
        )
    return f"timm cannot build {name} from these options: {error}"


def checkpoint_gradients(net: Any, name: str) -> None:
    """Raises ConfigError where timm has not written it for this architecture."""
    try:
        net.set_grad_checkpointing()
    except (AttributeError, AssertionError) as error:
        raise ConfigError(
            f"timm's {name} cannot checkpoint gradients; leave model.grad_checkpointing out, or "
            "save memory by a smaller data.batch_size with trainer.accumulate_grad_batches"
        ) from error


def check_patches(net: nn.Module, img_size: Size) -> None:
    """Raises ConfigError where timm would leave out pixels that do not fill a patch."""
    from timm.layers import PatchEmbed

    embed = getattr(net, "patch_embed", None)
    if not isinstance(embed, PatchEmbed) or embed.dynamic_img_pad:
        return
    try:
        height, width = embed.patch_size
        grid_of(as_pair(img_size), (int(height), int(width)))
    except ValueError as error:
        raise ConfigError(str(error)) from error
