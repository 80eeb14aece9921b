"""Train on it: what TRL and LLaMA-Factory need to read the rows."""

from typing import Any

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


def training(facts: Facts) -> dict[str, Any]:
    """The columns for TRL, those with another name than TRL's, and the columns for LLaMA-Factory if it reads them."""
    row_format = facts.row_format
    if row_format is None:
        return {"llamafactory": None}
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
        "renamed": {name: standard for standard, name in names.items() if name != standard},
        "llamafactory": columns if is_read else None,
    }
