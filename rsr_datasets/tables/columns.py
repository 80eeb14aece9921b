"""The columns that scoring adds: their names, Arrow types and statuses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from ..metrics import RSR, Metric, available_metrics

SCORED = "scored"
TRUNCATED = "truncated"
SKIPPED_TOO_LONG = "skipped_too_long"
NO_RESPONSE = "no_response"
BAD_ROW = "bad_row"
TEMPLATE_DROPPED_TEXT = "template_dropped_text"
NONFINITE = "nonfinite"

DEFAULT_TEACHER_COLUMN = "teacher"

STATUSES_WITH_SCORE = (SCORED, TRUNCATED)
STATUSES_WITHOUT_SCORE = (SKIPPED_TOO_LONG, NO_RESPONSE, BAD_ROW, TEMPLATE_DROPPED_TEXT, NONFINITE)


@dataclass(frozen=True)
class ScoreColumns:
    """Names and Arrow types of the columns that belong to one ``column_prefix``.

    Args:
        prefix: The scorer's ``column_prefix``; the ratio's own column is the prefix itself.
    """

    prefix: str = "rsr"

    @property
    def rsr(self) -> str:
        """Rank-Surprisal Ratio of the trajectory (Eq. 7), float64."""
        return self.prefix

    @property
    def avg_rank(self) -> str:
        """Mean rank of the scored tokens, each clipped at ``rank_clip``, float64."""
        return f"{self.prefix}_avg_rank"

    @property
    def avg_surprisal(self) -> str:
        """Mean surprisal of the scored tokens in nats, float64."""
        return f"{self.prefix}_avg_surprisal"

    @property
    def num_tokens(self) -> str:
        """Number of tokens scored, int32."""
        return f"{self.prefix}_num_tokens"

    @property
    def settings(self) -> str:
        """Short hash of the student and the settings that gave the score, string."""
        return f"{self.prefix}_settings"

    @property
    def status(self) -> str:
        """How the scoring of the row ended, string."""
        return f"{self.prefix}_status"

    @property
    def token_ids(self) -> str:
        """Ids of the scored tokens, list of int32."""
        return f"{self.prefix}_token_ids"

    @property
    def token_ranks(self) -> str:
        """Exact, unclipped ranks of the scored tokens, list of int32."""
        return f"{self.prefix}_token_ranks"

    @property
    def token_surprisals(self) -> str:
        """Surprisals of the scored tokens in nats, list of float32."""
        return f"{self.prefix}_token_surprisals"

    @property
    def token_entropies(self) -> str:
        """Entropies of the student's distribution at the scored tokens in nats, list of float32."""
        return f"{self.prefix}_token_entropies"

    def metric(self, name: str) -> str:
        """A metric's value of the trajectory, float64.

        Args:
            name: The metric's name; the ratio's own column is the prefix itself.
        """
        return self.prefix if name == RSR else f"{self.prefix}_{name}"

    def is_score(self, column: str) -> bool:
        """Whether a column holds one value a row that belongs to the scores: a default one, or a known metric's.

        Args:
            column: Its name.
        """
        return column in self.row_types or column in {self.metric(name) for name in available_metrics()}

    def is_any(self, column: str) -> bool:
        """Whether a column belongs to the scores: one of :meth:`is_score`, or a list with one value a token.

        Args:
            column: Its name.
        """
        return self.is_score(column) or column in {*self.token_types, self.token_entropies}

    @cached_property
    def row_types(self) -> dict[str, pa.DataType]:
        """Arrow types of the columns with one value a row, in column order."""
        return {
            self.rsr: pa.float64(),
            self.avg_rank: pa.float64(),
            self.avg_surprisal: pa.float64(),
            self.num_tokens: pa.int32(),
            self.settings: pa.string(),
            self.status: pa.string(),
        }

    @cached_property
    def token_types(self) -> dict[str, pa.DataType]:
        """Arrow types of the columns with one value a token, in column order."""
        return {
            self.token_ids: pa.list_(pa.int32()),
            self.token_ranks: pa.list_(pa.int32()),
            self.token_surprisals: pa.list_(pa.float32()),
        }

    def types(self, token_columns: bool, metrics: Iterable[Metric] = ()) -> dict[str, pa.DataType]:
        """Arrow types of all columns that a scorer adds.

        Args:
            token_columns: Whether the per-token lists are among them.
            metrics: The metrics beside the default ones. With token columns the entropies that they need are kept.
        """
        metrics = list(metrics)
        types = {**self.row_types, **{self.metric(metric.name): pa.float64() for metric in metrics}}
        if token_columns:
            types |= self.token_types
            if any("entropies" in metric.needs for metric in metrics):
                types[self.token_entropies] = pa.list_(pa.float32())
        return types


def score_prefixes(names: Iterable[str]) -> list[str]:
    """Finds the prefixes of score columns: those with a status and a settings column.

    Args:
        names: Column names.

    Returns:
        The prefixes, sorted.
    """
    present = set(names)
    found = [ScoreColumns(name.removesuffix("_status")) for name in sorted(present) if name.endswith("_status")]
    return [columns.prefix for columns in found if columns.settings in present]
