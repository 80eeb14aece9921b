"""Shares and percentiles of a trajectory's tokens."""

import math
from functools import partial

import numpy as np

from ..registry import Metric, add_built_in, built_in
from ..trajectory import TrajectoryTokens


def _percentile(tokens: TrajectoryTokens, percentile: float) -> float:
    return np.percentile(tokens.surprisals, percentile).item()


def surprisal_percentile(percentile: float = 95, name: str | None = None) -> Metric:
    """A percentile of the surprisals.

    Args:
        percentile: From 0 to 100; between two tokens it is interpolated linearly.
        name: Name of the metric; ``None`` for ``surprisal_p`` and the percentile.
    """
    if not 0 <= percentile <= 100:
        raise ValueError(f"percentile={percentile}: must be from 0 to 100")
    name = name or f"surprisal_p{percentile:g}".replace(".", "_")
    return Metric(name, partial(_percentile, percentile=percentile), "lower", f"{percentile:g}th percentile of s")


add_built_in(surprisal_percentile())


@built_in("top1_share", "higher", "share of tokens with r = 1")
def _top1_share(tokens: TrajectoryTokens) -> float:
    return (tokens.ranks == 1).mean()


def _share_above(tokens: TrajectoryTokens, surprisal: float) -> float:
    return (tokens.surprisals > surprisal).mean()


def low_probability_share(probability: float = 0.01, name: str = "low_prob_share") -> Metric:
    """Share of tokens to which the student gives less than ``probability``, in (0, 1)."""
    if not 0 < probability < 1:
        raise ValueError(f"probability={probability}: must be in (0, 1)")
    compute = partial(_share_above, surprisal=-math.log(probability))
    formula = f"share of tokens with exp(-s) < {probability:g}"
    return Metric(name, compute, "lower", formula, "the tokens that arXiv:2509.22230 filters")


add_built_in(low_probability_share())
