"""The protocol that every engine implements. Callers know nothing else of a student.

A new engine is one file with two classes: a :class:`StudentSource`, which says what is scored with before any weights
are loaded, and the :class:`Engine` that its ``load`` returns.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ..reading.rows import EncodedRow

ENTROPIES = "entropies"
"""A name in :attr:`Engine.provides`: the engine can give the entropy of the student's distribution."""


@dataclass(frozen=True)
class TokenScores:
    """Scores of one row's ``n`` scored tokens, each of shape ``(n,)``.

    Attributes:
        ranks: 1 + the number of vocabulary entries with strictly higher probability (Eq. 2).
        surprisals: Negative log-probabilities in nats.
        entropies: Entropies of the student's distributions in nats; ``None`` if not asked for.
    """

    ranks: npt.NDArray[np.int32]
    surprisals: npt.NDArray[np.float32]
    entropies: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True)
class BatchAccount:
    """The cost of one forward pass: tokens of the rows, each counted by itself; tokens that were read; with padding.

    A prefix that several rows share is read once. A batch is ``split`` if it is a part of one that did not fit into
    memory.
    """

    row_tokens: int
    tokens: int
    padded_tokens: int
    split: bool = False


OnBatch = Callable[[BatchAccount], None]


class Engine(Protocol):
    """A loaded student.

    Attributes:
        name: The student's name in messages.
        vocab_size: Ids below this one can be read and scored. The caller checks rows before it passes them.
        max_positions: Most tokens that a row may have before its last one; ``None`` for no limit.
        provides: What ``score`` can give beside ranks and surprisals: :data:`ENTROPIES` or nothing.
    """

    name: str
    vocab_size: int
    max_positions: int | None
    provides: frozenset[str]

    def score(
        self, rows: Sequence[EncodedRow], *, entropies: bool = False, on_batch: OnBatch | None = None
    ) -> list[TokenScores]:
        """Scores rows.

        Args:
            rows: Encoded rows in any order; ``input_ids`` holds ids below ``vocab_size``.
            entropies: Whether to give entropies too.
            on_batch: Called after each forward pass, where the engine can tell.

        Returns:
            The scores of each row's tokens at ``row.positions``, in the order of ``rows``.
        """


@runtime_checkable
class StudentSource(Protocol):
    """A student before any weights are loaded."""

    @property
    def name(self) -> str:
        """The student's name in messages."""

    def identity(self) -> dict[str, Any]:
        """What decides the numbers: weights, tokenizer, and the engine where it is not transformers; plain JSON."""

    def load_config(self) -> Any:
        """Loads the configuration, a ``transformers.PreTrainedConfig``."""

    def load_tokenizer(self) -> Any:
        """Loads the tokenizer, a ``transformers.PreTrainedTokenizerBase``."""

    def load(self, device: Any, options: dict[str, Any]) -> Engine:
        """Loads the student.

        Args:
            device: The ``torch.device`` of this process.
            options: Arguments of the engine, such as ``tokens_per_batch``. The engine writes back what it chose for
                the device where the caller left the choice open, so that a run can record the choice. The caller may
                set an option that the engine has as an attribute before it scores.

        Raises:
            ValueError: If the student cannot be loaded or scored, naming the student.
        """
