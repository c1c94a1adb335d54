"""Which number format to train in: what the hardware does fast."""

import torch

from vitfw.errors import ConfigError

# Lightning's names of the formats in which weights stay float32, and what is computed in.
AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def best_precision(accelerator: str) -> str:
    """Lightning's name of the format: `bf16-mixed`, `16-mixed` (scales gradients) or `32-true`.

    bf16 on GPUs from Ampere on and on CPUs with AMX or AVX512-BF16; fp16 on older GPUs.
    `accelerator` is `cpu`, `cuda` or another of Lightning's resolved names.
    """
    if accelerator == "cuda":
        # Emulated bf16 on older GPUs is slower than fp16.
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16-mixed" if native else "16-mixed"
    if accelerator == "cpu":
        return "bf16-mixed" if cpu_has_bf16() else "32-true"
    return "32-true"


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware (AMX or AVX512-BF16)."""
    abilities = torch.cpu.get_capabilities()
    return bool(abilities.get("amx_bf16") or abilities.get("avx512_bf16"))


def resolve_accelerator(requested: str) -> str:
    """`auto` and `gpu` to what is there: `cuda`, `mps` or `cpu`.

    Raises:
        ConfigError: a GPU is asked for where there is none, or something that is neither.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    found = [name for name, is_there in there.items() if is_there]
    if requested == "cpu" or requested in found:
        return requested
    if requested == "auto":
        return [*found, "cpu"][0]
    if requested == "gpu" and found:
        return found[0]
    if requested in ("gpu", *there):
        raise ConfigError(
            f"accelerator={requested}: torch sees no GPU here; "
            "accelerator=cpu does without, auto takes what is there"
        )
    raise ConfigError(f"accelerator={requested} is not one of: auto, cpu, gpu, cuda, mps")
