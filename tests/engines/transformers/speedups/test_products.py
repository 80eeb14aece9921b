"""Float32 products by the library that is faster: the same numbers, and nothing else about the student changes."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FAMILIES, make_model
from oracle import assert_scored_the_same, plain_scores
from torch.utils._python_dispatch import TorchDispatchMode

from rsr_datasets.engines.transformers.engine import TransformersEngine
from rsr_datasets.engines.transformers.speedups import products
from rsr_datasets.engines.transformers.speedups.products import OneDnnLinear, onednn_is_faster, with_faster_products
from rsr_datasets.engines.transformers.speedups.side_by_side import side_by_side, usable_cores
from rsr_datasets.reading.rows import EncodedRow
from rsr_datasets.runs import estimate

VOCABULARY = 211
OF_ONEDNN = pytest.mark.parametrize("library", ["oneDNN"], indirect=True)


class OwnLinear(torch.nn.Linear):
    """A layer of a kind that only a model family knows."""


@OF_ONEDNN
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(64,), (0, 64), (1, 64), (7, 64), (2, 3, 64), (2, 0, 64), (2, 3, 5, 64)])
def test_a_layer_gives_what_torch_gives(shape: tuple[int, ...], bias: bool, library: str) -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(64, 10, bias=bias)
    faster = with_faster_products(layer)
    assert type(faster) is OneDnnLinear and type(layer) is torch.nn.Linear
    given = torch.randn(shape)
    apart = torch.stack([given, given], dim=-1)[..., 0]  # not contiguous
    with torch.no_grad():
        for some in (given, apart):
            found, exact = faster(some), layer.double()(some.double())
            layer.float()
            assert found.shape == exact.shape and found.dtype == torch.float32
            torch.testing.assert_close(found.double(), exact, rtol=0, atol=2e-6)


@OF_ONEDNN
def test_onednn_gets_rows_that_follow_each_other_in_memory(library: str) -> None:
    """oneDNN is very slow with others."""
    given = torch.randn(8, 16).t()
    strides: list[list[bool]] = []

    class Noted(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if "linear_pointwise" in str(function):
                strides.append([each.is_contiguous() for each in args[:2]])
            return function(*args, **(kwargs or {}))

    with Noted():
        products.float32_product(given, torch.randn(8, 4).t(), None)
    assert not given.is_contiguous() and strides == [[True, True]]


@OF_ONEDNN
def test_what_is_no_number_stays_in_its_row(library: str) -> None:
    given = torch.randn((3, 64), generator=torch.Generator().manual_seed(0))
    given[1, 5], given[2, 0] = torch.nan, torch.inf
    layer = torch.nn.Linear(64, 10)
    with torch.no_grad():
        found, expected = with_faster_products(layer)(given), layer(given)
    assert found[1].isnan().all() and found[2].isinf().all()
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6, equal_nan=True)


@OF_ONEDNN
def test_only_layers_that_are_merely_torchs_own_in_float32_are_changed(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooked, moved = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
    hooked.register_forward_pre_hook(lambda *_: None)
    moved.forward = moved.forward  # type: ignore[method-assign]  # as accelerate's hooks do
    plain = torch.nn.Linear(4, 4)
    others = [OwnLinear(4, 4), torch.nn.Linear(4, 4, dtype=torch.bfloat16), torch.nn.Linear(4, 4, device="meta")]
    others.append(torch.nn.Linear(4, 4))
    others[-1].weight = torch.nn.Parameter(others[-1].weight.detach().t())
    module = torch.nn.Sequential(plain, hooked, moved, *others)
    changed = with_faster_products(module)
    assert [type(part) is OneDnnLinear for part in changed] == [True] + [False] * 6
    assert [part.weight for part in changed] == [part.weight for part in module]  # the very same
    assert not any(isinstance(part, OneDnnLinear) for part in module)
    assert with_faster_products(module[3]) is module[3]
    monkeypatch.setattr(products, "_LEAST_WEIGHTS", 17)  # more than a layer has
    assert with_faster_products(module) is module


@pytest.mark.parametrize("family", FAMILIES)
def test_students_score_the_same_with_either_library(family: str, library: str) -> None:
    model = make_model(family, VOCABULARY, spread=0.15)
    kinds = [type(part) for part in model.modules()]
    student = TransformersEngine(model)
    faster = {type(part) for part in (*student.decoder.module.modules(), *student.head.module.modules())}
    assert (OneDnnLinear in faster) == (library == "oneDNN")
    generator = np.random.default_rng(0)
    rows = [EncodedRow(generator.integers(0, VOCABULARY, length), np.arange(3, length)) for length in (4, 60, 200)]
    for row, found in zip(rows, student.score(rows), strict=True):
        assert_scored_the_same(found.ranks, found.surprisals, plain_scores(model, row))
    assert [type(part) for part in model.modules()] == kinds


@OF_ONEDNN
@pytest.mark.parametrize("fault", ["other numbers", "an error"])
def test_layers_that_would_give_other_numbers_stay_as_they_are(
    fault: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def product(left: torch.Tensor, right: torch.Tensor, _: torch.Tensor | None) -> torch.Tensor:
        if fault == "an error":
            raise RuntimeError("could not create a primitive")
        return 1.5 * left @ right.t()

    model = make_model("llama", VOCABULARY)
    monkeypatch.setattr(products, "float32_product", product)
    student = TransformersEngine(model)
    row = EncodedRow(np.arange(60), np.arange(1, 60))
    found = student.score([row])[0]
    assert_scored_the_same(found.ranks, found.surprisals, plain_scores(model, row))


def test_a_dry_run_starts_a_probe_for_each_core(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    @contextlib.contextmanager
    def counting(device: torch.device, batches: int) -> Iterator[tuple[Any, int]]:
        with side_by_side(device, batches) as (start, at_once):
            yield lambda work: started.append(1) or start(work), at_once

    monkeypatch.setattr(estimate, "side_by_side", counting)
    monkeypatch.setattr(estimate, "_PROBE_SECONDS", 0.01)
    assert estimate._matrix_rate(torch.device("cpu"), torch.float32, batches=1000) > 0
    assert len(started) == usable_cores()


def test_a_dry_run_times_the_library_that_will_multiply(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    product = products.float32_product
    monkeypatch.setattr(products, "float32_product", lambda *given: asked.append(1) or product(*given))
    assert estimate._matrix_rate(torch.device("cpu"), torch.float32, batches=1) > 0
    assert (len(asked) > 1) == (library == "oneDNN")


@pytest.mark.parametrize(
    ("processor", "capability", "faster"),
    [
        ("vendor_id\t: AuthenticAMD", "AVX512", True),
        ("vendor_id\t: AuthenticAMD", "AVX2", False),
        ("vendor_id\t: GenuineIntel", "AVX512", False),
        (None, "AVX512", True),
    ],
)
def test_the_processor_decides(
    processor: str | None, capability: str, faster: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "cpuinfo"
    if processor is not None:
        info.write_text(processor, encoding="utf-8")
    monkeypatch.setattr(products, "_CPU_INFO", info)
    monkeypatch.setattr(platform, "processor", lambda: "AMD64 Family 26 Model 2, AuthenticAMD")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    assert onednn_is_faster.__wrapped__() == faster


def unknown(*_: object) -> torch.Tensor:
    raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_linear_pointwise'")


def wrong(left: torch.Tensor, right: torch.Tensor, _: torch.Tensor | None) -> torch.Tensor:
    return (left.bfloat16() @ right.bfloat16().t()).float()


@pytest.mark.parametrize("product", [unknown, wrong])
def test_a_torch_that_multiplies_otherwise_is_left_alone(
    product: Callable[..., torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "_CPU_INFO", tmp_path / "none")
    monkeypatch.setattr(platform, "processor", lambda: "AuthenticAMD")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(products, "float32_product", product)
    assert not onednn_is_faster.__wrapped__()
