"""The best trajectories of each problem (paper, section 5.1), and the best share of a dataset (section 7)."""

import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from datasets import Dataset

from ..reading.messages import Turns
from ..tables.arrays import require_columns
from ..tables.columns import ScoreColumns
from ..tables.groups import group_by_columns
from ..utils.deprecation import renamed_arguments
from .pool import BoolArray, Pool, SelectionOptions, incorrect_rows, positive_int, selection_rule
from .prompts import group_problems
from .report import SelectionReport, finish

if TYPE_CHECKING:
    from ..scoring.scorer import RSRScorer

logger = logging.getLogger(__name__)


@renamed_arguments(by="metric")
@selection_rule
def select_trajectories(
    dataset: Dataset,
    group_by: str | Sequence[str],
    keep: int = 1,
    correct: str | None = None,
    *,
    turns: Turns = "all",
    columns: Mapping[str, str] | None = None,
    scorer: "RSRScorer | None" = None,
    prune: bool = False,
    regret: float = 0.01,
    confidence: float = 0.9,
    calibration: int = 50,
    output_dir: str | os.PathLike[str] | None = None,
    options: SelectionOptions,
) -> tuple[Dataset, SelectionReport]:
    """Keeps the best trajectories of each problem: those with the lowest RSR (paper, section 5.1).

    Equal scores are decided by row order. Rows whose key is null belong to no problem and are not kept. A problem of
    which nothing can be kept is counted in the report, named there by example, and logged as a warning.

    With ``scorer`` and ``prune`` the rows need no scores: a sample of the problems is read whole; of the others the
    student first reads the beginnings of all candidates, then longer beginnings of the better ones, and only
    survivors to their end. Rows that it did not read to their end have the status ``pruned`` and no ratio;
    ``<prefix>_tokens_read`` says how many of their tokens it read. Rows that cannot be kept are not read.

    Args:
        dataset: Scored rows, or rows to prune; each split of a ``DatasetDict`` is selected by itself.
        group_by: The column that tells problems apart, or several. ``"prompt"`` is the column of that name, or,
            where there is none, the conversation before the first scored turn; both are compared by content.
        keep: Rows to keep per problem; a problem with fewer keeps them all.
        correct: Column of true and false that says which candidates are correct: a problem with a correct candidate
            keeps only correct ones. It does so even if none of them has a score; of a problem without a correct
            candidate all may be kept (paper, section E.3.1). Null is unknown, and gives way to true as false does;
            the report counts the two apart.
        turns: For ``group_by="prompt"`` without such a column: which assistant turns were scored.
        columns: For ``group_by="prompt"`` too: names of input columns, standard name first, as given to the scorer.
        scorer: With ``prune``: the scorer that reads the candidates.
        prune: Read candidates in stages instead of scoring all of them first.
        regret: With ``prune=True``: the mean ratio of what is kept lies at most this share above choosing from
            everything. 0 keeps the same rows, and reads every candidate.
        confidence: With ``prune=True``: the probability of that over samples of problems, at least 0.5.
        calibration: With ``prune=True``: how many problems are read whole, to find the boldest rule that keeps the
            promise. With fewer than 20 everything is read.
        output_dir: With ``prune=True``: a folder from which the same call resumes, and for all rows with their columns
            (``scored``). It holds run folders of :func:`rsr_datasets.score_dataset`; ``None`` is a temporary one.
        options: Each field of :class:`~rsr_datasets.curation.pool.SelectionOptions` is an argument, given by name.

    Returns:
        The kept rows in their original order, their rule and report added to the provenance records.

    Raises:
        ValueError: If a column is missing or of the wrong type, an argument is out of its range, or the compared
            rows were scored with different settings.
        TypeError: If ``dataset`` is neither a ``Dataset`` nor a ``DatasetDict``.
    """
    own = {
        "group_by": group_by if isinstance(group_by, str) else list(group_by),
        "keep": positive_int("keep", keep),
        "correct": correct,
        "turns": turns,
        "columns": dict(columns) if columns else None,
    }
    if (scorer is not None) != prune:
        raise ValueError(f"prune={prune} {'without' if prune else 'with'} scorer=: give both, or score the rows first")
    if scorer is None:
        pool = Pool(dataset, options, [correct] if correct else [])
    elif options.metric not in (None, scorer.score_columns.rsr) or options.largest or options.keep_unscored:
        raise ValueError("prune=True keeps the lowest ratios: give no metric, largest or keep_unscored")
    groups, keys = group_problems(dataset, group_by, turns, columns)
    if without_group := int((groups.codes < 0).sum()):
        logger.warning("%d rows have no %s: they belong to no group and are not kept", without_group, keys or "prompt")
    not_kept: dict[str, BoolArray] = {"no_group": groups.codes < 0}
    if correct:
        require_columns(dataset, [correct], ScoreColumns(options.column_prefix))
        not_kept |= incorrect_rows(dataset, correct, groups)
    pruning = None
    if scorer is not None:
        from .stages import Stages  # loads torch

        stages = Stages(scorer, output_dir, regret, confidence, calibration)
        competing = ~np.any([*not_kept.values()], axis=0)
        dataset, unread, pruning = stages.read(dataset, groups.codes, competing, keep, options)
        pool = Pool(dataset, replace(options, column_prefix=scorer.score_columns.prefix))
        not_kept |= unread
    for reason, rows in not_kept.items():
        pool.drop(rows, reason)
    pool.drop_by_score()
    order, place = pool.order(groups.codes)
    return finish(pool, order[place < keep], "select_trajectories", own, groups, keys, pruning)


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
        balance_by: Column such as ``"teacher"``: with ``fraction=`` take that share of each of its groups, with ``n=``
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
    if max_rsr is not None and not 0 < max_rsr < math.inf:
        raise ValueError(f"max_rsr={max_rsr}: must be a positive number")
    if max_rsr is not None and (options.metric is not None or options.largest or balance_by is not None):
        raise ValueError("max_rsr= compares the ratio itself; metric=, largest= and balance_by= need fraction= or n=")
    keys = [balance_by] if balance_by else []
    pool = Pool(dataset, options, keys)
    groups = group_by_columns(dataset, keys) if keys else None
    codes = groups.codes if groups else np.zeros(len(dataset), dtype=np.int64)
    pool.drop(codes < 0, "no_group")
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
