"""Arguments that all selections share, and rows that may be kept; a new selection is one :func:`selection_rule`."""

import functools
import inspect
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets import Dataset, DatasetDict

from ..metrics import available_metrics
from ..tables import arrays
from ..tables.columns import PRUNED, ScoreColumns, score_prefixes
from ..tables.groups import Groups, runs
from ..tables.splits import map_splits

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SelectionOptions:
    """The arguments that all selections share: the column to compare, and the rows that may be kept.

    Args:
        max_tokens: Longest trajectory to keep, in scored tokens.
        min_tokens: Shortest trajectory to keep, in scored tokens.
        metric: The column to compare; ``None`` for the ratio itself. Any numeric column will do, and the name of a
            metric whose column the scorer added. ``"random"``, where no column has that name, draws at random among
            the same rows.
        largest: Keep the greatest values of ``metric=``, or the lowest; ``None`` is what the direction of a known
            metric says, and the lowest for any other column.
        seed: For ``metric="random"``.
        keep_unscored: Keep rows without a score too, behind all rows with one; ``max_rsr=`` keeps all of them.
            Token limits do not apply to them, since their length is not known.
        keep_truncated: Keep truncated rows too, which were scored on the beginning of their response alone.
        sort: Order the kept rows by score, the best first, in place of the original order.
        allow_mixed_settings: Compare scores of several students or settings.
        column_prefix: The ``column_prefix`` given to the scorer. Where ``metric`` is a score column of another prefix,
            that prefix counts.
        teacher_column: Column for the report's shares; ``None`` for ``"teacher"`` where there is one.
        return_report: Return ``(dataset, report)``; for a ``DatasetDict`` the second is a dict of split to report.
    """

    max_tokens: int | None = None
    min_tokens: int | None = None
    _: KW_ONLY
    metric: str | None = None
    largest: bool | None = None
    seed: int = 0
    keep_unscored: bool = False
    keep_truncated: bool = False
    sort: bool = False
    allow_mixed_settings: bool = False
    column_prefix: str = "rsr"
    teacher_column: str | None = None
    return_report: bool = False

    def __post_init__(self) -> None:
        for name in ("min_tokens", "max_tokens"):
            if getattr(self, name) is not None:
                positive_int(name, getattr(self, name))
        if self.min_tokens and self.max_tokens and self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens={self.min_tokens} is more than max_tokens={self.max_tokens}")


def selection_rule(select: Callable[..., tuple[Dataset, Any]]) -> Callable[..., Any]:
    """Makes a public selection of a rule for one ``Dataset``; fields of the options become arguments."""
    own = inspect.signature(select).parameters
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


class Pool:
    """The rows of a dataset, and which may still be kept; ``needed`` names other columns that a rule reads."""

    def __init__(self, dataset: Dataset, options: SelectionOptions, needed: Sequence[str] = ()) -> None:
        present = set(dataset.column_names)
        self.dataset, self.options = dataset, options
        # The status beside the compared column counts.
        prefixes = options.column_prefix, *score_prefixes(present)
        owners = [prefix for prefix in prefixes if options.metric and ScoreColumns(prefix).is_score(options.metric)]
        self.columns = columns = ScoreColumns((owners or prefixes)[0])
        self.metric = options.metric or columns.rsr
        if self.metric not in present and self.metric in available_metrics():
            self.metric = arrays.metric_column(dataset, self.metric, columns)
        directions = {columns.metric(name): known.direction for name, known in available_metrics().items()}
        self.largest = directions.get(self.metric) == "higher" if options.largest is None else options.largest
        self.limits_tokens = options.min_tokens is not None or options.max_tokens is not None
        draws = self.metric == "random" and "random" not in present
        length = columns.num_tokens if self.limits_tokens else None
        wanted = [*needed, None if draws else self.metric, length, options.teacher_column]
        arrays.require_columns(dataset, [name for name in wanted if name is not None], columns)

        random = np.random.default_rng(options.seed)
        values = random.random(len(dataset)) if draws else arrays.read_numbers(dataset, self.metric)
        self.status = arrays.read_status(dataset, columns, values)
        # All arrays have the shape (rows,). Lower scores are better; rows without a score have infinity.
        self.scores = np.where(self.status.scored, -values if self.largest else values, np.inf)
        has_settings, has_length = columns.settings in present, columns.num_tokens in present
        self._settings = arrays.read_categories(dataset, columns.settings) if has_settings else None
        self.num_tokens = arrays.read_numbers(dataset, columns.num_tokens) if has_length else None
        self.open: BoolArray = np.ones(len(dataset), dtype=bool)
        self.dropped: dict[str, int] = {}  # by reason

    def settings(self, rows: BoolArray | IntArray) -> list[str]:
        """The distinct settings that some rows were scored with."""
        return self._settings.present(rows) if self._settings else []

    def drop(self, rows: BoolArray, reason: str) -> None:
        """Excludes rows, given as bool of shape ``(rows,)``; the report names the reason."""
        if count := int((rows & self.open).sum()):
            self.dropped[reason] = self.dropped.get(reason, 0) + count
            self.open &= ~rows

    def drop_by_score(self) -> None:
        """Excludes the rows that the options exclude, and refuses to compare scores of different settings."""
        options, scored = self.options, self.status.scored
        self.drop(self.status.pruned, PRUNED)
        if not options.keep_unscored:
            self.drop(~scored, "unscored")
        if not options.keep_truncated:
            self.drop(self.status.truncated & scored, "truncated")
        if self.limits_tokens and self.num_tokens is not None:
            low, high = options.min_tokens or 0, options.max_tokens or math.inf
            self.drop(scored & ((self.num_tokens < low) | (self.num_tokens > high)), "outside_token_limits")
        compares_scores = self.columns.is_score(self.metric) or self.limits_tokens
        if compares_scores and not options.allow_mixed_settings:
            arrays.require_one_setting(self.columns, self.settings(self.open & scored))

    def order(self, codes: IntArray) -> tuple[IntArray, IntArray]:
        """The rows that may be kept, group after group, the best first, and the place of each in its group, from 0."""
        rows = np.flatnonzero(self.open)
        order = rows[np.lexsort((self.scores[rows], codes[rows]))]
        return order, np.arange(order.size) - runs(codes[order])[0]


def incorrect_rows(dataset: Dataset, correct: str, groups: Groups) -> dict[str, BoolArray]:
    """Rows that are not correct, of each group that has a correct row (paper, section E.3.1): known so, or unknown."""
    is_correct = arrays.read_flags(dataset, correct)
    has_correct = groups.present(np.flatnonzero(is_correct))
    known, found = arrays.read_present(dataset, [correct]), ~is_correct & np.append(has_correct, False)[groups.codes]
    return {"incorrect": found & known, "correctness_unknown": found & ~known}


def positive_int(name: str, value: Any) -> int:
    """Checks that an argument is a positive whole number."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}={value!r}: must be a positive whole number")
    return int(value)
