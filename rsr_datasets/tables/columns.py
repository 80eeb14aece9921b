"""The columns that scoring adds: their names, Arrow types and statuses."""

from collections.abc import Iterable

import pyarrow as pa

from ..metrics import RSR, Metric, available_metrics

SCORED = "scored"
TRUNCATED = "truncated"
SKIPPED_TOO_LONG = "skipped_too_long"
NO_RESPONSE = "no_response"
BAD_ROW = "bad_row"
TEMPLATE_DROPPED_TEXT = "template_dropped_text"
NONFINITE = "nonfinite"
PRUNED = "pruned"

DEFAULT_TEACHER_COLUMN = "teacher"

STATUSES_WITH_SCORE = (SCORED, TRUNCATED)
STATUSES_WITHOUT_SCORE = (SKIPPED_TOO_LONG, NO_RESPONSE, BAD_ROW, TEMPLATE_DROPPED_TEXT, NONFINITE, PRUNED)


class ScoreColumns:
    """Names and Arrow types of the columns of one ``column_prefix``; the ratio's own column is the prefix itself."""

    def __init__(self, prefix: str = RSR) -> None:
        self.prefix = prefix
        self.prefix_argument = "" if prefix == RSR else f", column_prefix={prefix!r}"  # for calls in messages
        self.rsr = prefix  # Rank-Surprisal Ratio of the trajectory (Eq. 7)
        self.avg_rank = f"{prefix}_avg_rank"  # mean over the scored tokens, each rank clipped at rank_clip
        self.avg_surprisal = f"{prefix}_avg_surprisal"  # mean over the scored tokens, in nats
        self.num_tokens = f"{prefix}_num_tokens"  # how many tokens were scored
        self.settings = f"{prefix}_settings"  # short hash of the student and the settings that gave the score
        self.status = f"{prefix}_status"  # how the scoring of the row ended
        self.tokens_read = f"{prefix}_tokens_read"  # of its tokens to score, by a selection that reads in stages
        self.row_types: dict[str, pa.DataType] = {
            **dict.fromkeys((self.rsr, self.avg_rank, self.avg_surprisal), pa.float64()),
            self.num_tokens: pa.int32(),
            **dict.fromkeys((self.settings, self.status), pa.string()),
        }
        self.token_ids = f"{prefix}_token_ids"
        self.token_ranks = f"{prefix}_token_ranks"  # exact, not clipped
        self.token_surprisals = f"{prefix}_token_surprisals"  # nats
        self.token_entropies = f"{prefix}_token_entropies"  # of the student's whole distribution, nats
        self.token_types: dict[str, pa.DataType] = {
            **dict.fromkeys((self.token_ids, self.token_ranks), pa.list_(pa.int32())),
            self.token_surprisals: pa.list_(pa.float32()),
        }

    def metric(self, name: str) -> str:
        """The column of a metric, float64."""
        return self.prefix if name == RSR else f"{self.prefix}_{name}"

    def is_score(self, column: str) -> bool:
        """Whether a column holds one value a row that belongs to the scores: a default one, or a known metric's."""
        own = (*self.row_types, self.tokens_read)
        return column in own or column in map(self.metric, available_metrics())

    def is_any(self, column: str) -> bool:
        """Whether a column belongs to the scores: one of :meth:`is_score`, or a list with one value a token."""
        return self.is_score(column) or column in self.token_types or column == self.token_entropies

    def types(self, token_columns: bool, metrics: Iterable[Metric] = ()) -> dict[str, pa.DataType]:
        """Arrow types of all columns of a scorer, in order; with token columns the entropies of its metrics too."""
        metrics = list(metrics)
        types = self.row_types | {self.metric(metric.name): pa.float64() for metric in metrics}
        if token_columns:
            types |= self.token_types
            if any("entropies" in metric.needs for metric in metrics):
                types[self.token_entropies] = pa.list_(pa.float32())
        return types


def score_prefixes(names: Iterable[str]) -> list[str]:
    """The sorted prefixes of the column names that have both a status and a settings column."""
    present = set(names)
    found = [ScoreColumns(name.removesuffix("_status")) for name in sorted(present) if name.endswith("_status")]
    return [columns.prefix for columns in found if columns.settings in present]
