"""Whether a run folder is that of a run: settings then and now, compared before torch or a student is loaded."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..reading.templates import DEFAULT_DATE, resolve_chat_template
from ..utils.files import hash_text, read_json
from ..utils.texts import shorten

# Arguments that decide scores whoever the student is; ``_LATER`` are recorded only where not the default.
_LATER = {"engine": "transformers", "reasoning": "as_is", "template_date": DEFAULT_DATE}
_MAPPINGS = ("chat_template_kwargs", "columns")
_PLAIN = ("rank_clip", "max_length", "on_overflow", "turns", "logits_dtype", *_LATER, "column_prefix", "token_columns")
_HASHED = ("chat_template",)


def is_begun(folder: Path) -> bool:
    """Whether a run has scored units in a folder."""
    return (folder / "run.json").exists() and any(folder.glob("units/*.json"))


def require_same_settings(
    found: Mapping[str, Any], wanted: Mapping[str, Any], folder: Path, shown: Mapping[str, str] | None = None
) -> None:
    """Raises ``ValueError`` if settings that a run has recorded differ from those wanted now.

    Args:
        found: Recorded settings by name.
        wanted: The settings now: all, or those that are to be compared.
        folder: The run folder, for the message.
        shown: How the message calls values that settings hold as hashes, by name.
    """
    if changed := [name for name in wanted if found.get(name) != wanted[name]]:
        different = "; ".join(_difference(name, found.get(name), wanted[name], shown or {}) for name in changed)
        raise ValueError(f"{folder} belongs to another run: {different}; give another output_dir")


def refuse_other_arguments(folder: Path, arguments: Mapping[str, Any]) -> None:
    """Raises ``ValueError`` if scores in a folder, or in those of its splits, were made with other arguments.

    Arguments that need neither the student nor its tokenizer are compared here; scoring compares the rest.

    Args:
        folder: The output folder.
        arguments: Arguments of :class:`rsr_datasets.RSRScorer` by name, defaults too.
    """
    for each in (folder, *sorted(file.parent for file in folder.glob("*/run.json"))):
        if not is_begun(each):
            continue
        run = read_json(each / "run.json")
        found = {**_LATER, **run["settings"], **run["output"]}
        wanted = {name: arguments[name] for name in _PLAIN}
        wanted |= {name: arguments[name] or {} for name in _MAPPINGS}
        template = resolve_chat_template(given := arguments["chat_template"])
        wanted["chat_template"] = None if template is None else hash_text(template)
        require_same_settings(found, wanted, each, {} if given is None else {"chat_template": given[:40]})


def _difference(name: str, before: Any, now: Any, shown: Mapping[str, str]) -> str:
    if name == "rows":
        return f"the dataset had {before:,} rows and has {now:,} now"
    if name == "scores_version":
        return "another version of rsr_datasets began it"
    if name == "student":
        return _about_student(before, now)
    if name in _HASHED and before and now:
        return f"{name}= was another one than {shown.get(name, 'now')}"
    then, today = (bool(value) if name in _HASHED else value for value in (before, now))
    return f"{name}= was {_said(then)} and is {shown.get(name) or _said(today)} now"


def _said(value: Any) -> str:
    if value is True:
        return "given"
    if value is None or value is False or value == {}:
        return "not given"
    return value if isinstance(value, str) else shorten(value)


def _about_student(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    if {**before, "tokenizer": None} == {**now, "tokenizer": None}:
        return "tokenizer= was another one"
    if "hub" in before:
        return f"student= was {before['hub']} at revision {before.get('revision')}"
    return "student= was another one, or its files have changed"
