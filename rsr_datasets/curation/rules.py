"""A selection rule made public: the arguments that all rules share, splits, reports and records.

A new rule is a function of one ``Dataset`` that narrows a :class:`~rsr_datasets.curation.pool.Pool`, chooses rows, and
calls :func:`finish`, under the decorator :func:`selection_rule`.
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
from .pool import IntArray, Pool, SelectionOptions
from .report import SelectionReport, make_report

logger = logging.getLogger(__name__)


def selection_rule(select: Callable[..., tuple[Dataset, SelectionReport]]) -> Callable[..., Any]:
    """Makes a public selection of a rule for one ``Dataset``, which takes ``SelectionOptions`` as ``options``.

    The selection takes a ``DatasetDict`` too, and each field of the options as an argument, also in its docstring.
    """
    own = inspect.signature(select, eval_str=True).parameters
    fields = inspect.signature(SelectionOptions, eval_str=True).parameters
    given = {**own, "dataset": own["dataset"].replace(annotation=Dataset | DatasetDict), **fields}
    del given["options"]
    ordered = sorted(given.values(), key=lambda parameter: parameter.kind)
    signature = inspect.Signature(ordered, return_annotation=Any)

    @functools.wraps(select)
    def selecting(*args: Any, **kwargs: Any) -> Any:
        values = signature.bind(*args, **kwargs).arguments
        options = SelectionOptions(**{name: values.pop(name) for name in fields if name in values})
        found = map_splits(values.pop("dataset"), lambda split: select(split, **values, options=options))
        if isinstance(found, tuple):
            return found if options.return_report else found[0]
        kept = DatasetDict({name: rows for name, (rows, _) in found.items()})
        return (kept, {name: report for name, (_, report) in found.items()}) if options.return_report else kept

    shared = (inspect.getdoc(SelectionOptions) or "").partition("Args:\n")[2] + "\n"
    selecting.__doc__ = re.sub(r"(?m)^ +options: .*\n", lambda _: shared, inspect.getdoc(select) or "")
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
    """Takes the chosen rows, given by number in any order; adds the provenance record and reports.

    ``rule`` holds the rule's own arguments as plain JSON for the record. ``keys`` names the columns that tell
    ``groups`` apart, none where prompts do. Groups that keep no row are logged.
    """
    rows = kept[np.lexsort((kept, pool.scores[kept]))] if pool.options.sort else np.sort(kept)
    report = make_report(pool, rows, groups, keys)
    if report.lost_groups and groups:
        counts = groups.count - (report.groups_out or 0), groups.count, report.groups_without_score
        message = "%d of %d groups keep no row (%d groups have no scored row), for example: %s"
        logger.warning(message, *counts, "; ".join(report.lost_groups))
    shared = asdict(pool.options)
    del shared["return_report"]
    resolved = {"metric": pool.metric, "largest": pool.largest, "column_prefix": pool.columns.prefix}
    record = {"step": step, "rule": {**rule, **shared, **resolved}, "report": report.to_dict()}
    return append_record(pool.dataset.select(rows), record), report
