"""Metrics that need more of the student than ranks and surprisals: entropies, or a second reading of the response."""

from ..registry import PAPER, TABLE_14, built_in
from ..trajectory import TrajectoryTokens


@built_in("avg_entropy", "lower", "mean h", TABLE_14, needs=("entropies",))
def _avg_entropy(tokens: TrajectoryTokens) -> float:
    return tokens.known("entropies").mean()


@built_in("rank_entropy_ratio", "lower", "sum r' / sum h", TABLE_14, needs=("entropies",), numerator="avg_rank")
def _rank_entropy_ratio(tokens: TrajectoryTokens) -> float:
    return tokens.clipped_ranks.sum() / tokens.known("entropies").sum()


@built_in("entropy_weighted_surprisal", "lower", "sum h s / sum h", needs=("entropies",))
def _entropy_weighted_surprisal(tokens: TrajectoryTokens) -> float:
    entropies = tokens.known("entropies")
    return (entropies * tokens.surprisals).sum() / entropies.sum()


@built_in(
    "local_surprisal",
    "lower",
    "mean of s given only the 4 steps before the token's own",
    f"{PAPER}, Eq. 11, after arXiv:2510.03988",
    needs=("local_surprisals",),
)
def _local_surprisal(tokens: TrajectoryTokens) -> float:
    return tokens.known("local_surprisals").mean()


@built_in(
    "ifd",
    "higher",
    "sum s / sum of s without the prompt",
    "arXiv:2308.12032",
    needs=("surprisals_without_prompt",),
    numerator="avg_surprisal",
)
def _ifd(tokens: TrajectoryTokens) -> float:
    return tokens.surprisals.sum() / tokens.known("surprisals_without_prompt").sum()
