"""The kernel for GPUs against the plain one: in Triton's interpreter here, on a GPU where there is one."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rsr_datasets.engines.transformers import reduction as kernels

pytest.importorskip("triton", reason="Triton is not installed")
from rsr_datasets.engines.transformers import triton_reduction as triton_kernels

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def plain(logits: torch.Tensor, targets: torch.Tensor, entropy: bool) -> tuple[torch.Tensor, ...]:
    return kernels.rank_and_surprisal(logits.cpu().clone(), targets.cpu(), entropy)


def assert_as_plain(logits: torch.Tensor, targets: torch.Tensor, entropy: bool = True) -> None:
    before = logits.clone()
    ranks, surprisals, entropies = triton_kernels.rank_and_surprisal(logits, targets, entropy)
    assert torch.equal(logits.nan_to_num(), before.nan_to_num())
    expected_ranks, expected, expected_entropies = plain(logits, targets, entropy)
    assert ranks.dtype == torch.int32 and torch.equal(ranks.cpu(), expected_ranks)
    torch.testing.assert_close(surprisals.cpu(), expected, rtol=1e-6, atol=1e-6, equal_nan=True)
    assert (entropies is None) == (not entropy)
    if entropies is not None:
        torch.testing.assert_close(entropies.cpu(), expected_entropies, rtol=2e-6, atol=2e-6, equal_nan=True)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 5),
    st.sampled_from([1, 2, 3, 500, 4095, 4096, 4097, 9001]),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    st.sampled_from([0.01, 1.0, 30.0]),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_equals_the_plain_kernel(
    tokens: int, vocabulary: int, dtype: torch.dtype, scale: float, entropy: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(tokens, vocabulary, generator=generator) * scale).to(dtype).to(DEVICE)
    targets = torch.randint(0, vocabulary, (tokens,), generator=generator).to(DEVICE)
    assert_as_plain(logits, targets, entropy)


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("row", "target"),
    [
        *(([1.0, 1.0, 1.0, 2.0], 1), ([0.0, -INF, 0.0], 2), ([0.0, -INF], 1), ([40.0, 28.0], 0)),
        *(([NAN, 1.0], 1), ([1.0, NAN], 1), ([INF, 1.0], 1), ([INF, 1.0], 0), ([-INF, -INF], 0)),
        *(([-INF] * 4096 + [1.0, 2.0], 4096), ([3.0] + [-INF] * 5000, 0), ([1.0] * 4096 + [NAN], 0)),
        *(([5.0] * 5000 + [9.0], 7), ([-50_000.0, 0.0], 0), ([0.0] * 4096 + [60.0], 0)),
    ],
)
def test_ties_infinities_and_no_numbers(row: list[float], target: int) -> None:
    assert_as_plain(torch.tensor([row, row], device=DEVICE), torch.tensor([target, target], device=DEVICE))


def test_rows_that_lie_apart() -> None:
    wide = torch.randn(4, 10_000, device=DEVICE)
    assert_as_plain(wide[::2, :5001], torch.tensor([5, 5000], device=DEVICE))
    assert_as_plain(wide.T[:300], torch.tensor([1] * 300, device=DEVICE))


def test_the_kernel_compiles_for_a_gpu() -> None:
    """The interpreter accepts what Triton's compiler refuses; the compiler needs no GPU."""
    code = (
        "from triton.backends.compiler import GPUTarget\n"
        "from triton.compiler import ASTSource, compile\n"
        "from rsr_datasets.engines.transformers.triton_reduction import _reduce_row as kernel\n"
        "types = ['*{}', 'i64', '*i64', '*i32', '*fp32', '*fp32', 'i32', 'constexpr', 'constexpr']\n"
        "for kind in ('fp32', 'bf16', 'fp16'):\n"
        "    signature = dict(zip(kernel.arg_names, [each.format(kind) for each in types]))\n"
        "    source = ASTSource(kernel, signature, constexprs={'with_entropy': True, 'block': 4096})\n"
        "    assert 'ptx' in compile(source, target=GPUTarget('cuda', 90, 32)).asm\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"TRITON_INTERPRET": "0"}, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
