"""The Rank-Surprisal Ratio from the ranks and surprisals of tokens alone (arXiv:2601.14249): NumPy in, NumPy out."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

DEFAULT_RANK_CLIP = 100

Need = Literal["entropies", "local_surprisals", "surprisals_without_prompt"]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TrajectoryScores:
    """Scores of ``n`` trajectories, arrays of shape ``(n,)``; NaN where a value is not defined."""

    avg_rank: FloatArray  # mean clipped rank
    avg_surprisal: FloatArray  # in nats
    rsr: FloatArray  # Rank-Surprisal Ratio (Eq. 7); lower is better
    num_tokens: IntArray


def trajectory_scores(
    ranks: npt.ArrayLike, surprisals: npt.ArrayLike, offsets: npt.ArrayLike, rank_clip: int = DEFAULT_RANK_CLIP
) -> TrajectoryScores:
    """Scores trajectories from the ranks and surprisals of their response tokens (Eq. 7).

    A trajectory's numbers depend on its own tokens alone, to the last bit, whatever stands beside it.

    Args:
        ranks: Exact ranks, 1 for the student's favourite token, shape ``(tokens,)``.
        surprisals: Surprisals in nats, shape ``(tokens,)``. They are summed in float64.
        offsets: First token of each trajectory and, last, the number of tokens, shape ``(n + 1,)``.
        rank_clip: ``r_max``; greater ranks count as ``r_max``.

    Returns:
        The scores. A trajectory without tokens is NaN throughout, and so is a trajectory with a NaN or an infinite
        surprisal; a trajectory whose surprisals sum to zero has no ratio.

    Raises:
        ValueError: If ``rank_clip`` is not positive or the shapes do not agree.
    """
    if rank_clip < 1:
        raise ValueError(f"rank_clip={rank_clip}: must be a positive number")
    rank_array = np.asarray(ranks)
    surprisal_array = np.asarray(surprisals, dtype=np.float64)
    bounds = np.array(offsets, dtype=np.int64, ndmin=1)
    if rank_array.shape != surprisal_array.shape or rank_array.ndim != 1:
        raise ValueError(f"ranks {rank_array.shape} and surprisals {surprisal_array.shape} must have one same length")
    num_tokens = np.diff(bounds)
    if bounds.ndim != 1 or not bounds.size or bounds[0] or bounds[-1] != rank_array.size or (num_tokens < 0).any():
        raise ValueError(f"offsets must run from 0 to {rank_array.size}, the number of tokens, and must not decrease")
    filled = num_tokens > 0
    sums = np.full((2, num_tokens.size), np.nan)
    clipped = np.minimum(rank_array, rank_clip).astype(np.float64)
    if filled.any():
        sums[:, filled] = [np.add.reduceat(values, bounds[:-1][filled]) for values in (clipped, surprisal_array)]
    rank_sum, surprisal_sum = np.where(np.isfinite(sums[1]), sums, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        rsr = np.where(surprisal_sum == 0, np.nan, rank_sum / surprisal_sum)
        return TrajectoryScores(rank_sum / num_tokens, surprisal_sum / num_tokens, rsr, num_tokens)


def ratio_of_means(avg_ranks: npt.ArrayLike, avg_surprisals: npt.ArrayLike) -> float:
    """Rank-Surprisal Ratio of a set of trajectories, all of the same weight (Eq. 9): a ratio of means.

    Args:
        avg_ranks: Average clipped rank of each trajectory, shape ``(n,)``.
        avg_surprisals: Average surprisal of each trajectory in nats, shape ``(n,)``.

    Returns:
        The ratio; NaN for no trajectories or where the surprisals are all zero.
    """
    ranks = np.asarray(avg_ranks, dtype=np.float64)
    surprisals = np.asarray(avg_surprisals, dtype=np.float64)
    if ranks.shape != surprisals.shape:
        raise ValueError(f"avg_ranks {ranks.shape} and avg_surprisals {surprisals.shape} must have one same length")
    mean_surprisal = surprisals.mean() if surprisals.size else 0.0
    return float(ranks.mean() / mean_surprisal) if mean_surprisal > 0 else float("nan")


@dataclass(frozen=True)
class TrajectoryTokens:
    """The scored tokens of one trajectory, in arrays of shape ``(tokens,)``; the last three where a metric needs them.

    Attributes:
        ranks: Exact ranks, 1 for the student's favourite token, int32.
        surprisals: Surprisals in nats, float64.
        rank_clip: ``r_max``.
        entropies: Entropy of the student's whole distribution at each token in nats, float64.
        local_surprisals: Surprisals in nats given only the few steps before each token's own, float64
            (see :mod:`rsr_datasets.scoring.session`).
        surprisals_without_prompt: Surprisals in nats given the response alone, float64.
    """

    ranks: npt.NDArray[np.int32]
    surprisals: FloatArray
    rank_clip: int = DEFAULT_RANK_CLIP
    entropies: FloatArray | None = None
    local_surprisals: FloatArray | None = None
    surprisals_without_prompt: FloatArray | None = None

    @cached_property
    def clipped_ranks(self) -> FloatArray:
        """Ranks, each at most ``rank_clip``, float64."""
        return np.minimum(self.ranks, self.rank_clip).astype(np.float64)

    def known(self, need: Need) -> FloatArray:
        """An array that exists only where a metric needs it; else a ``ValueError``."""
        values: FloatArray | None = getattr(self, need)
        if values is None:
            raise ValueError(f"{need} are not known; a metric that reads them declares needs=({need!r},)")
        return values
