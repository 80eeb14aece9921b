"""Batches side by side on a CPU, each on a thread of its own.

Many threads in one operation wait for each other at its end: where other programs keep one core busy, all cores wait.
"""

import contextlib
import math
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import torch

_MOST_WORKERS = 16  # each has a chunk of logits of its own
_LEAST_BATCHES = 2  # for each core: with fewer, cores would wait for the last batch
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_MEMORY = Path("/proc/meminfo")
_TORCH_THREADS = threading.Lock()  # torch has one number of threads for the whole process

T = TypeVar("T")
Start = Callable[[Callable[[], T]], Callable[[], T]]


def usable_cores() -> int:
    """Cores that torch may use, by its number of threads, the process's affinity, and the quota of its container."""
    cores = torch.get_num_threads()
    if hasattr(os, "sched_getaffinity"):
        cores = min(cores, len(os.sched_getaffinity(0)))
    with contextlib.suppress(OSError, ValueError):  # no quota reads "max"
        quota, period = map(int, _QUOTA.read_text().split())
        cores = min(cores, math.ceil(quota / period))
    return cores


def available_bytes() -> float:
    """Memory that can be had without swapping, in bytes; without end where the system does not say."""
    with contextlib.suppress(OSError, StopIteration):
        lines = _MEMORY.read_text().splitlines()
        return 1024 * float(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
    return math.inf


@contextlib.contextmanager
def side_by_side(device: torch.device, batches: int) -> Iterator[tuple[Start, int]]:
    """Gives a function that starts work and returns one that waits for the result, and how many to start ahead.

    Where a CPU has several batches for each of its cores, each batch is computed by one thread: its bits depend on
    nothing else. Fewer batches share all threads. On a GPU, a batch is queued while the one before it is computed.
    """
    if device.type != "cpu":
        yield _at_once, 2
        return
    cores = usable_cores()
    workers = min(cores, _MOST_WORKERS) if batches >= _LEAST_BATCHES * cores else 1
    with _TORCH_THREADS:
        before = torch.get_num_threads()
        try:
            if workers == 1:
                torch.set_num_threads(cores)
                yield _at_once, 2
            else:
                with ThreadPoolExecutor(workers, "batches", torch.set_num_threads, (cores // workers,)) as pool:
                    try:
                        yield lambda work: pool.submit(work).result, batches
                    finally:
                        pool.shutdown(cancel_futures=True)
        finally:
            torch.set_num_threads(before)


def _at_once(work: Callable[[], T]) -> Callable[[], T]:
    found = work()
    return lambda: found
