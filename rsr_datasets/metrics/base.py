"""The Rank-Surprisal Ratio, its parts and its relatives, computed from token-level values alone (arXiv:2601.14249).

Pure functions over NumPy arrays: no model, no data set. For the ratio itself token-level arrays hold the tokens of
many trajectories one after the other; ``offsets`` says where each trajectory begins and ends, as in an Arrow list
array. A :class:`Metric` is a function of one trajectory's tokens, kept under its name in a registry.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from types import MappingProxyType
from typing import Literal

import numpy as np
import numpy.typing as npt

DEFAULT_RANK_CLIP = 100
RSR = "rsr"
DEFAULT_METRICS = (RSR, "avg_rank", "avg_surprisal")
"""Metrics whose columns every scorer adds, whatever it is asked for."""

Direction = Literal["lower", "higher"]
Need = Literal["entropies", "local_surprisals", "surprisals_without_prompt"]
Part = Literal["avg_rank", "avg_surprisal"]
FloatArray = npt.NDArray[np.float64]

_NEEDS: tuple[Need, ...] = ("entropies", "local_surprisals", "surprisals_without_prompt")
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_RESERVED = re.compile(r"num_tokens|settings|status|token_(ids|ranks|surprisals|entropies)")


@dataclass(frozen=True)
class TrajectoryScores:
    """Scores of ``n`` trajectories; NaN where a value is not defined.

    Attributes:
        avg_rank: Mean clipped rank, float64, shape ``(n,)``.
        avg_surprisal: Mean surprisal in nats, float64, shape ``(n,)``.
        rsr: Rank-Surprisal Ratio (Eq. 7), float64, shape ``(n,)``; lower is better.
        num_tokens: Tokens per trajectory, int64, shape ``(n,)``.
    """

    avg_rank: npt.NDArray[np.float64]
    avg_surprisal: npt.NDArray[np.float64]
    rsr: npt.NDArray[np.float64]
    num_tokens: npt.NDArray[np.int64]


def trajectory_scores(
    ranks: npt.ArrayLike, surprisals: npt.ArrayLike, offsets: npt.ArrayLike, rank_clip: int = DEFAULT_RANK_CLIP
) -> TrajectoryScores:
    """Scores trajectories from the ranks and surprisals of their response tokens (Eq. 7).

    A trajectory's numbers depend on its own tokens alone, to the last bit, whatever stands beside it.

    Args:
        ranks: Exact ranks, 1 for the student's favourite token, shape ``(tokens,)``.
        surprisals: Surprisals in nats, shape ``(tokens,)``. They are summed in float64.
        offsets: First token of each trajectory and, last, the number of tokens, shape ``(n + 1,)``.
        rank_clip: ``r_max``; greater ranks count as this one.

    Returns:
        The scores. A trajectory without tokens is NaN throughout, and so is one with a NaN or an infinite surprisal;
        one whose surprisals sum to zero has no ratio.

    Raises:
        ValueError: If ``rank_clip`` is not positive or the shapes do not agree.
    """
    if rank_clip < 1:
        raise ValueError(f"rank_clip={rank_clip}: must be a positive number")
    rank_array = np.asarray(ranks)
    surprisal_array = np.asarray(surprisals, dtype=np.float64)
    bounds = np.asarray(offsets, dtype=np.int64)
    if rank_array.shape != surprisal_array.shape or rank_array.ndim != 1:
        raise ValueError(f"ranks {rank_array.shape} and surprisals {surprisal_array.shape} must have one same length")
    if bounds.ndim != 1 or not bounds.size or bounds[0] != 0 or bounds[-1] != rank_array.size:
        raise ValueError(f"offsets must run from 0 to {rank_array.size}, the number of tokens")
    num_tokens = np.diff(bounds)
    if (num_tokens < 0).any():
        raise ValueError("offsets must not decrease")

    clipped = np.minimum(rank_array, rank_clip).astype(np.float64)
    rank_sum = _segment_sums(clipped, bounds, num_tokens)
    surprisal_sum = _segment_sums(surprisal_array, bounds, num_tokens)
    defined = (num_tokens > 0) & np.isfinite(surprisal_sum)
    rank_sum[~defined] = np.nan
    surprisal_sum[~defined] = np.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        rsr = rank_sum / surprisal_sum
        rsr[surprisal_sum == 0] = np.nan
        return TrajectoryScores(rank_sum / num_tokens, surprisal_sum / num_tokens, rsr, num_tokens)


def ratio_of_means(avg_ranks: npt.ArrayLike, avg_surprisals: npt.ArrayLike) -> float:
    """Rank-Surprisal Ratio of a set of trajectories (Eq. 9): a ratio of means.

    Each trajectory weighs the same, whatever its length.

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


def _segment_sums(
    values: npt.NDArray[np.float64], bounds: npt.NDArray[np.int64], num_tokens: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    sums = np.zeros(num_tokens.size, dtype=np.float64)
    filled = num_tokens > 0
    if filled.any():
        sums[filled] = np.add.reduceat(values, bounds[:-1][filled])
    return sums


@dataclass(frozen=True)
class TrajectoryTokens:
    """What is known of the scored tokens of one trajectory; all arrays have the shape ``(tokens,)``.

    Attributes:
        ranks: Exact ranks, 1 for the student's favourite token, int32.
        surprisals: Surprisals in nats, float64.
        rank_clip: ``r_max``.
        entropies: Entropy of the student's whole distribution at each token in nats, float64, where a metric needs it.
        local_surprisals: Surprisals in nats given only the few steps before each token's own, where a metric needs
            them (see :mod:`rsr_datasets.scoring.second_pass`).
        surprisals_without_prompt: Surprisals in nats given the response alone, where a metric needs them.
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
        """One of the arrays that exist only where a metric needs them.

        Raises:
            ValueError: If it is not there.
        """
        values: FloatArray | None = getattr(self, need)
        if values is None:
            raise ValueError(f"{need} are not known; a metric that reads them declares needs=({need!r},)")
        return values


@dataclass(frozen=True)
class Metric:
    """A number that is computed from the tokens of one trajectory.

    Attributes:
        name: Lower-case letters, digits and underscores; the column is the scorer's prefix, an underscore and this.
        compute: From :class:`TrajectoryTokens`, of at least one token and with finite surprisals, to the number. What
            is not finite counts as undefined. Such a function must be importable or picklable to be used in several
            processes.
        direction: Whether ``"lower"`` or ``"higher"`` values mean that the trajectory suits the student better.
        formula: What ``compute`` does, parameters included, for people and for telling two runs apart. ``r`` are
            ranks, ``r'`` ranks clipped at ``rank_clip``, ``s`` surprisals, ``h`` entropies.
        source: Where it was proposed.
        needs: What it reads beyond ranks and surprisals, each of which costs time: ``"entropies"``,
            ``"local_surprisals"``, ``"surprisals_without_prompt"``.
        numerator: ``"avg_rank"`` or ``"avg_surprisal"`` where the metric is a ratio with this mean as its upper part.
        denominator: Likewise for its lower part. A ratio is aggregated over a data set as a ratio of means (as in
            Eq. 9), with the other part recovered from the value; any other metric as a mean.
    """

    name: str
    compute: Callable[[TrajectoryTokens], float] = field(compare=False)
    direction: Direction
    formula: str
    source: str = ""
    needs: tuple[Need, ...] = ()
    numerator: Part | None = None
    denominator: Part | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name) or _RESERVED.fullmatch(self.name):
            raise ValueError(
                f"name={self.name!r}: must be lower-case letters, digits and underscores, beginning with a letter, "
                "and no other column's"
            )
        if self.direction not in ("lower", "higher"):
            raise ValueError(f'direction={self.direction!r} of metric {self.name!r}: must be "lower" or "higher"')
        if unknown := [need for need in self.needs if need not in _NEEDS]:
            raise ValueError(f"needs={unknown} of metric {self.name!r}: must be among {list(_NEEDS)}")

    @property
    def is_ratio(self) -> bool:
        """Whether a data set's value is a ratio of means."""
        return self.numerator is not None or self.denominator is not None

    def of(self, tokens: TrajectoryTokens) -> float:
        """The metric of one trajectory; NaN where it is not defined.

        Args:
            tokens: Its tokens. Without any, or with a surprisal that is not finite, no metric is defined.

        Raises:
            ValueError: If something that the metric needs is not known.
        """
        if not tokens.ranks.size or not np.isfinite(tokens.surprisals).all():
            return math.nan
        with np.errstate(all="ignore"):
            value = float(self.compute(tokens))
        return value if math.isfinite(value) else math.nan

    def parts(
        self, values: FloatArray, avg_rank: FloatArray, avg_surprisal: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """What is averaged over a data set: its value is the mean of the first over the mean of the second.

        Args:
            values: The metric of each trajectory, shape ``(n,)``.
            avg_rank: Their average clipped ranks, shape ``(n,)``.
            avg_surprisal: Their average surprisals in nats, shape ``(n,)``.

        Returns:
            Upper and lower part of each trajectory, both of shape ``(n,)``; for a metric that is no ratio the values
            and ones.
        """
        columns = {"avg_rank": avg_rank, "avg_surprisal": avg_surprisal}
        upper = columns[self.numerator] if self.numerator else None
        lower = columns[self.denominator] if self.denominator else None
        with np.errstate(divide="ignore", invalid="ignore"):
            if upper is None:
                lower = np.ones_like(values) if lower is None else lower
                return values * lower, lower
            return upper, upper / values if lower is None else lower


def register_metric(metric: Metric, replace: bool = False) -> Metric:
    """Makes a metric known by its name, to :class:`rsr_datasets.RSRScorer` and to all that reads its column.

    Example:
        >>> register_metric(Metric("max_surprisal", lambda tokens: tokens.surprisals.max(), "lower", "max s"))
        >>> add_rsr = RSRScorer("Qwen/Qwen2.5-7B", metrics=["max_surprisal"])

    Args:
        metric: The metric.
        replace: Whether it may take the name of another one that is not built in.

    Returns:
        The metric.

    Raises:
        ValueError: If another metric has the name.
    """
    known = _registry.get(metric.name)
    if known is not None and known != metric and (metric.name in _BUILT_IN or not replace):
        kind = "built in" if metric.name in _BUILT_IN else "registered; replace=True takes its place"
        raise ValueError(f"metric {metric.name!r} is {kind}: {known.formula}; give another name")
    _registry[metric.name] = metric
    return metric


def available_metrics() -> Mapping[str, Metric]:
    """All metrics that are known, by name, built-in ones first."""
    return MappingProxyType(_registry)


def find_metric(metric: str | Metric) -> Metric:
    """The metric of a name.

    Args:
        metric: A name, or a metric, which is given back.

    Raises:
        ValueError: If no metric has the name.
    """
    if isinstance(metric, Metric):
        return metric
    if not isinstance(metric, str) or metric not in _registry:
        raise ValueError(f"metric {metric!r}: there is none of this name; there are {sorted(_registry)}")
    return _registry[metric]


def find_metrics(metrics: Iterable[str | Metric] | None) -> tuple[Metric, ...]:
    """The metrics to compute beside the default ones.

    Args:
        metrics: Names or metrics; default ones among them, which are computed anyway, are passed over.

    Raises:
        ValueError: If a name is unknown, or two different metrics have one name.
    """
    if isinstance(metrics, str):
        raise ValueError(f"metrics={metrics!r}: give a list, [{metrics!r}]")
    found: dict[str, Metric] = {}
    for metric in map(find_metric, metrics or ()):
        if found.setdefault(metric.name, metric) != metric:
            raise ValueError(f"metrics: two different ones are called {metric.name!r}; rename one of them")
        if metric.name in DEFAULT_METRICS and metric != _registry[metric.name]:
            raise ValueError(f"metrics: {metric.name!r} is the name of a default metric; rename yours")
    return tuple(metric for name, metric in found.items() if name not in DEFAULT_METRICS)


def metric_values(metric: Metric, trajectories: Sequence[TrajectoryTokens | None]) -> FloatArray:
    """A metric of several trajectories.

    Args:
        metric: The metric.
        trajectories: Their tokens; ``None`` for one that was not scored.

    Returns:
        Float64, shape ``(n,)``; NaN where it is not defined.
    """
    return np.array([math.nan if tokens is None else metric.of(tokens) for tokens in trajectories], dtype=np.float64)


def token_top(share: float = 0.3, name: str | None = None) -> Metric:
    """The filtered average of token-level ratios (Eq. 5), over the tokens of the highest surprisals.

    Args:
        share: Their share, in (0, 1]; rounded up to whole tokens. Of equal surprisals the earlier tokens count.
        name: Its name; ``None`` for ``token_top`` and the share in percent.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share={share}: must be in (0, 1]")
    return Metric(
        name or f"token_top{share * 100:g}".replace(".", "_"),
        partial(_token_top, share=share),
        "lower",
        f"mean of r'/s over the {share * 100:g}% of tokens of highest s",
        "arXiv:2601.14249, Eq. 5",
    )


def low_probability_share(probability: float = 0.01, name: str = "low_prob_share") -> Metric:
    """Share of tokens that the student gives less than a probability.

    Args:
        probability: The probability, in (0, 1).
        name: Its name.
    """
    if not 0 < probability < 1:
        raise ValueError(f"probability={probability}: must be in (0, 1)")
    return Metric(
        name,
        partial(_share_above, surprisal=-math.log(probability)),
        "lower",
        f"share of tokens with exp(-s) < {probability:g}",
        "the tokens that arXiv:2509.22230 filters",
    )


def surprisal_percentile(percentile: float = 95, name: str | None = None) -> Metric:
    """A percentile of the surprisals.

    Args:
        percentile: From 0 to 100; between two tokens it is interpolated linearly.
        name: Its name; ``None`` for ``surprisal_p`` and the percentile.
    """
    if not 0 <= percentile <= 100:
        raise ValueError(f"percentile={percentile}: must be from 0 to 100")
    return Metric(
        name or f"surprisal_p{percentile:g}".replace(".", "_"),
        partial(_percentile, percentile=percentile),
        "lower",
        f"{percentile:g}th percentile of s",
    )


def rank_power(exponent: float = 1.05, name: str = "rank_pow") -> Metric:
    """The ratio with each clipped rank raised to a power (paper, Table 14).

    Args:
        exponent: The power.
        name: Its name.
    """
    return Metric(
        name,
        partial(_powered, rank=exponent),
        "lower",
        f"sum r'^{exponent:g} / sum s",
        "arXiv:2601.14249, Table 14",
        denominator="avg_surprisal",
    )


def surprisal_power(exponent: float = 0.95, name: str = "surprisal_pow") -> Metric:
    """The ratio with each surprisal raised to a power (paper, Table 14).

    Args:
        exponent: The power.
        name: Its name.
    """
    return Metric(
        name,
        partial(_powered, surprisal=exponent),
        "lower",
        f"sum r' / sum s^{exponent:g}",
        "arXiv:2601.14249, Table 14",
        numerator="avg_rank",
    )


def _rsr(tokens: TrajectoryTokens) -> float:
    return tokens.clipped_ranks.sum() / tokens.surprisals.sum()


def _avg_rank(tokens: TrajectoryTokens) -> float:
    return tokens.clipped_ranks.mean()


def _avg_surprisal(tokens: TrajectoryTokens) -> float:
    return tokens.surprisals.mean()


def _avg_rank_unclipped(tokens: TrajectoryTokens) -> float:
    return tokens.ranks.mean(dtype=np.float64)


def _perplexity(tokens: TrajectoryTokens) -> float:
    return np.exp(tokens.surprisals.mean())


def _token_mean(tokens: TrajectoryTokens) -> float:
    return (tokens.clipped_ranks / tokens.surprisals).mean()


def _token_top(tokens: TrajectoryTokens, share: float) -> float:
    count = math.ceil(round(share * tokens.surprisals.size, 9))
    top = np.argsort(-tokens.surprisals, kind="stable")[:count]
    return (tokens.clipped_ranks[top] / tokens.surprisals[top]).mean()


def _rank_minus_surprisal(tokens: TrajectoryTokens) -> float:
    return (tokens.clipped_ranks - tokens.surprisals).mean()


def _rank_times_surprisal(tokens: TrajectoryTokens) -> float:
    return (tokens.clipped_ranks * tokens.surprisals).mean()


def _powered(tokens: TrajectoryTokens, rank: float = 1.0, surprisal: float = 1.0) -> float:
    return (tokens.clipped_ranks**rank).sum() / (tokens.surprisals**surprisal).sum()


def _percentile(tokens: TrajectoryTokens, percentile: float) -> float:
    return np.percentile(tokens.surprisals, percentile).item()


def _top1_share(tokens: TrajectoryTokens) -> float:
    return (tokens.ranks == 1).mean()


def _share_above(tokens: TrajectoryTokens, surprisal: float) -> float:
    return (tokens.surprisals > surprisal).mean()


def _avg_entropy(tokens: TrajectoryTokens) -> float:
    return tokens.known("entropies").mean()


def _rank_entropy_ratio(tokens: TrajectoryTokens) -> float:
    return tokens.clipped_ranks.sum() / tokens.known("entropies").sum()


def _entropy_weighted_surprisal(tokens: TrajectoryTokens) -> float:
    entropies = tokens.known("entropies")
    return (entropies * tokens.surprisals).sum() / entropies.sum()


def _local_surprisal(tokens: TrajectoryTokens) -> float:
    return tokens.known("local_surprisals").mean()


def _ifd(tokens: TrajectoryTokens) -> float:
    return tokens.surprisals.sum() / tokens.known("surprisals_without_prompt").sum()


_PAPER = "arXiv:2601.14249"
_ENTROPY: tuple[Need, ...] = ("entropies",)
_registry = {
    metric.name: metric
    for metric in (
        Metric(RSR, _rsr, "lower", "sum r' / sum s", f"{_PAPER}, Eq. 7", (), "avg_rank", "avg_surprisal"),
        Metric("avg_rank", _avg_rank, "lower", "mean r'", f"{_PAPER}, Eq. 8"),
        Metric("avg_surprisal", _avg_surprisal, "lower", "mean s", f"{_PAPER}, Eq. 10"),
        Metric("avg_rank_unclipped", _avg_rank_unclipped, "lower", "mean r", f"{_PAPER}, Table 4 (Avg-Rank)"),
        Metric("perplexity", _perplexity, "lower", "exp(mean s)"),
        Metric("token_mean", _token_mean, "lower", "mean of r'/s", f"{_PAPER}, Eq. 4 (Avg-RSR token)"),
        token_top(),
        Metric("rank_minus_surprisal", _rank_minus_surprisal, "lower", "mean of r' - s", f"{_PAPER}, Table 14"),
        Metric("rank_times_surprisal", _rank_times_surprisal, "lower", "mean of r' s", f"{_PAPER}, Table 14"),
        rank_power(),
        surprisal_power(),
        surprisal_percentile(),
        Metric("top1_share", _top1_share, "higher", "share of tokens with r = 1"),
        low_probability_share(),
        Metric("avg_entropy", _avg_entropy, "lower", "mean h", f"{_PAPER}, Table 14", _ENTROPY),
        Metric(
            "rank_entropy_ratio",
            _rank_entropy_ratio,
            "lower",
            "sum r' / sum h",
            f"{_PAPER}, Table 14",
            _ENTROPY,
            numerator="avg_rank",
        ),
        Metric("entropy_weighted_surprisal", _entropy_weighted_surprisal, "lower", "sum h s / sum h", "", _ENTROPY),
        Metric(
            "local_surprisal",
            _local_surprisal,
            "lower",
            "mean of s given only the 4 steps before the token's own",
            f"{_PAPER}, Eq. 11, after arXiv:2510.03988",
            ("local_surprisals",),
        ),
        Metric(
            "ifd",
            _ifd,
            "higher",
            "sum s / sum of s without the prompt",
            "arXiv:2308.12032",
            ("surprisals_without_prompt",),
            numerator="avg_surprisal",
        ),
    )
}
_BUILT_IN = frozenset(_registry)


def is_built_in(metric: Metric) -> bool:
    """Whether every process knows the metric by its name."""
    return metric.name in _BUILT_IN and _registry[metric.name] == metric
