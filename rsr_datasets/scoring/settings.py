"""The settings of a scorer: checked once, then frozen; their hashes tell scores apart."""

import datetime
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from datasets.fingerprint import Hasher

from ..engines.base import ENTROPIES, StudentSource
from ..metrics import Metric, is_built_in
from ..reading.messages import Turns
from ..reading.reasoning import Reasoning
from ..reading.rows import OnOverflow
from ..reading.templates import DEFAULT_DATE
from ..utils.files import hash_text
from ..utils.texts import shorten

SCORES_VERSION = 9
"""Raised whenever a change of code changes numbers: scores of two versions never share a cache entry."""

SECRETS = ("token", "hf_token", "api_key")  # of model_kwargs: never shown or recorded
_LOADING_KWARGS = ("device_map", "max_memory", "offload_folder", "offload_buffers", "low_cpu_mem_usage", *SECRETS)
_SERVER_KWARGS = ("base_url", "model", "timeout", "max_retries")  # where and how, not what scores


@dataclass(frozen=True)
class Settings:
    """Decides the columns of a row: the student's source, and arguments of :class:`rsr_datasets.RSRScorer`."""

    source: StudentSource
    chat_template: str | None
    chat_template_kwargs: dict[str, Any]
    rank_clip: int
    max_length: int | None
    on_overflow: OnOverflow
    turns: Turns
    reasoning: Reasoning
    template_date: str
    token_columns: bool
    metrics: tuple[Metric, ...]
    column_prefix: str
    columns: dict[str, str]
    media_root: str | None
    allow_urls: bool
    drop_images: bool
    strict: bool

    def __post_init__(self) -> None:
        check_whole_number("rank_clip", self.rank_clip)
        if self.max_length is not None:
            check_whole_number("max_length", self.max_length, 2, " tokens, one of context and one to score")
        for name, kind in (("on_overflow", OnOverflow), ("turns", Turns), ("reasoning", Reasoning)):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name}={getattr(self, name)!r}: must be one of {list(get_args(kind))}")
        try:
            if datetime.date.fromisoformat(self.template_date).isoformat() != self.template_date:
                raise ValueError("another form of the day")
        except (TypeError, ValueError) as error:
            raise ValueError(f"template_date={self.template_date!r}: must be a day, YYYY-MM-DD") from error
        if not isinstance(self.column_prefix, str) or not self.column_prefix:
            raise ValueError(f"column_prefix={self.column_prefix!r}: must be text, and not empty")
        if not isinstance(self.chat_template_kwargs, dict):
            raise ValueError(f"chat_template_kwargs={self.chat_template_kwargs!r}: must be a mapping")
        if self.media_root is not None and not Path(self.media_root).expanduser().is_dir():
            raise ValueError(f"media_root={self.media_root!r}: there is no such folder")
        self._model_kwargs()
        refuse_unfit_metrics(self.metrics, getattr(self.source, "provides", {ENTROPIES}), self.source.name)

    def to_dict(self, identity: Mapping[str, Any]) -> dict[str, Any]:
        """Everything that decides a row's scores, JSON-serialisable; ``identity`` is the student's."""
        # Recorded only where not the default.
        later = {"template_date": DEFAULT_DATE, "reasoning": "as_is", "allow_urls": False, "drop_images": False}
        added = {name: getattr(self, name) for name, default in later.items() if getattr(self, name) != default}
        if engine := getattr(self.source, "engine", None):
            added["engine"] = engine
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
            **added,
        }

    @property
    def output(self) -> dict[str, Any]:
        """All that decides which columns come out, but not the scores, JSON-serialisable; metrics by formula."""
        metrics = {"metrics": {metric.name: metric.formula for metric in self.metrics}} if self.metrics else {}
        names = ("column_prefix", "token_columns", "columns")
        return {name: getattr(self, name) for name in names} | metrics

    def fingerprint(self, identity: Mapping[str, Any]) -> str:
        """A hash of all settings; ``identity`` is the student's."""
        computed = ["" if is_built_in(metric) else Hasher.hash(metric.compute) for metric in self.metrics]
        places = [] if self.media_root is None else [self.media_root]
        whole = [self.to_dict(identity), self.output, self.strict, computed, *places]
        return hash_text(json.dumps(whole, sort_keys=True))

    def _model_kwargs(self) -> dict[str, Any]:
        left_out = {*_LOADING_KWARGS, *(_SERVER_KWARGS if getattr(self.source, "engine", None) == "server" else ())}
        given = getattr(self.source, "model_kwargs", {}).items()
        return {key: as_json(f"model_kwargs[{key!r}]", value) for key, value in given if key not in left_out}


def refuse_unfit_metrics(metrics: Iterable[Metric], provides: Iterable[str], student: str) -> None:
    """Raises ``ValueError`` for metrics that need what a student's engine does not provide."""
    needing = [metric.name for metric in metrics if ENTROPIES in metric.needs]
    if needing and ENTROPIES not in provides:
        raise ValueError(f"metrics {needing} need entropies, which student {student!r} does not give")


def check_whole_number(name: str, value: Any, least: int = 1, of: str = "") -> None:
    """Raises ``ValueError`` unless an argument is a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}={value!r}: must be a positive whole number, at least {least}{of}")


def as_json(name: str, value: Any) -> Any:
    """An argument as a JSON file gives it back, the same in every process: a run that is resumed compares the two."""

    def plain(inner: Any) -> Any:
        if hasattr(inner, "to_dict"):
            return inner.to_dict()
        if not isinstance(inner, Mapping | torch.dtype | torch.device | os.PathLike):
            raise TypeError(f"a {type(inner).__name__} has no text that says in every process what it is")
        return dict(inner) if isinstance(inner, Mapping) else str(inner)

    try:
        return json.loads(json.dumps(value, default=plain))
    except (TypeError, ValueError, RecursionError) as error:
        reason = f"JSON cannot hold it: {error}; pass plain values or an object with to_dict()"
        raise ValueError(f"{name}={shorten(value)}: {reason}") from error
