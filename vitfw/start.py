"""How a run starts, in this order: its own last.ckpt, `resume=PATH`, `init_from`, from scratch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from vitfw.checkpoint import load_weights, passport_of
from vitfw.config import flatten
from vitfw.data.classification_data import ClassificationData
from vitfw.errors import ConfigError
from vitfw.interop.fit import initialise_from
from vitfw.interop.report import LoadReport
from vitfw.run_directory import RunDirectory
from vitfw.target import comes_from
from vitfw.training import linear_probe
from vitfw.training.adaptation import adapt

# A change of these makes it another optimisation: going on would be neither the old run nor a new.
DECISIVE = (
    *("model", "data", "augment", "optimizer", "scheduler", "loss", "method", "average", "seed"),
    *("freeze", "train_only", "lora", "lr_scaling", "lr_batch_size"),
)
DECISIVE_TRAINER = (
    "accumulate_grad_batches",
    "devices",
    "gradient_clip_algorithm",
    "gradient_clip_val",
    "limit_train_batches",
    "max_epochs",
    "max_steps",
    "num_nodes",
)
HARMLESS = (
    "data.root",
    "data.num_workers",
    "data.eval_batch_size",
    "data.download",
    "data.max_bad_share",
    "data.cache_dir",
    "data.cache_gb",
    "data.storage_options",
)


@dataclass(frozen=True)
class Start:
    """`checkpoint` is gone on from, with optimizer and all; `weights` only begin a new run."""

    checkpoint: Path | None = None
    weights: str | None = None

    @property
    def story(self) -> str:
        if self.checkpoint is not None:
            return f"going on from {self.checkpoint}"
        return f"starting from the weights of {self.weights}" if self.weights else "starting"

    def config(self) -> dict[str, Any] | None:
        """The config that the checkpoint was trained with."""
        return passport_of(self.checkpoint, "raw")[0].config if self.checkpoint else None

    def check(self, cfg: dict[str, Any], net: nn.Module, may_differ: tuple[str, ...] = ()) -> None:
        """Before anything is written: does the checkpoint fit the config and the net?

        Keys that begin with one of `may_differ` need not agree.

        Raises:
            ConfigError: it cannot be read, its config differs in what decides the optimisation,
                or its tensors are not the net's.
        """
        if self.checkpoint is None:
            return
        passport, weights = passport_of(self.checkpoint, "raw")
        changed = [
            text for text in differences(passport.config, cfg) if not text.startswith(may_differ)
        ]
        if changed:
            raise ConfigError(
                f"{self.checkpoint} was trained with another config: {'; '.join(changed)}. "
                f"Give the same one to go on, or start anew from its weights: resume=null "
                f"init_from={self.checkpoint}"
            )
        load_weights(net, weights, str(self.checkpoint))

    def initialise(
        self, net: nn.Module, mean: Sequence[float], std: Sequence[float], classes: Sequence[str]
    ) -> LoadReport | None:
        """Load the weights of `init_from`, if there are any; says what became of each tensor.

        `mean` and `std` are those that the images of this run are normalised with, `classes` what
        its labels are called.
        """
        if self.checkpoint is not None or self.weights is None:
            return None
        return initialise_from(net, self.weights, mean, std, classes)

    def begin(
        self, net: nn.Module, cfg: dict[str, Any], data: ClassificationData
    ) -> LoadReport | None:
        """`initialise`, then freeze what is not to be trained.

        Raises:
            ConfigError: as `initialise_from` and `adapt`; or a probe of parts that are random.
        """
        report = self.initialise(net, data.mean, data.std, data.classes)
        anew = report.remade if report else {}
        if comes_from(cfg["method"], linear_probe):
            linear_probe.check_features(net, anew)
        adapt(net, cfg["freeze"], cfg["train_only"], cfg["lora"], anew)
        return report


def find_start(directory: RunDirectory, resume: str | None, init_from: str | None) -> Start:
    """Which of the four ways it is.

    Raises:
        ConfigError: `resume` is a path where nothing is.
    """
    if resume == "auto":
        if directory.last_checkpoint.exists():
            return Start(checkpoint=directory.last_checkpoint)
        return Start(weights=init_from)
    if resume is None:
        return Start(weights=init_from)
    path = Path(resume).expanduser()
    if path.is_dir():
        path = RunDirectory(path).last_checkpoint
    if not path.is_file():
        raise ConfigError(f"resume={resume}: there is no checkpoint {path}; or resume=auto|null")
    return Start(checkpoint=path)


def differences(saved: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """`key: old → new` for every decisive key whose value changed."""
    before, after = decisive(saved), decisive(now)
    return [
        f"{key}: {before.get(key, 'absent')} → {after.get(key, 'absent')}"
        for key in sorted({*before, *after})
        if before.get(key) != after.get(key)
    ]


def decisive(cfg: dict[str, Any]) -> dict[str, Any]:
    flat = flatten({group: cfg[group] for group in DECISIVE if group in cfg})
    flat = {key: value for key, value in flat.items() if key not in HARMLESS}
    trainer = cfg.get("trainer", {})
    flat.update({f"trainer.{key}": trainer.get(key) for key in DECISIVE_TRAINER})
    return flat
