"""A trained net in other people's formats, each read back and compared before it counts.

| format | written | read back with |
|---|---|---|
| safetensors | our state dict, what the passport says as metadata | safetensors |
| timm | a folder in timm's hub format | timm.create_model |
| torchvision | the state dict of torchvision's VisionTransformer | torchvision |
| huggingface | a folder, with the image processor | transformers' Auto classes |
| npz | Google's arrays | timm's reader of them |
| onnx | a graph | onnxruntime |
| torch_export | a graph | torch.export |
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from torch import nn

from vitfw.checkpoint import Passport
from vitfw.errors import ConfigError, nearest
from vitfw.interop import export_graph, export_weights
from vitfw.interop.agreement import Logits, largest_difference, spread_of, with_drawn_head
from vitfw.interop.staging import check_place, refusing, staged
from vitfw.models.vit import VisionTransformer
from vitfw.progress_bar import LongWork

FOLDER = ""  # the suffix of what is no single file


class DoesNotAgree(RuntimeError):
    """What was written computes other logits than the net."""


@dataclass(frozen=True)
class Format:
    """`read` gives the logits of what `write` wrote; `usage` is the code that loads it.

    Weights are compared in float64, graphs in float32, which they are written in. `any_net`
    formats take nets that are no VisionTransformer.
    """

    suffix: str
    write: Callable[[nn.Module, Passport, Path], None]
    read: Callable[[nn.Module, Passport, Path], Logits]
    usage: Callable[[nn.Module, Path], str]
    any_net: bool = False
    is_graph: bool = False
    needs: tuple[str, ...] = ()  # packages
    install: str = ""

    @property
    def tolerance(self) -> float:
        """The largest difference, as a share of the largest logit."""
        return 1e-4 if self.is_graph else 1e-5


FORMATS: dict[str, Format] = {
    "safetensors": Format(
        ".safetensors",
        export_weights.write_safetensors,
        export_weights.read_safetensors,
        lambda net, path: f"state = safetensors.torch.load_file('{path}')",
        any_net=True,
    ),
    "timm": Format(
        FOLDER,
        export_weights.write_timm,
        export_weights.read_timm,
        lambda net, path: f"net = timm.create_model('local-dir:{path}', pretrained=True)",
        any_net=True,
    ),
    "torchvision": Format(
        ".pth",
        export_weights.write_torchvision,
        export_weights.read_torchvision,
        export_weights.torchvision_usage,
    ),
    "huggingface": Format(
        FOLDER,
        export_weights.write_huggingface,
        export_weights.read_huggingface,
        lambda net, path: f"net = AutoModelForImageClassification.from_pretrained('{path}')",
        needs=("transformers",),
        install="pip install 'vitfw[huggingface]'",
    ),
    "npz": Format(
        ".npz",
        export_weights.write_npz,
        export_weights.read_npz,
        lambda net, path: f"arrays = numpy.load('{path}')",
    ),
    "onnx": Format(
        ".onnx",
        export_graph.write_onnx,
        export_graph.read_onnx,
        lambda net, path: f"session = onnxruntime.InferenceSession('{path}')",
        any_net=True,
        is_graph=True,
        needs=("onnx", "onnxscript", "onnxruntime"),
        install="pip install 'vitfw[export]'",
    ),
    "torch_export": Format(
        ".pt2",
        export_graph.write_torch_export,
        export_graph.read_torch_export,
        lambda net, path: f"net = torch.export.load('{path}').module()",
        any_net=True,
        is_graph=True,
    ),
}


@dataclass(frozen=True)
class Written:
    """`difference` is the largest one between logits, as a share of the largest logit."""

    path: Path
    bytes: int
    difference: float
    usage: str


def format_called(name: str) -> Format:
    if name not in FORMATS:
        hint = nearest(name, FORMATS)
        raise ConfigError(f"format={name} is not one of: {', '.join(FORMATS)}{hint}")
    return FORMATS[name]


def default_output(checkpoint: Path, name: str) -> Path:
    """Beside the checkpoint: `best.onnx`, `best-timm` or `best-torchvision.pth`."""
    suffix = FORMATS[name].suffix
    tells = suffix.strip(".") in (name, "pt2")
    return checkpoint.with_name(f"{checkpoint.stem}{'' if tells else f'-{name}'}{suffix}")


def check_output(path: Path, name: str, overwrite: bool) -> None:
    """Whether an export may be written there, before any work is done.

    Raises:
        ConfigError: another suffix, something is there already, or the folder takes no files.
    """
    suffix = FORMATS[name].suffix
    if suffix == FOLDER and path.suffix in {other.suffix for other in FORMATS.values()} - {FOLDER}:
        raise ConfigError(
            f"output={path} is named like a file; format={name} is a folder, such as "
            f"output={path.with_suffix('')}"
        )
    if suffix != FOLDER and path.suffix != suffix:
        meant = [n for n, other in FORMATS.items() if path.suffix and other.suffix == path.suffix]
        hint = f", or give format={meant[0]}" if meant else ""
        raise ConfigError(
            f"output={path} should end in {suffix} for format={name}: "
            f"{path.with_suffix(suffix).name}{hint}"
        )
    check_place(path, suffix == FOLDER, overwrite)


def write_verified(
    net: nn.Module, passport: Passport, name: str, path: Path, fold_normalisation: bool = False
) -> Written:
    """Write `net` to `path`, read it back and compare; only what agrees appears at `path`.

    With `fold_normalisation` the graph takes images from 0 to 1 and normalises them itself.

    Raises:
        ConfigError: the format cannot hold this net, the message says why; a package is missing.
        DoesNotAgree: what was written computes something else. Nothing is left of it.
    """
    chosen = format_called(name)
    if not chosen.any_net and not isinstance(net, VisionTransformer):
        fitting = ", ".join(n for n, other in FORMATS.items() if other.any_net)
        library = type(net).__module__.partition(".")[0]
        raise ConfigError(
            f"format={name} has no place for {library}'s {type(net).__name__}, only for vitfw's "
            f"VisionTransformer; formats that have: {fitting}"
        )
    if fold_normalisation and not chosen.is_graph:
        graphs = ", ".join(n for n, other in FORMATS.items() if other.is_graph)
        raise ConfigError(f"normalise=true is for graphs ({graphs}); format={name} holds weights")
    missing = [package for package in chosen.needs if find_spec(package) is None]
    if missing:
        raise ConfigError(f"format={name} needs {', '.join(missing)}: {chosen.install}")
    net = net.float().cpu().eval()
    if fold_normalisation:
        net = export_graph.Normalised(net, passport.mean, passport.std)
    with staged(path) as partial:
        if spread_of(net, passport) < chosen.tolerance:
            telling = with_drawn_head(net)
            if spread_of(telling, passport) < chosen.tolerance:
                raise DoesNotAgree(
                    f"{path} was not written: the net gives all images the same logits, also with "
                    "another head, so that nothing can be compared"
                )
            with tempfile.TemporaryDirectory(dir=partial.parent.parent) as folder:
                write_and_compare(telling, passport, chosen, Path(folder) / path.name, path)
        difference = write_and_compare(net, passport, chosen, partial, path)
        size = sum(file.stat().st_size for file in partial.parent.rglob("*") if file.is_file())
    return Written(path, size, difference, chosen.usage(net, path))


def write_and_compare(
    net: nn.Module, passport: Passport, chosen: Format, partial: Path, path: Path
) -> float:
    """Write `net` to `partial`, which is to become `path`; the largest difference between logits.

    Raises:
        ConfigError: the format cannot hold this net, or the disk not this file.
        DoesNotAgree: what was written computes something else.
    """
    doing = "tracing and writing" if chosen.is_graph else "writing"
    with refusing(path), LongWork(f"{doing} {path.name}"):
        try:
            chosen.write(net, passport, partial)
        except ConfigError as error:
            hint = "" if chosen.is_graph else "; safetensors and torch_export hold any net"
            raise ConfigError(f"{error}{hint}") from error
    with LongWork(f"verifying {path.name}"):
        logits = chosen.read(net, passport, partial)
        difference = largest_difference(net, logits, passport, chosen.is_graph)
    if not difference <= chosen.tolerance:  # NaN is not, either
        raise DoesNotAgree(
            f"{path} was not kept: its logits differ from the net's by up to {difference:.1e} "
            f"of the largest one, and {chosen.tolerance:.0e} is allowed"
        )
    return difference
