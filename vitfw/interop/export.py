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

import copy
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from vitfw.checkpoint import Passport
from vitfw.data.transforms import normalise, scale_to_unit
from vitfw.errors import ConfigError, nearest
from vitfw.interop import export_graph, export_weights
from vitfw.models.vit import VisionTransformer

Logits = Callable[[Tensor], Tensor]

FOLDER = ""  # the suffix of what is no single file
IN_A_FOLDER = frozenset(("config.json", "model.safetensors", "preprocessor_config.json"))


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
        install="pip install transformers",
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
    if path.is_symlink() or path.exists():
        check_replaceable(path, suffix == FOLDER, overwrite)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"output={path} cannot be written: {error.strerror}") from error
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"output={path} cannot be written: no permission")


def check_replaceable(path: Path, is_folder: bool, overwrite: bool) -> None:
    """Raises ConfigError unless `overwrite`; a folder must hold an export and nothing else."""
    if path.is_dir() != is_folder:
        kind, wanted = ("folder", "file") if path.is_dir() else ("file", "folder")
        raise ConfigError(f"output={path} is a {kind}, and a {wanted} is to be written")
    if is_folder and (others := sorted({p.name for p in path.iterdir()} - IN_A_FOLDER)):
        raise ConfigError(
            f"output={path} is a folder with {others[0]} in it, which is no part of an export; "
            "give the name of a new one"
        )
    if not overwrite and not (is_folder and not any(path.iterdir())):
        raise ConfigError(f"output={path} is there already; overwrite=true replaces it")


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
        raise ConfigError(
            f"format={name} has no place for a {type(net).__name__}, only for vitfw's "
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
        try:
            chosen.write(net, passport, partial)
        except ConfigError as error:
            hint = "" if chosen.is_graph else "; safetensors and torch_export hold any net"
            raise ConfigError(f"{error}{hint}") from error
        logits = chosen.read(net, passport, partial)
        difference = largest_difference(net, logits, passport, chosen.is_graph)
        if not difference <= chosen.tolerance:  # NaN is not, either
            raise DoesNotAgree(
                f"{path} was not kept: its logits differ from the net's by up to {difference:.1e} "
                f"of the largest one, and {chosen.tolerance:.0e} is allowed"
            )
        size = sum(file.stat().st_size for file in partial.parent.rglob("*") if file.is_file())
    return Written(path, size, difference, chosen.usage(net, path))


@torch.inference_mode()
def largest_difference(net: nn.Module, other: Logits, passport: Passport, is_graph: bool) -> float:
    """Of the logits for seeded random images, as a share of the largest logit."""
    generator = torch.Generator().manual_seed(0)
    expected, got = [], []
    if not is_graph:
        net = copy.deepcopy(net).double()
    for batch in (1, 2, 5):
        shape = (batch, passport.channels, *passport.img_size)
        pixels = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
        images = scale_to_unit(pixels)
        if not isinstance(net, export_graph.Normalised):
            images = normalise(images, torch.tensor(passport.mean), torch.tensor(passport.std))
        images = images if is_graph else images.double()
        expected.append(net(images))
        got.append(other(images))
    logits = torch.cat(expected)
    apart = (torch.cat(got) - logits).abs().max()
    return float(apart / logits.abs().max().clamp(min=torch.finfo(torch.float32).tiny))


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A path of the same name to write to, in a folder beside; moved to `path` at a good end."""
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    new = folder / "new"
    try:
        new.mkdir()
        yield new / path.name
        give_ordinary_rights(new, folder / "sample")
        if path.is_dir():  # a folder cannot take the place of one that is not empty
            path.rename(folder / "replaced")
        for entry in sorted(new.iterdir()):
            entry.replace(path.with_name(entry.name))
    finally:
        shutil.rmtree(folder)


def give_ordinary_rights(folder: Path, sample: Path) -> None:
    """Those of any new file; safetensors lets nobody but the owner read what it writes."""
    sample.touch()
    mode = sample.stat().st_mode
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(mode)
