"""A scorer that reads the beginnings of rows: a token's scores do not depend on what follows it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import pyarrow as pa
import torch
import xxhash

from ..engines.base import OnBatch
from ..reading.formats import RowFormat
from ..reading.rows import EncodedRow, IntArray, first_tokens
from ..scoring.columns import ScoredRow
from ..scoring.scorer import RSRScorer
from ..scoring.session import Encoded


@dataclass(frozen=True)
class _Prefix(EncodedRow):
    whole: int = 0  # tokens to score of the whole row


@dataclass(frozen=True)
class _ScoredPrefix(ScoredRow):
    whole: int = 0


class PrefixScorer(RSRScorer):
    """Scores the first ``limits[i]`` scored tokens of row ``i``, without metrics; shares the scorer's student.

    The columns are those of the beginnings, and :attr:`whole_column` says how many tokens the whole row would score.
    A row's status is that of the whole row.
    """

    def __init__(self, scorer: RSRScorer, limits: IntArray) -> None:
        self.__dict__ |= scorer.__dict__
        self._limits = limits
        self._settings = replace(scorer._settings, token_columns=False, metrics=())
        self.metrics, self.output = (), self._settings.output
        self.whole_column = f"{self.score_columns.prefix}_whole_tokens"

    @property
    def settings(self) -> dict[str, Any]:
        """The scorer's settings, and a hash of how far rows are read."""
        return super().settings | {"limits": xxhash.xxh3_64_hexdigest(self._limits.tobytes())}

    @property
    def column_types(self) -> dict[str, pa.DataType]:
        """The types of the default columns and of the column with the number of all tokens."""
        return super().column_types | {self.whole_column: pa.int32()}

    def encode(
        self, rows: Sequence[Mapping[str, Any]], row_format: RowFormat, indices: Sequence[int] | None = None
    ) -> list[Encoded]:
        """Encodes rows and cuts them; ``indices`` are their numbers among the limits."""
        encoded = super().encode(rows, row_format, indices)
        limits = self._limits[list(range(len(rows)) if indices is None else indices)]
        pairs = zip(encoded, limits, strict=True)
        return [_cut(row, limit) if isinstance(row, EncodedRow) else row for row, limit in pairs]

    def score_encoded(
        self,
        encoded: Sequence[Encoded],
        indices: Sequence[int] | None = None,
        device: torch.device | None = None,
        on_batch: OnBatch | None = None,
    ) -> list[ScoredRow]:
        """Runs the student over beginnings that :meth:`encode` gave."""
        outcomes = super().score_encoded(encoded, indices, device, on_batch)
        whole = [row.whole if isinstance(row, _Prefix) else 0 for row in encoded]
        return [_ScoredPrefix(**_values(outcome), whole=n) for outcome, n in zip(outcomes, whole, strict=True)]

    def to_columns(self, outcomes: Sequence[ScoredRow]) -> dict[str, pa.Array]:
        """Turns outcomes into columns."""
        whole = [outcome.whole if isinstance(outcome, _ScoredPrefix) else 0 for outcome in outcomes]
        return super().to_columns(outcomes) | {self.whole_column: pa.array(whole, pa.int32())}


def _cut(row: EncodedRow, limit: int) -> _Prefix:
    whole = sum(sequence.positions.size for sequence in row.sequences)
    return _Prefix(**_values(first_tokens(row, int(limit))), whole=whole)


def _values(instance: Any) -> dict[str, Any]:
    return {each.name: getattr(instance, each.name) for each in fields(instance)}
