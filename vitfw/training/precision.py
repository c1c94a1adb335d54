"""Which number format to train in: what the hardware does fast."""

import torch


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
    return "16-mixed" if accelerator == "mps" else "32-true"


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware (AMX or AVX512-BF16)."""
    abilities = torch.cpu.get_capabilities()
    return bool(abilities.get("amx_bf16") or abilities.get("avx512_bf16"))


def resolve_accelerator(requested: str) -> str:
    """`auto` and `gpu` to what is there: `cuda`, `mps` or `cpu`; other names as they are."""
    if requested in ("auto", "gpu"):
        if torch.cuda.is_available():
            return "cuda"
        if torch.backends.mps.is_available():
            return "mps"
        return "cpu" if requested == "auto" else "gpu"
    return requested
