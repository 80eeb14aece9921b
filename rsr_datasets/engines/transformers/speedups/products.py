"""Matrix products in float32 on a CPU: of the two libraries that torch brings, by the faster one.

torch leaves these products to MKL, which has instructions of 512 bits only for Intel's processors. oneDNN, with which
torch multiplies in bfloat16, has them for all: on an AMD EPYC of the Zen 5 kind its float32 products are 2.2 times as
fast.
"""

from __future__ import annotations

import functools
import logging
import platform
from pathlib import Path

import torch
from torch import library

from ..decoders import copied

logger = logging.getLogger(__name__)

_PROBE_SIZE = 64
# Smaller layers take little of a student's time, and of short rows longer by oneDNN: 64 by 64 half as long again.
_LEAST_WEIGHTS = 1 << 16
_CPU_INFO = Path("/proc/cpuinfo")


@functools.cache
def onednn_is_faster() -> bool:
    """Whether oneDNN multiplies faster here than MKL, by the kind of processor.

    That is not measured: processes that share a run must all find the same, because scores differ in their last bits.
    """
    if not torch.backends.mkl.is_available() or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    if "AuthenticAMD" not in _processor():
        return False
    left, right = torch.randn((2, _PROBE_SIZE, _PROBE_SIZE), generator=torch.Generator().manual_seed(0))
    try:
        found, expected = float32_product(left, right, None), left @ right.t()
    except Exception as error:  # torch's inner operations may change from version to version
        logger.debug("float32 products are left to MKL: %s", error)
        return False
    tolerance = 4 * _PROBE_SIZE * torch.finfo(torch.float32).eps
    return torch.allclose(found, expected, rtol=0, atol=tolerance)


def _processor() -> str:
    """What the system says of its processor, the maker included."""
    return _CPU_INFO.read_text(encoding="utf-8") if _CPU_INFO.exists() else platform.processor()


# torch's compiler takes oneDNN's operation for what it has made itself, of weights in another layout.
@library.custom_op("rsr_datasets::float32_product", mutates_args=())
def float32_product(left: torch.Tensor, right: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """The product of a matrix, or several, with the transpose of another in float32 on a CPU, by oneDNN.

    Args:
        left: Shape ``(..., n, k)``.
        right: Shape ``(m, k)``.
        bias: Shape ``(m,)``, added to each row of the result.

    Returns:
        Shape ``(..., n, m)``.
    """
    # Where rows do not stand one after the other in memory, oneDNN takes a thousand times as long.
    return torch.ops.mkldnn._linear_pointwise(left.contiguous(), right.contiguous(), bias, "none", [], "")


@float32_product.register_fake
def _empty_product(left: torch.Tensor, right: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return left.new_empty((*left.shape[:-1], right.shape[0]))


class OneDnnLinear(torch.nn.Linear):
    """A layer of torch, multiplied by oneDNN."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """See :class:`torch.nn.Linear`; what is not in float32 on a CPU is left to it."""
        if input.dtype != torch.float32 or input.device.type != "cpu" or self.weight.device.type != "cpu":
            return super().forward(input)
        return float32_product(input, self.weight, self.bias)


def with_faster_products(module: torch.nn.Module) -> torch.nn.Module:
    """A module whose linear layers in float32 on a CPU are multiplied by the faster library; it shares the weights.

    Small layers, and those that are more than torch's own, by their class, their weight or a hook, stay as they are.

    Args:
        module: It is left as it is, and given back where nothing is to be changed.
    """
    if not onednn_is_faster() or not any(_is_plain(part) for part in module.modules()):
        return module

    def faster(_: str, part: torch.nn.Module) -> torch.nn.Module:
        if _is_plain(part):
            part.__class__ = OneDnnLinear
        return part

    return faster("", copied(module, faster))


def _is_plain(part: torch.nn.Module) -> bool:
    """Whether a module is torch's linear layer in float32 on a CPU, and nothing besides happens when it is called."""
    if type(part) is not torch.nn.Linear or part._forward_hooks or part._forward_pre_hooks or "forward" in vars(part):
        return False
    weight = part.weight
    in_float32 = weight.dtype == torch.float32 and weight.device.type == "cpu" and weight.is_contiguous()
    return in_float32 and weight.numel() >= _LEAST_WEIGHTS and type(weight) is torch.nn.Parameter
