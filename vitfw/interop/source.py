"""Where weights come from: a file, a folder, a hub's name, or a model object.

Whatever the source, what comes out is a `Weights`: tensors under our names, what became of all
others, and as much as the source tells of the model they belong to.
"""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import Tensor, nn
from torchvision.models import VisionTransformer as TorchvisionVisionTransformer

from vitfw.checkpoint import Passport, is_number, is_ours, load_file, read_passport
from vitfw.errors import ConfigError, nearest
from vitfw.interop import eva, folder, huggingface, npz, original
from vitfw.interop import timm as timm_vit
from vitfw.interop import torchvision as torchvision_vit
from vitfw.interop.hub import FETCHERS
from vitfw.interop.translation import Translated
from vitfw.interop.wrapping import bare, check_tensors, unwrap
from vitfw.models.mae import CLASSIFIER_PARTS
from vitfw.models.vit import VisionTransformer
from vitfw.target import target_of
from vitfw.training.lora import fold_adapters, has_adapters
from vitfw.training.masked_autoencoder import MaskedAutoencoder

# Told apart by their names; the last takes everything that is named as we name it.
FORMATS: dict[str, ModuleType] = {
    "torchvision": torchvision_vit,
    "Hugging Face": huggingface,
    "timm's Eva": eva,
    "names as in timm, DeiT, DINO": original,
    "timm": timm_vit,
}
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of torchvision's ViTs
OURS = target_of(VisionTransformer)
MASKED_AUTOENCODER = target_of(MaskedAutoencoder)
NOT_BY_MASKING = tuple(f"{part}." for part in CLASSIFIER_PARTS)


@dataclass
class Weights:
    """Somebody's weights under our names.

    `options` are those of the VisionTransformer that they belong to, as far as the source tells;
    `mean` and `std` those of the images they were trained with, `classes` the names of what the
    head tells apart, none where they are not told. `raw` has the tensors under the names they came
    with, for a net that is no VisionTransformer. `notes` are for the report.
    """

    source: str
    format: str
    state: dict[str, Tensor]
    ignored: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    classes: tuple[str, ...] = ()
    raw: dict[str, Tensor] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_source(source: str | nn.Module) -> Weights:
    """The weights that `init_from` names.

    Raises:
        ConfigError: there is no such file or name, it cannot be read or fetched, or it holds no
            weights.
    """
    if isinstance(source, nn.Module):
        return of_model(source, type(source).__name__)
    hub, found, name = source.partition(":")
    if found and hub in FETCHERS:
        return of_hub(hub, name)
    path = Path(source).expanduser()
    if found and not path.exists():
        raise ConfigError(
            f"init_from={source} is neither a file nor one of "
            f"{', '.join(f'{hub}:NAME' for hub in FETCHERS)}{nearest(hub, FETCHERS)}"
        )
    if path.is_dir():
        return of_folder(path)
    if path.suffix == ".npz":
        return of_npz(path)
    return of_file(path)


@contextmanager
def naming(source: str | Path) -> Iterator[None]:
    """Whatever ConfigError there is, begins with where the weights are from."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error


def weights(source: str, name: str, translated: Translated, raw: Mapping[str, Tensor], **more):
    return Weights(
        source,
        name,
        translated.state,
        translated.ignored,
        translated.unknown,
        raw=dict(raw),
        **more,
    )


def of_file(path: Path) -> Weights:
    """A checkpoint or state dict in any wrapping; one of ours brings its options along."""
    content = load_file(path)
    if is_ours(content):
        return of_checkpoint(content, path)
    told = folder.metadata_of(path) if path.suffix == ".safetensors" else {}
    if is_our_model(told.get("model")):
        with naming(path):
            check_tensors(content)
        state, options = dict(content), options_in(told["model"], path)
        mean, std = folder.pair_of(told, "mean", "std")
        classes = tuple(map(str, told.get("classes") or ()))
        known: dict[str, Any] = {"mean": mean, "std": std, "classes": classes}
        return Weights(str(path), "vitfw", state, options=options, raw=state, **known)
    with naming(path):
        state, notes = unwrap(content)
        check_tensors(state)
        name, translated = translate(state)
    implied = torchvision_vit.IMPLIED if name == "torchvision" else {}
    return weights(str(path), name, translated, bare(state), notes=notes, options=dict(implied))


def of_checkpoint(content: Mapping[str, Any], path: Path, which: str = "auto") -> Weights:
    """One of our own, of our VisionTransformer or of another net.

    `which` weights are read is as in `read_passport`; low-rank adapters are folded into them.
    """
    passport, state, notes = read_net(content, path, which)
    told: dict[str, Any] = {"mean": tuple(passport.mean), "std": tuple(passport.std)}
    told |= {"classes": tuple(passport.classes), "notes": notes}
    if is_our_model(model := passport.config["model"]):
        options = options_in(model, path)
        if pretrained_by_masking(passport):
            drawn = [name for name in state if name.startswith(NOT_BY_MASKING)]
            told["ignored"] = dict.fromkeys(drawn, "a masked autoencoder does not train it")
            state = {name: state[name] for name in state if name not in told["ignored"]}
        return Weights(str(path), "vitfw", state, options=options, raw=dict(state), **told)
    _, translated = translate(state)
    return weights(str(path), "vitfw", translated, state, **told)


def pretrained_by_masking(passport: Passport) -> bool:
    """Whether pooling and head of the net are as they were drawn; the encoder alone is trained."""
    return passport.config.get("method", {}).get("_target_") == MASKED_AUTOENCODER


def read_net(
    content: Mapping[str, Any], path: Path, which: str = "auto"
) -> tuple[Passport, dict[str, Tensor], list[str]]:
    """The passport of one of our checkpoints, the weights of the net that its `model` builds, and
    notes of what was done to them.

    Raises:
        ConfigError: as `read_passport`, or adapters that do not fit their layers.
    """
    passport, state = read_passport(content, path, which)
    with naming(path):
        check_tensors(state)
        if not has_adapters(state):
            return passport, state, []
        lora = passport.config.get("lora")
        alpha: Any = lora.get("alpha") if isinstance(lora, Mapping) else None
        if not is_number(alpha):
            raise ConfigError(f"it has low-rank adapters, and lora.alpha={alpha} in its config")
        return passport, fold_adapters(state, alpha), ["low-rank adapters folded into the weights"]


def of_npz(path: Path) -> Weights:
    """Google's archive, whose query kernels tell the number of heads."""
    state = npz.read_npz(path)
    with naming(path):
        check_tensors(state)
    translated = npz.to_vitfw(state)
    try:
        options = npz.options_of(state)
    except ConfigError:  # no ViT, so that no net of ours will take it
        options = {}
    return weights(str(path), "Google npz", translated, state, options=options)


def is_our_model(model: Any) -> bool:
    """Whether a config's `model` is our VisionTransformer."""
    return isinstance(model, Mapping) and model.get("_target_") == OURS


def complete(options: Mapping[str, Any]) -> dict[str, Any]:
    """All options of our VisionTransformer: those left out have its defaults."""
    parameters = inspect.signature(VisionTransformer).parameters
    return {name: options.get(name, p.default) for name, p in parameters.items()}


def options_in(model: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """All options of the VisionTransformer whose config the file at `path` has.

    Raises:
        ConfigError: no VisionTransformer can be built from them.
    """
    options = complete(model)
    try:
        with torch.device("meta"):
            VisionTransformer(**options)
    except Exception as error:  # whatever values that make no sense lead to
        said = " ".join(str(error).split())
        raise ConfigError(f"{path} has a config of no VisionTransformer in it: {said}") from error
    return options


def translate(state: Mapping[str, Tensor]) -> tuple[str, Translated]:
    """The format that the names are of, and the tensors under ours."""
    for name, module in FORMATS.items():
        if module.recognises(state):
            return name, module.to_vitfw(state)
    return "unknown", Translated(dict(state))


def of_folder(path: Path) -> Weights:
    """A folder with `config.json` and weights, as Hugging Face's libraries write it."""
    found = folder.read_folder(path)
    loaded = of_file(found.weights)
    loaded.source = str(path)
    loaded.mean, loaded.std = found.mean, found.std
    if "model_type" in found.config:
        loaded.options = options_in(folder.huggingface_options(found), path / "config.json")
    elif (model := folder.timm_model(found)) is not None and (name := peer_of(model)):
        loaded.options = complete(FORMATS[name].options_of(model))
    return loaded


def of_model(model: nn.Module, source: str) -> Weights:
    """The weights and options of a model object: ours, timm's, torchvision's, Hugging Face's.

    Another model keeps its own names.

    Raises:
        ConfigError: it is a Vision Transformer with a part that ours has not.
    """
    state = model.state_dict()
    with naming(source):
        check_tensors(state)
    mean, std = folder.pair_of(getattr(model, "pretrained_cfg", None), "mean", "std")
    if isinstance(model, VisionTransformer):
        return Weights(source, "vitfw", state, options=model.options, raw=state)
    name = peer_of(model)
    if name is None:
        return Weights(source, type(model).__name__, dict(state), mean=mean, std=std, raw=state)
    options = complete(FORMATS[name].options_of(model))
    translated = FORMATS[name].to_vitfw(state)
    return weights(source, name, translated, state, options=options, mean=mean, std=std)


def peer_of(model: nn.Module) -> str | None:
    """The format of a model object, None where vitfw has no map for it."""
    if isinstance(model, TimmVisionTransformer):
        return "timm"
    if isinstance(model, Eva):
        return "timm's Eva"
    if isinstance(model, TorchvisionVisionTransformer):
        return "torchvision"
    if type(model).__module__.startswith("transformers."):
        return "Hugging Face"
    return None


def to_vitfw(model: nn.Module) -> VisionTransformer:
    """Our VisionTransformer that computes what `model`, somebody else's, computes.

    Takes timm's VisionTransformer and Eva, torchvision's VisionTransformer, and Hugging Face's
    ViT, DeiT and DINOv2 models.

    Raises:
        ConfigError: it has a part that ours has not; the message says which.
    """
    if isinstance(model, VisionTransformer):
        return model
    if peer_of(model) is None:
        raise ConfigError(f"{type(model).__name__} is no Vision Transformer that vitfw knows")
    found = of_model(model, type(model).__name__)
    net = VisionTransformer(**found.options)
    net.load_state_dict(found.state)
    return net.to(next(iter(found.state.values())).dtype).train(model.training)


def of_hub(hub: str, name: str) -> Weights:
    found, source = FETCHERS[hub](name), f"{hub}:{name}"
    if isinstance(found, nn.Module):
        loaded = of_model(found, source)
    else:
        loaded = of_folder(found)
        loaded.source = source
    if hub == "torchvision":
        loaded.mean, loaded.std = IMAGENET
    return loaded
