"""Settings of this process's memory allocator, for programs of which scoring is the whole purpose."""

import contextlib
import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_BLOCK, _MOST_KEPT = 1 << 25, 1 << 28


def keep_freed_memory() -> None:
    """Lets glibc keep 256 MiB of freed memory in this whole process: the commands call it, the library never does."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_BLOCK)
        libc.mallopt(_M_TRIM_THRESHOLD, _MOST_KEPT)
