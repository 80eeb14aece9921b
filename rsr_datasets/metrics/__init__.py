"""Metrics: numbers from ranks and surprisals (arXiv:2601.14249); pure functions, no model, no dataset."""

from .built_in.combinations import rank_power as rank_power
from .built_in.combinations import surprisal_power as surprisal_power
from .built_in.combinations import token_top as token_top
from .built_in.distribution import low_probability_share as low_probability_share
from .built_in.distribution import surprisal_percentile as surprisal_percentile
from .registry import DEFAULT_METRICS as DEFAULT_METRICS
from .registry import RSR as RSR
from .registry import Metric as Metric
from .registry import available_metrics as available_metrics
from .registry import find_metric as find_metric
from .registry import find_metrics as find_metrics
from .registry import is_built_in as is_built_in
from .registry import metric_values as metric_values
from .registry import register_metric as register_metric
from .trajectory import DEFAULT_RANK_CLIP as DEFAULT_RANK_CLIP
from .trajectory import TrajectoryScores as TrajectoryScores
from .trajectory import TrajectoryTokens as TrajectoryTokens
from .trajectory import ratio_of_means as ratio_of_means
from .trajectory import trajectory_scores as trajectory_scores
