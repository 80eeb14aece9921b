"""Means of ranks and surprisals, the ratio of their sums, and other combinations."""

import math
from functools import partial

import numpy as np

from ..registry import PAPER, TABLE_14, Metric, add_built_in, built_in
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


@built_in("token_mean", "lower", "mean of r'/s", f"{PAPER}, Eq. 4 (Avg-RSR token)")
def _token_mean(tokens: TrajectoryTokens) -> float:
    return (tokens.clipped_ranks / tokens.surprisals).mean()


def _token_top(tokens: TrajectoryTokens, share: float) -> float:
    count = math.ceil(round(share * tokens.surprisals.size, 9))
    top = np.argsort(-tokens.surprisals, kind="stable")[:count]
    return (tokens.clipped_ranks[top] / tokens.surprisals[top]).mean()


def token_top(share: float = 0.3, name: str | None = None) -> Metric:
    """The filtered average of token-level ratios (Eq. 5), over the tokens of the highest surprisals.

    Args:
        share: Share of the tokens, in (0, 1]; rounded up to whole tokens. Earlier tokens win ties.
        name: Name of the metric; ``None`` for ``token_top`` and the share in percent.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share={share}: must be in (0, 1]")
    name = name or f"token_top{share * 100:g}".replace(".", "_")
    formula = f"mean of r'/s over the {share * 100:g}% of tokens of highest s"
    return Metric(name, partial(_token_top, share=share), "lower", formula, f"{PAPER}, Eq. 5")


add_built_in(token_top())


@built_in("rank_minus_surprisal", "lower", "mean of r' - s", TABLE_14)
def _rank_minus_surprisal(tokens: TrajectoryTokens) -> float:
    return (tokens.clipped_ranks - tokens.surprisals).mean()


@built_in("rank_times_surprisal", "lower", "mean of r' s", TABLE_14)
def _rank_times_surprisal(tokens: TrajectoryTokens) -> float:
    return (tokens.clipped_ranks * tokens.surprisals).mean()


def _powered(tokens: TrajectoryTokens, rank: float = 1.0, surprisal: float = 1.0) -> float:
    return (tokens.clipped_ranks**rank).sum() / (tokens.surprisals**surprisal).sum()


def rank_power(exponent: float = 1.05, name: str = "rank_pow") -> Metric:
    """The ratio with each clipped rank raised to the power ``exponent`` (paper, Table 14)."""
    compute, formula = partial(_powered, rank=exponent), f"sum r'^{exponent:g} / sum s"
    return Metric(name, compute, "lower", formula, TABLE_14, denominator="avg_surprisal")


def surprisal_power(exponent: float = 0.95, name: str = "surprisal_pow") -> Metric:
    """The ratio with each surprisal raised to the power ``exponent`` (paper, Table 14)."""
    compute, formula = partial(_powered, surprisal=exponent), f"sum r' / sum s^{exponent:g}"
    return Metric(name, compute, "lower", formula, TABLE_14, numerator="avg_rank")


add_built_in(rank_power())
add_built_in(surprisal_power())
