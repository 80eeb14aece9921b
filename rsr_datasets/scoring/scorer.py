"""RSRScorer: rows to columns, as a callable for ``datasets.map``; and rescoring from token columns."""

from __future__ import annotations

import inspect
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import multiprocess.process
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from datasets import Dataset, DatasetDict, Features, IterableDataset, IterableDatasetDict
from datasets.fingerprint import Hasher
from datasets.formatting.formatting import LazyBatch, LazyDict
from datasets.utils._dill import pklregister
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..engines.transformers.batches import BatchAccount
from ..engines.transformers.packing import Branches
from ..engines.transformers.student import LogitsDtype, Student, StudentSpec, default_device
from ..metrics import (
    DEFAULT_RANK_CLIP,
    Metric,
    TrajectoryTokens,
    available_metrics,
    find_metrics,
    is_built_in,
    metric_values,
    trajectory_scores,
)
from ..reading.encoder import ConversationEncoder
from ..reading.formats import FORMATS, RowFormat, check_columns, find_format
from ..reading.messages import Turns
from ..reading.rows import EncodedRow, OnOverflow, UnscorableRowError, fit
from ..reading.templates import resolve_chat_template
from ..tables.arrays import read_rows
from ..tables.columns import BAD_ROW, NONFINITE, STATUSES_WITH_SCORE, ScoreColumns
from ..tables.records import settings_hash
from ..utils.files import hash_text
from ..utils.html import table
from .second_pass import local_rows, row_without_prompt

logger = logging.getLogger(__name__)

SCORES_VERSION = 7
"""Raised whenever a change of code changes numbers: scores of two versions never share a cache entry."""

_PROCESS_OF_IMPORT = os.getpid()
_LOADING_KWARGS = ("token", "device_map", "max_memory", "offload_folder", "offload_buffers", "low_cpu_mem_usage")
_LONGEST_SHOWN = 60
_BYTES_A_TOKEN = 4  # of English text, more or less
_FOREIGN_MODULES = ("numpy", "torch", "pandas", "polars", "jax", "jaxlib", "tensorflow")


@dataclass(frozen=True)
class ScoredRow:
    """One row's outcome: its token-level arrays, or why it has none.

    Attributes:
        status: A status of :mod:`rsr_datasets.tables.columns`.
        token_ids: Ids of the scored tokens, int64, shape ``(tokens,)``; ``None`` where the row was not scored.
        ranks: Exact ranks, int32, shape ``(tokens,)``.
        surprisals: Surprisals in nats, float32, shape ``(tokens,)``.
        entropies: Entropies in nats, float32, shape ``(tokens,)``, where a metric needs them.
        local_surprisals: Surprisals in nats given few steps of context, likewise.
        surprisals_without_prompt: Surprisals in nats given the response alone, likewise.
    """

    status: str
    token_ids: npt.NDArray[np.int64] | None = None
    ranks: npt.NDArray[np.int32] | None = None
    surprisals: npt.NDArray[np.float32] | None = None
    entropies: npt.NDArray[np.float32] | None = None
    local_surprisals: npt.NDArray[np.float32] | None = None
    surprisals_without_prompt: npt.NDArray[np.float32] | None = None

    def tokens(self, rank_clip: int) -> TrajectoryTokens | None:
        """What metrics are computed from; nothing for a row that was not scored.

        Args:
            rank_clip: ``r_max``.
        """
        if self.ranks is None or self.surprisals is None:
            return None
        further = (self.entropies, self.local_surprisals, self.surprisals_without_prompt)
        floats = [None if values is None else values.astype(np.float64) for values in further]
        return TrajectoryTokens(self.ranks, self.surprisals.astype(np.float64), rank_clip, *floats)


@dataclass
class _Loaded:
    """What a scorer loads once, shared with its copies."""

    student: Student | None = None
    identity: dict[str, Any] | None = None
    encoder: ConversationEncoder | None = None
    length_limit: int | None = None


class RSRScorer:
    """Scores reasoning trajectories for a student with the Rank-Surprisal Ratio (arXiv:2601.14249, Eq. 7).

    A callable for ``Dataset.map``, batched or not, on a dataset that is not formatted or formatted as arrow, and for
    ``IterableDataset.map`` (there with ``features=scorer.features(dataset.features)``). Called by hand: a dict of
    lists gives a dict with the new columns alone, as lists; one row (a dict of values) gives values; a ``pa.Table``
    gives the table with the columns appended. The student is loaded at the first call, not before.

    Example:
        >>> add_rsr = RSRScorer("Qwen/Qwen2.5-7B")
        >>> scored = dataset.map(add_rsr, batched=True, batch_size=1000)

    Args:
        student: A Hub id, a local folder, a path to a ``.gguf`` file, or a loaded model (then ``tokenizer`` is
            needed).
        revision: Git revision of a Hub student.
        tokenizer: A tokenizer, or where to load it from, instead of the student's own.
        chat_template: Jinja text, a path to it, a preset (``"chatml"``, ``"llama3"``, ``"plain"``), or
            ``"trl:NAME"`` for a file of the installed trl package; instead of the tokenizer's own.
        dtype: The student's dtype as in transformers: ``"auto"``, a name or a ``torch.dtype``.
        device: Where the student runs; ``None`` is the process's own accelerator, else the CPU.
        attn_implementation: As in transformers.
        model_kwargs: Passed to ``from_pretrained`` (quantisation, ``device_map``, ...).
        trust_remote_code: Whether code of the student's repository may run.
        chat_template_kwargs: Passed to the chat template for every row; a column of that name wins.
        rank_clip: ``r_max``; greater ranks count as this one.
        max_length: Longest sequence in tokens, counted to the last scored token; ``None`` is the student's
            ``max_position_embeddings``, and where its config has none, no limit.
        on_overflow: ``"truncate"``, ``"skip"`` or ``"error"`` for longer rows.
        turns: ``"all"`` or ``"last"``: which assistant turns count.
        logits_dtype: ``"student"`` (what the published numbers used) or ``"float32"``, which breaks the ties that
            bfloat16 logits have, at the price of a float32 copy of the output head.
        token_columns: Whether to add the per-token lists.
        metrics: Metrics to add a column for, beside the ratio, its two means and the number of tokens, which are
            always there: names of :func:`rsr_datasets.available_metrics`, or :class:`rsr_datasets.Metric` objects.
            They do not change the scores or ``rsr_settings``. A value that is not defined is null.
        column_prefix: Name of the ratio's column and prefix of the others.
        tokens_per_batch: Tokens in one forward pass, with padding; ``None`` chooses for the device.
        share_prompts: Whether to read what several rows of a batch begin with, the prompt of a problem's candidates
            say, only once where that saves work. Like every other batch it rounds otherwise: single surprisals of a
            deep student move by some 1e-5, and a token's rank with a near tie, which is their own rounding.
        torch_compile: Whether to compile the student's layers; ``None`` does so in runs of
            :func:`rsr_datasets.score_dataset` on a CPU that are long enough for it to pay, some fifteen minutes in
            float32, eighty on AMD's processors with AVX-512, where it saves less. The first use in a process takes up
            to a minute. Where it fails, that is said and the layers run as they are. It rounds otherwise too.
        columns: Standard to actual names of the input columns, where they differ, e.g.
            ``{"prompt": "question", "completion": "solution"}``.
        strict: Whether to raise on the first row that cannot be scored instead of marking it.

    Raises:
        ValueError: For an argument that cannot be right; the message names it.
    """

    def __init__(
        self,
        student: str | os.PathLike[str] | PreTrainedModel,
        *,
        revision: str | None = None,
        tokenizer: str | os.PathLike[str] | PreTrainedTokenizerBase | None = None,
        chat_template: str | os.PathLike[str] | None = None,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device | None = None,
        attn_implementation: str | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        trust_remote_code: bool = False,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        rank_clip: int = DEFAULT_RANK_CLIP,
        max_length: int | None = None,
        on_overflow: OnOverflow = "truncate",
        turns: Turns = "all",
        logits_dtype: LogitsDtype = "student",
        token_columns: bool = False,
        metrics: Sequence[str | Metric] | None = None,
        column_prefix: str = "rsr",
        tokens_per_batch: int | None = None,
        share_prompts: bool = True,
        torch_compile: bool | None = None,
        columns: Mapping[str, str] | None = None,
        strict: bool = False,
    ) -> None:
        self._arguments = {key: value for key, value in locals().items() if key not in ("self", "__class__")}
        _check_rank_clip(rank_clip)
        if tokens_per_batch is not None and (not isinstance(tokens_per_batch, int) or tokens_per_batch < 1):
            raise ValueError(f"tokens_per_batch={tokens_per_batch!r}: must be a positive whole number")
        if max_length is not None and (not isinstance(max_length, int) or max_length < 2):
            raise ValueError(f"max_length={max_length!r}: must be at least 2 tokens, one of context and one to score")
        _check_choice("on_overflow", on_overflow, ("truncate", "skip", "error"))
        _check_choice("turns", turns, ("all", "last"))
        if not isinstance(column_prefix, str) or not column_prefix:
            raise ValueError(f"column_prefix={column_prefix!r}: must be text, and not empty")
        self.rank_clip = rank_clip
        self.max_length = max_length
        self.on_overflow: OnOverflow = on_overflow
        self.turns: Turns = turns
        self.token_columns = token_columns
        self.metrics = find_metrics(metrics)
        if metrics is not None:  # another process may not know what was registered here
            self._arguments["metrics"] = [metric.name if is_built_in(metric) else metric for metric in self.metrics]
        self.columns = check_columns(columns)
        self.strict = strict
        self.device = _device(device)
        self.chat_template = resolve_chat_template(None if chat_template is None else os.fspath(chat_template))
        self.chat_template_kwargs = _json_of("chat_template_kwargs", chat_template_kwargs)
        self.score_columns = ScoreColumns(column_prefix)
        self.tokens_per_batch = tokens_per_batch
        self.share_prompts = share_prompts
        self.torch_compile = torch_compile
        self.spec = StudentSpec(
            student=student,
            revision=revision,
            tokenizer=tokenizer,
            dtype=dtype,
            attn_implementation=attn_implementation,
            model_kwargs=dict(model_kwargs or {}),
            trust_remote_code=trust_remote_code,
            logits_dtype=logits_dtype,
        )
        self._recorded_model_kwargs = {
            key: _plain(f"model_kwargs[{key!r}]", value)
            for key, value in self.spec.model_kwargs.items()
            if key not in _LOADING_KWARGS
        }
        self._loaded = _Loaded()
        self._statuses_said: set[str] = set()
        self._undefined_said: set[str] = set()
        self._said_idle = False

    def __repr__(self) -> str:
        arguments = [repr(self.spec.name), *(f"{name}={value}" for name, value in self._changed_arguments().items())]
        return f"RSRScorer({', '.join(arguments)})"

    def _repr_html_(self) -> str:
        return table([("student", self.spec.name), *self._changed_arguments().items()], caption="RSRScorer")

    def _changed_arguments(self) -> dict[str, str]:
        """Arguments that differ from their defaults, but for the student, each as short text."""
        parameters = inspect.signature(RSRScorer).parameters
        changed = {}
        for name, value in self._arguments.items():
            default = parameters[name].default
            if name != "student" and not (type(value) is type(default) and value == default):
                changed[name] = _abbreviate(value)
        return changed

    @property
    def placement(self) -> torch.device:
        """Where the student runs in this process."""
        return self.device or default_device()

    def choose_tokens_per_batch(self, device: torch.device | None = None) -> int:
        """The ``tokens_per_batch`` that was given, else what suits the device, for which the student is loaded.

        Args:
            device: Where the student goes when it is loaded for this; ``None`` is :attr:`placement`.
        """
        return self.tokens_per_batch or self._load_student(device).tokens_per_batch

    def choose_torch_compile(self, text_bytes: int, device: torch.device | None = None) -> bool:
        """The ``torch_compile`` that was given, else whether it pays, for which the student is loaded on a CPU.

        Args:
            text_bytes: What the run reads, in bytes of text.
            device: Where the student goes when it is loaded for this; ``None`` is :attr:`placement`.
        """
        if self.torch_compile is not None:
            return self.torch_compile
        return self._load_student(device).compiling_pays(text_bytes // _BYTES_A_TOKEN)

    def with_batching(self, tokens_per_batch: int, share_prompts: bool, torch_compile: bool) -> RSRScorer:
        """The same scorer that reads in another way; the two load one student between them.

        Args:
            tokens_per_batch: Tokens in one forward pass, with padding.
            share_prompts: Whether to read shared prompts once.
            torch_compile: Whether to compile the student's layers.
        """
        changed = {key: value for key, value in locals().items() if key != "self"}
        other = RSRScorer.__new__(RSRScorer)
        other.__dict__.update(self.__dict__, _arguments={**self._arguments, **changed}, **changed)
        return other

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that decides a row's scores: the student's identity and the settings, JSON-serialisable."""
        spec = self.spec
        return {
            "student": self._loaded.identity or spec.identity(),
            "chat_template": None if self.chat_template is None else hash_text(self.chat_template),
            "chat_template_kwargs": self.chat_template_kwargs,
            "dtype": str(spec.torch_dtype).removeprefix("torch."),
            "attn_implementation": spec.attn_implementation,
            "model_kwargs": self._recorded_model_kwargs,
            "trust_remote_code": spec.trust_remote_code,
            "rank_clip": self.rank_clip,
            "max_length": self.max_length,
            "on_overflow": self.on_overflow,
            "turns": self.turns,
            "logits_dtype": spec.logits_dtype,
            "scores_version": SCORES_VERSION,
        }

    @property
    def settings_hash(self) -> str:
        """What stands in the ``rsr_settings`` column: a short hash of all settings but the rank clip, then that."""
        return settings_hash(self.settings)

    @property
    def fingerprint(self) -> str:
        """What ``datasets`` hashes: the settings, and the arguments that decide which columns come out."""
        if self.spec.is_loaded:
            self.spec.identity(fresh=True)
        computed = [Hasher.hash(metric.compute) for metric in self.metrics]
        return hash_text(json.dumps([self.settings, self.output, self.strict, computed], sort_keys=True))

    @property
    def output(self) -> dict[str, Any]:
        """What decides which columns come out and not what the scores are, JSON-serialisable; metrics by formula."""
        output = {"column_prefix": self.score_columns.prefix, "token_columns": self.token_columns}
        metrics = {"metrics": {metric.name: metric.formula for metric in self.metrics}} if self.metrics else {}
        return output | {"columns": self.columns} | metrics

    @property
    def column_types(self) -> dict[str, pa.DataType]:
        """Arrow types of the columns that come out, in their order."""
        return self.score_columns.types(self.token_columns, self.metrics)

    def features(self, features: Features | None) -> Features:
        """Features of a dataset after scoring, for ``IterableDataset.map(scorer, features=...)``.

        Args:
            features: The features before it.

        Raises:
            ValueError: If they are not known (``None``), as for streamed JSON: give them to ``load_dataset``.
        """
        if features is None:
            raise ValueError("the stream's features are not known: give them to load_dataset(..., features=...)")
        types = self.column_types
        added = Features.from_arrow_schema(pa.schema(list(types.items())))
        return Features({name: kind for name, kind in features.items() if name not in added} | added)

    def __call__(self, rows: pa.Table | Mapping[str, Any], *extra: Any) -> pa.Table | dict[str, Any]:
        """Scores rows.

        Args:
            rows: What ``map`` hands over, a ``pa.Table``, a dict of lists, or one row as a dict of values.
            extra: Indices and rank, in the order in which ``map(with_indices=True, with_rank=True)`` gives them.

        Returns:
            For a table, the table with the columns appended (columns of the same names are replaced); for a dict, the
            new columns alone. The lazy batch or row that ``Dataset.map`` hands over is updated in place, as Arrow
            arrays, and the result is empty: nothing is left for ``map`` to merge.

        Raises:
            ValueError: For rows in another format, no column to read, or with ``strict`` an unscorable row.
            RuntimeError: In a process that was forked.
        """
        if os.getpid() != _PROCESS_OF_IMPORT:
            raise RuntimeError(
                "scoring in a forked process hangs or fails once torch has run in its parent: call "
                'multiprocess.set_start_method("spawn") (of the package multiprocess, which datasets uses) before '
                "map(num_proc=...)"
            )
        caller = sys._getframe(1)
        _check_input(rows, extra, from_map=caller.f_globals.get("__name__") == "datasets.arrow_dataset")
        indices, rank = _split_extra(extra)
        if isinstance(rows, pa.Table):
            row_format = self.find_format(rows.column_names)
            read_table = read_rows(rows.select(row_format.names), Features.from_arrow_schema(rows.schema))
            return self._append(rows, self._score(read_table, row_format, indices, rank))
        row_format = self.find_format(rows)
        read = {name: rows[name] for name in row_format.names}
        if isinstance(rows, LazyDict):
            self._warn_of_idle_processes()
            decoded = read if isinstance(rows, LazyBatch) else {name: [value] for name, value in read.items()}
            # What map merges from its own batch keeps its Arrow type, also when every value is null; lists that are
            # returned lose it, and a table that is returned would make map forget remove_columns.
            rows.update(self._score(_as_rows(decoded, row_format), row_format, indices, rank))
            return {}
        # A streamed row whose only column is an empty list looks like an empty batch: there the stream itself knows.
        stream = (
            caller.f_locals.get("self") if caller.f_globals.get("__name__") == "datasets.iterable_dataset" else None
        )
        if getattr(stream, "batched", None) if stream is not None else _is_batch(rows, row_format):
            scored = self._score(_as_rows(read, row_format), row_format, indices, rank)
            return {name: column.to_pylist() for name, column in scored.items()}
        scored = self._score([read], row_format, indices, rank)
        return {name: column[0].as_py() for name, column in scored.items()}

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """Loads the student's tokenizer and reads its chat template, not its weights.

        Raises:
            ValueError: If the student's configuration, tokenizer or chat template cannot be loaded.
        """
        return self._load_encoder().tokenizer

    def encode(
        self, rows: Sequence[Mapping[str, Any]], row_format: RowFormat, indices: Sequence[int] | None = None
    ) -> list[EncodedRow | UnscorableRowError]:
        """Encodes rows for the student and applies ``max_length``; needs its tokenizer but not its weights.

        Args:
            rows: Rows as dicts.
            row_format: Which columns to read, from :meth:`find_format`.
            indices: Row numbers for messages; ``None`` counts within these rows.

        Raises:
            ValueError: With ``strict`` for an unscorable row, with ``on_overflow="error"`` for one too long.
        """
        encoder = self._load_encoder()
        encoded: list[EncodedRow | UnscorableRowError] = []
        for i, row in enumerate(encoder.encode(rows, row_format)):
            try:
                outcome = (
                    row
                    if isinstance(row, UnscorableRowError)
                    else fit(row, self._loaded.length_limit, self.on_overflow)
                )
            except UnscorableRowError as error:
                outcome = error
            except OverflowError as error:
                raise ValueError(f"{_place(i, indices)}: {error}") from error
            if isinstance(outcome, UnscorableRowError):
                self._say(outcome.status, str(outcome), _place(i, indices))
            encoded.append(outcome)
        return encoded

    def score_encoded(
        self,
        encoded: Sequence[EncodedRow | UnscorableRowError],
        indices: Sequence[int] | None = None,
        device: torch.device | None = None,
        on_batch: Callable[[BatchAccount], None] | None = None,
    ) -> list[ScoredRow]:
        """Runs the student over encoded rows.

        Args:
            encoded: From :meth:`encode`.
            indices: Row numbers for messages; ``None`` counts within these rows.
            device: Where the student goes when it is loaded for this; ``None`` is :attr:`placement`.
            on_batch: Called after each forward pass.

        Returns:
            One outcome a row, in the order of the rows.
        """
        if not any(isinstance(row, EncodedRow) for row in encoded):
            return [ScoredRow(row.status) for row in encoded]
        student = self._load_student(device)
        scorable = [isinstance(row, EncodedRow) and row.input_ids.max() < student.vocabulary for row in encoded]
        wanted = [row for row, fits in zip(encoded, scorable, strict=True) if fits and isinstance(row, EncodedRow)]
        entropy = "entropies" in self._needs
        how = (self.share_prompts, bool(self.torch_compile))
        arrays = iter(student.score(wanted, self.tokens_per_batch, on_batch, entropy, *how))
        outcomes = []
        for i, (row, fits) in enumerate(zip(encoded, scorable, strict=True)):
            if isinstance(row, UnscorableRowError):
                outcomes.append(ScoredRow(row.status))
                continue
            if not fits:
                reason = (
                    f"token id {row.input_ids.max()} lies outside the {student.vocabulary} entries of student "
                    f"{student.name!r}: is the tokenizer this student's?"
                )
                self._say(BAD_ROW, reason, _place(i, indices))
                outcomes.append(ScoredRow(BAD_ROW))
                continue
            ranks, surprisals, entropies = next(arrays)
            total = float(surprisals.sum(dtype=np.float64))
            if not np.isfinite(total) or total == 0:
                reason = f"the surprisals sum to {total}, which gives no ratio"
                self._say(NONFINITE, reason, _place(i, indices))
                outcomes.append(ScoredRow(NONFINITE))
            else:
                outcomes.append(ScoredRow(row.status, row.input_ids[row.positions], ranks, surprisals, entropies))
        return self._score_again(outcomes, encoded, student, on_batch) if self._needs - {"entropies"} else outcomes

    def score_branches(self, branches: Sequence[Branches]) -> list[npt.NDArray[np.float32] | None]:
        """Surprisals of a continuation after several prefixes of a row, which the student reads once.

        Args:
            branches: The branches of each row; the ids are the student's.

        Returns:
            For each row the surprisals in nats, shape ``(branches, scored tokens)``; nothing where the continuation
            ends beyond what the student can read.
        """
        if not branches:
            return []
        student = self._load_student()
        longest = student.positions or sys.maxsize
        fits = [some.ends[-1] + some.continuation.size - 1 <= longest for some in branches]
        readable = [some for some, fit in zip(branches, fits, strict=True) if fit]
        found = iter(student.score_branches(readable, self.tokens_per_batch))
        return [next(found) if fit else None for fit in fits]

    @property
    def _needs(self) -> set[str]:
        return {need for metric in self.metrics for need in metric.needs}

    def _score_again(
        self,
        outcomes: Sequence[ScoredRow],
        encoded: Sequence[EncodedRow | UnscorableRowError],
        student: Student,
        on_batch: Callable[[BatchAccount], None] | None,
    ) -> list[ScoredRow]:
        """Adds the surprisals that need the student to read a trajectory again, with less before its tokens."""
        tokenizer = self.load_tokenizer()
        parts: dict[str, Callable[[EncodedRow], list[EncodedRow]]] = {
            "local_surprisals": lambda row: local_rows(row, tokenizer),
            "surprisals_without_prompt": lambda row: [row_without_prompt(row, tokenizer)],
        }
        again = list(outcomes)
        for need in sorted(self._needs & parts.keys()):
            rows = [
                parts[need](row) if outcome.ranks is not None and isinstance(row, EncodedRow) else []
                for outcome, row in zip(outcomes, encoded, strict=True)
            ]
            flat = [part for some in rows for part in some]
            found = iter(student.score(flat, self.tokens_per_batch, on_batch, torch_compile=bool(self.torch_compile)))
            for i, some in enumerate(rows):
                if some:
                    added: dict[str, Any] = {need: np.concatenate([next(found)[1] for _ in some])}
                    again[i] = replace(again[i], **added)
        return again

    def to_columns(self, outcomes: Sequence[ScoredRow]) -> dict[str, pa.Array]:
        """Turns outcomes into the columns of the contract, with their Arrow types.

        Args:
            outcomes: From :meth:`score_encoded`.

        Returns:
            Column name to array, one value a row.
        """
        columns = _columns(
            outcomes, self.score_columns, self.rank_clip, self.settings_hash, self.token_columns, self.metrics
        )
        scored = sum(outcome.ranks is not None for outcome in outcomes)
        for metric in self.metrics:
            undefined = columns[self.score_columns.metric(metric.name)].null_count - (len(outcomes) - scored)
            if undefined and metric.name not in self._undefined_said:
                self._undefined_said.add(metric.name)
                logger.warning(
                    "metric %r (%s) is not defined for %d of %d scored rows: null there (said once)",
                    metric.name,
                    metric.formula,
                    undefined,
                    scored,
                )
        return columns

    def _score(
        self, rows: Sequence[Mapping[str, Any]], row_format: RowFormat, indices: Sequence[int] | None, rank: int | None
    ) -> dict[str, pa.Array]:
        device = self.device or default_device(rank)
        return self.to_columns(self.score_encoded(self.encode(rows, row_format, indices), indices, device))

    def _append(self, table: pa.Table, columns: Mapping[str, pa.Array]) -> pa.Table:
        scored = table.drop_columns([name for name in columns if name in table.column_names])
        for name, column in columns.items():
            scored = scored.append_column(name, column)
        metadata = table.schema.metadata or {}
        if b"huggingface" in metadata:  # the types of the columns, which must not leave out the new ones
            features = self.features(Features.from_arrow_schema(table.schema))
            scored = scored.replace_schema_metadata({**metadata, **features.arrow_schema.metadata})
        return scored

    def _load_encoder(self) -> ConversationEncoder:
        loaded = self._loaded
        if loaded.encoder is None:
            trained = getattr(self.spec.load_config().get_text_config(), "max_position_embeddings", None)
            loaded.length_limit = trained if self.max_length is None else self.max_length
            if trained is not None and self.max_length is not None and self.max_length > trained:
                logger.warning(
                    "max_length=%d: the student was made for %d positions (max_position_embeddings); "
                    "tokens beyond them are scored out of its range",
                    self.max_length,
                    trained,
                )
            loaded.encoder = ConversationEncoder(
                self.spec.load_tokenizer(),
                chat_template=self.chat_template,
                chat_template_kwargs=self.chat_template_kwargs,
                turns=self.turns,
            )
        return loaded.encoder

    def _load_student(self, device: torch.device | None = None) -> Student:
        loaded = self._loaded
        if loaded.student is None:
            identity = self.spec.identity()
            student = self.spec.load(device or self.placement)
            if student.positions and loaded.encoder and (loaded.length_limit or sys.maxsize) > student.positions + 1:
                raise ValueError(
                    f"max_length={self.max_length}: student {student.name!r} reads at most {student.positions} tokens "
                    f"at once, of a row all but the last: pass max_length={student.positions + 1} or less"
                )
            loaded.student = student
            if not self.spec.is_loaded:
                loaded.identity = identity
        return loaded.student

    def find_format(self, column_names: Iterable[str]) -> RowFormat:
        """Says which columns are read.

        Args:
            column_names: The columns that there are.

        Raises:
            ValueError: If no format fits them, or the scores would overwrite a column that is read.
        """
        row_format = find_format(column_names, self.columns)
        if overwritten := set(row_format.names) & set(self.score_columns.types(True, self.metrics)):
            raise ValueError(
                f"column_prefix={self.score_columns.prefix!r}: the scores would overwrite the columns "
                f"{sorted(overwritten)} that are read; give another prefix"
            )
        return row_format

    def _warn_of_idle_processes(self) -> None:
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        if processes > 1 and not self._said_idle:
            self._said_idle = True
            logger.warning(
                "dataset.map under a launch of %d processes: each of them does all the work; "
                "rsr_datasets.score_dataset divides it among them",
                processes,
            )

    def _say(self, status: str, reason: str, place: str) -> None:
        if self.strict:
            raise ValueError(f"{place}: {status}: {reason}")
        if status not in self._statuses_said:
            self._statuses_said.add(status)
            logger.warning("%s: %s: %s (said once; the status column has them all)", place, status, reason)

    def __getstate__(self) -> dict[str, Any]:
        if self.spec.is_loaded:
            raise ValueError(
                "a scorer around a loaded model cannot be sent to other processes (num_proc): its weights would be "
                "copied to each; give the student as a Hub id or a folder"
            )
        return self._arguments

    def __setstate__(self, arguments: dict[str, Any]) -> None:
        self.__init__(**arguments)  # type: ignore[misc]


@pklregister(RSRScorer)
def _save_scorer_for_hashing(pickler: Any, scorer: RSRScorer) -> None:
    """``datasets`` hashes what its own pickler writes: here the fingerprint alone, neither paths nor weights."""
    pickler.save_reduce(str, (f"rsr_datasets.scorer.RSRScorer:{scorer.fingerprint}",), obj=scorer)


def rescore(
    dataset: Dataset | DatasetDict,
    rank_clip: int = DEFAULT_RANK_CLIP,
    column_prefix: str = "rsr",
    metrics: Sequence[str | Metric] | None = None,
) -> Dataset | DatasetDict:
    """Recomputes the row columns from the token columns, without a student.

    Args:
        dataset: Scored with ``token_columns=True``.
        rank_clip: ``r_max`` of the new scores; the one that was used gives the same bits again.
        column_prefix: The prefix of the columns.
        metrics: Metrics to add a column for, names or objects, as in :class:`RSRScorer`. Columns of known metrics that
            are there are recomputed too. Those of a second pass of the student stay as they are: no clip is in them.

    Returns:
        The dataset with the same columns and those of ``metrics``; ``rsr_settings`` says the new rank clip.

    Raises:
        ValueError: If ``rank_clip`` is not positive, a column is missing, or a metric needs the student.
        TypeError: For a streamed dataset; score it again instead.
    """
    _check_rank_clip(rank_clip)
    if isinstance(dataset, DatasetDict):
        splits = {name: rescore(split, rank_clip, column_prefix, metrics) for name, split in dataset.items()}
        return DatasetDict(splits)
    if not isinstance(dataset, Dataset):
        kind = "a streamed dataset" if isinstance(dataset, IterableDataset | IterableDatasetDict) else type(dataset)
        raise TypeError(f"rescore takes a Dataset or a DatasetDict, found {kind}")
    columns = ScoreColumns(column_prefix)
    needed = [*columns.token_types, columns.status, columns.settings]
    if missing := [name for name in needed if name not in dataset.column_names]:
        raise ValueError(
            f"rescore needs the columns {missing}; found {dataset.column_names}. "
            f"Score with RSRScorer(..., token_columns=True, column_prefix={column_prefix!r}) first"
        )
    asked = find_metrics(metrics)
    known = {"entropies"} if columns.token_entropies in dataset.column_names else set()
    for metric in asked:
        if lacking := sorted(set(metric.needs) - known):
            raise ValueError(
                f"metric {metric.name!r} needs {lacking}, which the token columns do not hold: score with "
                f"RSRScorer(..., metrics=[{metric.name!r}], token_columns=True)"
            )
    there = [
        metric
        for name, metric in available_metrics().items()
        if columns.metric(name) in dataset.column_names and set(metric.needs) <= known
    ]
    rescored: Dataset = dataset.with_format("arrow").map(
        _rescore_table,
        batched=True,
        fn_kwargs={
            "rank_clip": rank_clip,
            "prefix": column_prefix,
            "metrics": tuple({metric.name: metric for metric in (*find_metrics(there), *asked)}.values()),
        },
        desc="Rescoring",
    )
    return rescored.with_format(**dataset.format)


def _rescore_table(table: pa.Table, rank_clip: int, prefix: str, metrics: Sequence[Metric]) -> pa.Table:
    columns = ScoreColumns(prefix)
    settings = [_with_rank_clip(value, rank_clip) for value in table[columns.settings].to_pylist()]
    statuses = table[columns.status].to_pylist()
    for i, status in enumerate(statuses):
        if status in STATUSES_WITH_SCORE and not table[columns.token_ranks][i].is_valid:
            raise ValueError(
                f"column {columns.token_ranks!r}: null in a row with status {status!r} (row {i} of a batch): "
                "rows scored without token_columns=True cannot be rescored; drop them or score them again"
            )
    names = [name for name in (*columns.token_types, columns.token_entropies) if name in table.column_names]
    outcomes = [ScoredRow(status, *(_numpy(table[name][i]) for name in names)) for i, status in enumerate(statuses)]
    scored = _columns(outcomes, columns, rank_clip, "", token_columns=False, metrics=metrics)
    scored[columns.settings] = pa.array(settings, pa.string())
    for name, column in scored.items():
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, column)
        else:
            table = table.append_column(name, column)
    return table


def _with_rank_clip(settings: str | None, rank_clip: int) -> str | None:
    return settings if settings is None else f"{settings.rpartition('-')[0]}-{rank_clip}"


def _numpy(values: pa.ListScalar) -> npt.NDArray[Any] | None:
    return values.values.to_numpy(zero_copy_only=False) if values.is_valid else None


def _columns(
    outcomes: Sequence[ScoredRow],
    names: ScoreColumns,
    rank_clip: int,
    settings: str,
    token_columns: bool,
    metrics: Sequence[Metric],
) -> dict[str, pa.Array]:
    unscored = np.array([row.status not in STATUSES_WITH_SCORE for row in outcomes], dtype=bool)
    fields = {"token_ids": np.int32, "ranks": np.int32, "surprisals": np.float32, "entropies": np.float32}
    ids, ranks, surprisals, entropies = (
        np.concatenate([np.zeros(0, dtype), *(a for row in outcomes if (a := getattr(row, field)) is not None)])
        for field, dtype in fields.items()
    )
    lengths = [0 if row.ranks is None else row.ranks.size for row in outcomes]
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    scores = trajectory_scores(ranks, surprisals, offsets, rank_clip)
    types = names.types(token_columns, metrics)
    columns = {
        names.rsr: pa.array(scores.rsr, types[names.rsr], mask=unscored),
        names.avg_rank: pa.array(scores.avg_rank, types[names.avg_rank], mask=unscored),
        names.avg_surprisal: pa.array(scores.avg_surprisal, types[names.avg_surprisal], mask=unscored),
        names.num_tokens: pa.array(scores.num_tokens, types[names.num_tokens]),
        names.settings: pa.array([settings] * len(outcomes), types[names.settings]),
        names.status: pa.array([row.status for row in outcomes], types[names.status]),
    }
    if metrics:
        tokens = [row.tokens(rank_clip) for row in outcomes]
        for metric in metrics:
            values = metric_values(metric, tokens)
            columns[names.metric(metric.name)] = pa.array(values, pa.float64(), mask=np.isnan(values))
    lists = {
        names.token_ids: ids,
        names.token_ranks: ranks,
        names.token_surprisals: surprisals,
        names.token_entropies: entropies,
    }
    for name in (name for name in types if name in lists):
        columns[name] = pa.ListArray.from_arrays(
            pa.array(offsets, pa.int32()),
            pa.array(lists[name], types[name].value_type),
            type=types[name],
            mask=pa.array(unscored),
        )
    return columns


def _as_rows(columns: Mapping[str, Sequence[Any]], row_format: RowFormat) -> list[dict[str, Any]]:
    names = row_format.names
    return [dict(zip(names, values, strict=True)) for values in zip(*(columns[name] for name in names), strict=True)]


def _is_batch(rows: Mapping[str, Any], row_format: RowFormat) -> bool:
    """Whether a plain dict holds a sequence of values for each column, or one row's values.

    Raises:
        ValueError: If it holds sequences of different lengths that are not messages.
    """
    if not all(isinstance(value, list | tuple) for value in rows.values()):
        return False
    for name in (row_format.columns[standard] for standard in FORMATS[row_format.kind]):
        first = next((item for item in rows[name] if item is not None), None)
        if isinstance(first, Mapping) and not all(isinstance(first.get(key), list) for key in first):
            return False  # a list of messages: one conversation
    lengths = {name: len(values) for name, values in rows.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the columns have different lengths: {lengths}; a batch has one value a row in each of them")
    return True


def _check_input(rows: Any, extra: tuple[Any, ...], from_map: bool) -> None:
    """Refuses what ``map`` hands over for formats and ``input_columns`` that lose the columns' types.

    ``Dataset.map`` hands a plain dict only for a formatted dataset. Texts stay plain in the torch format, so that such
    a dict can look just like one of a streamed dataset: who calls tells them apart.
    """
    if isinstance(rows, Mapping) and not isinstance(rows, LazyDict):
        formatted = from_map or any(_is_foreign(value) for value in rows.values())
    else:
        formatted = _is_foreign(rows)
    if formatted:
        raise ValueError(
            "the dataset has a format (numpy, torch, pandas, ...) that loses the types of the columns: score "
            'dataset.reset_format() (or with_format("arrow")) and set the format afterwards'
        )
    if not isinstance(rows, pa.Table | Mapping) or len(extra) > 2:
        raise ValueError(
            f"expected rows as a dict or a pa.Table, found {type(rows).__name__}: call map without input_columns=; "
            "columns of other names are given with RSRScorer(..., columns={...})"
        )


def _is_foreign(value: Any) -> bool:
    return type(value).__module__.split(".")[0] in _FOREIGN_MODULES


def _split_extra(extra: tuple[Any, ...]) -> tuple[Sequence[int] | None, int | None]:
    """Indices and rank. A single number is a rank in a worker process, and a row number elsewhere."""
    if len(extra) == 2:
        indices, rank = extra
    elif len(extra) == 1 and isinstance(extra[0], int) and multiprocess.process.parent_process() is not None:
        indices, rank = None, extra[0]
    else:
        indices, rank = (extra[0] if extra else None), None
    return [indices] if isinstance(indices, int) else indices, rank


def _place(i: int, indices: Sequence[int] | None) -> str:
    return f"row {indices[i]}" if indices is not None else f"row {i} of its batch"


def _check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}={value!r}: must be one of {list(allowed)}")


def _check_rank_clip(rank_clip: int) -> None:
    if isinstance(rank_clip, bool) or not isinstance(rank_clip, int) or rank_clip < 1:
        raise ValueError(f"rank_clip={rank_clip!r}: must be a positive whole number")


def _abbreviate(value: Any) -> str:
    """A value as text that fits beside others: long texts by their beginning, objects by their class."""
    if isinstance(value, str | int | float | bool | os.PathLike | Mapping | Sequence | torch.dtype | torch.device):
        text = repr(value)
        return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 1]}…"
    return f"<{type(value).__name__}>"


def _device(device: str | torch.device | None) -> torch.device | None:
    try:
        found = None if device is None else torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device={device!r}: {str(error).splitlines()[0]}") from error
    if found is not None and found.type == "meta":
        raise ValueError(f"device={device!r}: holds no numbers, so that nothing can be scored on it")
    return found


def _json_of(name: str, values: Mapping[str, Any] | None) -> dict[str, Any]:
    try:
        json.dumps(dict(values or {}))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{name}={_abbreviate(values)}: must be a mapping that JSON can hold: {error}") from error
    return dict(values or {})


def _plain(name: str, value: Any) -> Any:
    """A JSON-serialisable form of an argument, for hashing: the same in every process."""
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    if isinstance(value, Mapping):
        return {str(key): _plain(f"{name}[{key!r}]", inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(f"{name}[{i}]", inner) for i, inner in enumerate(value)]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, torch.dtype | torch.device | os.PathLike):
        return repr(value) if isinstance(value, torch.dtype) else str(value)
    raise ValueError(
        f"{name}: a {type(value).__name__} has no text that says in every process what it is, so that the settings "
        "cannot record it; pass plain values or a configuration object with to_dict()"
    )
