"""A selection rule made public: the arguments that all rules share, splits, reports and records.

A new rule is one file: a function of one ``Dataset`` that narrows a :class:`~rsr_datasets.curation.pool.Pool`, chooses
rows, and calls :func:`finish`, under the decorator :func:`selection_rule`.
"""

from __future__ import annotations

import functools
import inspect
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict

from ..tables.groups import Groups
from ..tables.records import append_record
from ..tables.splits import map_splits
from .pool import IntArray, Pool, PoolRule
from .report import SelectionReport, make_report

logger = logging.getLogger(__name__)

_RETURN_REPORT = inspect.Parameter("return_report", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=bool)
_RETURN_REPORT_DOC = (
    "    return_report: Return ``(dataset, report)``; for a ``DatasetDict`` the second is a dict of split to report."
)


def selection_rule(select: Callable[..., tuple[Dataset, SelectionReport]]) -> Callable[..., Any]:
    """Makes a public selection of a rule for one ``Dataset``.

    Args:
        select: Takes a ``dataset``, arguments of its own, and ``rule=``, a
            :class:`~rsr_datasets.curation.pool.PoolRule`, which is one line of its docstring; returns what
            :func:`finish` gives.

    Returns:
        A function that takes a ``Dataset`` or a ``DatasetDict``, the same arguments of its own, those of ``PoolRule``
        in place of ``rule=``, and ``return_report=``. Its signature and its docstring show them all.
    """
    own = inspect.signature(select, eval_str=True).parameters
    shared = inspect.signature(PoolRule, eval_str=True).parameters
    given = {**own, "dataset": own["dataset"].replace(annotation=Dataset | DatasetDict), **shared}
    del given["rule"]
    ordered = sorted([*given.values(), _RETURN_REPORT], key=lambda parameter: parameter.kind)
    signature = inspect.Signature(ordered, return_annotation=Any)

    @functools.wraps(select)
    def selecting(*args: Any, **kwargs: Any) -> Any:
        values = signature.bind(*args, **kwargs).arguments
        dataset, return_report = values.pop("dataset"), values.pop("return_report", False)
        rule = PoolRule(**{name: values.pop(name) for name in shared if name in values})
        found = map_splits(dataset, lambda split: select(split, **values, rule=rule))
        if isinstance(found, tuple):
            return found if return_report else found[0]
        kept = DatasetDict({name: rows for name, (rows, _) in found.items()})
        return (kept, {name: report for name, (_, report) in found.items()}) if return_report else kept

    shared_docs = (inspect.getdoc(PoolRule) or "").split("Args:\n")[1]
    before, after = re.split(r"^ +rule: .*\n", inspect.getdoc(select) or "", flags=re.MULTILINE)
    selecting.__doc__ = f"{before}{shared_docs}\n{_RETURN_REPORT_DOC}\n{after}"
    selecting.__signature__ = signature  # type: ignore[attr-defined]
    return selecting


def finish(
    pool: Pool,
    kept: IntArray,
    step: str,
    rule: Mapping[str, Any],
    groups: Groups | None = None,
    keys: Sequence[str] = (),
) -> tuple[Dataset, SelectionReport]:
    """Takes the chosen rows, reports on them and logs groups that keep no row.

    Args:
        pool: The rows that could be kept.
        kept: The chosen ones, by number, in any order.
        step: Name of the selection in the provenance record.
        rule: Its own arguments, plain JSON.
        groups: The groups among which it chose.
        keys: The columns that tell the groups apart; none where their prompts do.

    Returns:
        The rows in their original order, or the best first with ``sort=True``, with a provenance record; the report.
    """
    rows = kept[np.lexsort((kept, pool.scores[kept]))] if pool.rule.sort else np.sort(kept)
    report = make_report(pool, rows, groups, keys)
    if report.groups_in is not None and report.groups_out is not None and report.groups_out < report.groups_in:
        logger.warning(
            "%d of %d groups keep no row (%d groups have no scored row), for example: %s",
            report.groups_in - report.groups_out,
            report.groups_in,
            report.groups_without_score,
            "; ".join(report.lost_groups),
        )
    resolved = {"metric": pool.metric, "largest": pool.largest, "column_prefix": pool.columns.prefix}
    record = {"step": step, "rule": {**rule, **asdict(pool.rule), **resolved}, "report": report.to_dict()}
    return append_record(pool.dataset.select(rows), record), report
