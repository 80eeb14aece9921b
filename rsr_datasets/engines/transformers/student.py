"""The student: who it is, how it is loaded, and token ids to ranks and surprisals."""

from __future__ import annotations

import bisect
import contextlib
import copy
import ctypes
import json
import logging
import os
import pickle
import shutil
import sys
import tempfile
import textwrap
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import huggingface_hub
import numpy as np
import numpy.typing as npt
import torch
import transformers
import xxhash
from accelerate.utils import compile_regions
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import ModelOutput, cached_file, is_peft_available
from transformers.utils.peft_utils import find_adapter_config_file

from ...reading.rows import EncodedRow
from ...utils.files import hash_file, hash_text
from .batches import BatchAccount, pad_right, plan_batches, to_device
from .decoders import in_parts
from .packing import Branches, Pack, attends_by_products, packed_decoder, plan_packs, read_pack, sharing_runs
from .reduction import rank_and_surprisal
from .speedups.products import onednn_is_faster, with_faster_products

logger = logging.getLogger(__name__)

LogitsDtype = Literal["student", "float32"]
TokenArrays = tuple[npt.NDArray[np.int32], npt.NDArray[np.float32], npt.NDArray[np.float32] | None]
"""Ranks, surprisals and entropies, the last where they were asked for, one value a scored token."""

_MODEL_FILE_SUFFIXES = {".json", ".jinja", ".model", ".txt", ".tiktoken", ".py", ".safetensors", ".bin", ".gguf"}
_TRAINING_FILES = (
    "optimizer",
    "scheduler",
    "rng_state",
    "trainer_state",
    "training_args",
    "all_results",
    "eval_results",
)
_READ_SIZE = 1 << 24
_LONGEST_REASON = 400
_REMEMBERED_HASH = "_rsr_datasets_hash"
_PROBE_LENGTH = 24
_MOST_SPARE_POSITIONS = 8
_CPU_TOKENS = 2048
_DEFAULT_TOKENS = 16384
_LEAST_TOKENS = 512
_MEMORY_PROBE_LENGTH = 2048
_SHARE_OF_FREE_MEMORY = 0.5
_LARGEST_BLOCK_KEPT = (1 << 25) - (1 << 16)
_MOST_KEPT = 1 << 28
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_DEVICE_CHUNK_BYTES = {"cpu": 3 << 26}
_DEFAULT_CHUNK_BYTES = 3 << 28
_LEAST_CHUNK_TOKENS = 16
_LARGE_LOGIT = 1024.0
_MOST_GRAPHS = 64
_MOST_OF_A_TOKEN = 0.1
_COMPILED_LENGTH = 512
# Compiling took 13 to 21 s on two cores, and saved 5 to 8% of the time of short rows in float32 and more in bfloat16:
# of so many operations on each core, a quarter of an hour in float32, some twice what it costs.
_OPERATIONS_THAT_PAY = 1e14
# On AMD's processors with AVX-512 it took 6 to 31 s and saved up to 5%: eighty minutes in float32, fifty in bfloat16.
_OPERATIONS_THAT_PAY_ON_AMD = 1e15
# The inside of a feed-forward layer, of which three results stand side by side, is what a long row takes most for.
_MOST_FED_AT_ONCE = 16384
# Less of a row is not worth a mask, which takes the place of a kernel's own causal one.
_LEAST_SHARED = 0.05
_NOTHING_SHARED = 2.0


@dataclass(frozen=True)
class StudentSpec:
    """What a student is loaded from; the arguments of :class:`rsr_datasets.RSRScorer` that concern it."""

    student: str | os.PathLike[str] | PreTrainedModel
    revision: str | None = None
    tokenizer: str | os.PathLike[str] | PreTrainedTokenizerBase | None = None
    dtype: str | torch.dtype = "auto"
    attn_implementation: str | None = None
    model_kwargs: Mapping[str, Any] = field(default_factory=dict)
    trust_remote_code: bool = False
    logits_dtype: LogitsDtype = "student"

    def __post_init__(self) -> None:
        if isinstance(self.student, PreTrainedModel) and not isinstance(self.tokenizer, PreTrainedTokenizerBase):
            raise ValueError("a loaded student needs its loaded tokenizer too: pass tokenizer=")
        if not isinstance(self.student, str | os.PathLike | PreTrainedModel):
            hint = (
                "; pass its get_base_model(), which holds the adapter" if hasattr(self.student, "peft_config") else ""
            )
            raise ValueError(
                f"student: expected a Hub id, a folder, a .gguf file or a loaded PreTrainedModel, "
                f"found {type(self.student).__name__}{hint}"
            )
        if self.logits_dtype not in ("student", "float32"):
            raise ValueError(f'logits_dtype={self.logits_dtype!r}: must be "student" or "float32"')
        self.torch_dtype  # noqa: B018  an unknown dtype is an error at once
        if isinstance(self.student, PreTrainedModel):
            self._refuse_what_a_loaded_student_cannot_take(self.student.dtype)

    def _refuse_what_a_loaded_student_cannot_take(self, dtype: torch.dtype) -> None:
        if self.torch_dtype not in ("auto", dtype):
            raise ValueError(f"dtype={self.dtype!r}: the student is loaded already, in {dtype}; convert it with .to()")
        for name in ("revision", "attn_implementation", "model_kwargs"):
            if getattr(self, name):
                raise ValueError(f"{name}={getattr(self, name)!r}: has no effect on a student that is loaded already")

    @property
    def is_loaded(self) -> bool:
        """Whether the student was passed in as a model."""
        return isinstance(self.student, PreTrainedModel)

    @property
    def name(self) -> str:
        """How messages call the student."""
        if isinstance(self.student, PreTrainedModel):
            return self.student.config.name_or_path or type(self.student).__name__
        return os.fspath(self.student)

    @property
    def torch_dtype(self) -> torch.dtype | Literal["auto"]:
        """The ``dtype`` argument as transformers takes it."""
        if self.dtype == "auto":
            return "auto"
        found = getattr(torch, self.dtype, None) if isinstance(self.dtype, str) else self.dtype
        if not isinstance(found, torch.dtype) or not found.is_floating_point or found.itemsize < 2:
            raise ValueError(
                f'dtype={self.dtype!r}: must be "auto" or a floating dtype of at least 16 bits, e.g. "bfloat16"'
            )
        return found

    @cached_property
    def local_path(self) -> Path | None:
        """The student's folder or file on disk, if it is one."""
        path = None if isinstance(self.student, PreTrainedModel) else Path(self.student).expanduser()
        return path if path is not None and path.exists() else None

    @cached_property
    def commit(self) -> str | None:
        """The Hub commit of the student, or its revision where the commit cannot be found out."""
        return None if self.local_path or self.is_loaded else _resolve_commit(self.name, self.revision)

    @cached_property
    def base(self) -> StudentSpec | None:
        """The model that the student, if it is a PEFT adapter, was trained on top of."""
        found = self._adapter
        if found is None or (self.local_path and (self.local_path / "config.json").exists()):
            return None  # a whole model with an adapter beside it is its own base: transformers puts the two together
        if not found.get("base_model_name_or_path"):
            raise ValueError(f"student {self.name!r} is a PEFT adapter whose adapter_config.json names no base model")
        base = replace(self, student=found["base_model_name_or_path"], revision=found.get("revision"), tokenizer=None)
        if base._adapter is not None:
            raise ValueError(
                f"student {self.name!r} is a PEFT adapter for an adapter, {base.name!r}: merge that one first"
            )
        return base

    @cached_property
    def _adapter(self) -> dict[str, Any] | None:
        """The settings of the student's PEFT adapter, if it has one."""
        if self.is_loaded or (self.local_path and self.local_path.is_file()):
            return None
        if self.local_path is None and self.commit is None:
            return None  # neither the Hub nor the cache knows it: loading will say why
        with _refusing(f"student {self.name!r}: its adapter_config.json cannot be read"):
            where: Any = None
            if self.local_path is None:
                where = huggingface_hub.try_to_load_from_cache(self.name, "adapter_config.json", revision=self.commit)
            if where is None:
                where = find_adapter_config_file(str(self.local_path or self.name), revision=self.commit)
            return dict(json.loads(Path(where).read_text())) if isinstance(where, str) else None

    @cached_property
    def _tokenizer_source(self) -> tuple[str, str | None]:
        """Where a tokenizer of its own comes from: a path, or a Hub id and its commit."""
        name = os.fspath(self.tokenizer)  # type: ignore[arg-type]
        path = Path(name).expanduser()
        return (str(path), None) if path.exists() else (name, _resolve_commit(name, None))

    def identity(self, fresh: bool = False) -> dict[str, Any]:
        """Says which student this is, by content where it is local, without loading it.

        Args:
            fresh: Hash the tensors of a loaded model even if nothing seems to have changed.

        Returns:
            JSON-serialisable. A folder or file counts by the bytes of its config, tokenizer and weight files, a
            loaded model by its config and tensors, a Hub id by its commit; a PEFT adapter with the model it is for.
        """
        identity: dict[str, Any]
        if isinstance(self.student, PreTrainedModel):
            identity = {"loaded": _hash_model(self.student, fresh)}
        elif self.local_path:
            identity = {"content": hash_model_files(self.local_path)}
        else:
            identity = {"hub": self.name, "revision": self.commit}
        if self.base:
            identity["base"] = self.base.identity()
        if isinstance(self.tokenizer, PreTrainedTokenizerBase):
            identity["tokenizer"] = _hash_tokenizer(self.tokenizer)
        elif self.tokenizer is not None:
            source, commit = self._tokenizer_source
            path = Path(source)
            identity["tokenizer"] = hash_model_files(path) if path.exists() else f"{source}@{commit}"
        return identity

    def load_config(self) -> transformers.PreTrainedConfig:
        """Loads the student's configuration.

        Raises:
            ValueError: If there is none, naming the student.
        """
        if isinstance(self.student, PreTrainedModel):
            return self.student.config
        if self.base:
            return self.base.load_config()
        where, kwargs = self._source()
        return _load(self.name, transformers.AutoConfig, where, kwargs)

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """Loads the tokenizer.

        Raises:
            ValueError: If there is none, naming the student.
        """
        if isinstance(self.tokenizer, PreTrainedTokenizerBase):
            return self.tokenizer
        if self.tokenizer is not None:
            source, commit = self._tokenizer_source
            pinned = {"trust_remote_code": self.trust_remote_code, "revision": commit or "main"}
            return _load(source, transformers.AutoTokenizer, source, pinned)
        where, kwargs = self._source()
        if self.base and not _has_file(where, "tokenizer_config.json", kwargs.get("revision")):
            return self.base.load_tokenizer()
        return _load(self.name, transformers.AutoTokenizer, where, kwargs)

    def load(self, device: torch.device) -> Student:
        """Loads the student and checks its output head.

        Args:
            device: Where to put it, unless ``model_kwargs`` holds a ``device_map``.

        Raises:
            ValueError: If it is no causal language model, cannot be loaded, or its head cannot be driven alone.
        """
        model = self.student if isinstance(self.student, PreTrainedModel) else self._load_model(device)
        return Student(model, name=self.name, logits_dtype=self.logits_dtype)

    def _load_model(self, device: torch.device) -> PreTrainedModel:
        if self._adapter is not None and not is_peft_available():
            raise ValueError(
                f"student {self.name!r} is a PEFT adapter, which needs the package peft: pip install peft"
            )
        if self.base:
            return self._load_adapter(self.base._load_model(device))
        _refuse_encoder_decoder(self.load_config(), self.name)
        where, kwargs = self._source()
        kwargs |= {"dtype": self.torch_dtype, **self.model_kwargs}
        if self.attn_implementation is not None:
            kwargs["attn_implementation"] = self.attn_implementation
        kwargs |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
        model, info = _load(self.name, transformers.AutoModelForCausalLM, where, kwargs)
        if mismatched := sorted(info["mismatched_keys"]):
            name, in_files, in_config = mismatched[0]
            raise ValueError(
                f"student {self.name!r}: {name} has the shape {tuple(in_files)} in its files, {tuple(in_config)} by "
                f"its config; {len(mismatched) - 1} others differ too"
            )
        if missing := sorted(info["missing_keys"]):
            raise ValueError(
                f"student {self.name!r}: its files lack weights, which would be random: {missing[0]} and "
                f"{len(missing) - 1} others"
            )
        if getattr(model, "hf_device_map", None) is None:
            with _refusing(f"device={str(device)!r}: student {self.name!r} cannot be put there"):
                model.to(device)
        return model

    def _load_adapter(self, base: PreTrainedModel) -> PreTrainedModel:
        """Puts the adapter into its base model."""
        import peft

        where, kwargs = self._source()
        with _refusing(f"student {self.name!r}: peft cannot load the adapter"):
            adapted = peft.PeftModel.from_pretrained(base, where, revision=kwargs.get("revision"))
        kind = adapted.peft_config["default"]
        kind_name = str(kind.peft_type).rpartition(".")[2]
        if kind.is_prompt_learning or not isinstance(adapted.get_base_model(), PreTrainedModel):
            raise ValueError(
                f"student {self.name!r}: a PEFT adapter of type {kind_name} adds to what the model reads; "
                "only adapters of a model's own layers (LoRA and its kin) can be scored"
            )
        return adapted.get_base_model()

    def _source(self) -> tuple[str, dict[str, Any]]:
        kwargs: dict[str, Any] = {"trust_remote_code": self.trust_remote_code}
        if self.local_path is None:
            return self.name, kwargs | {"revision": self.commit or "main"}
        if self.local_path.suffix == ".gguf":
            return str(self.local_path.parent), kwargs | {"gguf_file": self.local_path.name}
        return str(self.local_path), kwargs


_Reading = tuple[torch.Tensor, BatchAccount]
"""The hidden states from which the scored tokens of some rows are predicted, row by row, and what they cost."""
_Found = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]
"""Ranks, surprisals and entropies of the rows of a batch, one after the other."""
_ReadTwice = Callable[[torch.Tensor], list[tuple[torch.Tensor, torch.Tensor]]]
"""Some rows of token ids to pairs of the hidden states that two ways of reading give."""


@dataclass(frozen=True)
class _Batch:
    """Rows that are read together.

    Attributes:
        rows: Their numbers.
        least_shared: Part of a row from which on it shares what it begins with, in one sequence; without it the rows
            stand side by side, padded.
        split: Whether it is a part of one that did not fit into the device's memory.
    """

    rows: list[int]
    least_shared: float | None = None
    split: bool = False


class _Coming:
    """What was found of a batch, on its way from the device."""

    def __init__(self, found: _Found) -> None:
        self._found = found
        self._arrived: torch.cuda.Event | None = None
        if found[0].is_cuda:
            ranks, surprisals, entropies = found
            self._found = (_leaving(ranks), _leaving(surprisals), None if entropies is None else _leaving(entropies))
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(ranks.device))

    def arrays(self) -> TokenArrays:
        """Waits until it is there."""
        if self._arrived:
            self._arrived.synchronize()
        ranks, surprisals, entropies = self._found
        return _to_numpy(ranks), _to_numpy(surprisals), None if entropies is None else _to_numpy(entropies)


def _leaving(tensor: torch.Tensor) -> torch.Tensor:
    """A copy in the CPU's memory that a GPU has yet to write."""
    return tensor.to("cpu", non_blocking=True)


def _to_numpy(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """An array of its own: what a GPU writes to is page-locked memory, for the next batch to use again."""
    return tensor.cpu().numpy().copy()


class Student:
    """A loaded causal language model that gives ranks and surprisals.

    The decoder computes hidden states; only those at scored positions go through the output head, a bounded number
    at a time. The head is the model's own forward pass around a decoder that hands back what it is given, so that
    whatever a family does to its logits (soft-capping, scaling, a bias) happens here too. On a CPU a head that does
    nothing but one matrix product of MKL's is computed into memory that is kept: a fifth of its time or more would go
    into pages that are new. oneDNN's products (:mod:`.speedups.products`) are in smaller chunks instead.

    Args:
        model: The model; it is put into evaluation mode.
        name: How messages call it.
        logits_dtype: ``"float32"`` computes the head in float32 whatever the model's dtype (a float32 copy of it).
        chunk_tokens: Tokens that go through the head at once; ``None`` chooses for the device and the vocabulary.

    Attributes:
        vocabulary: Ids below this one can be read and scored.
        positions: Most tokens that it can read at once, where a table of positions or the like sets an end.

    Raises:
        ValueError: If the model is not causal, its head disagrees with the model's own logits on a probe, or what it
            makes of a row depends on the rows beside it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        name: str = "student",
        logits_dtype: LogitsDtype = "student",
        chunk_tokens: int | None = None,
    ) -> None:
        _refuse_encoder_decoder(model.config, name)
        with _refusing(f"student {name!r} ({type(model).__name__}): it does not say what its embeddings are"):
            prefix = _decoder_name(model)
        if model.get_output_embeddings() is None or prefix is None:
            raise ValueError(f"student {name!r} ({type(model).__name__}) is no causal language model with a decoder")
        self.name = name
        self.model = model.eval()
        self._decoder = model._modules[prefix]
        with _refusing(f"student {name!r} ({type(model).__name__}): its forward pass fails"):
            self._head = _head_alone(model, prefix, logits_dtype)
        self._head_dtype = torch.float32 if logits_dtype == "float32" else None
        self.vocabulary = int(model.get_input_embeddings().weight.shape[0])
        self.positions = _position_limit(model)
        self._turning_lengths = _turning_lengths(model.config)
        self._plain_head: torch.nn.Linear | None = None
        if self.device.type == "cpu":
            _let_freed_memory_be_kept()
        some_hidden = self._check()
        if self.device.type == "cpu":
            head = self._head
            self._multiply_faster()
            if self._head is head:
                self._plain_head = self._find_plain_head(some_hidden)
        self.chunk_tokens = chunk_tokens or self._choose_chunk_tokens()
        self._kept = threading.local()  # each thread that scores has its own room for logits

    def _multiply_faster(self) -> None:
        """Leaves matrix products to the library that is faster here, if decoder and head give the same then."""
        decoder, head = with_faster_products(self._decoder), with_faster_products(self._head)
        if decoder is self._decoder and head is self._head:
            return

        def read(rows: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
            hidden = self._hidden(rows)
            given = hidden.to(self._head_dtype or hidden.dtype)
            logits, expected = (each(inputs_embeds=given, use_cache=False).logits for each in (head, self._head))
            return [(self._hidden(rows, decoder=decoder), hidden), (logits, expected)]

        try:
            if self._agree(read):
                self._decoder, self._head = decoder, head
        except Exception as error:  # layers of model families are not ours: any failure means that they stay
            logger.debug("student %r: its products are left to MKL: %s", self.name, error)

    @property
    def device(self) -> torch.device:
        """Where the token ids go."""
        return self.model.get_input_embeddings().weight.device

    def _choose_chunk_tokens(self) -> int:
        head = self.model.get_output_embeddings().weight
        dtype = self._head_dtype or head.dtype
        # On a CPU the logits are all there is; elsewhere there are two float32 copies of them at worst.
        bytes_each, most = dtype.itemsize, default_chunk_bytes(self.device)
        if self.device.type != "cpu":
            bytes_each = 12
        elif self._plain_head is None:
            most = _LARGEST_BLOCK_KEPT
        return max(_LEAST_CHUNK_TOKENS, most // (bytes_each * self.vocabulary))

    @cached_property
    def tokens_per_batch(self) -> int:
        """Tokens in one forward pass: what keeps the device busy, or what fits into half its free memory."""
        budget = default_tokens_per_batch(self.device)
        if self.device.type != "cuda":
            return budget
        length = min(_MEMORY_PROBE_LENGTH, self.positions or _MEMORY_PROBE_LENGTH)
        try:
            free, taken = self._memory_of_pass(length)
        except torch.OutOfMemoryError:
            return _LEAST_TOKENS
        return max(_LEAST_TOKENS, min(budget, int(_SHARE_OF_FREE_MEMORY * free * length / max(1, taken))))

    @torch.no_grad()
    def _memory_of_pass(self, length: int) -> tuple[int, int]:
        """Bytes that are free on the GPU, and those that reading a row takes at its worst moment."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        free, _ = torch.cuda.mem_get_info(self.device)
        self._hidden(torch.zeros((1, length), dtype=torch.int64))
        return free, torch.cuda.max_memory_allocated(self.device) - before

    def score(
        self,
        rows: Sequence[EncodedRow],
        tokens_per_batch: int | None = None,
        on_batch: Callable[[BatchAccount], None] | None = None,
        entropy: bool = False,
        share_prompts: bool = False,
        torch_compile: bool = False,
    ) -> list[TokenArrays]:
        """Ranks and surprisals of the scored tokens of each row, and the entropies there.

        A batch that does not fit into the device's memory is redone in halves.

        Args:
            rows: Encoded rows, in any order, of ids below :attr:`vocabulary`.
            tokens_per_batch: Tokens in one forward pass, with padding; ``None`` chooses for the device.
            on_batch: Called for each batch, when the next is queued; not for one that is read again.
            entropy: Whether to give entropies.
            share_prompts: Read a prompt that several rows share only once, where that saves work.
            torch_compile: Read with compiled layers, on a GPU those rows that share nothing; the first time takes up
                to a minute.

        Returns:
            For each row its ranks, int32, and its surprisals and entropies in nats, float32, all of shape
            ``(scored tokens,)``; ``None`` for entropies that were not asked for.

        Raises:
            torch.OutOfMemoryError: If a single row does not fit into the device's memory.
        """
        budget = tokens_per_batch or self.tokens_per_batch
        ids = [_read_ids(row) for row in rows]
        packed = self._packed_rows(ids, share_prompts)
        others = sorted(set(range(len(rows))).difference(packed))
        compiled = torch_compile and bool(others or self._packs_all)
        least_shared = _LEAST_SHARED if share_prompts else _NOTHING_SHARED
        batches = [_Batch(each, least_shared) for each in self._plan(packed, ids, budget, least_shared)]
        batches += [_Batch(each) for each in self._plan(others, ids, budget)]
        return self._score_batches(batches, rows, budget, on_batch, entropy, compiled)

    def _packed_rows(self, ids: Sequence[npt.NDArray[np.int64]], share_prompts: bool) -> list[int]:
        """Numbers of the rows that are read in packs: where these pay without sharing all, else those that share."""
        if not self.can_pack or not (share_prompts or self._packs_all):
            return []
        if self._packs_all:
            return list(range(len(ids)))
        runs = sharing_runs(ids, _LEAST_SHARED, self._hidden_size)
        return sorted(row for run in runs if len(run) > 1 for row in run)

    def score_branches(
        self, branches: Sequence[Branches], tokens_per_batch: int | None = None
    ) -> list[npt.NDArray[np.float32]]:
        """Surprisals of one continuation after several prefixes of a row, which is read only once.

        Where the student's family does not allow that, each prefix is read; what does not fit into the device's memory
        is redone in halves.

        Args:
            branches: The branches of each row.
            tokens_per_batch: Tokens in one forward pass, with padding, where each prefix is read; ``None`` chooses for
                the device.

        Returns:
            For each row the surprisals in nats, float32, shape ``(branches, scored tokens)``.

        Raises:
            torch.OutOfMemoryError: If a single prefix does not fit into the device's memory.
        """
        if not self.can_pack or self._turning_lengths:  # beyond which all that is read together turns
            scored = iter(self.score([row for some in branches for row in some.rows()], tokens_per_batch))
            return [np.stack([next(scored)[1] for _ in some.ends]) for some in branches]
        budget = tokens_per_batch or self.tokens_per_batch
        found = []
        for some in branches:
            rows = some.rows()
            scored_rows = self._score_batches([_Batch(list(range(len(rows))), least_shared=0.0)], rows, budget)
            found.append(np.stack([surprisals for _, surprisals, _ in scored_rows]))
        return found

    def _score_batches(
        self,
        batches: Sequence[_Batch],
        rows: Sequence[EncodedRow],
        tokens_per_batch: int,
        on_batch: Callable[[BatchAccount], None] | None = None,
        entropy: bool = False,
        compiled: bool = False,
    ) -> list[TokenArrays]:
        """Scores rows; what was found of a batch is waited for when the device has the next one to compute."""
        results: list[Any] = [None] * len(rows)
        parts = list(reversed(batches))
        before = None
        while parts or before:
            queued = self._queue(parts, rows, entropy, compiled) if parts else None
            if before:
                batch, coming, account = before
                arrays = coming.arrays()
                ids = {i: _read_ids(rows[i]) for i in batch.rows}
                if account.tokens < sum(map(len, ids.values())) and not np.isfinite(arrays[1]).all():
                    # What is no number gets through a mask, and must not get from one row into another.
                    alone = self._plan(batch.rows, ids, tokens_per_batch, _NOTHING_SHARED)
                    parts += [replace(batch, rows=each, least_shared=_NOTHING_SHARED) for each in alone]
                else:
                    ends = np.cumsum([rows[i].positions.size for i in batch.rows])[:-1]
                    by_row = ([None] * len(batch.rows) if array is None else np.split(array, ends) for array in arrays)
                    for i, *found in zip(batch.rows, *by_row, strict=True):
                        results[i] = tuple(found)
                    if on_batch:
                        on_batch(account)
            before = queued
        return results

    def _queue(
        self, parts: list[_Batch], rows: Sequence[EncodedRow], entropy: bool, compiled: bool
    ) -> tuple[_Batch, _Coming, BatchAccount] | None:
        """Takes the last batch; where the device has no memory for it, halves of it are put back in its place."""
        batch = parts.pop()
        some = [rows[i] for i in batch.rows]
        try:
            found, account = self._score_batch(some, batch.least_shared, entropy, compiled)
            return batch, _Coming(found), replace(account, split=batch.split)
        except torch.OutOfMemoryError:
            if len(some) == 1:
                raise
        # Only here, outside the handler, is the failed pass's memory free to be given back.
        if self.device.type != "cpu":
            getattr(torch, self.device.type).empty_cache()
        half = len(some) // 2
        longest = max(row.input_ids.size for row in some) - 1
        logger.warning("out of memory with %d rows of at most %d tokens: in halves", len(some), longest)
        parts += [replace(batch, rows=each, split=True) for each in (batch.rows[half:], batch.rows[:half])]
        return None

    def _plan(
        self,
        rows: Sequence[int],
        ids: Sequence[npt.NDArray[np.int64]] | Mapping[int, npt.NDArray[np.int64]],
        tokens_per_batch: int,
        least_shared: float | None = None,
    ) -> list[list[int]]:
        """Batches of rows that the student reads in the same way, whatever the longest of them.

        Args:
            rows: Numbers of the rows.
            ids: Token ids of each row, by its number.
            tokens_per_batch: Most tokens in a batch.
            least_shared: Part of a row from which on it shares what it begins with, if batches are packs.
        """
        groups: dict[int, list[int]] = {}
        for row in rows:
            groups.setdefault(bisect.bisect_left(self._turning_lengths, ids[row].size), []).append(row)
        batches = []
        for _, group in sorted(groups.items(), reverse=True):
            some = [ids[row] for row in group]
            if least_shared is None:
                planned = plan_batches([each.size for each in some], tokens_per_batch)
            else:
                planned = plan_packs(some, tokens_per_batch, least_shared, self._pack_size)
            batches += [[group[i] for i in batch] for batch in planned]
        return batches

    @torch.no_grad()
    def _score_batch(
        self, rows: Sequence[EncodedRow], least_shared: float | None, entropy: bool, compiled: bool
    ) -> tuple[_Found, BatchAccount]:
        """Queues all that is to be computed of a batch, without waiting for any of it on a GPU."""
        compiled = compiled and (least_shared is None or self._packs_all) and self.can_compile
        try:
            hidden, account = self._read(rows, least_shared, compiled)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if not compiled:
                raise
            self._say_uncompiled(_shorten(error))
            self.__dict__["can_compile"] = False
            hidden, account = self._read(rows, least_shared, compiled=False)
        targets = torch.from_numpy(np.concatenate([row.input_ids[row.positions] for row in rows]))
        return self._reduce(hidden, to_device(targets, hidden.device), entropy), account

    def _read(self, rows: Sequence[EncodedRow], least_shared: float | None, compiled: bool) -> _Reading:
        if least_shared is None:
            return self._read_padded(rows, compiled)
        return self._read_packed(rows, least_shared, compiled)

    def _read_padded(self, rows: Sequence[EncodedRow], compiled: bool) -> _Reading:
        """Reads rows side by side, padded to the longest."""
        ids = [_read_ids(row) for row in rows]
        padded = pad_right(ids)
        decoder = self._packed_decoder if self.can_pack and not self._attends_by_row else self._decoder
        hidden = self._hidden(padded, compiled, decoder)
        where_row = np.repeat(np.arange(len(rows)), [row.positions.size for row in rows])
        where_token = np.concatenate([row.positions for row in rows]) - 1
        places = torch.from_numpy(where_row * padded.shape[1] + where_token)
        picked = hidden.flatten(0, 1)[to_device(places, hidden.device)]
        return picked, BatchAccount(sum(each.size for each in ids), padded.numel(), split=False)

    def _read_packed(self, rows: Sequence[EncodedRow], least_shared: float, compiled: bool) -> _Reading:
        """Reads rows one after the other, in one sequence."""
        pack = self._pack([_read_ids(row) for row in rows], least_shared)
        hidden = self._hidden_of_pack(pack, compiled)
        places = np.concatenate([path[row.positions - 1] for path, row in zip(pack.paths, rows, strict=True)])
        tokens = pack.input_ids.numel()
        return hidden[to_device(torch.from_numpy(places), hidden.device)], BatchAccount(tokens, tokens, split=False)

    def _pack(self, ids: Sequence[npt.NDArray[np.int64]], least_shared: float) -> Pack:
        return Pack(ids, least_shared, self.device, self.model.dtype, self._pack_size, self._attends_by_products)

    @cached_property
    def _attends_by_products(self) -> bool:
        return attends_by_products(self.model)

    @property
    def _pack_size(self) -> int | None:
        """The hidden size where rows that share are read in few large calls of attention."""
        return None if self._attends_by_row else self._hidden_size

    def _reduce(self, hidden: torch.Tensor, targets: torch.Tensor, entropy: bool) -> _Found:
        """Hidden states and the tokens that follow them to ranks, surprisals and entropies, a chunk at a time."""
        # Results go into memory that is there before: small blocks that outlive a chunk, between large ones that do
        # not, would fragment the heap until it holds every chunk's logits.
        ranks = torch.empty_like(targets, dtype=torch.int32)
        surprisals = torch.empty_like(targets, dtype=torch.float32)
        entropies = torch.empty_like(surprisals) if entropy else None
        for start in range(0, len(targets), self.chunk_tokens):
            chunk = slice(start, start + self.chunk_tokens)
            logits = self._logits(hidden[chunk])
            found = rank_and_surprisal(logits, targets[chunk].to(logits.device), entropy)
            ranks[chunk], surprisals[chunk] = found[:2]
            if entropies is not None and found[2] is not None:
                entropies[chunk] = found[2]
        return ranks, surprisals, entropies

    @property
    def _hidden_size(self) -> int:
        return int(self.model.get_input_embeddings().weight.shape[1])

    @cached_property
    def can_pack(self) -> bool:
        """Whether reading rows in one sequence gives the hidden states that reading each row gives."""
        try:
            return self._agree(self._packed_and_whole)
        except Exception as error:  # the attention of model families is not ours: any failure means that it cannot
            logger.debug("student %r: its rows are not packed: %s", self.name, error)
            return False

    @cached_property
    def _attends_by_row(self) -> bool:
        """Whether attention is computed row by row, which costs nothing on a CPU and leaves a GPU waiting."""
        return self.device.type == "cpu"

    @property
    def _packs_all(self) -> bool:
        """Whether rows are read in packs also where they share nothing."""
        return self._attends_by_row and self.can_pack

    @cached_property
    def _packed_decoder(self) -> torch.nn.Module:
        return packed_decoder(self._decoder)

    @torch.no_grad()
    def _agree(self, read: _ReadTwice) -> bool:
        """Says whether two ways of reading give the same hidden states, on a probe.

        They may differ by rounding: by so much of the largest of them, which may be far larger than all others, and by
        a tenth of each token's own.
        """
        generator = torch.Generator().manual_seed(0)
        length = min(_PROBE_LENGTH, self.positions or _PROBE_LENGTH)
        pairs = read(torch.randint(0, self.vocabulary, (3, length), generator=generator))
        scale = max(1.0, *(_largest(whole) for _, whole in pairs))
        tolerance = 32 * torch.finfo(self.model.dtype).eps * scale
        for found, whole in ((found.float(), whole.float()) for found, whole in pairs):
            far = (found - whole).norm(dim=-1) > _MOST_OF_A_TOKEN * whole.norm(dim=-1)
            if far.any() or not torch.allclose(found, whole, rtol=0, atol=tolerance):
                return False
        return True

    def _packed_and_whole(self, rows: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        length = rows.shape[1]
        rows[1, : length * 5 // 6] = rows[0, : length * 5 // 6]
        pack = self._pack(list(rows.numpy()), least_shared=0.0)
        found = self._hidden_of_pack(pack)
        layers = self._decoder.config.get_text_config().num_hidden_layers
        if pack.attended != layers:
            raise ValueError(f"{pack.attended} of {layers} layers use attention as they are told to")
        whole = self._hidden(rows)
        beside = self._hidden(rows, decoder=self._packed_decoder)
        return [(found[path], row) for path, row in zip(pack.paths, whole, strict=True)] + [(beside, whole)]

    @cached_property
    def can_part(self) -> bool:
        """Whether the feed-forward layers give the same for some tokens after the other."""

        def read(rows: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
            parted = in_parts(self._decoder, rows.shape[1] // 2)
            return [(parted(input_ids=rows.to(self.device), use_cache=False).last_hidden_state, self._hidden(rows))]

        try:
            return self._agree(read)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # what families put there is not ours: any failure means that it cannot
            logger.debug("student %r: its long rows are read whole: %s", self.name, error)
            return False

    @cached_property
    def can_compile(self) -> bool:
        """Whether compiling the layers leaves the hidden states as they are; if not, that is said."""
        reason = "its hidden states would differ"
        length = min(_COMPILED_LENGTH, self.positions or _COMPILED_LENGTH)

        def read(rows: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
            return [(compiled(some), self._hidden(some)) for some in (rows[:1], rows)]

        def compiled(rows: torch.Tensor) -> torch.Tensor:
            if not self._packs_all:
                return self._hidden(rows, compiled=True)
            pack = self._pack(list(rows.numpy()), least_shared=0.0)
            found = self._hidden_of_pack(pack, compiled=True)
            return torch.stack([found[path] for path in pack.paths])

        try:
            # What the compiler sees first decides how loops are shared among threads; one row is compiled apart.
            with torch.no_grad():
                for count in (1, 2):
                    compiled(torch.arange(count * length).reshape(count, length) % self.vocabulary)
            if self._agree(read):
                return True
        except Exception as error:  # families that cannot be compiled, and machines without a compiler
            reason = _shorten(error)
        self._say_uncompiled(reason)
        return False

    def _say_uncompiled(self, reason: str) -> None:
        logger.warning("student %r is read without torch_compile: %s", self.name, reason)

    def compiling_pays(self, tokens: int) -> bool:
        """Whether compiled layers would save more time than it takes to compile them, where that was measured.

        That is on a CPU, for rows read in packs. The answer is the same for all processes of a machine.

        Args:
            tokens: What the run reads, in all its processes.
        """
        if self.device.type != "cpu" or not self._packs_all or not _has_compiler():
            return False
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        enough = _OPERATIONS_THAT_PAY_ON_AMD if onednn_is_faster() else _OPERATIONS_THAT_PAY
        return 2 * parameters * tokens >= enough * (os.cpu_count() or 1)

    @cached_property
    def _compiled_decoder(self) -> torch.nn.Module:
        return compile_regions(self._packed_decoder if self._packs_all else self._decoder, dynamic=True)

    def _hidden(
        self, input_ids: torch.Tensor, compiled: bool = False, decoder: torch.nn.Module | None = None
    ) -> torch.Tensor:
        reader = self._made_for(input_ids.shape[1], compiled, decoder or self._decoder)
        with _compiling(compiled):
            return reader(input_ids=to_device(input_ids, self.device), use_cache=False).last_hidden_state

    def _hidden_of_pack(self, pack: Pack, compiled: bool = False) -> torch.Tensor:
        reader = self._made_for(pack.input_ids.shape[1], compiled, self._packed_decoder)
        with _compiling(compiled):
            return read_pack(reader, pack)

    def _made_for(self, length: int, compiled: bool, decoder: torch.nn.Module) -> torch.nn.Module:
        """The decoder, compiled or not, or where a row of that length would take much memory, one that takes less."""
        if length > _MOST_FED_AT_ONCE and self.can_part:
            return in_parts(decoder, _MOST_FED_AT_ONCE)
        return self._compiled_decoder if compiled else decoder

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of some positions; where the head is one product, they are good until this thread's next call."""
        if self._head_dtype is not None:
            hidden = hidden.to(self._head_dtype)
        if self._plain_head is None:
            return self._head(inputs_embeds=hidden[None], use_cache=False).logits[0]
        weight = self._plain_head.weight
        room: torch.Tensor | None = getattr(self._kept, "room", None)
        if room is None or len(room) < len(hidden):
            room = self._kept.room = weight.new_empty((len(hidden), weight.shape[0]))
        return torch.mm(hidden, weight.t(), out=room[: len(hidden)])

    @torch.no_grad()
    def _find_plain_head(self, hidden: torch.Tensor) -> torch.nn.Linear | None:
        """The output head, if all that the model does there is one product with its weight.

        Seen by the logits themselves, also of hidden states that are enlarged so far that soft-capping would show.
        """
        output = self.model.get_output_embeddings()
        head = next((self._head._modules[name] for name, part in self.model._modules.items() if part is output), None)
        if type(head) is not torch.nn.Linear or head.bias is not None or head.weight.device.type != "cpu":
            return None
        if self._head_dtype is not None:
            hidden = hidden.to(self._head_dtype)
        if hidden.dtype != head.weight.dtype or hidden.shape[1] != head.weight.shape[1]:
            return None
        largest = _largest(torch.nn.functional.linear(hidden, head.weight))
        for factor in (1.0, _LARGE_LOGIT / max(largest, torch.finfo(torch.float16).tiny)):
            expected = self._logits(hidden * factor).float()
            found = torch.nn.functional.linear(hidden * factor, head.weight).float()
            tolerance = 4 * torch.finfo(head.weight.dtype).eps * _largest(expected)
            if expected.shape != found.shape or not torch.allclose(
                expected, found, rtol=0, atol=tolerance, equal_nan=True
            ):
                return None
        return head

    @torch.no_grad()
    def _check(self) -> torch.Tensor:
        """Compares the head alone with the model's own logits, and what a token sees with what it may see.

        That is what stands before it in its own row: neither what comes after it nor another row of the batch.

        Returns:
            Some hidden states, shape ``(tokens, hidden size)``.
        """
        generator = torch.Generator().manual_seed(0)
        length = min([_PROBE_LENGTH, self.positions or _PROBE_LENGTH, *self._turning_lengths])
        probe, others = torch.randint(0, self.vocabulary, (2, 1, length), generator=generator)
        short = probe[:, : length // 2]
        described = f"student {self.name!r} ({type(self.model).__name__})"
        with _refusing(f"{described}: its forward pass fails"):
            expected = self.model(input_ids=probe.to(self.device), use_cache=False).logits[0].float()
            hidden = self._hidden(probe)[0]
            alone = self._hidden(short)[0].float()
            beside_others = self._hidden(pad_right([short[0].numpy(), others[0].numpy()]))[0, : length // 2].float()
        with _refusing(f"{described}: its output head cannot be run on its own"):
            found = self._logits(hidden).float()
        # Two computations of the same numbers: they may differ by rounding in the student's own dtype, of which
        # float32 takes more steps.
        steps = 32 if self.model.dtype == torch.float32 else 4
        tolerance = steps * torch.finfo(self.model.dtype).eps * max(1.0, _largest(expected))
        if expected.shape != found.shape or not torch.allclose(
            expected.to(found.device), found, rtol=0, atol=tolerance, equal_nan=True
        ):
            raise ValueError(
                f"{described}: its output head run on its own disagrees with the model's own logits; scores would be "
                "wrong, so it is refused"
            )
        self.vocabulary = min(self.vocabulary, expected.shape[-1])
        probe[0, -1] = (probe[0, -1] + 1) % self.vocabulary
        changed = self._hidden(probe)[0, :-1].float()
        tolerance = 32 * torch.finfo(self.model.dtype).eps * max(1.0, _largest(hidden))
        # Attention spreads a NaN even with a weight of zero; what it reaches has no score that could be wrong.
        numbers = changed.isfinite() & hidden[:-1].isfinite()
        if not torch.allclose(changed[numbers], hidden[:-1][numbers].float(), rtol=0, atol=tolerance):
            raise ValueError(f"{described} is not causal: a token sees what comes after it")
        # Other shapes round otherwise, and in half precision that sends a token now and then to another expert: what
        # depends on the batch changes them all.
        same = torch.isclose(beside_others, alone, rtol=0, atol=tolerance, equal_nan=True).all(dim=-1)
        if same.sum() < len(same) / 2:
            raise ValueError(
                f"{described}: a row alone and the same row beside a longer one give different hidden states; its "
                "scores would depend on the batch, so it is refused"
            )
        return hidden


def _read_ids(row: EncodedRow) -> npt.NDArray[np.int64]:
    """What is read of a row: its last token is only ever a target, nothing after it is scored."""
    return row.input_ids[:-1]


def _has_compiler() -> bool:
    """Whether what torch compiles for CPUs can be built here."""
    return shutil.which(os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")) is not None


def _compiling(compiled: bool) -> contextlib.AbstractContextManager[Any]:
    """Where compiled layers run.

    Layers of several kinds, and students of several dtypes, share their code, for which dynamo by itself keeps no more
    than eight graphs and then runs what is left as it is.
    """
    return torch._dynamo.config.patch(recompile_limit=_MOST_GRAPHS) if compiled else contextlib.nullcontext()


def _largest(numbers: torch.Tensor) -> float:
    """The largest magnitude of what is finite there."""
    return float(numbers.float().abs().nan_to_num(0, 0, 0).max())


class _GivenHiddenStates(torch.nn.Module):
    """Stands where the decoder stood, and hands back what it is given, in the decoder's own kind of output."""

    def __init__(self, decoder: torch.nn.Module, output_class: type[ModelOutput]) -> None:
        super().__init__()
        self.output_class = output_class
        self.__dict__["replaced"] = decoder  # no submodule: nothing but its settings is asked for

    def __getattr__(self, name: str) -> Any:
        # OPT's head calls the decoder inside its base model; Falcon-H1's reads a multiplier from there.
        return self if name == "decoder" else getattr(self.__dict__["replaced"], name)

    def forward(self, *_: Any, inputs_embeds: torch.Tensor, **__: Any) -> ModelOutput:
        return self.output_class(last_hidden_state=inputs_embeds)


def _refuse_encoder_decoder(config: transformers.PreTrainedConfig, name: str) -> None:
    if config.is_encoder_decoder:
        raise ValueError(f"student {name!r} is an encoder-decoder model; a causal language model is needed")


def _position_limit(model: PreTrainedModel) -> int | None:
    """Most tokens the model can read at once, where that is fixed and not merely what it was trained for.

    Rotary embeddings go on without end, unless they are rescaled to the longest row ever seen, which would make scores
    depend on other rows. Tables of positions, and masks kept as buffers, have an end.
    """
    config = model.config.get_text_config()
    if isinstance(limit := getattr(config, "max_seq_len", None), int):
        return limit  # MPT cuts its ALiBi biases out of a square of this side
    made_for = getattr(config, "max_position_embeddings", None)
    if not isinstance(made_for, int):
        return None
    limits = [made_for] if any("dynamic" in kind for kind, _ in _rotary_kinds(config)) else []
    limits += [made_for for buffer in model.buffers() if buffer.dim() > 1 and made_for in buffer.shape]
    words = model.get_input_embeddings()
    for table in model.modules():
        if isinstance(table, torch.nn.Embedding) and table is not words:
            spare = table.num_embeddings - made_for
            if 0 <= spare <= _MOST_SPARE_POSITIONS:
                unused = 0 if table.padding_idx is None else table.padding_idx + 1  # RoBERTa counts from there
                limits.append(made_for + min(0, spare - unused))
    return min(limits, default=None)


def _turning_lengths(config: transformers.PreTrainedConfig) -> list[int]:
    """Lengths, ascending, beyond which a batch's longest row turns the frequencies of all (LongRoPE's factors)."""
    return sorted({length for kind, length in _rotary_kinds(config.get_text_config()) if kind == "longrope"})


def _rotary_kinds(config: transformers.PreTrainedConfig) -> list[tuple[str, Any]]:
    """The kinds of rotary embedding, of all layers or of each kind of layer, and the length that each began with."""
    found = getattr(config, "rope_parameters", None) or {}
    settings = [found, *(value for value in found.values() if isinstance(value, Mapping))]
    return [(str(s["rope_type"]), s.get("original_max_position_embeddings")) for s in settings if s.get("rope_type")]


def _decoder_name(model: PreTrainedModel) -> str | None:
    """Which of the model's own modules is, or holds, its decoder."""
    if model.base_model_prefix in model._modules:
        return model.base_model_prefix
    embeddings = model.get_input_embeddings()
    named = model._modules.items()
    return next((name for name, module in named if module is not None and embeddings in module.modules()), None)


@torch.no_grad()
def _head_alone(model: PreTrainedModel, prefix: str, logits_dtype: LogitsDtype) -> torch.nn.Module:
    """A shallow copy of the model whose decoder is passed through: it shares the weights and adds none."""
    decoder = model._modules[prefix]
    first_token = torch.zeros((1, 1), dtype=torch.int64, device=model.get_input_embeddings().weight.device)
    output_class = type(decoder(input_ids=first_token, use_cache=False))
    head = copy.copy(model)
    for hooked in ("forward", "_old_forward", "_hf_hook"):  # accelerate's hooks would lead back to the whole model
        head.__dict__.pop(hooked, None)
    head.__dict__["_modules"] = {**model._modules, prefix: _GivenHiddenStates(decoder, output_class)}
    if logits_dtype == "float32":
        output = model.get_output_embeddings()
        for name, module in model._modules.items():
            if module is output and output.weight.dtype != torch.float32:
                head.__dict__["_modules"][name] = copy.deepcopy(output).float()
    return head


def default_device(rank: int | None = None) -> torch.device:
    """The process's own accelerator, else the CPU.

    Args:
        rank: The rank that ``Dataset.map(with_rank=True)`` gave to this process; without it, ``LOCAL_RANK`` counts.
    """
    if not torch.accelerator.is_available():
        return torch.device("cpu")
    index = rank if rank is not None else int(os.environ.get("LOCAL_RANK", "0"))
    kind = torch.accelerator.current_accelerator()
    return torch.device(kind.type if kind else "cpu", index % torch.accelerator.device_count())


def _let_freed_memory_be_kept() -> None:
    """Lets glibc's ``malloc`` keep freed memory for the blocks to come, up to 256 MiB.

    By itself it hands back what is free beyond twice the largest block that it has seen freed. Each layer's results
    would be given back and faulted in again, a fifth of the time of a forward pass.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 25)
        libc.mallopt(_M_TRIM_THRESHOLD, _MOST_KEPT)


def default_tokens_per_batch(device: torch.device) -> int:
    """Tokens in one forward pass that keep a kind of device busy, if they fit into its memory.

    On a CPU half as many were slower in both float32 and bfloat16, and twice as many no faster.
    """
    return _CPU_TOKENS if device.type == "cpu" else _DEFAULT_TOKENS


def default_chunk_bytes(device: torch.device) -> int:
    """What the logits of a chunk, and what is made of them at once, take on a kind of device, in bytes."""
    return _DEVICE_CHUNK_BYTES.get(device.type, _DEFAULT_CHUNK_BYTES)


def hash_model_files(path: Path) -> str:
    """Content hash of a model folder's config, tokenizer and weight files, or of a single file."""
    candidates = [*path.iterdir(), *path.glob("additional_chat_templates/*")] if path.is_dir() else []
    files = [file for file in sorted(candidates) if _is_model_file(file)] if path.is_dir() else [path]
    if any(file.suffix == ".safetensors" for file in files):
        files = [file for file in files if file.suffix != ".bin"]
    digest = xxhash.xxh3_128()
    for file in files:
        name = file.relative_to(path).as_posix() if path.is_dir() else ""
        digest.update(f"{name}:{_remembered_hash(file)}\n".encode())
    return digest.hexdigest()


def _is_model_file(file: Path) -> bool:
    return file.suffix in _MODEL_FILE_SUFFIXES and file.is_file() and not file.name.startswith(_TRAINING_FILES)


def _remembered_hash(file: Path) -> str:
    """Hashes a file; remembers the hash by path, inode, size and modification time, across processes."""
    stat = file.stat()
    key = f"{file.resolve()}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}"
    note = Path(huggingface_hub.constants.HF_HOME) / "rsr_datasets" / "hashes" / hash_text(key)
    with contextlib.suppress(OSError):
        return note.read_text()
    content = hash_file(file)
    with contextlib.suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=note.parent, delete=False) as aside:
            aside.write(content)
        Path(aside.name).replace(note)
    return content


def _hash_model(model: PreTrainedModel, fresh: bool) -> str:
    """Streamed hash of config, parameters and buffers.

    It is remembered on the model until the config changes or a tensor is written to or replaced; writes through
    ``.data`` do not show in a tensor's version, so that whoever must be sure asks for a fresh one.
    """
    config = {k: v for k, v in model.config.to_dict().items() if k not in ("_name_or_path", "transformers_version")}
    described = json.dumps(config, sort_keys=True, default=str)
    tensors = sorted([*model.named_parameters(), *model.named_buffers()], key=lambda named: named[0])
    state = [described, *((name, t.data_ptr(), t._version) for name, t in tensors if not t.is_inference())]
    remembered = getattr(model, _REMEMBERED_HASH, None)
    if not fresh and remembered and len(state) == 1 + len(tensors) and remembered[0] == state:
        return str(remembered[1])
    digest = xxhash.xxh3_128(described.encode())
    for name, tensor in tensors:
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        flat = tensor.detach().reshape(-1)
        for block in flat.split(_READ_SIZE // max(1, tensor.element_size())):
            digest.update(block.cpu().contiguous().view(torch.uint8).numpy())
    setattr(model, _REMEMBERED_HASH, (state, digest.hexdigest()))
    return digest.hexdigest()


def _hash_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts: Iterable[str] = (
        _tokenization(backend.to_str()) if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True),
        json.dumps(tokenizer.chat_template, sort_keys=True),
        json.dumps({k: str(v) for k, v in tokenizer.special_tokens_map.items()}, sort_keys=True),
    )
    return hash_text("\n".join(parts))


def _tokenization(backend: str) -> str:
    """What decides the tokens: padding and truncation are a state that every call may change."""
    parts = {key: value for key, value in json.loads(backend).items() if key not in ("padding", "truncation")}
    return json.dumps(parts, sort_keys=True)


def _resolve_commit(repo_id: str, revision: str | None) -> str | None:
    """The commit that a revision of a Hub repository stands for: asked of the Hub, else read from the cache."""
    if revision is not None and len(revision) == 40 and all(c in "0123456789abcdef" for c in revision):
        return revision
    with contextlib.suppress(Exception):  # offline, no such repository, no right to it: loading will say
        return huggingface_hub.HfApi().model_info(repo_id, revision=revision, timeout=10).sha
    with contextlib.suppress(Exception):
        cached = huggingface_hub.try_to_load_from_cache(repo_id, "config.json", revision=revision or "main")
        if isinstance(cached, str):
            return Path(cached).parent.name
    return revision


def _has_file(where: str, file: str, revision: str | None) -> bool:
    """Whether a folder or a Hub repository holds a file."""
    if Path(where).is_dir():
        return (Path(where) / file).is_file()
    return cached_file(where, file, revision=revision, _raise_exceptions_for_missing_entries=False) is not None


def _load(name: str, auto_class: Any, where: str, kwargs: dict[str, Any]) -> Any:
    with _refusing(f"{auto_class.__name__} cannot load {name!r}"):
        try:
            return auto_class.from_pretrained(where, **kwargs)
        except pickle.UnpicklingError as error:  # whose own advice is to run whatever the file says
            raise ValueError(
                "its pickled weights are damaged or hold more than tensors, which is never loaded; convert them to "
                "safetensors"
            ) from error
        except ValueError as error:
            if not kwargs.get("trust_remote_code") and "trust_remote_code" in str(error):
                raise ValueError(
                    "it brings its own code, which runs only with trust_remote_code=True; read the code before"
                ) from error
            raise


@contextlib.contextmanager
def _refusing(what: str) -> Iterator[None]:
    """Turns whatever goes wrong inside into a ``ValueError`` that says what of the student it was.

    What loads and runs model families is not ours, and raises errors of every class.
    """
    try:
        yield
    except Exception as error:
        raise ValueError(f"{what}: {_shorten(error)}") from error


def _shorten(error: Exception) -> str:
    """What went wrong, on one line."""
    said = " ".join(str(error).split())
    kind = "" if isinstance(error, OSError | ValueError | RuntimeError) and said else f"{type(error).__name__}: "
    return textwrap.shorten(kind + said, _LONGEST_REASON, placeholder=" ...")
