"""How many tokens are too many for attention, whatever the machine."""

from typing import Any

from torch import nn

from vitfw.errors import ConfigError
from vitfw.models.patch_embed import as_pair, grid_of

MOST_TOKENS = 8192


def check_tokens(net: nn.Module) -> None:
    """Raises ConfigError where attention over all tokens could not be afforded by anyone."""
    embed: Any = getattr(net, "patch_embed", None)
    tokens = getattr(embed, "num_patches", 0)
    for patch_size in getattr(net, "flexi_patch_sizes", ()):
        height, width = grid_of(embed.img_size, as_pair(patch_size))
        tokens = max(tokens, height * width)
    if tokens > MOST_TOKENS:
        raise ConfigError(
            f"the model would cut each image into {tokens:,} patches, and attention compares each "
            f"with each; at most {MOST_TOKENS:,} are taken: set model.patch_size=16, say, choose a "
            "model for large images (model=vit_s16), or set a smaller model.img_size"
        )
