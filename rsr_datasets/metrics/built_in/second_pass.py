"""Metrics that need the student to read the response a second time, in another context."""

from ..registry import PAPER, built_in
from ..trajectory import TrajectoryTokens


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
