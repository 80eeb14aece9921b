"""Metrics and their names. A metric is a function of one trajectory's tokens; the registry finds it by its name."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np

from ..utils.texts import did_you_mean
from .trajectory import FloatArray, Need, TrajectoryTokens

RSR = "rsr"
DEFAULT_METRICS = (RSR, "avg_rank", "avg_surprisal")  # whose columns every scorer adds, whatever it is asked for
PAPER = "arXiv:2601.14249"
TABLE_14 = f"{PAPER}, Table 14"

Compute = Callable[[TrajectoryTokens], float]
Direction = Literal["lower", "higher"]
Part = Literal["avg_rank", "avg_surprisal"]

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_RESERVED = re.compile(r"num_tokens|settings|status|token_(ids|ranks|surprisals|entropies)")


@dataclass(frozen=True)
class Metric:
    """A number that is computed from the tokens of one trajectory.

    Two metrics are equal where every attribute is; two ``partial`` objects of the same parts are the same function.

    Attributes:
        name: Lower-case letters, digits and underscores; the column is the scorer's prefix, ``_`` and the name.
        compute: From :class:`TrajectoryTokens`, of at least one token and with finite surprisals, to the number. A
            number that is not finite counts as undefined. To be used in several processes, the function must be
            importable or picklable.
        direction: Whether ``"lower"`` or ``"higher"`` values mean that the trajectory suits the student better.
        formula: The formula of ``compute``, parameters included, for people and for telling two runs apart. ``r`` are
            ranks, ``r'`` ranks clipped at ``rank_clip``, ``s`` surprisals, ``h`` entropies.
        source: Where the metric was proposed.
        needs: Arrays that ``compute`` reads beyond ranks and surprisals, each of which costs time: ``"entropies"``,
            ``"local_surprisals"``, ``"surprisals_without_prompt"``.
        numerator: ``"avg_rank"`` or ``"avg_surprisal"`` where the metric is a ratio with this mean as its upper part.
        denominator: Likewise for the lower part. A ratio is aggregated over a dataset as a ratio of means (as in
            Eq. 9), with the other part recovered from the value; any other metric as a mean.
    """

    name: str
    compute: Compute
    direction: Direction
    formula: str
    source: str = ""
    needs: tuple[Need, ...] = ()
    numerator: Part | None = None
    denominator: Part | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name) or _RESERVED.fullmatch(self.name):
            rule = "lower-case letters, digits and underscores, beginning with a letter, and no other column's"
            raise ValueError(f"name={self.name!r}: must be {rule}")
        if self.direction not in ("lower", "higher"):
            raise ValueError(f'direction={self.direction!r} of metric {self.name!r}: must be "lower" or "higher"')
        if unknown := [need for need in self.needs if need not in get_args(Need)]:
            raise ValueError(f"needs={unknown} of metric {self.name!r}: must be among {list(get_args(Need))}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Metric) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash((self.name, self.formula))

    def _key(self) -> list[Any]:
        return [(v.func, v.args, v.keywords) if isinstance(v, partial) else v for v in vars(self).values()]

    def of(self, tokens: TrajectoryTokens) -> float:
        """The metric of a trajectory; NaN where not defined. ``ValueError`` if an array it needs is not known."""
        if not tokens.ranks.size or not np.isfinite(tokens.surprisals).all():
            return math.nan
        with np.errstate(all="ignore"):
            value = float(self.compute(tokens))
        return value if math.isfinite(value) else math.nan

    def parts(
        self, values: FloatArray, avg_rank: FloatArray, avg_surprisal: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Splits values into upper and lower parts, shape ``(n,)``; the ratio of their means is that of a dataset."""
        known = {"avg_rank": avg_rank, "avg_surprisal": avg_surprisal, None: np.ones_like(values)}
        upper, lower = known[self.numerator], known[self.denominator]
        with np.errstate(divide="ignore", invalid="ignore"):
            if self.numerator is None:
                return values * lower, lower
            return upper, upper / values if self.denominator is None else lower


_registry: dict[str, Metric] = {}
_built_in: set[str] = set()


def add_built_in(metric: Metric) -> None:
    """Registers a metric that every process knows by its name."""
    register_metric(metric)
    _built_in.add(metric.name)


def built_in(
    name: str, direction: Direction, formula: str, source: str = "", **others: Any
) -> Callable[[Compute], Compute]:
    """Registers the decorated function as a built-in metric; the arguments are attributes of :class:`Metric`."""

    def register(compute: Compute) -> Compute:
        add_built_in(Metric(name, compute, direction, formula, source, **others))
        return compute

    return register


def is_built_in(metric: Metric) -> bool:
    """Whether every process knows the metric by its name."""
    return metric.name in _built_in and _registry[metric.name] == metric


def register_metric(metric: Metric, replace: bool = False) -> Metric:
    """Makes a metric known by its name, to :class:`rsr_datasets.RSRScorer` and to all that reads its column.

    Example:
        >>> register_metric(Metric("max_surprisal", lambda tokens: tokens.surprisals.max(), "lower", "max s"))
        >>> add_rsr = RSRScorer("Qwen/Qwen2.5-7B", metrics=["max_surprisal"])

    Args:
        metric: The metric.
        replace: Whether the metric may take the name of another metric that is not built in.

    Returns:
        The metric.

    Raises:
        ValueError: If another metric has the name.
    """
    known = _registry.get(metric.name)
    if known is not None and known != metric and (metric.name in _built_in or not replace):
        kind = "built in" if metric.name in _built_in else "registered; replace=True takes its place"
        raise ValueError(f"metric {metric.name!r} is {kind}: {known.formula}; give another name")
    _registry[metric.name] = metric
    return metric


def available_metrics() -> Mapping[str, Metric]:
    """All metrics that are known, by name, built-in ones first."""
    return MappingProxyType(_registry)


def find_metric(metric: str | Metric) -> Metric:
    """The metric of a name, or the metric itself; an unknown name is a ``ValueError``."""
    if isinstance(metric, Metric):
        return metric
    if not isinstance(metric, str) or metric not in _registry:
        like = did_you_mean(metric, _registry)
        raise ValueError(f"metric {metric!r}: there is none of this name{like}; there are {sorted(_registry)}")
    return _registry[metric]


def find_metrics(metrics: Iterable[str | Metric] | None) -> tuple[Metric, ...]:
    """The metrics beside the default ones; ``ValueError`` for an unknown name or two metrics of one name."""
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
    """A metric of ``n`` trajectories, float64, shape ``(n,)``; NaN where it is not defined, and for ``None``."""
    return np.array([math.nan if tokens is None else metric.of(tokens) for tokens in trajectories], dtype=np.float64)
