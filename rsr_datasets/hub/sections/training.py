"""Train on it: what TRL and LLaMA-Factory need to read the rows."""

from typing import Any

from datasets import Features

from ...reading.formats import RowFormat
from ..markdown import python
from ..provenance import Facts

_CONVERSATION = {"system": "system", "tools": "tools"}
_PARTS = {"history": "history", **_CONVERSATION}
_LLAMAFACTORY_COLUMNS = {
    **{kind: {"messages": kind, **_CONVERSATION} for kind in ("messages", "conversations", "conversation")},
    "prompt_completion": {"prompt": "prompt", "response": "completion"},
    "alpaca": {"prompt": "instruction", "query": "input", "response": "output", **_PARTS},
    "swift": {"prompt": "query", "response": "response", **_PARTS},
    "parts": {"prompt": "user", "response": "assistant", **_PARTS},
    "text": {"prompt": "text"},
}
# Texts that the chat template renders, and TRL reads only as messages.
_TURNS = {
    "alpaca": (["instruction", "input"], "output"),
    "swift": (["query"], "response"),
    "parts": (["user"], "assistant"),
}


def training(facts: Facts) -> dict[str, Any]:
    """The columns for TRL, those with another name than TRL's, and the columns for LLaMA-Factory if it reads them."""
    row_format = facts.row_format
    if row_format is None:
        return {"llamafactory": None, "only": None}
    several = len(facts.readings) > 1
    untold = {"chat_template_kwargs", "system", "history"}
    names = {standard: name for standard, name in row_format.columns.items() if standard not in untold}
    read = _LLAMAFACTORY_COLUMNS.get(row_format.kind, {})
    columns = {theirs: row_format.columns[ours] for theirs, ours in read.items() if ours in row_format.columns}
    features = facts.splits[facts.main_split].features
    texts = (features[name] for theirs, name in columns.items() if theirs != "history")
    is_read = "messages" in read or all(getattr(feature, "dtype", None) == "string" for feature in texts)
    is_read = is_read and "reasoning" not in row_format.columns
    return {
        "trained": list(names.values()),
        "only": facts.main_reading.condition if facts.main_reading and several else None,
        "converted": _as_messages(row_format, features),
        "renamed": {name: standard for standard, name in names.items() if name != standard},
        "llamafactory": columns if is_read and not several else None,
    }


def _as_messages(row_format: RowFormat, features: Features) -> str | None:
    """Python for TRL's prompt and completion of a row that has its parts in columns; ``None`` for other formats."""
    if row_format.kind not in _TURNS:
        return None
    asked, answer = _TURNS[row_format.kind]
    cells = {standard: f"row[{python(name)}]" for standard, name in row_format.columns.items()}
    texts = {ours for ours, name in row_format.columns.items() if getattr(features[name], "dtype", None) == "string"}
    question = [cells[name] for name in asked if name in cells]
    request = question[0] if len(question) == 1 else f'"\\n".join(filter(None, [{", ".join(question)}]))'
    reasoning = f', "reasoning_content": {cells["reasoning"]}' if "reasoning" in cells else ""
    turns = {"prompt": (asked[0], "user", request), "completion": (answer, "assistant", cells[answer] + reasoning)}
    columns = [
        f'"{theirs}": ' + (f'[{{"role": "{role}", "content": {text}}}]' if ours in texts else cells[ours])
        for theirs, (ours, role, text) in turns.items()
    ]
    return f"{{{', '.join(columns)}}}"
