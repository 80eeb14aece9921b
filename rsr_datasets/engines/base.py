"""The protocol that every engine implements. Callers know nothing else of a student.

A new engine is one file with two classes: a :class:`StudentSource`, and the :class:`Engine` that its ``load`` returns.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ..reading.rows import EncodedRow, UnscorableRowError

EngineName = Literal["transformers", "vllm", "server"]

ENTROPIES = "entropies"  # in Engine.provides: the engine can give the entropy of the student's distribution


@dataclass(frozen=True)
class TokenScores:
    """Scores of one row's ``n`` scored tokens, each of shape ``(n,)``."""

    ranks: npt.NDArray[np.int32]  # 1 + the number of vocabulary entries with strictly higher probability (Eq. 2)
    surprisals: npt.NDArray[np.float32]  # negative log-probabilities in nats
    entropies: npt.NDArray[np.float32] | None = None  # of the student's distributions in nats, if asked for


@dataclass(frozen=True)
class BatchAccount:
    """The cost of one forward pass in tokens. A prefix that several rows share is read once."""

    row_tokens: int  # of the rows, each counted by itself, and once what sequences of one row share
    tokens: int  # that were read
    padded_tokens: int  # with padding
    split: bool = False  # whether the batch is a part of one that did not fit into memory


OnBatch = Callable[[BatchAccount], None]


class Engine(Protocol):
    """A loaded student."""

    name: str  # in messages
    vocab_size: int  # ids below this one can be read and scored; the caller checks rows before it passes them
    max_positions: int | None  # most tokens that a row may have before its last one; None for no limit
    provides: frozenset[str]  # what ``score`` can give beside ranks and surprisals: ENTROPIES or nothing

    def score(
        self, rows: Sequence[EncodedRow], *, entropies: bool = False, on_batch: OnBatch | None = None
    ) -> Sequence[TokenScores | UnscorableRowError | None]:
        """Scores the tokens of each row at ``row.positions``; gives one result a row, in the order of ``rows``.

        A row with ``more`` stands before these sequences, which an engine may read together. ``None`` stands for a
        row that alone is more than the engine's memory holds, an error for a row that the engine refuses. ``on_batch``
        is called after each forward pass, where the engine can tell.
        """


@runtime_checkable
class StudentSource(Protocol):
    """A student before any weights are loaded.

    A source may have ``provides``, as its engine: metrics that need more are then refused before anything is loaded.
    A source of students that read images has ``load_processor()``, which gives a ``transformers.ProcessorMixin``, or
    ``None`` for a student of text alone; ``ValueError`` says why rows with images cannot be read. If its engine is
    not shown what the student reads, ``unread`` says why, by ``"image"`` and ``"video"``.
    """

    @property
    def name(self) -> str:
        """The student's name in messages."""

    def identity(self) -> dict[str, Any]:
        """Decides the numbers: weights, tokenizer, and the engine where it is not transformers; plain JSON."""

    def load_config(self) -> Any:
        """Loads the configuration, a ``transformers.PreTrainedConfig``."""

    def load_tokenizer(self) -> Any:
        """Loads the tokenizer, a ``transformers.PreTrainedTokenizerBase``."""

    def load(self, device: Any, options: dict[str, Any]) -> Engine:
        """Loads the student onto a ``torch.device``; ``ValueError`` names a student that cannot be loaded or scored.

        ``options`` are arguments of the engine. The engine writes back what it chose where the caller left the choice
        open. The caller may set an option that the engine has as an attribute before it scores.
        """
