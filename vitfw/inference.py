"""Using a checkpoint with nothing else at hand.

B batch, C channels, S image side, K classes.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitfw.building import build
from vitfw.checkpoint import Passport, is_ours, load_file, load_weights, read_passport
from vitfw.console import log
from vitfw.data.reading.image_file import read_fitted
from vitfw.data.reading.image_folder import SUFFIXES
from vitfw.data.transforms import normalise
from vitfw.errors import ConfigError
from vitfw.interop.fit import fit
from vitfw.interop.source import is_our_model, of_checkpoint, pretrained_by_masking, read_net
from vitfw.models.patch_embed import as_pair
from vitfw.token_limit import check_tokens
from vitfw.training.precision import AUTOCAST, best_precision, resolve_accelerator

PRECISIONS = {**AUTOCAST, "32-true": None, "32": None}
TRUE_HALF = {"bf16-true": "bf16-mixed", "16-true": "16-mixed"}  # matrices multiply alike


def load_net(
    checkpoint: Path, changes: Mapping[str, Any] | None = None, weights: str = "auto"
) -> tuple[nn.Module, Passport]:
    """The net of a checkpoint, in evaluation mode, and its passport.

    `changes` are options of the model to have other values than in training, those that are not
    None: `tome_r`, or `img_size` and `patch_size`, to which the weights are resampled. `weights`
    are the `average` ones, the `raw` ones, or those that were evaluated (`auto`). Low-rank
    adapters are folded into the weights.

    Raises:
        ConfigError: the checkpoint cannot be read, is not vitfw's, or does not fit its config.
    """
    content = load_file(checkpoint)
    passport, state, _ = read_net(content, checkpoint, weights)
    options = dict(passport.config["model"])
    if "pretrained" in options:
        options["pretrained"] = False  # the weights are in the checkpoint
    changed = {name: value for name, value in (changes or {}).items() if value is not None}
    if changed and not is_our_model(options):
        asked = " ".join(f"model.{name}={value}" for name, value in changed.items())
        raise ConfigError(f"only vitfw's VisionTransformer takes {asked}; leave it out")
    net: nn.Module = build({**options, **changed})
    check_tokens(net)
    if {"img_size", "patch_size"} & set(changed):
        for line in fit(net, of_checkpoint(content, checkpoint, weights)).lines():
            log.info(line)
        img_size = list(as_pair(changed.get("img_size", passport.img_size)))
        passport = dataclasses.replace(passport, img_size=img_size)
    else:
        load_weights(net, state, str(checkpoint))
    return net.eval(), passport


def load_classifier(
    checkpoint: Path, changes: Mapping[str, Any] | None = None, weights: str = "auto"
) -> tuple[nn.Module, Passport]:
    """`load_net`, for those who look at the logits.

    Raises:
        ConfigError: as there; or the head was never trained.
    """
    net, passport = load_net(checkpoint, changes, weights)
    refuse_untrained_head(passport, checkpoint)
    return net, passport


def refuse_untrained_head(passport: Passport, checkpoint: Path) -> None:
    """Raises ConfigError for a net that knows no classes."""
    if pretrained_by_masking(passport):
        raise ConfigError(
            f"{checkpoint} is of a masked autoencoder, which learns no classes. Train a classifier "
            f"from it: {classifier_command(str(checkpoint))} (ViT-B and larger: recipe=finetune); "
            "or measure its features by their nearest neighbours: "
            f"vitfw evaluate checkpoint={checkpoint} knn=20"
        )


def classifier_command(encoder: str) -> str:
    """What trains a classifier from a masked autoencoder's checkpoint, by the recipe measured for
    small ones; `recipe=finetune` is the paper's, for ViT-B and larger.
    """
    return f"vitfw train recipe=scratch_small model=THE_SAME data=YOURS init_from={encoder}"


def check_probed_pooling(init_from: str, model: Mapping[str, Any]) -> None:
    """Whether the pooling of `model` is trained, where only a head is put on `init_from`.

    Raises:
        ConfigError: a masked autoencoder's checkpoint, and a pooling that has weights.
    """
    path, pooling = Path(init_from).expanduser(), model.get("global_pool")
    if pooling not in ("map", "seq") or path.suffix != ".ckpt" or not path.is_file():
        return
    content = load_file(path)
    if is_ours(content) and pretrained_by_masking(read_passport(content, path)[0]):
        raise ConfigError(
            f"{path} is of a masked autoencoder, which does not train model.global_pool={pooling}; "
            "for a probe of the mean of its patches: model.global_pool=avg model.fc_norm=false"
        )


@dataclass(frozen=True)
class Prediction:
    """The `top_k` most probable classes of an image, the best first."""

    path: Path
    classes: list[str]
    probabilities: list[float]


class Predictor:
    """Image files to classes, prepared as the images that the checkpoint was evaluated on."""

    def __init__(
        self,
        checkpoint: Path,
        accelerator: str = "auto",
        precision: str = "auto",
        changes: Mapping[str, Any] | None = None,
        weights: str = "auto",
    ):
        net, self.passport = load_classifier(checkpoint, changes, weights)
        kind = resolve_accelerator(accelerator)
        self.device = torch.device(kind)
        self.net = net.to(self.device)
        if precision == "auto":
            trained_in = self.passport.config["trainer"]["precision"]
            precision = TRUE_HALF.get(trained_in, trained_in)
        self.precision = best_precision(kind) if precision == "auto" else str(precision)
        if self.precision not in PRECISIONS:
            raise ConfigError(
                f"precision={self.precision} is not one of: auto, {', '.join(PRECISIONS)}"
            )
        self.mean = torch.tensor(self.passport.mean, device=self.device)
        self.std = torch.tensor(self.passport.std, device=self.device)

    def read(self, path: Path) -> Tensor:
        """One file as [C, S, S] uint8.

        Raises:
            UnreadableImage: PIL cannot read it.
        """
        height, width = self.passport.img_size
        channels, crop_share = self.passport.channels, self.passport.crop_share
        return read_fitted(path, (height, width), channels, crop_share)

    @torch.inference_mode()
    def probabilities(self, images: Tensor) -> Tensor:
        """[B, C, S, S] uint8 → [B, K] float32 on the CPU."""
        images = normalise(images.to(self.device), self.mean, self.std)
        with self._autocast():
            logits = self.net(images)
        return logits.float().softmax(dim=1).cpu()

    def predict(
        self, batches: Iterable[list[tuple[Path, Tensor]]], top_k: int
    ) -> Iterator[Prediction]:
        """The classes of every image, in order; `top_k` is cut to the number of classes."""
        classes = self.passport.classes
        for batch in batches:
            images = torch.stack([image for _, image in batch])
            best = self.probabilities(images).topk(min(top_k, len(classes)), dim=1)
            for (path, _), values, labels in zip(
                batch, best.values.tolist(), best.indices.tolist(), strict=True
            ):
                yield Prediction(path, [classes[label] for label in labels], values)

    def _autocast(self):
        dtype = PRECISIONS[self.precision]
        return torch.autocast(self.device.type, dtype) if dtype else nullcontext()


def find_images(source: Path) -> list[Path]:
    """The file itself, or all files below a folder that are named like images, sorted.

    Raises:
        ConfigError: nothing is there, or no image.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise ConfigError(f"input={source}: there is no such file or folder")
    found = sorted(p for p in source.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        raise ConfigError(f"input={source} holds no images (looked for *.png, *.jpg, *.webp, …)")
    return found
