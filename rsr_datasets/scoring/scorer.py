"""RSRScorer: rows to columns, as a callable for ``datasets.map``."""

import inspect
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import pyarrow as pa
import torch
from datasets import Features
from datasets.fingerprint import Hasher
from datasets.formatting.formatting import LazyDict
from datasets.utils._dill import Pickler, pklregister
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..engines.base import EngineName, OnBatch, StudentSource, TokenScores
from ..engines.server import ServerStudent
from ..engines.transformers.head import LogitsDtype
from ..engines.transformers.probes import refusing
from ..engines.transformers.source import ProcessorMixin, TransformersStudent, default_device
from ..engines.vllm import VllmStudent
from ..metrics import DEFAULT_RANK_CLIP, Metric, find_metrics, is_built_in
from ..reading.formats import OPTIONAL_COLUMNS, TOKENIZED, RowFormat, check_columns, find_format
from ..reading.messages import Turns
from ..reading.reasoning import Reasoning
from ..reading.rows import EncodedRow, OnOverflow
from ..reading.templates import DEFAULT_DATE, resolve_chat_template
from ..reading.unread import unread_columns
from ..tables.columns import ScoreColumns
from ..tables.records import settings_hash
from ..utils.deprecation import renamed_arguments
from ..utils.texts import shorten
from .columns import ScoredRow, add_features, make_columns
from .map_input import read_input
from .session import Encoded, Session
from .settings import SECRETS, Settings, as_json, check_whole_number

_PROCESS_OF_IMPORT = os.getpid()
_SOURCES: dict[str, type] = {"transformers": TransformersStudent, "vllm": VllmStudent, "server": ServerStudent}
_OF_TRANSFORMERS = {*inspect.signature(TransformersStudent).parameters, "share_prefixes"}
_MADE_ANEW = ("source", "metrics", "strict", "output", "device", "score_columns", "_settings", "_session")


class RSRScorer:
    """Scores reasoning trajectories for a student with the Rank-Surprisal Ratio (arXiv:2601.14249, Eq. 7).

    A callable for ``Dataset.map``, batched or not, without a format or with ``"arrow"``, and for
    ``IterableDataset.map(scorer, features=scorer.features(dataset.features))``. Called by hand: a dict of lists gives
    a dict with the new columns alone, as lists; one row (a dict of values) gives values; a ``pa.Table`` gives the
    table with the columns appended. The student is loaded at the first call, not before.

    Example:
        >>> add_rsr = RSRScorer("Qwen/Qwen2.5-7B")
        >>> scored = dataset.map(add_rsr, batched=True, batch_size=1000)

    Args:
        student: A Hub id, a local folder, a ``.gguf`` file, a loaded model (then ``tokenizer`` is needed), or a
            :class:`rsr_datasets.engines.base.StudentSource` of another engine.
        revision: Git revision of a Hub student.
        tokenizer: Where to load the tokenizer from, or for a student that reads images its processor, if not from the
            student. A loaded one is taken too.
        chat_template: Instead of the tokenizer's own: Jinja text, a path to it, a preset (``"chatml"``, ``"llama3"``,
            ``"plain"``), or ``"trl:NAME"`` for a file of the installed trl package.
        dtype: The numbers to compute in, such as ``"bfloat16"``; ``"auto"`` is the dtype of the student's files, but
            float32 on a CPU that is slow in half precision. A ``torch.dtype`` is taken too; ``settings`` say which.
        device: Where the student runs; ``None`` is the process's own accelerator, else the CPU.
        attn_implementation: The kernel of attention by its name in transformers, such as ``"sdpa"``.
        model_kwargs: How the student is loaded: arguments of transformers' ``from_pretrained`` (quantisation, ...), of
            ``vllm.LLM`` under ``engine="vllm"`` (``tensor_parallel_size``, ...), or of the client under
            ``engine="server"`` (``timeout``, ...). See :class:`rsr_datasets.engines.server.ServerStudent`.
        trust_remote_code: Run code of the student's repository.
        chat_template_kwargs: Passed to the chat template for every row; a column of that name wins.
        rank_clip: Greater ranks count as this one; ``r_max`` in the paper.
        max_length: Longest sequence in tokens, counted to the last scored token; ``None`` is the student's
            ``max_position_embeddings``, or less if the student cannot read as much.
        on_overflow: How longer rows are treated: ``"truncate"``, ``"skip"`` or ``"error"``.
        turns: Which assistant turns count: ``"all"`` or ``"last"`` in one rendering of the conversation, or ``"each"``
            turn in the rendering that the student sees when it writes the turn.
        reasoning: Where the chat template gets a turn's reasoning: ``"as_is"``, ``"in_content"`` (reasoning in a field
            becomes ``<think>`` text before the content) or ``"in_field"`` (the other way round).
        engine: Runs the student: ``"transformers"``; ``"vllm"``, in this process; or ``"server"``, a vLLM server.
        logits_dtype: The numbers of the logits: ``"student"`` (as published) or ``"float32"``, which breaks the ties
            of bfloat16 logits, at the price of a float32 copy of the output head.
        template_date: The day, ``YYYY-MM-DD``, that chat templates write which ask for today's date.
        token_columns: Add columns with one list a row: id, rank and surprisal of each scored token.
        metrics: Further metrics to add a column for, by name, such as ``"perplexity"``. They are those of
            :func:`rsr_datasets.available_metrics`, or :class:`rsr_datasets.Metric` objects, and do not change the
            scores or ``rsr_settings``.
        column_prefix: Name of the ratio's column and prefix of the others.
        tokens_per_batch: Tokens in one forward pass, with padding, or in flight to a server; ``None`` is what suits
            the device.
        share_prefixes: Read a prefix that several rows share only once, where that saves work. Sharing changes
            rounding: single surprisals of a deep student move by some 1e-5, and ranks in a near tie.
        columns: Names of input columns, standard name first: ``{"prompt": "question", "completion": "solution"}``;
            for sets with one column a part ``{"user": ..., "assistant": ...}`` and, where there are, ``"reasoning"``,
            ``"system"``, ``"history"``, ``"tools"``, ``"images"`` and ``"videos"``.
        media_root: The folder that holds all images and videos which rows name by a path: relative paths begin there,
            and a path that leaves it is refused. ``None`` is the working directory, for the commands the folder of
            the data file.
        allow_urls: Fetch images and videos from the URLs (http, https) that rows name.
        drop_images: Leave the images and videos of rows out, and score their text alone.
        strict: End with an error at the first row that cannot be scored, which else only has a status.

    Raises:
        ValueError: For an argument that cannot be right; the message names it.
    """

    @renamed_arguments(share_prompts="share_prefixes", torch_compile=None)
    def __init__(
        self,
        student: str | os.PathLike[str] | PreTrainedModel | StudentSource,
        *,
        revision: str | None = None,
        tokenizer: str | os.PathLike[str] | PreTrainedTokenizerBase | ProcessorMixin | None = None,
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
        reasoning: Reasoning = "as_is",
        engine: EngineName = "transformers",
        logits_dtype: LogitsDtype = "student",
        template_date: str = DEFAULT_DATE,
        token_columns: bool = False,
        metrics: Sequence[str | Metric] | None = None,
        column_prefix: str = "rsr",
        tokens_per_batch: int | None = None,
        share_prefixes: bool = True,
        columns: Mapping[str, str] | None = None,
        media_root: str | os.PathLike[str] | None = None,
        allow_urls: bool = False,
        drop_images: bool = False,
        strict: bool = False,
    ) -> None:
        self._arguments = {key: value for key, value in locals().items() if key not in ("self", "__class__")}
        if tokens_per_batch is not None:
            check_whole_number("tokens_per_batch", tokens_per_batch)
        self._options: dict[str, Any] = {"tokens_per_batch": tokens_per_batch, "share_prefixes": share_prefixes}
        if engine not in _SOURCES:
            raise ValueError(f"engine={engine!r}: must be one of {sorted(_SOURCES)}")
        takes = inspect.signature(_SOURCES[engine]).parameters.keys()
        loading = takes & self._arguments.keys() - {"student"}
        if isinstance(student, StudentSource):
            if unused := sorted((loading - {"device"} | {"engine"}) & self._changed_arguments().keys()):
                raise ValueError(f"{unused} have no effect on a student of another engine: give them to its source")
            self.source: StudentSource = student
        else:
            without = set() if engine == "transformers" else _OF_TRANSFORMERS - takes
            if unused := sorted(without & self._changed_arguments().keys()):
                raise ValueError(f"{unused} have no effect under engine={engine!r}: leave them out")
            given = {name: self._arguments[name] for name in loading} | {"model_kwargs": dict(model_kwargs or {})}
            self.source = _SOURCES[engine](student, **given)
        checked = self._arguments | {
            "source": self.source,
            "chat_template": resolve_chat_template(None if chat_template is None else os.fspath(chat_template)),
            "chat_template_kwargs": as_json("chat_template_kwargs", chat_template_kwargs or {}),
            "metrics": find_metrics(metrics),
            "columns": check_columns(columns),
            "media_root": None if media_root is None else os.fspath(media_root),
        }
        self._settings = Settings(**{field.name: checked[field.name] for field in fields(Settings)})
        self.metrics, self.strict, self.output = self._settings.metrics, strict, self._settings.output
        if metrics is not None:  # another process may not know what was registered here
            self._arguments["metrics"] = [metric.name if is_built_in(metric) else metric for metric in self.metrics]
        with refusing(f"device={device!r}"):
            self.device = None if device is None else torch.device(device)
        if self.device is not None and self.device.type == "meta":
            raise ValueError(f"device={device!r}: holds no numbers, so that nothing can be scored on it")
        self.score_columns = ScoreColumns(column_prefix)
        self._session = Session(self._settings)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        pklregister(cls)(_save_for_hashing)

    def __repr__(self) -> str:
        arguments = self._changed_arguments()
        if hidden := arguments.get("model_kwargs"):
            arguments["model_kwargs"] = {k: "(hidden)" if k in SECRETS else v for k, v in hidden.items()}
        changed = (f", {name}={shorten(value)}" for name, value in arguments.items())
        return f"RSRScorer({self.source.name!r}{''.join(changed)})"

    def _changed_arguments(self) -> dict[str, Any]:
        """The arguments that differ from their defaults, but for the student."""
        defaults = {name: argument.default for name, argument in inspect.signature(RSRScorer).parameters.items()}
        given = self._arguments.items()
        return {name: value for name, value in given if name != "student" and repr(value) != repr(defaults[name])}

    @property
    def placement(self) -> torch.device:
        """Where the student runs in this process."""
        return self.device or default_device()

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that decides a row's scores: the student's identity and the settings, JSON-serialisable."""
        return self._settings.to_dict(self._session.identity)

    @property
    def media_root(self) -> str | None:
        """The folder of the images, which no record that is published names."""
        return self._settings.media_root

    @property
    def settings_hash(self) -> str:
        """The text of the ``rsr_settings`` column: a short hash of all settings but the rank clip, then the clip."""
        return settings_hash(self.settings)

    @property
    def fingerprint(self) -> str:
        """The text that ``datasets`` hashes: the settings, and the arguments that decide which columns come out."""
        if isinstance(self.source, TransformersStudent) and self.source.is_loaded:
            self.source.identity(fresh=True)
        return self._settings.fingerprint(self._session.identity)

    @property
    def column_types(self) -> dict[str, pa.DataType]:
        """Arrow types of the columns that come out, in their order."""
        return self.score_columns.types(self._settings.token_columns, self.metrics)

    def features(self, features: Features | None) -> Features:
        """Features of a dataset after scoring from those before, for ``IterableDataset.map(scorer, features=...)``."""
        if features is None:
            raise ValueError("the stream's features are not known: give them to load_dataset(..., features=...)")
        return add_features(features, self.column_types)

    def __call__(self, rows: pa.Table | Mapping[str, Any], *extra: Any) -> pa.Table | dict[str, Any]:
        """Scores what ``map`` or a caller by hand gives; ``extra`` are indices and rank, as ``map`` orders them.

        Raises:
            ValueError: For rows in another format, no column to read, or with ``strict`` an unscorable row.
            RuntimeError: In a process that was forked.
        """
        if os.getpid() != _PROCESS_OF_IMPORT:
            raise RuntimeError(
                "scoring in a forked process hangs or fails once torch has run in its parent: before map(num_proc=2) "
                'call multiprocess.set_start_method("spawn") (of the package multiprocess, which datasets uses)'
            )
        given = read_input(rows, extra, sys._getframe(1), self.find_format)
        if isinstance(rows, LazyDict) and (processes := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
            message = "dataset.map under a launch of %d processes: each of them does all the work; "
            self._session.warn_once("idle", f"{message}rsr_datasets.score_dataset divides it among them", processes)
        encoded = self.encode(given.rows, given.row_format, given.indices)
        outcomes = self.score_encoded(encoded, given.indices, self.device or default_device(given.rank))
        return given.give_back(self.to_columns(outcomes))

    def find_format(self, column_names: Iterable[str]) -> RowFormat:
        """Says which of a dataset's columns are read; ``ValueError`` if none, or if scores would overwrite one."""
        names = list(column_names)
        row_format, prefix = find_format(names, self._settings.columns), self.score_columns.prefix
        if row_format.kind != TOKENIZED:
            unread = unread_columns(names, row_format.columns, OPTIONAL_COLUMNS[row_format.kind])
            if unread:
                self._session.warn_once("unread", "%s (said once)", unread)
        if lost := sorted(set(row_format.names) & set(self.score_columns.types(True, self.metrics))):
            reason = f"the scores would overwrite the columns {lost} that are read; give another prefix"
            raise ValueError(f"column_prefix={prefix!r}: {reason}")
        return row_format

    def find_images_below(self, folder: str | None) -> None:
        """Says where relative paths of images begin if ``media_root`` is not given: beside the file of the data."""
        self._session.media_folder = folder

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """Loads the student's tokenizer and reads its chat template, not its weights."""
        return self._session.load_encoder().tokenizer

    def encode(
        self, rows: Sequence[Mapping[str, Any]], row_format: RowFormat, indices: Sequence[int] | None = None
    ) -> list[Encoded]:
        """Encodes rows for the student and applies ``max_length``; needs its tokenizer but not its weights.

        ``row_format`` comes from :meth:`find_format`. ``indices`` number the rows in messages; ``None`` counts within
        these rows. ``ValueError`` with ``strict`` for an unscorable row, with ``on_overflow="error"`` for a long one.
        """
        return self._session.encode(rows, row_format, _places(len(rows), indices))

    def score_encoded(
        self,
        encoded: Sequence[Encoded],
        indices: Sequence[int] | None = None,
        device: torch.device | None = None,
        on_batch: OnBatch | None = None,
    ) -> list[ScoredRow]:
        """Runs the student, put on ``device`` if not loaded yet, over rows of :meth:`encode`; one outcome a row."""
        places = _places(len(encoded), indices)
        return self._session.score(encoded, places, self._options, device or self.placement, on_batch, self.metrics)

    def read_tokens(self, rows: Sequence[EncodedRow]) -> list[TokenScores | None]:
        """Token scores of rows that are no trajectories; ``None`` for a row that the student cannot read."""
        return self._session.read_tokens(rows, self._options, self.placement)

    def to_columns(self, outcomes: Sequence[ScoredRow]) -> dict[str, pa.Array]:
        """Turns outcomes of :meth:`score_encoded` into columns: name to array, one value a row, in order."""
        settings = self._settings
        names, text = self.score_columns, self.settings_hash
        columns = make_columns(outcomes, names, settings.rank_clip, text, settings.token_columns, self.metrics)
        scored = sum(outcome.ranks is not None for outcome in outcomes)
        message = "metric %r (%s) is not defined for %d of %d scored rows: null there (said once)"
        for name, formula in ((metric.name, metric.formula) for metric in self.metrics):
            if undefined := columns[names.metric(name)].null_count - (len(outcomes) - scored):
                self._session.warn_once(f"metric {name}", message, name, formula, undefined, scored)
        return columns

    def resolve_options(self, device: torch.device | None = None) -> dict[str, Any]:
        """The engine's options as given or, where they were left open, as the engine chose; loads the student."""
        return self._session.load_engine(self._options, device or self.placement)[1]

    def with_options(self, options: Mapping[str, Any]) -> "RSRScorer":
        """The same scorer with other options of its engine, by name; the two load one student between them."""
        other = object.__new__(type(self))
        arguments = {name: value for name, value in options.items() if name in self._arguments}
        other.__dict__ |= self.__dict__ | {"_arguments": self._arguments | arguments}
        other._options = self._options | dict(options)
        return other

    def with_token_columns(self) -> "RSRScorer":
        """The same scorer with the per-token lists among its columns; the two load one student between them."""
        other = self.with_options({})
        other._arguments = self._arguments | {"token_columns": True}
        other._settings = replace(self._settings, token_columns=True)
        other.output = other._settings.output
        return other

    def __getstate__(self) -> dict[str, Any]:
        if getattr(self.source, "is_loaded", False):
            raise ValueError(
                "a scorer around a loaded model cannot be sent to other processes (num_proc): its weights would be "
                "copied to each; give the student as a Hub id or a folder"
            )
        return {name: value for name, value in self.__dict__.items() if name not in _MADE_ANEW}

    def __setstate__(self, state: dict[str, Any]) -> None:
        RSRScorer.__init__(self, **state["_arguments"])
        self.__dict__.update(state)


@pklregister(RSRScorer)
def _save_for_hashing(pickler: Pickler, scorer: RSRScorer) -> None:
    """``datasets`` hashes what its own pickler writes: here the fingerprint, neither paths nor weights."""
    added = "" if type(scorer) is RSRScorer else f":{_hash_of_subclass(scorer)}"
    pickler.save_reduce(str, (f"rsr_datasets.scorer.RSRScorer:{scorer.fingerprint}{added}",), obj=scorer)


def _hash_of_subclass(scorer: RSRScorer) -> str:
    """Hashes what a subclass adds: attributes, and the code of methods, but not where the class stands."""
    own = {k: v for k, v in scorer.__dict__.items() if k not in (*_MADE_ANEW, "_arguments", "_options")}
    kinds, added = type(scorer).__mro__, []
    for name, member in (item for kind in kinds[: kinds.index(RSRScorer)] for item in vars(kind).items()):
        inner = getattr(member, "fget", None) or getattr(member, "__wrapped__", member)
        if code := getattr(inner, "__code__", None):
            added.append((name, code.replace(co_filename="")))
        elif not name.startswith("__"):
            added.append((name, member))
    return Hasher.hash([type(scorer).__qualname__, own, added])


def _places(count: int, indices: Sequence[int] | None) -> list[str]:
    """Names of rows in messages: by their numbers in the dataset where these are known, else in their batch."""
    return [f"row {i} of its batch" for i in range(count)] if indices is None else [f"row {i}" for i in indices]
