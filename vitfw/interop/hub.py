"""Weights by name, from the cache or fetched: timm:NAME, torchvision:NAME, huggingface:NAME."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from vitfw.console import log
from vitfw.errors import ConfigError, nearest
from vitfw.interop.folder import WEIGHTS
from vitfw.progress_bar import fetching


def of_timm(name: str) -> nn.Module:
    import timm

    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        hint = nearest(architecture, timm.list_models())
        raise ConfigError(f"timm has no model {architecture!r}{hint}")
    return fetched(
        f"timm:{name}",
        lambda: timm.create_model(name, pretrained=True),
        "init_from=FILE.safetensors",
    )


def of_torchvision(name: str) -> nn.Module:
    from torchvision import models

    known = [n for n in models.list_models() if n.startswith("vit_")]
    if name not in known:
        hint = nearest(name, known) or f"; it has: {', '.join(known)}"
        raise ConfigError(f"torchvision has no ViT {name!r}{hint}")
    return fetched(
        f"torchvision:{name}",
        lambda: models.get_model(name, weights="DEFAULT", progress=sys.stderr.isatty()),
        "init_from=FILE.pth",
    )


def of_huggingface(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ConfigError(
            "huggingface:NAME needs huggingface_hub: pip install 'vitfw[huggingface]'"
        ) from error

    def fetch() -> Path:
        """Of several files of the same weights only the first."""
        folder = Path()
        for weights in WEIGHTS:
            wanted = ["config.json", "preprocessor_config.json", weights]
            folder = Path(snapshot_download(name, allow_patterns=wanted))
            if (folder / weights).is_file():
                break
        return folder

    hint = f"init_from=FOLDER with config.json and {WEIGHTS[0]}"
    return fetched(f"huggingface:{name}", fetch, hint)


def fetched(what: str, fetch: Callable[[], Any], hint: str) -> Any:
    """What `fetch` returns.

    Raises:
        ConfigError: it raised anything; the message ends in where to put the weights by hand.
    """
    log.info(f"fetching the weights of {what}")
    client = logging.getLogger("huggingface_hub")  # it would tell every try of each file
    level = client.level
    client.setLevel(logging.ERROR)
    try:
        with fetching(what):
            return fetch()
    except Exception as error:  # of the hub, of its client, of the library's own files
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"the weights of {what} could not be fetched ({first_line}); download them elsewhere "
            f"and give {hint}"
        ) from error
    finally:
        client.setLevel(level)


FETCHERS: dict[str, Callable[[str], nn.Module | Path]] = {
    "timm": of_timm,
    "torchvision": of_torchvision,
    "huggingface": of_huggingface,
}
