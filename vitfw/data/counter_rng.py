"""Random numbers as a function of what they are for, not of what was drawn before.

A sample's key is a hash of (seed, epoch, index); its k-th random number is a hash of
(key, k). So a sample is augmented the same way whatever batch, worker or process it falls
into, and after any restart. All on int64 tensors, on any device.

Source: the finaliser of SplitMix64, Steele, Lea and Flood 2014, "Fast splittable pseudorandom
number generators".
"""

import torch
from torch import Tensor


def _signed(value: int) -> int:
    """A 64-bit pattern as the signed integer that int64 tensors take."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


_WORD = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift: torch's own keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def _mix_int(x: int) -> int:
    """`_mix` of a 64-bit pattern, without tensors."""
    x &= _WORD
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & _WORD
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & _WORD
    return x ^ x >> 31


def sample_keys(seed: int, epoch: int, index: Tensor) -> Tensor:
    """One key a sample: [B] int64 → [B] int64. Nothing is copied to the index's device."""
    stream = _mix_int((_mix_int(seed * _GOLDEN) ^ epoch) + _GOLDEN)
    return _mix((index + 1) * _signed(_GOLDEN) + _signed(stream))


def uniform(keys: Tensor, draw: int) -> Tensor:
    """The `draw`-th uniform number of each key, in [0, 1): [B] int64 → [B] float32."""
    bits = _shift_right(_mix(keys + _signed((draw + 1) * _GOLDEN)), 40)  # the 24 highest bits
    return bits.to(torch.float32) * 2.0**-24


def uniform_of(key: int, draw: int) -> float:
    """`uniform` of one key, without tensors: a hundredth of the time."""
    return (_mix_int(key + (draw + 1) * _GOLDEN) >> 40) * 2.0**-24


def uniforms(keys: Tensor, draws: Tensor) -> Tensor:
    """`uniform` of many draws at once: int64 tensors that broadcast → float32."""
    return uniform(keys + draws * _signed(_GOLDEN), 0)


def uniform64(keys: Tensor, draw: int) -> Tensor:
    """As `uniform`, with all the 53 bits that a float64 holds: [B] int64 → [B] float64."""
    bits = _shift_right(_mix(keys + _signed((draw + 1) * _GOLDEN)), 11)
    return bits.to(torch.float64) * 2.0**-53


def randint(keys: Tensor, draw: int, high: int) -> Tensor:
    """The `draw`-th integer of each key, in [0, high): [B] int64 → [B] int64."""
    return (uniform(keys, draw) * high).long().clamp_(max=high - 1)


def permutation(seed: int, epoch: int, length: int) -> Tensor:
    """The order of an epoch: [length] int64, a function of (seed, epoch)."""
    return torch.argsort(sample_keys(seed, epoch, torch.arange(length)), stable=True)
