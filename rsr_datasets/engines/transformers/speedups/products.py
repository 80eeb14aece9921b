"""Matrix products in float32 on AMD processors with AVX-512, by oneDNN; MKL uses AVX-512 on Intel processors only."""

import functools
import logging
import platform
from pathlib import Path

import torch

from ..packing import copied

logger = logging.getLogger(__name__)

_PROBE_SIZE = 64
# oneDNN is slower on small layers, which take little of a student's time.
_LEAST_WEIGHTS = 1 << 16
_CPU_INFO = Path("/proc/cpuinfo")


@functools.cache
def onednn_is_faster() -> bool:
    """Whether oneDNN is faster here than MKL, by the processor: all processes of a run must choose alike."""
    processor = _CPU_INFO.read_text(encoding="utf-8") if _CPU_INFO.exists() else platform.processor()
    wide = torch.backends.mkl.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"
    if not wide or "AuthenticAMD" not in processor:
        return False
    left, right = torch.randn((2, _PROBE_SIZE, _PROBE_SIZE), generator=torch.Generator().manual_seed(0))
    try:
        found, expected = float32_product(left, right, None), left @ right.t()
    except Exception as error:  # torch's inner operations may change from version to version
        logger.debug("float32 products are left to MKL: %s", error)
        return False
    return torch.allclose(found, expected, rtol=0, atol=4 * _PROBE_SIZE * torch.finfo(torch.float32).eps)


def float32_product(left: torch.Tensor, right: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """``left @ right.t() + bias`` in float32 on a CPU, by oneDNN; ``left`` has the shape ``(..., n, k)``."""
    # oneDNN is very slow where rows do not follow each other in memory.
    return torch.ops.mkldnn._linear_pointwise(left.contiguous(), right.contiguous(), bias, "none", [], "")


class OneDnnLinear(torch.nn.Linear):
    """A layer of torch, multiplied by oneDNN."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """See :class:`torch.nn.Linear`, which computes all inputs that are not in float32 on a CPU."""
        if input.dtype != torch.float32 or input.device.type != "cpu" or self.weight.device.type != "cpu":
            return super().forward(input)
        return float32_product(input, self.weight, self.bias)


def with_faster_products(module: torch.nn.Module, for_probe: bool = False) -> torch.nn.Module:
    """A copy whose large plain linear layers in float32 on a CPU (torch's own, no hook) are multiplied by oneDNN."""
    if not onednn_is_faster() or not any(_is_plain(part) for part in module.modules()):
        return module

    def faster(_: str, part: torch.nn.Module) -> torch.nn.Module:
        if _is_plain(part):
            part.__class__ = OneDnnLinear
        return part

    return faster("", copied(module, faster))


def _is_plain(part: torch.nn.Module) -> bool:
    """Whether a module is torch's linear layer in float32 on a CPU, without hooks."""
    if type(part) is not torch.nn.Linear or part._forward_hooks or part._forward_pre_hooks or "forward" in vars(part):
        return False
    weight = part.weight
    in_float32 = weight.dtype == torch.float32 and weight.device.type == "cpu" and weight.is_contiguous()
    return in_float32 and weight.numel() >= _LEAST_WEIGHTS and type(weight) is torch.nn.Parameter
