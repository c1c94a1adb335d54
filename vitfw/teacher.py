"""The net that a student learns from: found by name or path, and shown the images as it wants them.

B batch, C channels, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitfw.checkpoint import is_ours, load_file, load_weights
from vitfw.errors import ConfigError, nearest
from vitfw.inference import load_classifier
from vitfw.interop.hub import fetched
from vitfw.interop.wrapping import bare, unwrap

TIMM = "timm:"
FORMS = "PATH of a vitfw checkpoint, timm:NAME, or timm:NAME@PATH of its weights"


@dataclass(frozen=True)
class ImagesOf:
    """How a net wants its images: their (height, width), and what they are normalised with."""

    img_size: tuple[int, int]
    mean: Sequence[float]
    std: Sequence[float]


class Teacher(nn.Module):
    """A frozen `net` that takes the student's images: [B, C, H, W] → logits [B, K].

    They come normalised with the student's `mean` and `std` [C]. They are resized to the net's own
    size and normalised as it was trained, in float32, and given to the net in its own format;
    grey images are given to all channels of its own.

    Raises:
        ConfigError: the student's images have other channels than the net takes.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self, net: nn.Module, wants: ImagesOf, mean: Sequence[float], std: Sequence[float]
    ):
        super().__init__()
        if len(mean) not in (1, len(wants.mean)):
            raise ConfigError(
                f"the teacher takes images of {channels(wants.mean)}, the data have "
                f"{channels(mean)}; choose a teacher for theirs"
            )
        self.net = net
        self.img_size = wants.img_size
        # (x · std + mean − mean of the net) / std of the net, as one product and one sum
        own_mean, own_std = torch.tensor(wants.mean), torch.tensor(wants.std)
        self.register_buffer("scale", (torch.tensor(std) / own_std)[:, None, None])
        self.register_buffer("shift", ((torch.tensor(mean) - own_mean) / own_std)[:, None, None])
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        images = images.float()  # bicubic antialiasing knows no half precision everywhere
        if images.shape[-2:] != self.img_size:
            images = F.interpolate(images, self.img_size, mode="bicubic", antialias=True)
        return self.net((images * self.scale + self.shift).to(self.scale.dtype))


def check_teacher(spec: str) -> None:
    """What can be told of `method.teacher` without loading it.

    Raises:
        ConfigError: there is no such file, or timm has no such model or no weights of it.
    """
    name, path = parse(spec)
    if name is not None:
        check_timm_name(name, with_weights=path is None)
    if path is not None and not path.is_file():
        raise ConfigError(
            f"method.teacher={spec}: there is no file {path}; a teacher is the {FORMS}"
        )


def load_teacher(
    spec: str, classes: Sequence[str], mean: Sequence[float], std: Sequence[float]
) -> Teacher:
    """The teacher that `method.teacher` names, for images normalised with `mean` and `std` [C].

    A checkpoint of vitfw's has to know the same `classes` in the same order; of timm's models only
    their number is known.

    Raises:
        ConfigError: it is not there or cannot be read or fetched; its classes or channels are not
            those of the data.
    """
    check_teacher(spec)
    name, path = parse(spec)
    if name is None:
        assert path is not None
        net, wants = of_checkpoint(path, classes)
    else:
        net, wants = of_timm(name, path, len(classes))
    return Teacher(net, wants, mean, std)


def parse(spec: str) -> tuple[str | None, Path | None]:
    """The name in timm and the path of `timm:NAME`, `timm:NAME@PATH` or `PATH`."""
    if not spec.startswith(TIMM):
        return None, Path(spec).expanduser()
    name, _, path = spec.removeprefix(TIMM).partition("@")
    return name, Path(path).expanduser() if path else None


def of_checkpoint(path: Path, classes: Sequence[str]) -> tuple[nn.Module, ImagesOf]:
    net, passport = load_classifier(path)
    check_count(str(path), len(passport.classes), len(classes))
    pairs = zip(passport.classes, classes, strict=True)
    for number, (theirs, ours) in enumerate(pairs):
        if theirs != ours:
            raise ConfigError(
                f"the teacher {path} was trained on other classes: its class {number} is "
                f"{theirs!r}, that of the data {ours!r}; train one on these data"
            )
    height, width = passport.img_size
    return net, ImagesOf((height, width), passport.mean, passport.std)


def of_timm(name: str, path: Path | None, num_classes: int) -> tuple[nn.Module, ImagesOf]:
    """timm's model with its published weights, or with those in the file at `path`."""
    import timm
    from timm.data import resolve_model_data_config

    if path is None:
        published = timm.get_pretrained_cfg(name)
        check_count(TIMM + name, published.num_classes if published else 0, num_classes)
        net = fetched(
            TIMM + name,
            lambda: timm.create_model(name, pretrained=True),
            f"method.teacher={TIMM}{name}@FILE",
        )
    else:
        content = load_file(path)
        if is_ours(content):
            raise ConfigError(
                f"{path} is a checkpoint of vitfw's, which knows its model; type "
                f"method.teacher={path}"
            )
        net = timm.create_model(name, num_classes=num_classes)
        load_weights(net, bare(unwrap(content)[0]), str(path))
    data = resolve_model_data_config(net)
    _, height, width = data["input_size"]
    return net, ImagesOf((height, width), data["mean"], data["std"])


def check_timm_name(name: str, with_weights: bool) -> None:
    import timm

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        hint = nearest(architecture, timm.list_models()) or "; timm.list_models() gives all names"
        raise ConfigError(f"method.teacher: timm has no model {architecture!r}{hint}")
    if (with_weights or tag) and not timm.is_model_pretrained(name):
        hint = nearest(name, timm.list_pretrained(f"{architecture}*"))
        raise ConfigError(
            f"method.teacher: timm has no weights of {name}{hint}; to give a file of them: "
            f"method.teacher={TIMM}{architecture}@FILE"
        )


def check_count(teacher: str, theirs: int, ours: int) -> None:
    if theirs != ours:
        raise ConfigError(
            f"the teacher {teacher} tells {theirs:,} classes apart, the data have {ours:,}; train "
            "one on these data (model=timm model.name=… model.pretrained=true starts from timm's "
            "weights) and give its checkpoint: method.teacher=PATH"
        )


def channels(mean: Sequence[float]) -> str:
    return "1 channel" if len(mean) == 1 else f"{len(mean)} channels"
