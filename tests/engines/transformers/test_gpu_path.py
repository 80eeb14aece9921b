"""The work of a GPU, on a machine without one: tensors that have a shape and a device, and no numbers.

torch's fake tensors say where a computation is on two devices at once, and where Python asks for a number that the GPU
would have to be waited for. Copies between the two, and what is alive at once, are looked at here.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import benchmark
import numpy as np
import pytest
import torch
from conftest import make_model
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel, masking_utils

from rsr_datasets.engines.base import BatchAccount
from rsr_datasets.engines.transformers import decoder, engine
from rsr_datasets.engines.transformers import reduction as kernels
from rsr_datasets.engines.transformers.engine import TransformersEngine
from rsr_datasets.reading.rows import EncodedRow

VOCABULARY = 50
GPU = torch.device("cuda", 0)
GIB = 2**30


class Event:
    """Stands for what says that the GPU has come to some place in its queue."""

    log: list[str]

    def record(self, stream: torch.device) -> None:
        assert stream == GPU
        self.log.append("queued")

    def synchronize(self) -> None:
        self.log.append("waited for")


class Current:
    """Stands for the choice of the current device."""

    chosen: ClassVar[list[torch.device]] = []

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def __enter__(self) -> None:
        self.chosen.append(self._device)

    def __exit__(self, *_: object) -> None:
        self.chosen.pop()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fake tensors, and what this build of torch lacks to have them on a GPU."""
    if torch.version.cuda is not None or torch.version.hip is not None:
        pytest.skip("this build of torch knows GPUs: its own guards would ask for the driver")
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).with_name("lib") / "libc10.so"))
        guards = (ctypes.c_void_p * 2).in_dll(library, "_ZN3c104impl26device_guard_impl_registryE")
    except (OSError, ValueError):
        pytest.skip("this build of torch keeps its guards of the current device elsewhere")
    Event.log = []
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: device)
    monkeypatch.setattr(torch.cuda, "device", Current)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(kernels, "_fused", lambda: kernel)
    # transformers takes fake tensors for a trace, in which it makes masks that it otherwise does without.
    monkeypatch.setattr(masking_utils, "is_tracing", lambda *_: False)
    zeros = lambda tensor: np.zeros(tensor.shape, dtype=np.float32)  # noqa: E731
    monkeypatch.setattr(FakeTensor, "numpy", zeros, raising=False)
    monkeypatch.setattr(engine, "check", lambda reader, *_: reader.vocab_size)  # it compares numbers, like "agrees"
    monkeypatch.setattr(decoder.Decoder, "agrees", lambda *_: True)
    before = guards[1]
    guards[1] = guards[0]  # the CPU's, which does nothing
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield
    guards[1] = before


def kernel(logits: torch.Tensor, targets: torch.Tensor, entropy: bool) -> tuple[torch.Tensor | None, ...]:
    """Stands for Triton's, which is compiled for a GPU that is there."""
    assert logits.device == targets.device == Current.chosen[-1] == GPU
    ranks, surprisals = (targets.new_empty(targets.shape, dtype=dtype) for dtype in (torch.int32, torch.float32))
    return ranks, surprisals, torch.empty_like(surprisals) if entropy else None


def on_the_gpu(model: PreTrainedModel, tokens_per_batch: int) -> TransformersEngine:
    """Puts fake tensors on the GPU in the place of a model's own; ``Module.to`` would keep those."""
    made: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                fake = torch.empty(weight.shape, dtype=weight.dtype, device=GPU)
                module._parameters[name] = made.setdefault(id(weight), torch.nn.Parameter(fake, requires_grad=False))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=GPU)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masking_utils, "find_packed_sequence_indices", lambda _: None)  # it waits, here once
        student = TransformersEngine(model, tokens_per_batch=tokens_per_batch)
    assert student.device == GPU and student.decoder.pack_size is not None
    return student


class Copies(TorchDispatchMode):
    """Notes the copies between devices, and whether Python waits for them."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[tuple[str, str]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            makes = function is torch.ops.aten._to_copy.default
            source = args[0].device if makes else args[1].device
            target = torch.device(kwargs.get("device") or source) if makes else args[0].device
            waits = not (kwargs.get("non_blocking") or (not makes and len(args) > 2 and args[2]))
            if source.type != target.type:
                self.noted.append((f"to {target.type}", "waits" if waits else "goes on"))
        return function(*args, **kwargs)


class Memory(TorchDispatchMode):
    """Adds up what is alive on the GPU.

    Attributes:
        now: Bytes.
        peak: The most that it was.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, torch.Tensor) and tensor.device == GPU:
                storage = tensor.untyped_storage()
                if storage._cdata not in self._known:
                    self._known.add(storage._cdata)
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return found

    def _forget(self, storage: int, size: int) -> None:
        self._known.discard(storage)
        self.now -= size


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2"])
def test_nothing_waits_for_the_gpu_but_results_whose_successors_are_queued(
    family: str, gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned: list[torch.Tensor] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: (pinned.append(tensor), tensor)[1])
    prompt = np.arange(40) % VOCABULARY
    alike = [EncodedRow(np.append(prompt, np.arange(n)), np.arange(40, 40 + n)) for n in (10, 20, 30)]
    others = [EncodedRow(np.arange(n)[::-1].copy(), np.arange(3, n)) for n in (8, 9, 20, 30)]
    turns, _ = benchmark.conversation_rows(VOCABULARY, 4, 20, 9, 5, 10)
    rows = [*alike, *others, *turns.sequences]
    student = on_the_gpu(make_model(family, VOCABULARY), 70)
    with Copies() as copies:
        found = student.score(rows, entropies=True)
        monkeypatch.setattr(kernels, "_fused", lambda: None)
        student.share_prefixes = False
        student.score(rows)
    assert [tokens.ranks.size for tokens in found] == [row.positions.size for row in rows]
    assert set(copies.noted) == {("to cuda", "goes on"), ("to cpu", "goes on")}
    assert len(pinned) == copies.noted.count(("to cuda", "goes on"))
    assert Event.log[:3] == ["queued", "queued", "waited for"] and Event.log[-1] == "waited for"
    assert Event.log.count("queued") == Event.log.count("waited for")


@pytest.mark.parametrize(("shape", "most"), [("qwen2.5-0.5b", 0.8), ("qwen2.5-7b", 3), ("llama-3.1-8b", 3)])
def test_a_row_of_32768_tokens_takes_at_most_3_gib_beside_the_weights(
    shape: str, most: float, gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that torch allocates; an attention kernel of a GPU writes nothing but its result.

    Feed-forward layers that see the whole row at once would take 1.1, 4.4 and 3.6 GiB.
    """
    monkeypatch.setattr(
        torch.nn.functional, "scaled_dot_product_attention", lambda query, *_, **__: torch.empty_like(query)
    )
    tokens = benchmark.MAX_LENGTH
    row = EncodedRow(np.zeros(tokens + 1, dtype=np.int64), np.arange(100, tokens + 1))
    with Memory() as memory:
        student = on_the_gpu(benchmark.random_model(shape, torch.bfloat16, torch.device("meta")), 16384)
        weights = memory.now
        student.score([row])
        assert memory.now == weights == 2 * sum(p.numel() for p in student.model.parameters()) + buffers(student)
    assert most / 2 * GIB < memory.peak - weights < most * GIB


def test_thirty_turns_take_at_most_twice_the_memory_of_one_reading(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one reading is longer than a batch; no mask is made, and keys are copied a part at a time."""
    monkeypatch.setattr(
        torch.nn.functional, "scaled_dot_product_attention", lambda query, *_, **__: torch.empty_like(query)
    )
    turns, whole = benchmark.conversation_rows(32_000)
    peaks = []
    for rows in ([whole], turns.sequences):
        with Memory() as memory:
            student = on_the_gpu(benchmark.random_model("qwen2.5-0.5b", torch.bfloat16, torch.device("meta")), 4096)
            batches: list[BatchAccount] = []
            weights = memory.now
            student.score(rows, on_batch=batches.append)
            peaks.append(memory.peak - weights)
    assert sum(batch.tokens for batch in batches) == turns.num_read
    assert peaks[0] < peaks[1] < 2 * peaks[0]


def buffers(student: TransformersEngine) -> int:
    return sum(buffer.numel() * buffer.element_size() for buffer in student.model.buffers())


@pytest.mark.parametrize("batches", [1, 2, 5])
def test_a_batch_is_queued_before_the_results_of_the_one_before_are_waited_for(
    batches: int,
) -> None:
    model = make_model("llama", VOCABULARY)
    student = TransformersEngine(model, tokens_per_batch=20)
    assert student.decoder.can_pack
    log: list[str] = []
    model.get_input_embeddings().register_forward_hook(lambda *_: log.append("queued"))
    rows = [EncodedRow(np.arange(20) + i, np.arange(1, 20)) for i in range(batches)]
    student.score(rows, on_batch=lambda batch: log.append("waited for"))
    assert log == ["queued"] + ["queued", "waited for"] * (batches - 1) + ["waited for"]
