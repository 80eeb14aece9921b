"""Students that vLLM runs, in process or as a server: their files, and vLLM's prompt log-probabilities as scores."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..reading.rows import EncodedRow
from .base import BatchAccount, TokenScores
from .transformers.source import TransformersStudent

CLAMPED = -9999.0  # in answers of a server, whose JSON has no infinity


@dataclass(frozen=True)
class VllmSource:
    """The part of a :class:`rsr_datasets.engines.base.StudentSource` that needs no vLLM: the student's files."""

    student: str | os.PathLike[str]
    revision: str | None = None
    tokenizer: str | os.PathLike[str] | PreTrainedTokenizerBase | None = None
    model_kwargs: Mapping[str, Any] = field(default_factory=dict)
    trust_remote_code: bool = False

    engine: ClassVar[str]
    provides: ClassVar[frozenset[str]] = frozenset()
    unread: ClassVar[Mapping[str, str]]

    def __post_init__(self) -> None:
        if isinstance(self.student, PreTrainedModel):
            raise ValueError(f"engine={self.engine!r}: loads the student itself; give a Hub id or a folder")
        _ = self.files  # an argument that cannot be right is an error at once

    @cached_property
    def files(self) -> TransformersStudent:
        """The student as transformers would load it, for the config, the tokenizer and the identity."""
        return TransformersStudent(
            self.student,
            revision=self.revision,
            tokenizer=self.tokenizer,
            dtype=getattr(self, "dtype", "auto"),
            model_kwargs={"token": self.model_kwargs["hf_token"]} if "hf_token" in self.model_kwargs else {},
            trust_remote_code=self.trust_remote_code,
        )

    @property
    def name(self) -> str:
        """The student's name in messages."""
        return self.files.name

    @property
    def torch_dtype(self) -> torch.dtype | Literal["auto"]:
        """The student's dtype as given."""
        return self.files.given_dtype

    def load_config(self) -> transformers.PreTrainedConfig:
        """Loads the student's configuration; ``ValueError`` names the student where there is none."""
        return self.files.load_config()

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """Loads the tokenizer here; the engine is sent token ids."""
        return self.files.load_tokenizer()

    def load_processor(self) -> Any:
        """Loads the student's processor; ``None`` for a student that reads text alone."""
        return self.files.load_processor()

    @property
    def vocab_size(self) -> int:
        """Entries of the student's vocabulary, by its configuration."""
        return int(self.load_config().get_text_config().vocab_size)


def account_of(row: EncodedRow, row_tokens: int) -> BatchAccount:
    """The cost of a row that is read alone; vLLM reads its last token too."""
    size = row.input_ids.size
    return BatchAccount(row_tokens, size, size)


def to_scores(row: EncodedRow, ids: Sequence[int], logprobs: Sequence[float], ranks: Sequence[int]) -> TokenScores:
    """Scores from the entries of all tokens of a row but the first; ``ValueError`` if they are of other tokens."""
    expected = row.input_ids[1:]
    if len(ids) != expected.size:
        raise ValueError(f"log-probabilities of {len(ids) + 1} tokens came back for a row of {expected.size + 1}")
    if differing := np.flatnonzero(np.asarray(ids) != expected).tolist():
        where = f"token {differing[0] + 1} of a row is {expected[differing[0]]}"
        raise ValueError(f"log-probabilities of other tokens came back: {where}, the answer's {ids[differing[0]]}")
    index = row.positions - 1
    values = np.asarray(logprobs, dtype=np.float64)[index]
    surprisals = np.where(values <= CLAMPED, np.inf, -values).astype(np.float32)
    return TokenScores(np.asarray(ranks, dtype=np.int32)[index], surprisals)
