"""Settings of this process's memory allocator, for programs of which scoring is the whole purpose."""

import contextlib
import ctypes


def keep_freed_memory() -> None:
    """Lets glibc keep 256 MiB of freed memory in this whole process: the commands call it, the library never does."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 1 << 25)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 1 << 28)  # M_TRIM_THRESHOLD
