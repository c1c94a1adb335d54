"""Nets as graphs, for any number of images at once: ONNX and torch.export.

B batch, C channels, S image side, K classes. Both are traced in float32, where attention is
`scaled_dot_product_attention`; ONNX spells it out.
"""

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from vitfw.checkpoint import Passport
from vitfw.errors import ConfigError, causes

MOST_IN_ONE_FILE = 2 * 1024**3 - 64 * 1024**2  # bytes of weights; protobuf ends at 2 GiB
NOISY = ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")


class Normalised(nn.Module):
    """`net` for images from 0 to 1: [B, C, S, S] → logits [B, K]."""

    def __init__(self, net: nn.Module, mean: list[float], std: list[float]):
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x - self.mean) / self.std)


def properties(net: nn.Module, passport: Passport) -> dict[str, str]:
    """What a graph says of itself, as JSON."""
    said = {
        "classes": passport.classes,
        "img_size": passport.img_size,
        "crop_share": passport.crop_share,
        "mean": passport.mean,
        "std": passport.std,
        "normalise": isinstance(net, Normalised),
    }
    return {key: json.dumps(value, ensure_ascii=False) for key, value in said.items()}


def trace(net: nn.Module, passport: Passport) -> torch.export.ExportedProgram:
    """The graph of `net`, for batches of any size."""
    images = torch.zeros(2, passport.channels, *passport.img_size)
    batch = torch.export.Dim("batch")
    with quiet():
        return torch.export.export(net, (images,), dynamic_shapes=({0: batch},))


def write_torch_export(net: nn.Module, passport: Passport, path: Path) -> None:
    with quiet():
        torch.export.save(trace(net, passport), path, extra_files=properties(net, passport))


def read_torch_export(net: nn.Module, passport: Passport, path: Path) -> Callable[[Tensor], Tensor]:
    return torch.export.load(path).module()


def write_onnx(net: nn.Module, passport: Passport, path: Path) -> None:
    """`images` [B, C, S, S] to `logits` [B, K]; weights of 2 GiB and more go to a file beside.

    Raises:
        ConfigError: the net does something that ONNX has no operator for.
    """
    weights = sum(t.numel() * t.element_size() for t in net.state_dict().values())
    graph = trace(net, passport)
    with quiet():
        try:
            program = torch.onnx.export(
                graph,
                input_names=["images"],
                output_names=["logits"],
                dynamo=True,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            *_, reason = causes(error)
            raise ConfigError(
                f"format=onnx cannot hold this net ({str(reason).partition('. ')[0]}); "
                "torch_export can"
            ) from error
        assert program is not None
        program.model.metadata_props.update(properties(net, passport))
        program.save(path, external_data=weights > MOST_IN_ONE_FILE)


def read_onnx(net: nn.Module, passport: Passport, path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' remarks on their own insides."""
    levels = {name: logging.getLogger(name).level for name in NOISY}
    try:
        for name in levels:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
