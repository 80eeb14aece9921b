"""Rows that are scored in a way that their owner may not expect: warnings."""

import re
from collections.abc import Mapping
from typing import Any

from .formats import RowFormat
from .messages import Conversation
from .unread import columns_argument

# The beginning of an assistant's turn in the templates of usual families.
_RENDERED = re.compile(
    r"<\|im_start\|>assistant|<\|start_header_id\|>assistant|<\|start\|>assistant|<start_of_turn>model|<\|turn>model"
    r"|<\|assistant\|>|<｜Assistant｜>|<\|im_assistant\|>|\[/INST\]|<\|START_OF_TURN_TOKEN\|><\|CHATBOT_TOKEN\|>"
    r"|<\|start_of_role\|>assistant|^### (?:Response|Assistant):|^ASSISTANT: ",
    re.MULTILINE,
)


def find_pitfall(
    values: Mapping[str, Any], row_format: RowFormat, read: Conversation | tuple[str, str], has_template: bool
) -> tuple[str, str] | None:
    """Finds what is to be said about a row that was read: the kind of the pitfall and the warning.

    ``values`` are the row's, by standard name; ``has_template`` says whether the student has a chat template.
    """
    columns = row_format.columns
    context = [columns[name] for name in ("system", "history", "tools") if values.get(name) and name in columns]
    if isinstance(read, Conversation):
        system = values.get("system")
        if isinstance(system, str) and system.strip() and system != read.messages[0]["content"]:
            return "system", f"column {columns['system']!r} is not read where the messages have a system turn"
    elif row_format.kind == "text" and (found := _RENDERED.search(read[1])):
        return "rendered", (
            f"column {columns['text']!r} holds rendered conversations (found {found[0]!r}), and all of it is scored: "
            "to score the responses alone give messages, or prompt and completion"
        )
    elif row_format.kind == "prompt_completion" and (has_template or context):
        names = {"user": columns["prompt"], "assistant": columns["completion"]}
        names |= {name: columns[name] for name in ("system", "history", "tools") if columns.get(name) in context}
        without = f", and without {context}" if context else ""
        return "plain", (
            f"columns {names['user']!r} and {names['assistant']!r} are texts, scored as they stand, without the "
            f"student's chat template{without}; to apply the template: {columns_argument(names)}"
        )
    return None
