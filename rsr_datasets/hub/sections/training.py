"""Train on it: what TRL and LLaMA-Factory need to read the rows."""

from __future__ import annotations

from typing import Any

from ..facts import Facts

# How LLaMA-Factory finds its way in messages with the roles of chat templates.
_ROLE_TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "tool",
    "function_tag": "function",
    "system_tag": "system",
}
_LLAMAFACTORY_COLUMNS = {
    "messages": {"messages": "messages", "system": "system", "tools": "tools"},
    "conversations": {"messages": "conversations", "system": "system", "tools": "tools"},
    "prompt_completion": {"prompt": "prompt", "response": "completion"},
    "alpaca": {"prompt": "instruction", "query": "input", "response": "output"},
    "text": {"prompt": "text"},
}


def training(facts: Facts) -> dict[str, Any]:
    """Split, student and columns for TRL, and the entry for LLaMA-Factory."""
    students = [str(score.student) for score in facts.scores if score.identity.get("hub")]
    row_format = facts.row_format
    untold = {"chat_template_kwargs", "system" if row_format and row_format.kind == "conversations" else ""}
    columns = row_format.columns if row_format else {}
    names = {standard: name for standard, name in columns.items() if standard not in untold}
    return {
        "main_split": facts.main_split,
        "train_student": next(iter(students), "path/to/the/student"),
        "row_format": row_format,
        "trained": list(names.values()),
        "renamed": {name: standard for standard, name in names.items() if name != standard},
        "llamafactory": _llamafactory_entry(facts),
    }


def _llamafactory_entry(facts: Facts) -> dict[str, Any] | None:
    """An entry of LLaMA-Factory's ``dataset_info.json``; ``None`` for rows in a form that it does not read."""
    row_format = facts.row_format
    read = _LLAMAFACTORY_COLUMNS.get(row_format.kind) if row_format else None
    if row_format is None or read is None:
        return None
    columns = {theirs: row_format.columns[ours] for theirs, ours in read.items() if ours in row_format.columns}
    if "messages" in read:
        tags = {"tags": _ROLE_TAGS} if row_format.kind == "messages" else {}
        return {"formatting": "sharegpt", "columns": columns, **tags}
    features = facts.splits[facts.main_split].features
    are_texts = all(getattr(features[name], "dtype", None) == "string" for name in columns.values())
    return {"columns": columns} if are_texts else None
