"""The ratio itself and plain means of ranks and surprisals."""

import numpy as np

from ..registry import PAPER, built_in
from ..trajectory import TrajectoryTokens


@built_in("rsr", "lower", "sum r' / sum s", f"{PAPER}, Eq. 7", numerator="avg_rank", denominator="avg_surprisal")
def _rsr(tokens: TrajectoryTokens) -> float:
    return tokens.clipped_ranks.sum() / tokens.surprisals.sum()


@built_in("avg_rank", "lower", "mean r'", f"{PAPER}, Eq. 8")
def _avg_rank(tokens: TrajectoryTokens) -> float:
    return tokens.clipped_ranks.mean()


@built_in("avg_surprisal", "lower", "mean s", f"{PAPER}, Eq. 10")
def _avg_surprisal(tokens: TrajectoryTokens) -> float:
    return tokens.surprisals.mean()


@built_in("avg_rank_unclipped", "lower", "mean r", f"{PAPER}, Table 4 (Avg-Rank)")
def _avg_rank_unclipped(tokens: TrajectoryTokens) -> float:
    return tokens.ranks.mean(dtype=np.float64)


@built_in("perplexity", "lower", "exp(mean s)")
def _perplexity(tokens: TrajectoryTokens) -> float:
    return np.exp(tokens.surprisals.mean())
