"""The LightningModule that trains linear classifiers on the features of a frozen net.

B batch, C channels of a feature, H heads, K classes.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from vitfw.console import log
from vitfw.errors import ConfigError
from vitfw.training.adaptation import begins_random, parts_of, trainable_of
from vitfw.training.classifier import Evaluation, classification_metrics
from vitfw.training.freezing import head_of
from vitfw.training.head_grid import (
    GridEvaluation,
    grid_optimizer,
    names_of,
    settings_of,
    zero_linear,
)
from vitfw.training.learner import Batch, Learner
from vitfw.training.pooled_features import linear_layers

UNCLIPPED = "set trainer.gradient_clip_val=null trainer.gradient_clip_algorithm=norm"
REFUSED_CLIPPING = {
    "norm": "clips all heads of method=linear_probe together, which are to be trained as if each "
    f"were alone; {UNCLIPPED}",
    "agc": "leaves the last layer as it is, and method=linear_probe trains nothing else; "
    f"{UNCLIPPED}",
}
NO_AVERAGE = "method=linear_probe leaves the net as it is; it needs average=none"
ONE_HEAD = "give one head: method.lr_factors=[1.0] method.weight_decays=null"
PARTS = (  # of `augment`: no step by themselves
    "_target_",
    "crop_ratio",
    "erase_mode",
    "erase_ratio",
    "erase_scale",
    "mixing",
    "progressive",
    "repeats",
)


def check_config(cfg: dict[str, Any]) -> None:
    """Raises ConfigError for options that could do nothing, before any data are read."""
    if begins_random(cfg):
        raise ConfigError(
            "method=linear_probe trains on features of a net that stays as it is, and they would "
            "be those of random weights; give init_from=…"
        )
    if is_augmented(cfg["augment"]):
        raise ConfigError(
            "method=linear_probe computes the features of each image once, so that it cannot be "
            "augmented: augment=none, and method.views=2 for mirror images"
        )
    if cfg["lora"]["rank"] or cfg["freeze"] or cfg["train_only"]:
        raise ConfigError(
            "method=linear_probe trains the last layer and nothing else: leave out lora, freeze "
            "and train_only, or fine-tune: recipe=finetune"
        )
    if cfg["average"].get("_target_"):
        raise ConfigError(NO_AVERAGE)
    for key in ("lr_factors", "weight_decays"):
        if not isinstance(value := cfg["method"][key], list | None):
            raise ConfigError(f"method.{key}={value} is a list: method.{key}=[{value}]")
    heads = len(cfg["method"]["lr_factors"] or ()) * len(cfg["method"]["weight_decays"] or [None])
    check_trainer(cfg["trainer"], heads)


def is_augmented(augment: dict[str, Any]) -> bool:
    mixing, progressive = augment.get("mixing") or {}, augment.get("progressive") or {}
    steps = {key: value for key, value in augment.items() if key not in PARTS}
    changing = (*steps.values(), mixing.get("mixup"), mixing.get("cutmix"))
    return any(changing) or augment["repeats"] > 1 or bool(progressive.get("sizes"))


def check_features(net: nn.Module, anew: Iterable[str]) -> None:
    """Raises ConfigError for parameters drawn `anew`, into which no weights were loaded, other than
    the classifier's: they would stay random.
    """
    if random := trainable_of(net, set(anew) - head_of(net)):
        raise ConfigError(
            f"method=linear_probe trains the last layer alone, and no weights were loaded into "
            f"{', '.join(parts_of(random))}; take a model without, such as model.global_pool=avg, "
            "or recipe=finetune"
        )


def check_trainer(options: dict[str, Any], heads: int) -> None:
    """Raises ConfigError for clipping that does not suit, and for heads that nobody compares."""
    algorithm = options["gradient_clip_algorithm"]
    if options["gradient_clip_val"] and (refused := REFUSED_CLIPPING.get(algorithm)):
        typed = f"trainer.gradient_clip_val={options['gradient_clip_val']}"
        raise ConfigError(f"{typed} (gradient_clip_algorithm={algorithm}) {refused}")
    every, epochs = options.get("check_val_every_n_epoch"), options["max_epochs"]
    never = every is not None and epochs is not None and every > epochs
    if heads > 1 and (never or options["limit_val_batches"] == 0):
        typed = f"check_val_every_n_epoch={every}" if never else "limit_val_batches=0"
        raise ConfigError(
            f"method=linear_probe picks its head by validation, and trainer.{typed} leaves none; "
            f"leave it out, or {ONE_HEAD}"
        )


class LinearProbe(Learner):
    """Train many linear heads at once on features [B, C] of a frozen `net`; keep the best.

    There is a head for every one of `lr_factors`, times `optimizer.lr`, with every one of
    `weight_decays` (null: the optimizer's). All start at zero and none touches another: each
    becomes what it would alone. `batch_norm` normalises the features before (He et al. 2022).
    `views` = 2 trains on the features of mirror images, too.

    Every validation measures all heads. The best one is put into the net's own classifier, batch
    norm and all; one that is alone, after each step. What is saved under `net.` is an ordinary
    classifier, and the test runs that on images.

    Raises:
        ValueError: a net whose last layer is not linear, a grid without a head, what would couple
            the heads or has nothing to act on.

    Source: Oquab et al. 2023, "DINOv2", §7.1 and appendix: a grid of learning rates at once.
    """

    best: Tensor

    def __init__(
        self,
        net: nn.Module,
        num_classes: int,
        lr_factors: Sequence[float],
        loss: nn.Module | None = None,
        weight_decays: Sequence[float] | None = None,
        batch_norm: bool = False,
        views: int = 1,
        optimizer: Callable[..., Optimizer] | None = None,
        **training: Any,
    ):
        if views not in (1, 2):
            raise ValueError(f"method.views={views} is 1, or 2 with mirror images")
        if training.get("average") is not None:
            raise ValueError(NO_AVERAGE)
        if training.get("agc") is not None:
            raise ValueError(f"trainer.gradient_clip_algorithm=agc {REFUSED_CLIPPING['agc']}")
        settings = settings_of(lr_factors, weight_decays)
        make = None if optimizer is None else partial(grid_optimizer, optimizer, settings)
        super().__init__(net, optimizer=make, **training)
        self.settings = settings
        layers = linear_layers(net)
        width = sum(layer.in_features for layer in layers)
        self.net.requires_grad_(False).eval()
        self.num_classes = num_classes
        self.views = views
        self.loss = loss or nn.CrossEntropyLoss()
        self.norm = nn.BatchNorm1d(width, eps=1e-6, affine=False) if batch_norm else nn.Identity()
        self.heads = nn.ModuleList(zero_linear(width, num_classes) for _ in settings)
        self.register_buffer("best", torch.tensor([len(settings) // 2]))  # until it is known
        self.train_metrics = classification_metrics(num_classes, "train/")
        self.val = GridEvaluation(len(settings))
        self.test = Evaluation(num_classes, "test")

    @property
    def trained(self) -> nn.Module:
        return self.heads

    def train(self, mode: bool = True) -> "LinearProbe":
        super().train(mode)
        self.net.eval()
        return self

    def check_data(self, val_images: int) -> None:
        if len(self.settings) > 1 and val_images == 0:
            raise ConfigError(
                "method=linear_probe picks its head by validation images, and there are none; "
                f"set data.val_share=0.1, or {ONE_HEAD}"
            )

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if len(self.settings) == 1:  # needs no validation to be the best
            self.put_into_net()

    def logits(self, features: Tensor) -> Tensor:
        """Those of all heads, in full precision: [B, C] → [B, H, K]"""
        heads: Any = self.heads
        weight = torch.cat([head.weight for head in heads])  # [H K, C]
        bias = torch.cat([head.bias for head in heads])
        with torch.autocast(features.device.type, enabled=False):
            x = self.norm(features.to(weight.dtype))
            return F.linear(x, weight, bias).unflatten(1, (len(heads), -1))

    def loss_of(self, batch: Batch) -> Tensor:
        """The best head's loss by value, the sum of all heads' by gradient.

        A head whose logits are no longer finite has no gradient, rather than one that is not
        finite either: with 16-mixed that would keep every head from stepping.
        """
        features, targets = batch
        logits = self.logits(features)  # [B, H, K]
        finite = logits.isfinite().all(dim=2).all(dim=0)  # [H]
        logits = logits.where(finite[:, None], 0.0)
        losses = torch.stack([self.loss(each, targets) for each in logits.unbind(1)])  # [H]
        if not self.repeated:
            self.train_metrics.update(logits.detach()[:, self.best].squeeze(1), targets)
        shown = losses.detach().where(finite, torch.inf)[self.best].squeeze()
        return shown + (losses - losses.detach()).nan_to_num().sum()  # inf − inf of finite logits

    def training_metrics(self) -> dict[str, Tensor]:
        measured = self.train_metrics.compute()
        self.train_metrics.reset()
        return measured

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        features, labels = batch
        self.val.update(self.logits(features).float(), labels)

    def on_validation_epoch_end(self) -> None:
        loss, accuracy, top5 = self.val.compute()  # [H] each
        self.val.reset()
        self.choose(accuracy, loss)
        measured = {"loss": loss, "accuracy": accuracy, "accuracy_top5": top5}
        named = {f"val/{name}": values[self.best].squeeze() for name, values in measured.items()}
        grid = {f"val_grid/{name}": accuracy[i] for i, name in enumerate(self.names)}
        self.log_at_step({**named, **grid})

    def choose(self, accuracy: Tensor, loss: Tensor) -> None:
        """Put the most accurate head, of several the one of least loss, into the net."""
        most = accuracy == accuracy.max()
        self.best.copy_(loss.nan_to_num(torch.inf).where(most, torch.inf).argmin())
        self.put_into_net()

    def put_into_net(self) -> None:
        """The best head, as the net's own classifier."""
        weight, bias = self.folded_head(int(self.best))
        layers = linear_layers(self.net)
        parts = weight.split([layer.in_features for layer in layers], dim=1)
        with torch.no_grad():
            for layer, part in zip(layers, parts, strict=True):  # the net takes their mean
                layer.weight.copy_(part * len(layers))
                layer.bias.copy_(bias)

    def folded_head(self, index: int) -> tuple[Tensor, Tensor]:
        """Weight [K, C] and bias [K] for features as they come, before batch norm."""
        head: Any = self.heads[index]
        weight, bias = head.weight.detach(), head.bias.detach()
        if not isinstance(self.norm, nn.BatchNorm1d):
            return weight, bias
        mean: Any = self.norm.running_mean
        var: Any = self.norm.running_var
        weight = weight / (var + self.norm.eps).sqrt()
        return weight, bias - weight @ mean

    @cached_property
    def names(self) -> list[str]:
        """What each head is called in the log, by its learning rate."""
        if self.make_optimizer is None:
            return [f"head_{number}" for number in range(len(self.heads))]
        return names_of(self.make_optimizer(self.heads), self.settings, self.heads)

    def on_test_start(self) -> None:
        alone = len(self.settings) == 1
        if alone or self.make_optimizer is None or not self.trainer.is_global_zero:
            return
        best = int(self.best)
        log.info(f"the best of {len(self.heads)} heads is {self.names[best]}")
        factors = sorted({setting.lr_factor for setting in self.settings})
        if len(factors) > 1 and self.settings[best].lr_factor in (factors[0], factors[-1]):
            log.info("it is at the edge of the grid: a wider method.lr_factors may find a better")

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Images, not features: returns the logits [B, K] of the whole net."""
        images, labels = batch
        logits = self.net(images).float()
        self.test.update(logits, labels)
        return logits

    def on_test_epoch_end(self) -> None:
        self.log_at_step(self.test.take())
