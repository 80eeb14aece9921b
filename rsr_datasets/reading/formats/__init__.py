"""The formats of data sets, one file each: a file with a ``FORMAT`` is all that a further one takes."""

import pkgutil
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

from ...utils.texts import did_you_mean, shorten, shorten_list
from ..messages import Conversation
from ..unread import advice, columns_argument
from .base import Format, Row
from .base import RowFormat as RowFormat
from .tokenized import TOKENIZED as TOKENIZED

_MODULES = [import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
_FOUND: list[Format] = [module.FORMAT for module in _MODULES if hasattr(module, "FORMAT")]
_BY_KIND = {each.kind: each for each in sorted(_FOUND, key=lambda each: each.rank)}

# Column sets that are read, in order of preference.
FORMATS = {kind: each.needed for kind, each in _BY_KIND.items()}
OPTIONAL_COLUMNS = {kind: each.optional for kind, each in _BY_KIND.items()}
STANDARD_COLUMNS = tuple(
    dict.fromkeys(name for names in (*FORMATS.values(), *OPTIONAL_COLUMNS.values()) for name in names)
)


def check_columns(columns: Mapping[str, str] | None) -> dict[str, str]:
    """Gives ``columns`` as a dict, checked as far as possible without a data set: ``ValueError`` for a mistake."""
    columns = {} if columns is None else columns
    if not isinstance(columns, Mapping) or not all(isinstance(name, str) for name in columns.values()):
        raise ValueError(
            f"columns={shorten(columns)}: must be a dict of standard to actual names, "
            'e.g. {"prompt": "question", "completion": "solution"}'
        )
    read: dict[str, str] = {}
    for standard, actual in columns.items():
        if standard not in STANDARD_COLUMNS:
            like = did_you_mean(standard, STANDARD_COLUMNS)
            turned = columns_argument({name: standard for standard, name in columns.items()})
            if not like and {*columns.values()} <= {*STANDARD_COLUMNS} and len(turned) < 200:
                raise ValueError(f"columns={shorten(columns, 120)}: the standard name stands first, type {turned}")
            raise ValueError(
                f"columns={shorten(standard)}: no standard column{like}; must be in "
                f"{shorten_list(STANDARD_COLUMNS, 240)}"
            )
        if actual in read:
            raise ValueError(f"columns={shorten(columns, 120)}: {read[actual]!r} and {standard!r} are both {actual!r}")
        read[actual] = standard
    return dict(columns)


def find_format(column_names: Iterable[str], columns: Mapping[str, str] | None = None) -> RowFormat:
    """Finds the format of a data set from its column names.

    The format is the first one in the order of ``FORMATS`` whose columns are all there. ``columns`` maps a standard to
    an actual name where they differ, e.g. ``{"prompt": "question"}``; formats that use one of its names come first.
    No column is read twice.

    Raises:
        ValueError: If no format fits, or ``columns`` names a column that is not there.
    """
    present = list(column_names)
    renamed = check_columns(columns)
    given = f"columns={shorten(renamed, 120)}"
    for actual in renamed.values():
        if actual not in present:
            found = f"no column {shorten(actual)}{did_you_mean(actual, present)}; it has {shorten_list(present)}"
            raise ValueError(f"{given}: the dataset has {found}")
    kinds = sorted(FORMATS, key=lambda kind: not any(name in renamed for name in FORMATS[kind]))
    for kind in kinds:
        needed = _actual_names(FORMATS[kind], renamed, present)
        if len(needed) < len(FORMATS[kind]):
            continue
        columns_read = needed | _actual_names(OPTIONAL_COLUMNS[kind], renamed, present)
        if unused := [name for name in renamed if name not in columns_read]:
            raise ValueError(
                f"{given}: {unused} have no meaning in the format {kind!r} that was found, which reads "
                f"{[*FORMATS[kind], *OPTIONAL_COLUMNS[kind]]}{_also_needed(unused[0], renamed)}"
            )
        return RowFormat(kind, columns_read)
    raise ValueError(f"no column to score: found {shorten_list(present)}{advice(present)}")


def needed_columns(row_format: RowFormat) -> list[str]:
    """The data set's own names of the columns without which no row is read, the response last."""
    return [row_format.columns[name] for name in FORMATS[row_format.kind]]


def _also_needed(name: str, renamed: Iterable[str]) -> str:
    """The columns that a format needs beside one that was named."""
    missing = next(({*needed} - {*renamed} for needed in FORMATS.values() if name in needed), None)
    return f"; beside {name!r} name {sorted(missing)}" if missing else ""


def _actual_names(standard: Iterable[str], renamed: Mapping[str, str], present: Iterable[str]) -> dict[str, str]:
    """The columns that are there, by standard name; one that ``columns`` gives another meaning is not there."""
    actual = {name: renamed.get(name, name) for name in standard}
    taken = {*renamed.values()}
    return {k: v for k, v in actual.items() if v in present and (k in renamed or v not in taken)}


def read_conversation(values: Mapping[str, Any], row_format: RowFormat) -> Conversation | tuple[str, str]:
    """Reads a row, standard column name to value, or refuses it; a pair of texts passes no template."""
    return _BY_KIND[row_format.kind].read(Row(values, row_format.columns))
