"""Metrics that read the entropy of the student's whole distribution at each token."""

from ..registry import PAPER, built_in
from ..trajectory import TrajectoryTokens


@built_in("avg_entropy", "lower", "mean h", f"{PAPER}, Table 14", needs=("entropies",))
def _avg_entropy(tokens: TrajectoryTokens) -> float:
    return tokens.known("entropies").mean()


@built_in(
    "rank_entropy_ratio", "lower", "sum r' / sum h", f"{PAPER}, Table 14", needs=("entropies",), numerator="avg_rank"
)
def _rank_entropy_ratio(tokens: TrajectoryTokens) -> float:
    return tokens.clipped_ranks.sum() / tokens.known("entropies").sum()


@built_in("entropy_weighted_surprisal", "lower", "sum h s / sum h", needs=("entropies",))
def _entropy_weighted_surprisal(tokens: TrajectoryTokens) -> float:
    entropies = tokens.known("entropies")
    return (entropies * tokens.surprisals).sum() / entropies.sum()
