"""`vitfw export`: a checkpoint in the format of another library, compared before it counts."""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from vitfw.assemble import prepare_process
from vitfw.cli.app import BROKE, run, say_error
from vitfw.config import to_plain
from vitfw.console import console, log
from vitfw.inference import load_net, refuse_untrained_head
from vitfw.interop.export import (
    DoesNotAgree,
    Written,
    check_output,
    default_output,
    format_called,
    write_verified,
)
from vitfw.interop.source import pretrained_by_masking


def main(argv: Sequence[str] | None = None) -> int:
    return run("export", export, argv or [])


def export(config: DictConfig, overrides: list[str]) -> None:
    """Rebuild the net from the checkpoint, write it, and say how it is loaded.

    A net without a trained head is written as weights, which may begin another training, but as no
    graph, which could only compute its logits.
    """
    prepare_process()
    cfg = to_plain(config)
    checkpoint, name = Path(str(cfg["checkpoint"])).expanduser(), str(cfg["format"])
    graph = format_called(name).is_graph
    output = cfg["output"]
    path = default_output(checkpoint, name) if output is None else Path(str(output)).expanduser()
    check_output(path, name, cfg["overwrite"])
    net, passport = load_net(checkpoint, weights=str(cfg["weights"]))
    if graph:
        refuse_untrained_head(passport, checkpoint)
    elif pretrained_by_masking(passport):
        log.warning(f"{checkpoint} is of a masked autoencoder: its pooling and head are untrained")
    try:
        written = write_verified(net, passport, name, path, cfg["normalise"])
    except DoesNotAgree as error:
        say_error(str(error))
        raise SystemExit(BROKE) from error
    show(written)


def show(written: Written) -> None:
    agrees = f"{written.difference:.1e} of the largest logit, at most"
    lines = [
        f"wrote       {written.path}",
        f"size        {scaled(written.bytes)}",
        f"difference  {agrees}",
        *(f"  {line}" for line in ["", *written.usage.splitlines()]),
    ]
    for line in lines:
        console.print(line.rstrip(), markup=False, soft_wrap=True)


def scaled(size: int) -> str:
    """1_234_567 → `1.2 MB`"""
    for factor, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"
