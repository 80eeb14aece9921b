"""The formats of datasets: which columns are read. ``messages.py`` and ``tokenized.py`` read their values."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

TOKENIZED = "tokenized"

# Column sets that are read, in order of preference.
FORMATS: dict[str, tuple[str, ...]] = {
    "messages": ("messages",),
    "conversations": ("conversations",),
    "prompt_completion": ("prompt", "completion"),
    "alpaca": ("instruction", "output"),
    "text": ("text",),
    TOKENIZED: ("input_ids",),
}
OPTIONAL_COLUMNS: dict[str, tuple[str, ...]] = {
    "messages": ("tools", "chat_template_kwargs"),
    "conversations": ("system", "tools", "chat_template_kwargs"),
    "prompt_completion": ("tools", "chat_template_kwargs"),
    "alpaca": ("input", "chat_template_kwargs"),
    "text": (),
    TOKENIZED: ("labels", "completion_mask", "assistant_masks", "attention_mask", "position_ids", "seq_lengths"),
}
STANDARD_COLUMNS = tuple(
    dict.fromkeys(name for names in (*FORMATS.values(), *OPTIONAL_COLUMNS.values()) for name in names)
)


@dataclass(frozen=True)
class RowFormat:
    """Which columns of a data set are read: ``columns`` maps a standard name to the name in the data set.

    ``kind`` is a key of ``FORMATS``.
    """

    kind: str
    columns: dict[str, str]

    @property
    def names(self) -> list[str]:
        """The data set's own names of the columns that are read."""
        return list(self.columns.values())


def check_columns(columns: Mapping[str, str] | None) -> dict[str, str]:
    """Gives ``columns`` as a dict, checked as far as possible without a data set: ``ValueError`` for unknown names."""
    if not isinstance(columns, Mapping | None):
        raise ValueError(
            f"columns={columns!r}: must be a dict of standard to actual names, "
            'e.g. {"prompt": "question", "completion": "solution"}'
        )
    for standard in columns or {}:
        if standard not in STANDARD_COLUMNS:
            raise ValueError(f"columns={standard!r}: no standard column; must be one of {list(STANDARD_COLUMNS)}")
    return dict(columns or {})


def find_format(column_names: Iterable[str], columns: Mapping[str, str] | None = None) -> RowFormat:
    """Finds the format of a data set from its column names.

    The format is the first one in the order of ``FORMATS`` whose columns are all there. ``columns`` maps a standard to
    an actual name where they differ, e.g. ``{"prompt": "question"}``; formats that use one of its names come first.

    Raises:
        ValueError: If no format fits, or ``columns`` names a column that is not there.
    """
    present = list(column_names)
    renamed = check_columns(columns)
    for actual in renamed.values():
        if actual not in present:
            raise ValueError(f"columns={renamed}: the dataset has no column {actual!r}; it has {present}")
    kinds = sorted(FORMATS, key=lambda kind: not any(name in renamed for name in FORMATS[kind]))
    for kind in kinds:
        actual_names = {name: renamed.get(name, name) for name in FORMATS[kind]}
        if all(name in present for name in actual_names.values()):
            optional = {name: renamed.get(name, name) for name in OPTIONAL_COLUMNS[kind]}
            columns_read = actual_names | {k: v for k, v in optional.items() if v in present}
            if unused := [name for name in renamed if name not in columns_read]:
                raise ValueError(f"columns={renamed}: {unused} have no meaning in the format {kind!r} that was found")
            return RowFormat(kind, columns_read)
    accepted = "; ".join(" + ".join(repr(name) for name in names) for names in FORMATS.values())
    raise ValueError(
        f"no column to score: found {present}, accepted are {accepted}; "
        'name others with columns=, e.g. columns={"prompt": "question", "completion": "solution"}'
    )
