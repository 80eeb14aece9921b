"""The student against the plain oracle: full logits, one row alone."""

from __future__ import annotations

import copy
import functools
import json
import math
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import transformers
from conftest import FAMILIES, ROOT, SIZES, make_model
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import assert_scored_the_same, plain_scores
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

import rsr_datasets.engines.transformers.student as student_module
from rsr_datasets.engines.transformers.batches import BatchAccount
from rsr_datasets.engines.transformers.packing import Branches
from rsr_datasets.engines.transformers.student import Student, StudentSpec, default_device
from rsr_datasets.reading.rows import EncodedRow

VOCABULARY = 211
# Weights under which rounding stays below 1e-5, whatever rows are drawn.
model_of = functools.cache(functools.partial(make_model, spread=0.15))


def row_of(length: int) -> EncodedRow:
    return EncodedRow(np.arange(length) * 7 % VOCABULARY, np.arange(1, length))


@st.composite
def encoded_rows(draw: st.DrawFn) -> list[EncodedRow]:
    rows = []
    for length in draw(st.lists(st.integers(2, 60), min_size=1, max_size=12)):
        seed = draw(st.integers(0, 2**31))
        generator = np.random.default_rng(seed)
        scored = np.flatnonzero(generator.random(length - 1) < 0.6) + 1
        positions = np.union1d(scored, [length - 1])
        rows.append(EncodedRow(generator.integers(0, VOCABULARY, length), positions))
    return rows


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=25, deadline=None)
@given(encoded_rows(), st.integers(1, 400), st.integers(1, 90), st.randoms())
def test_equals_the_plain_oracle_in_any_batch(
    family: str, rows: list[EncodedRow], tokens_per_batch: int, chunk_tokens: int, random: object
) -> None:
    model = model_of(family, VOCABULARY)
    random.shuffle(rows)
    student = Student(model, chunk_tokens=chunk_tokens)
    without, found = (student.score(rows, tokens_per_batch, entropy=asked) for asked in (False, True))
    for row, plain, (ranks, surprisals, entropies) in zip(rows, without, found, strict=True):
        expected = plain_scores(model, row)
        assert_scored_the_same(ranks, surprisals, expected)
        np.testing.assert_allclose(entropies, expected.entropies, rtol=0, atol=1e-5)
        assert np.array_equal(plain[0], ranks) and np.array_equal(plain[1], surprisals) and plain[2] is None


@pytest.mark.parametrize("family", ["gemma2", "granite", "cohere"])
def test_what_the_family_does_to_its_logits_matters_here(family: str) -> None:
    """The head checks above mean something: without the family's scaling the numbers would be others."""
    model = model_of(family, VOCABULARY)
    hidden = model.model(torch.arange(9)[None]).last_hidden_state
    assert not torch.allclose(model.lm_head(hidden), model(torch.arange(9)[None]).logits, atol=0.1)


@pytest.mark.parametrize(("dtype", "factor"), [(torch.float32, 1.01), (torch.bfloat16, 1.2)])
def test_a_head_that_disagrees_with_the_model_is_refused(dtype: torch.dtype, factor: float) -> None:
    class Shifted(transformers.LlamaForCausalLM):
        def forward(self, input_ids=None, inputs_embeds=None, **kwargs):
            output = super().forward(input_ids=input_ids, inputs_embeds=inputs_embeds, **kwargs)
            if input_ids is not None:
                output.logits = output.logits * factor
            return output

    torch.manual_seed(0)
    model = Shifted(transformers.LlamaConfig(**SIZES, vocab_size=VOCABULARY))
    model.load_state_dict(make_model("llama", VOCABULARY).state_dict())
    model.to(dtype)
    with pytest.raises(ValueError, match="disagrees with the model's own logits"):
        Student(model)


def test_a_model_that_sees_the_future_is_refused() -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    model = transformers.BertLMHeadModel(transformers.BertConfig(vocab_size=VOCABULARY, **sizes))
    with pytest.raises(ValueError, match="not causal"):
        Student(model)


def test_an_encoder_decoder_model_is_refused_by_name(tmp_path) -> None:
    transformers.T5Config(vocab_size=99).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="encoder-decoder"):
        StudentSpec(str(tmp_path)).load(torch.device("cpu"))


def test_float32_logits_break_the_ties_of_bfloat16() -> None:
    model = make_model("llama", 4000).to(torch.bfloat16)
    row = EncodedRow(np.arange(0, 4000, 100), np.arange(1, 40))
    (own, *_), (float32, surprisals, _) = (
        Student(model, logits_dtype=kind).score([row])[0] for kind in ("student", "float32")
    )
    hidden = model.model(torch.from_numpy(row.input_ids)[None]).last_hidden_state[0, :-1].float()
    logits = hidden @ model.lm_head.weight.float().T
    targets = torch.from_numpy(row.input_ids[1:])[:, None]
    assert float32.tolist() == (1 + (logits > logits.gather(1, targets)).sum(1)).tolist()
    np.testing.assert_allclose(surprisals, -logits.log_softmax(1).gather(1, targets)[:, 0].detach(), atol=1e-5)
    assert (own <= float32).mean() > 0.8 and (own < float32).any()


def test_the_model_is_not_changed_by_scoring(tokenizer) -> None:
    model: PreTrainedModel = make_model("gemma2", VOCABULARY)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modules = list(model._modules)
    Student(model, logits_dtype="float32").score([EncodedRow(np.arange(9), np.arange(1, 9))])
    assert list(model._modules) == modules
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_the_default_device_is_the_cpu_where_there_is_nothing_else() -> None:
    if torch.accelerator.is_available():
        assert default_device(rank=0).type == torch.accelerator.current_accelerator().type
    else:
        assert default_device() == default_device(rank=3) == torch.device("cpu")


MEMORY = """
import json, resource, sys, numpy as np, torch, transformers
from rsr_datasets.reading.rows import EncodedRow
from rsr_datasets.engines.transformers.student import Student
length, vocabulary = int(sys.argv[1]), 150_000
torch.manual_seed(0)
config = transformers.LlamaConfig(vocab_size=vocabulary, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=40_000, tie_word_embeddings=True)
student = Student(transformers.LlamaForCausalLM(config))
ids = np.random.default_rng(0).integers(0, vocabulary, length)
loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
ranks, surprisals, entropies = student.score([EncodedRow(ids, np.arange(1, length))], entropy=True)[0]
assert ranks.size == length - 1 and np.isfinite(surprisals).all() and np.isfinite(entropies).all()
print(json.dumps([loaded, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))
"""


def peak_memory(length: int) -> tuple[int, int]:
    """Peak resident memory after loading and after scoring one row, in KiB, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(length)], cwd=ROOT, capture_output=True, text=True, timeout=600, check=True
    )
    loaded, peak = json.loads(done.stdout.splitlines()[-1])
    return loaded, peak


@pytest.mark.slow
def test_memory_does_not_grow_with_length_times_vocabulary() -> None:
    loaded, peak = peak_memory(8_000)
    assert peak - loaded < 512 * 1024
    loaded_for_long_row, peak_of_long_row = peak_memory(32_000)
    # How much of its libraries a process has resident when it has loaded differs by tens of megabytes.
    assert peak_of_long_row - loaded_for_long_row < peak - loaded + 0.1 * peak


PLAIN_HEADS = {"llama", "qwen2", "gpt2", "gemma3"}
PACKING_FAMILIES = {"llama", "qwen2", "gpt2", "granite", "cohere"}
LARGE = 10_000


def with_shared_prompts(draw: st.DrawFn) -> list[EncodedRow]:
    """Rows of which some begin with the same prompt, and all alike, and are scored from its end on."""
    rows = []
    system = np.arange(draw(st.sampled_from([0, 10, 20, 50]))) % VOCABULARY
    for _ in range(draw(st.integers(1, 4))):
        seed, candidates = draw(st.integers(0, 2**31)), draw(st.integers(1, 4))
        generator = np.random.default_rng(seed)
        prompt = np.concatenate([system, generator.integers(0, VOCABULARY, draw(st.integers(2, 40)))])
        for _ in range(candidates):
            response = generator.integers(0, VOCABULARY, draw(st.integers(1, 30)))
            ids = np.concatenate([prompt, response])
            rows.append(EncodedRow(ids, np.arange(prompt.size, ids.size)))
    return rows


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=25, deadline=None)
@given(st.composite(with_shared_prompts)(), st.integers(1, 200) | st.just(LARGE), st.booleans(), st.randoms())
def test_a_shared_prompt_is_read_once_and_the_scores_are_the_same(
    family: str, rows: list[EncodedRow], tokens_per_batch: int, by_row: bool, random: object
) -> None:
    model = model_of(family, VOCABULARY)
    random.shuffle(rows)
    student = Student(model)
    student._attends_by_row = by_row
    batches: list[BatchAccount] = []
    scored = student.score(rows, tokens_per_batch, batches.append, share_prompts=True)
    for row, (ranks, surprisals, _) in zip(rows, scored, strict=True):
        assert_scored_the_same(ranks, surprisals, plain_scores(model, row))
    read = sum(batch.tokens for batch in batches)
    once = len({tuple(row.input_ids[:end]) for row in rows for end in range(1, row.input_ids.size)})
    whole = sum(row.input_ids.size - 1 for row in rows)
    assert once <= read <= whole
    assert student.can_pack == (family in PACKING_FAMILIES)
    if not student.can_pack:
        assert read == whole
    elif by_row and tokens_per_batch == LARGE:
        assert read - once < 0.05 * whole  # what is too short to be shared
    alone = student.score(rows, tokens_per_batch, batches.append)
    assert sum(batch.tokens for batch in batches) == read + whole
    for row, (ranks, surprisals, _) in zip(rows, alone, strict=True):
        assert_scored_the_same(ranks, surprisals, plain_scores(model, row))


@pytest.mark.parametrize("library", ["MKL"], indirect=True)
@pytest.mark.parametrize("family", FAMILIES)
def test_only_a_head_that_is_one_product_is_computed_as_one(family: str, library: str) -> None:
    """What soft-caps or scales its logits goes through the model, also where they are too small to show it."""
    assert (Student(model_of(family, VOCABULARY))._plain_head is not None) == (family in PLAIN_HEADS)
    small = make_model(family, VOCABULARY)
    with torch.no_grad():
        small.get_output_embeddings().weight.mul_(1e-3)
    assert (Student(small)._plain_head is not None) == (family in PLAIN_HEADS)


def test_threads_that_score_with_one_student_do_not_disturb_each_other(library: str) -> None:
    student = Student(make_model("llama", 20_000), chunk_tokens=64)
    rows = [row_of(length) for length in range(40, 80)]
    expected = [student.score([row])[0] for row in rows]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda row: student.score([row])[0], rows))
    for (ranks, surprisals, _), (expected_ranks, expected_surprisals, _) in zip(found, expected, strict=True):
        assert ranks.tolist() == expected_ranks.tolist()
        np.testing.assert_allclose(surprisals, expected_surprisals, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_compiled_layers_give_the_same_scores_and_leave_the_model_as_it_was(family: str, library: str) -> None:
    model = make_model(family, VOCABULARY)
    modules = list(model.modules())
    student = Student(model)
    rows = [row_of(length) for length in (90, 41, 40, 39, 12, 5, 2)]
    counters = torch._dynamo.utils.counters["stats"]
    calls, breaks = counters["unique_graphs"], dict(torch._dynamo.utils.counters["graph_break"])
    for tokens_per_batch in (50, 200):  # a row alone, and several
        for row, (ranks, surprisals, _) in zip(
            rows, student.score(rows, tokens_per_batch, torch_compile=True), strict=True
        ):
            assert_scored_the_same(ranks, surprisals, plain_scores(model, row))
        assert student.can_compile and counters["unique_graphs"] > calls
    compiled = counters["unique_graphs"]
    student.score([row_of(length) for length in (77, 60, 33, 31)], 150, torch_compile=True)
    assert counters["unique_graphs"] == compiled  # other lengths need no other code
    assert dict(torch._dynamo.utils.counters["graph_break"]) == breaks  # a layer is compiled in one piece
    assert list(model.modules()) == modules and not any(module._compiled_call_impl for module in modules)


@pytest.mark.parametrize("fault", [None, 1.0])
def test_a_student_that_cannot_be_compiled_is_read_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: float | None
) -> None:
    shapes = []

    def compile_regions(decoder: torch.nn.Module, **_: object) -> Callable[..., ModelOutput]:
        def run(**inputs: torch.Tensor) -> ModelOutput:
            shapes.append(tuple(inputs["input_ids"].shape))
            if fault is None:
                raise RuntimeError("no compiler\nhere")
            output = decoder(**inputs)
            output.last_hidden_state += fault
            return output

        return run

    monkeypatch.setattr(student_module, "compile_regions", compile_regions)
    student = Student(model_of("llama", VOCABULARY))
    rows = [row_of(length) for length in (20, 30)]
    for (ranks, surprisals, _), expected in zip(
        student.score(rows, torch_compile=True), student.score(rows), strict=True
    ):
        assert ranks.tolist() == expected[0].tolist() and surprisals.tolist() == expected[1].tolist()
    student.score(rows, torch_compile=True)
    reason = "no compiler here" if fault is None else "its hidden states would differ"
    said = [record.getMessage() for record in caplog.records if "torch_compile" in record.getMessage()]
    assert said == [f"student 'student' is read without torch_compile: {reason}"]
    assert shapes[:2] == ([(1, 512)] if fault is None else [(1, 512), (1, 1024)])  # a usual size, whatever is scored


def test_compiled_layers_that_fail_on_some_rows_are_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lengths = []

    def compile_regions(decoder: torch.nn.Module, **_: object) -> Callable[..., ModelOutput]:
        def run(**inputs: torch.Tensor) -> ModelOutput:
            lengths.append(inputs["input_ids"].shape[1])
            if lengths[-1] == 29:
                raise RuntimeError("no such shape")
            return decoder(**inputs)

        return run

    monkeypatch.setattr(student_module, "compile_regions", compile_regions)
    student = Student(model_of("llama", VOCABULARY))
    rows = [row_of(length) for length in (40, 30, 20)]
    found = student.score(rows, 10, torch_compile=True)
    assert lengths[-2:] == [39, 29]  # the row of 20 is read without
    for (ranks, surprisals, _), expected in zip(found, student.score(rows, 10), strict=True):
        assert ranks.tolist() == expected[0].tolist() and surprisals.tolist() == expected[1].tolist()
    said = [record.getMessage() for record in caplog.records if "torch_compile" in record.getMessage()]
    assert said == ["student 'student' is read without torch_compile: no such shape"]


def test_compiling_pays_in_long_runs_alone(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    monkeypatch.setenv("CXX", sys.executable)  # a program that is there
    model = model_of("llama", VOCABULARY)
    student = Student(model)
    operations = 2 * sum(parameter.numel() for parameter in model.parameters())
    enough = math.ceil((3e14 if library == "MKL" else 3e15) / operations)
    assert student.compiling_pays(enough) and not student.compiling_pays(enough - 1)
    half = Student(copy.deepcopy(model).bfloat16())
    assert half.compiling_pays(enough) and not half.compiling_pays(enough - 1)
    assert not Student(model_of("gemma3", VOCABULARY)).compiling_pays(enough)  # read padded, which was not measured
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert not student.compiling_pays(enough)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps memory in another way")
def test_memory_that_layers_free_is_there_for_the_next() -> None:
    Student(model_of("llama", VOCABULARY))

    def use_and_free() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        blocks = [torch.ones(1 << 21) for _ in range(16)]
        del blocks
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    pages = 16 * (4 << 21) // resource.getpagesize()
    use_and_free()
    assert use_and_free() < pages / 10


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=25, deadline=None)
@given(st.data())
def test_a_row_with_branches_is_read_once_and_the_surprisals_are_the_same(family: str, data: st.DataObject) -> None:
    model = model_of(family, VOCABULARY)
    read = []

    def ids(least: int, most: int) -> np.ndarray:
        return np.array(data.draw(st.lists(st.integers(0, VOCABULARY - 1), min_size=least, max_size=most)))

    student = Student(model)
    rows = []
    for _ in range(data.draw(st.integers(1, 3))):
        row, continuation = ids(1, 40), ids(1, 8)
        ends = sorted(data.draw(st.sets(st.integers(1, row.size), min_size=1, max_size=5)))
        rows.append(Branches(row, ends, continuation, data.draw(st.integers(1, continuation.size))))
    handle = model.get_input_embeddings().register_forward_hook(lambda _, args, __: read.append(args[0].numel()))
    try:
        assert student.can_pack == (family in PACKING_FAMILIES)
        read.clear()
        found = student.score_branches(rows)
    finally:
        handle.remove()
    for branches, surprisals in zip(rows, found, strict=True):
        expected = [plain_scores(model, row).surprisals for row in branches.rows()]
        np.testing.assert_allclose(surprisals, np.stack(expected), rtol=0, atol=1e-5)
    if student.can_pack:
        whole = [[tuple(row.input_ids[:-1]) for row in branches.rows()] for branches in rows]
        assert sum(read) == sum(len({ids[:end] for ids in some for end in range(1, len(ids) + 1)}) for some in whole)


def test_branches_that_do_not_fit_into_memory_are_read_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    student = Student(make_model("llama", VOCABULARY))
    branches = [Branches(np.arange(30), [3, 20, 30], np.array([1, 2, 3]), 2)]
    together = student.score_branches(branches)
    read, sizes = student._read_packed, []

    def small_device(rows: list[EncodedRow], *how: object) -> object:
        sizes.append(len(rows))
        if len(rows) > 1:
            raise torch.OutOfMemoryError("full")
        return read(rows, *how)

    monkeypatch.setattr(student, "_read_packed", small_device)
    np.testing.assert_allclose(student.score_branches(branches), together, rtol=0, atol=1e-5)
    assert sizes[0] == 3 and sizes.count(1) == 3


@pytest.mark.parametrize(
    ("free", "a_token", "expected"),
    [(2**40, 2**17, 16384), (2**31, 2**17, 8192), (2**20, 2**17, 512), (2**31, 0, 16384)],
)
def test_a_gpus_batches_fit_into_half_of_its_free_memory(
    free: int, a_token: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = Student(make_model("llama", VOCABULARY))
    assert student.tokens_per_batch == 2048  # on the CPU
    monkeypatch.setattr(Student, "device", torch.device("cuda", 0))
    monkeypatch.setattr(student, "_memory_of_pass", lambda length: (free, a_token * length))
    del student.__dict__["tokens_per_batch"]
    assert student.tokens_per_batch == expected

    def full(length: int) -> tuple[int, int]:
        raise torch.OutOfMemoryError(f"no room for {length} tokens")

    monkeypatch.setattr(student, "_memory_of_pass", full)
    del student.__dict__["tokens_per_batch"]
    assert student.tokens_per_batch == 512


def test_weights_that_are_not_there_are_not_made_up(tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    make_model("llama", VOCABULARY).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"lack weights, .*: model.layers.1.mlp.up_proj.weight"):
        StudentSpec(str(tmp_path)).load(torch.device("cpu"))
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="AutoModelForCausalLM cannot load"):
        StudentSpec(str(tmp_path)).load(torch.device("cpu"))


def test_a_batch_that_does_not_fit_is_redone_in_halves(tokenizer) -> None:
    model = make_model("llama", 400)
    rows = [row_of(length) for length in (9, 30, 12, 30, 5)]
    expected = Student(model).score(rows)
    device_memory = 70

    def forward(module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        if kwargs["input_ids"].numel() > device_memory:
            raise torch.OutOfMemoryError("a small device")

    limited = Student(model)
    model.model.register_forward_pre_hook(forward, with_kwargs=True)
    batches: list[BatchAccount] = []
    found = limited.score(rows, tokens_per_batch=1000, on_batch=batches.append)
    for (ranks, surprisals, _), (expected_ranks, expected_surprisals, _) in zip(found, expected, strict=True):
        assert ranks.tolist() == expected_ranks.tolist()
        np.testing.assert_allclose(surprisals, expected_surprisals, atol=1e-5)
    assert all(batch.split and batch.padded_tokens <= device_memory for batch in batches) and len(batches) > 1
    assert sum(batch.tokens for batch in batches) == sum(row.input_ids.size - 1 for row in rows)
    prompts = [np.arange(30) * 3 % VOCABULARY, np.arange(30) * 5 % VOCABULARY]
    shared = [EncodedRow(np.append(prompt, [7, i]), np.array([31])) for prompt in prompts for i in range(3)]
    device_memory = 40  # for one row, and not for the prompts of both groups
    found = limited.score(shared, tokens_per_batch=1000, share_prompts=True)
    expected = Student(make_model("llama", 400)).score(shared)
    np.testing.assert_allclose([row[1] for row in found], [row[1] for row in expected], atol=1e-5)
    device_memory = 20
    with pytest.raises(torch.OutOfMemoryError):
        limited.score(rows)


@pytest.mark.parametrize("by_row", [True, False])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "qwen2"])
def test_long_rows_go_through_the_feed_forward_layers_in_parts(
    family: str, by_row: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(family, VOCABULARY)
    student = Student(model)
    student._attends_by_row = by_row
    rows = [row_of(length) for length in (9, 20, 47)]
    before = list(model.modules())
    fed: list[int] = []
    for name, module in model.named_modules():
        if name.endswith(".mlp"):
            module.register_forward_hook(lambda _, args, __: fed.append(args[0].shape[-2]))
    whole = student.score(rows, tokens_per_batch=50)
    assert max(fed) >= 46
    monkeypatch.setattr("rsr_datasets.engines.transformers.student._MOST_FED_AT_ONCE", 20)
    assert student.can_part
    fed.clear()
    found = student.score(rows, tokens_per_batch=50)
    assert max(fed) == 20 and min(fed) < 20
    for row, (ranks, surprisals, _), expected in zip(rows, found, whole, strict=True):
        np.testing.assert_allclose(surprisals, expected[1], rtol=0, atol=1e-5)
        assert_scored_the_same(ranks, surprisals, plain_scores(model, row))
    assert list(model.modules()) == before
