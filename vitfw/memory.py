"""Keeping the memory of large activations instead of giving it back at every step."""

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def keep_freed_memory() -> bool:
    """Tell glibc's malloc to reuse large blocks; whether it agreed.

    By default it maps and unmaps each, and the kernel zeroes every page again at every step: a
    small ViT trains 1.1 to 1.2 times as fast on a CPU without that. Elsewhere nothing happens.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    settings = {_M_MMAP_THRESHOLD: 1 << 30, _M_TRIM_THRESHOLD: (1 << 31) - 1, _M_TOP_PAD: 1 << 26}
    agreed = [libc.mallopt(option, value) for option, value in settings.items()]
    return all(agreed)
