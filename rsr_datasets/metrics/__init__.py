"""Metrics: numbers from ranks and surprisals (arXiv:2601.14249); pure functions, no model, no dataset."""

from .built_in.combinations import rank_power, surprisal_power, token_top
from .built_in.distribution import low_probability_share, surprisal_percentile
from .registry import (
    DEFAULT_METRICS,
    RSR,
    Metric,
    available_metrics,
    find_metric,
    find_metrics,
    is_built_in,
    metric_values,
    register_metric,
)
from .trajectory import DEFAULT_RANK_CLIP, TrajectoryScores, TrajectoryTokens, ratio_of_means, trajectory_scores

__all__ = [
    "DEFAULT_METRICS",
    "DEFAULT_RANK_CLIP",
    "RSR",
    "Metric",
    "TrajectoryScores",
    "TrajectoryTokens",
    "available_metrics",
    "find_metric",
    "find_metrics",
    "is_built_in",
    "low_probability_share",
    "metric_values",
    "rank_power",
    "ratio_of_means",
    "register_metric",
    "surprisal_percentile",
    "surprisal_power",
    "token_top",
    "trajectory_scores",
]
