"""What `suite=fit` is asked for: checked, and chosen by the machine where it was left open."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import torch

from vitfw.benchmarks.fit_process import PEERS
from vitfw.benchmarks.fit_result import OURS
from vitfw.errors import ConfigError, nearest

VALIDATE_EVERY = {"cpu": 15.0, "cuda": 2.0}  # seconds of training
PEER_MINUTES = {"cpu": (15.0, 30.0, 60.0), "cuda": (1.0, 3.0, 10.0)}
NEEDED = {"huggingface": ("transformers", "accelerate")}


@dataclass(frozen=True)
class Request:
    """The options of `configs/benchmark.yaml`, section fit, which says what each means."""

    only: Sequence[str]
    experiments: Sequence[str]
    overrides: Sequence[str]
    seeds: Sequence[int]
    levels: Sequence[float]
    cap_minutes: float
    validate_every: float | None
    peer_minutes: Sequence[float] | None
    peer_epochs: Sequence[float] | None
    probe_seconds: float
    peer: dict[str, Any]

    def completed(self, device: torch.device) -> "Request":
        """With what is null chosen: `validate_every`, `peer_minutes`, the peers' workers.

        Raises:
            ConfigError: what cannot be measured.
        """
        if device.type not in VALIDATE_EVERY:
            raise ConfigError(
                f"suite=fit runs on cpu and cuda, not on {device.type}; accelerator=cpu"
            )
        self._check_contestants()
        every, minutes, workers = self.validate_every, self.peer_minutes, self.peer["workers"]
        if minutes is None:
            usual = PEER_MINUTES[device.type]
            minutes = [m for m in usual if m <= self.cap_minutes] or [self.cap_minutes]
        completed = replace(
            self,
            validate_every=float(VALIDATE_EVERY[device.type] if every is None else every),
            peer_minutes=minutes,
            peer={
                **self.peer,
                "workers": min(os.cpu_count() or 1, 8) if workers is None else workers,
            },
        )
        completed._check_numbers()
        return completed

    def _check_contestants(self) -> None:
        known = (OURS, *PEERS)
        for name in self.only:
            if name not in known:
                hint = nearest(name, known) or f"; known: {', '.join(known)}"
                raise ConfigError(f"fit.only: there is no contestant {name}{hint}")
            for package in NEEDED.get(name, ()):
                if find_spec(package) is None:
                    raise ConfigError(
                        f"fit.only: {name} needs {package}: pip install {package}, "
                        "or leave it out: fit.only=[vitfw,timm]"
                    )

    def _check_numbers(self) -> None:
        for key in ("only", "seeds", "levels"):
            if not getattr(self, key):
                raise ConfigError(f"fit.{key} must not be empty")
        if any(not 0 < level <= 1 for level in self.levels):
            raise ConfigError(f"fit.levels={list(self.levels)} are shares of 1, such as [0.85,0.9]")
        lengths = "peer_minutes" if self.peer_epochs is None else "peer_epochs"
        if not getattr(self, lengths):
            raise ConfigError(f"fit.{lengths} must not be empty: one length for each run of a peer")
        for key in ("cap_minutes", "validate_every", "probe_seconds", lengths):
            value = getattr(self, key)
            numbers = [value] if isinstance(value, int | float) else value or []
            if any(number <= 0 for number in numbers):
                raise ConfigError(f"fit.{key}={value} must be above 0")
        if self.peer["lr"] <= 0:
            raise ConfigError(f"fit.peer.lr={self.peer['lr']} must be above 0")
        if self.peer["weight_decay"] < 0:
            raise ConfigError("fit.peer.weight_decay must be at least 0")
        if not 0 <= self.peer["warmup_share"] < 1:
            raise ConfigError("fit.peer.warmup_share is a share of the steps, such as 0.1")
        if self.peer_epochs is None and max(self.peer_minutes or ()) > self.cap_minutes:
            raise ConfigError(
                f"fit.peer_minutes={list(self.peer_minutes or ())} are schedules longer than "
                f"fit.cap_minutes={self.cap_minutes}, which would not end; "
                f"fit.peer_minutes=[{self.cap_minutes}]"
            )

    @property
    def clock(self) -> dict[str, float]:
        """Seconds between validations, seconds of the cap, and the accuracy that ends a run."""
        return {
            "validate_every": float(self.validate_every or 0.0),
            "cap": 60.0 * self.cap_minutes,
            "stop_at": float(max(self.levels)),
        }

    @property
    def lengths(self) -> list[tuple[str, dict[str, Any]]]:
        """The name of each schedule that a peer is run with, and what an `Order` says of it."""
        if self.peer_epochs is not None:
            return [
                (f"{number:g} epochs", {"epochs": float(number), "schedule_seconds": None})
                for number in self.peer_epochs
            ]
        return [
            (f"{number:g} min", {"epochs": None, "schedule_seconds": 60.0 * number})
            for number in self.peer_minutes or ()
        ]

    def words(self, experiment: str | None, seed: int) -> list[str]:
        """What `vitfw train` is told."""
        first = [f"experiment={experiment}"] if experiment else []
        return [*first, *self.overrides, f"seed={seed}"]

    def asked_of(self, name: str) -> dict[str, Any]:
        """What decides the result of a contestant, beside what all of them share."""
        if name == OURS:
            return {
                "experiments": list(self.experiments),
                "overrides": list(self.overrides),
                "seeds": list(self.seeds),
            }
        return {
            "schedules": [schedule for schedule, _ in self.lengths],
            "probe_seconds": self.probe_seconds,
            "seed": self.seeds[0],
            "peer": self.peer,
        }
