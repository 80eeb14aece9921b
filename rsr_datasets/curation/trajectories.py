"""The best trajectories of each problem (paper, section 5.1)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
from datasets import Dataset

from ..reading.messages import Turns
from ..tables.arrays import read_flags
from ..utils.deprecation import renamed_arguments
from .pool import INCORRECT, NO_GROUP, Pool, SelectionOptions, positive_int
from .prompts import group_problems
from .report import SelectionReport
from .rules import finish, selection_rule

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
    options: SelectionOptions,
) -> tuple[Dataset, SelectionReport]:
    """Keeps the best trajectories of each problem: those with the lowest RSR (paper, section 5.1).

    Equal scores are decided by row order. Rows whose key is null belong to no problem and are not kept. A problem of
    which nothing can be kept is counted in the report, named there by example, and logged as a warning.

    Args:
        dataset: Scored rows; each split of a ``DatasetDict`` is selected by itself.
        group_by: The column that tells problems apart, or several. ``"prompt"`` is the column of that name, or,
            where there is none, the conversation before the first scored turn; both are compared by content.
        keep: Rows to keep per problem; a problem with fewer keeps them all.
        correct: Boolean column with each candidate's correctness. Of a problem with at least one correct candidate
            only correct ones are kept, even if none of them has a score; of a problem with none all may be kept
            (paper, section E.3.1). Null is unverified: it counts as not correct, no better and no worse than false.
        turns: For ``group_by="prompt"`` without such a column: which assistant turns were scored.
        columns: For the same: standard column name to actual name, as given to the scorer.
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
    pool = Pool(dataset, options, [correct] if correct else [])
    groups, keys = group_problems(dataset, group_by, turns, columns)
    if without_group := int((groups.codes < 0).sum()):
        logger.warning("%d rows have no %s: they belong to no group and are not kept", without_group, keys or "prompt")
    pool.drop(groups.codes < 0, NO_GROUP)
    if correct:
        is_correct = read_flags(dataset, correct)
        has_correct = groups.present(np.flatnonzero(is_correct))
        pool.drop(~is_correct & np.append(has_correct, False)[groups.codes], INCORRECT)
    pool.drop_by_score()
    order, place = pool.order(groups.codes)
    return finish(pool, order[place < keep], "select_trajectories", own, groups, keys)
