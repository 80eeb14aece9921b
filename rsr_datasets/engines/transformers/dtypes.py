"""Half precision on a CPU: slow where the processor lacks instructions for it, which a matrix product shows."""

import functools
import time
from pathlib import Path

import torch

from ...utils.files import remembered

_SLOWER = 1.2
_SHAPE = (64, 512)
_REPEATS = 4
_CPU_INFO = Path("/proc/cpuinfo")


def slowdown(dtype: torch.dtype | None) -> float | None:
    """Time of a matrix product in ``dtype`` over the time in float32 on this CPU; ``None`` if not much above 1.

    The first process on a kind of processor measures, and remembers the result for all: the dtype decides the scores.
    """
    if dtype is None or dtype not in (torch.bfloat16, torch.float16):
        return None
    lines = _CPU_INFO.read_text(encoding="utf-8").splitlines() if _CPU_INFO.exists() else []
    processor = sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    library = f"{torch.__version__} {torch.backends.cpu.get_cpu_capability()}"
    factor = float(remembered("slowdowns", f"{dtype} {library} {processor}", functools.partial(_measure, dtype)))
    return factor if factor > _SLOWER else None


def _measure(dtype: torch.dtype) -> str:
    return f"{_seconds(dtype) / _seconds(torch.float32):.1f}"


@torch.inference_mode()
def _seconds(dtype: torch.dtype) -> float:
    rows, width = _SHAPE
    given, weight = (torch.ones((count, width), dtype=dtype) for count in (rows, width))
    taken = []
    for _ in range(1 + _REPEATS):  # the first product also chooses its kernel
        started = time.perf_counter()
        torch.nn.functional.linear(given, weight)
        taken.append(time.perf_counter() - started)
    return min(taken[1:])
