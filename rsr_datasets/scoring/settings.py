"""The settings of a scorer: checked once, then frozen; their hashes tell scores apart."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets.fingerprint import Hasher

from ..engines.base import StudentSource
from ..metrics import Metric, is_built_in
from ..reading.messages import Turns
from ..reading.rows import OnOverflow
from ..utils.files import hash_text

SCORES_VERSION = 7
"""Raised whenever a change of code changes numbers: scores of two versions never share a cache entry."""

_LOADING_KWARGS = ("token", "device_map", "max_memory", "offload_folder", "offload_buffers", "low_cpu_mem_usage")
_LONGEST_SHOWN = 60


@dataclass(frozen=True)
class Settings:
    """What decides the columns of a row, from the arguments of :class:`rsr_datasets.RSRScorer` of the same names.

    Attributes:
        source: The student.
        chat_template: Jinja text.

    Raises:
        ValueError: For a value that cannot be right; the message names the argument.
    """

    source: StudentSource
    chat_template: str | None
    chat_template_kwargs: dict[str, Any]
    rank_clip: int
    max_length: int | None
    on_overflow: OnOverflow
    turns: Turns
    token_columns: bool
    metrics: tuple[Metric, ...]
    column_prefix: str
    columns: dict[str, str]
    strict: bool

    def __post_init__(self) -> None:
        check_rank_clip(self.rank_clip)
        if self.max_length is not None and (not isinstance(self.max_length, int) or self.max_length < 2):
            raise ValueError(
                f"max_length={self.max_length!r}: must be at least 2 tokens, one of context and one to score"
            )
        for name, allowed in (("on_overflow", ("truncate", "skip", "error")), ("turns", ("all", "last"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}: must be one of {list(allowed)}")
        if not isinstance(self.column_prefix, str) or not self.column_prefix:
            raise ValueError(f"column_prefix={self.column_prefix!r}: must be text, and not empty")
        self._model_kwargs()

    def to_dict(self, identity: Mapping[str, Any]) -> dict[str, Any]:
        """Everything that decides a row's scores, JSON-serialisable.

        Args:
            identity: The student's, from its ``identity()``.
        """
        return {
            "student": dict(identity),
            "chat_template": None if self.chat_template is None else hash_text(self.chat_template),
            "chat_template_kwargs": self.chat_template_kwargs,
            "dtype": str(getattr(self.source, "torch_dtype", "auto")).removeprefix("torch."),
            "attn_implementation": getattr(self.source, "attn_implementation", None),
            "model_kwargs": self._model_kwargs(),
            "trust_remote_code": getattr(self.source, "trust_remote_code", False),
            "rank_clip": self.rank_clip,
            "max_length": self.max_length,
            "on_overflow": self.on_overflow,
            "turns": self.turns,
            "logits_dtype": getattr(self.source, "logits_dtype", "student"),
            "scores_version": SCORES_VERSION,
        }

    @property
    def output(self) -> dict[str, Any]:
        """What decides which columns come out and not what the scores are, JSON-serialisable; metrics by formula."""
        output = {"column_prefix": self.column_prefix, "token_columns": self.token_columns}
        metrics = {"metrics": {metric.name: metric.formula for metric in self.metrics}} if self.metrics else {}
        return output | {"columns": self.columns} | metrics

    def fingerprint(self, identity: Mapping[str, Any]) -> str:
        """A hash of the settings and of the arguments that decide which columns come out.

        Args:
            identity: The student's, from its ``identity()``.
        """
        computed = ["" if is_built_in(metric) else Hasher.hash(metric.compute) for metric in self.metrics]
        return hash_text(json.dumps([self.to_dict(identity), self.output, self.strict, computed], sort_keys=True))

    def _model_kwargs(self) -> dict[str, Any]:
        given = getattr(self.source, "model_kwargs", {}).items()
        return {key: _plain(f"model_kwargs[{key!r}]", value) for key, value in given if key not in _LOADING_KWARGS}


def check_rank_clip(rank_clip: int) -> None:
    """Raises ``ValueError`` unless ``r_max`` is a positive whole number."""
    if isinstance(rank_clip, bool) or not isinstance(rank_clip, int) or rank_clip < 1:
        raise ValueError(f"rank_clip={rank_clip!r}: must be a positive whole number")


def check_device(device: str | torch.device | None) -> torch.device | None:
    """Reads the ``device`` argument.

    Raises:
        ValueError: If torch does not know the device, or the device holds no numbers.
    """
    try:
        found = None if device is None else torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device={device!r}: {str(error).splitlines()[0]}") from error
    if found is not None and found.type == "meta":
        raise ValueError(f"device={device!r}: holds no numbers, so that nothing can be scored on it")
    return found


def as_json(name: str, values: Mapping[str, Any] | None) -> dict[str, Any]:
    """An argument as a JSON file would give it back: a run that is resumed compares the two.

    Raises:
        ValueError: If JSON cannot hold the argument.
    """
    try:
        return dict(json.loads(json.dumps(dict(values or {}))))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{name}={abbreviate(values)}: must be a mapping that JSON can hold: {error}") from error


def abbreviate(value: Any) -> str:
    """A value as text that fits beside others: long texts by their beginning, objects by their class."""
    if isinstance(value, str | int | float | bool | os.PathLike | Mapping | Sequence | torch.dtype | torch.device):
        text = repr(value)
        return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 1]}…"
    return f"<{type(value).__name__}>"


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
