"""Which number format and device are chosen, on hardware that is made believe."""

import pytest
import torch

from vitfw.assemble import resolve_trainer
from vitfw.config import compose, to_plain
from vitfw.errors import ConfigError
from vitfw.training.precision import best_precision, resolve_accelerator

TRAINER = to_plain(compose("train", []))["trainer"]


@pytest.fixture
def machine(monkeypatch):
    """Make torch report a machine: `machine(cuda=…, mps=…, bf16_gpu=…, cpu={…})`."""

    def pretend(cuda=False, mps=False, bf16_gpu=False, cpu=None):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setattr(
            torch.cuda,
            "is_bf16_supported",
            # Torch says yes on older GPUs, too, where it emulates the format.
            lambda including_emulation=True: bf16_gpu or including_emulation,
        )
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: cpu or {})

    return pretend


@pytest.mark.parametrize(
    "cpu, expected",
    [
        ({"amx_bf16": True, "avx512_bf16": True}, "bf16-mixed"),
        ({"amx_bf16": True}, "bf16-mixed"),
        ({"avx512_bf16": True}, "bf16-mixed"),
        ({"avx512_f": True, "avx2": True, "amx_bf16": False}, "32-true"),
        ({}, "32-true"),
    ],
)
def test_a_cpu_trains_in_bf16_only_where_it_multiplies_it_in_hardware(machine, cpu, expected):
    machine(cpu=cpu)
    assert best_precision("cpu") == expected


def test_a_gpu_with_bf16_trains_in_it_and_an_older_one_in_fp16(machine):
    machine(cuda=True, bf16_gpu=True)
    assert best_precision("cuda") == "bf16-mixed"
    machine(cuda=True, bf16_gpu=False)
    assert best_precision("cuda") == "16-mixed"


def test_other_devices_train_in_fp32():
    assert best_precision("mps") == "32-true"


def test_auto_takes_the_best_device_that_is_there(machine):
    machine(cuda=True, mps=True)
    assert resolve_accelerator("auto") == resolve_accelerator("gpu") == "cuda"
    machine(mps=True)
    assert resolve_accelerator("auto") == resolve_accelerator("gpu") == "mps"
    machine()
    assert resolve_accelerator("auto") == "cpu"
    assert resolve_accelerator("cpu") == "cpu"


def test_the_trainer_is_told_what_auto_came_to(machine):
    machine(cuda=True, bf16_gpu=True)
    resolved = resolve_trainer(TRAINER)
    assert (resolved["accelerator"], resolved["precision"]) == ("cuda", "bf16-mixed")
    machine(cpu={"avx2": True})
    resolved = resolve_trainer(TRAINER)
    assert (resolved["accelerator"], resolved["precision"]) == ("cpu", "32-true")
    assert TRAINER["accelerator"] == "auto"  # what was passed is left as it was


def test_a_precision_that_was_asked_for_is_kept(machine):
    machine(cpu={"amx_bf16": True})
    assert resolve_trainer({**TRAINER, "precision": "32-true"})["precision"] == "32-true"


@pytest.mark.parametrize("asked", ["gpu", "cuda"])
def test_a_gpu_that_is_not_there_is_refused_with_what_would_work(machine, asked):
    machine()
    with pytest.raises(
        ConfigError, match=f"accelerator={asked}: torch sees no GPU.*accelerator=cpu"
    ):
        resolve_trainer({**TRAINER, "accelerator": asked})
