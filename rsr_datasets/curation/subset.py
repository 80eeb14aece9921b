"""The best share of a dataset, across problems (paper, section 7)."""

from __future__ import annotations

import logging
import math

import numpy as np
from datasets import Dataset

from ..tables.groups import group_by_columns
from ..utils.deprecation import renamed_arguments
from .pool import NO_GROUP, Pool, SelectionOptions, positive_int
from .report import SelectionReport
from .rules import finish, selection_rule

logger = logging.getLogger(__name__)


@renamed_arguments(by="metric")
@selection_rule
def select_subset(
    dataset: Dataset,
    fraction: float | None = None,
    *,
    n: int | None = None,
    max_rsr: float | None = None,
    balance_by: str | None = None,
    options: SelectionOptions,
) -> tuple[Dataset, SelectionReport]:
    """Keeps the best rows across problems: those with the lowest RSR (paper, section 7).

    Exactly one of ``fraction``, ``n`` and ``max_rsr`` says how many. Equal scores are decided by row order.

    Args:
        dataset: Scored rows; each split of a ``DatasetDict`` is selected by itself.
        fraction: Share to keep, in (0, 1], of the rows that can be kept (those with a score, not truncated, within
            the token limits), rounded to the nearest number of rows and at least one.
        n: Rows to keep; all, with a warning, where fewer can be kept.
        max_rsr: Keep the rows whose ratio is at most this; nothing else can be compared then.
        balance_by: Column such as ``"teacher"``: with ``fraction`` take that share of each of its groups, with ``n``
            the same number from each, where a group with fewer rows leaves its places to the others.
        options: Each field of :class:`~rsr_datasets.curation.pool.SelectionOptions` is an argument, given by name.

    Returns:
        The kept rows in their original order, their rule and report added to the provenance records.

    Raises:
        ValueError: If a column is missing or of the wrong type, an argument is out of its range, or the compared
            rows were scored with different settings.
        TypeError: If ``dataset`` is neither a ``Dataset`` nor a ``DatasetDict``.
    """
    own = {"fraction": fraction, "n": n, "max_rsr": max_rsr, "balance_by": balance_by}
    chosen = [name for name in ("fraction", "n", "max_rsr") if own[name] is not None]
    if len(chosen) != 1:
        raise ValueError(f"give exactly one of fraction, n and max_rsr; given: {chosen or 'none'}")
    if fraction is not None and not 0 < fraction <= 1:
        raise ValueError(f"fraction={fraction}: must be in (0, 1]")
    if n is not None:
        positive_int("n", n)
    if max_rsr is not None:
        if not (math.isfinite(max_rsr) and max_rsr > 0):
            raise ValueError(f"max_rsr={max_rsr}: must be a positive number")
        if options.metric is not None or options.largest or balance_by is not None:
            raise ValueError(
                "max_rsr= compares the ratio itself; metric=, largest= and balance_by= need fraction= or n="
            )
    keys = [balance_by] if balance_by else []
    pool = Pool(dataset, options, keys)
    groups = group_by_columns(dataset, keys) if keys else None
    codes = groups.codes if groups else np.zeros(len(dataset), dtype=np.int64)
    pool.drop(codes < 0, NO_GROUP)
    pool.drop_by_score()
    order, place = pool.order(codes)
    if fraction is not None:
        quotas = np.maximum(1, np.floor(fraction * np.bincount(codes[order], minlength=1) + 0.5))
        kept = order[place < quotas[codes[order]]]
    elif n is not None:
        if n > order.size:
            logger.warning("n=%d: only %d of %d rows can be kept", n, order.size, len(dataset))
        kept = order[np.lexsort((order, pool.scores[order], place))[:n]]
    elif max_rsr is not None:
        kept = order[(pool.scores[order] <= max_rsr) | ~pool.status.scored[order]]
    return finish(pool, kept, "select_subset", own, groups, keys)
