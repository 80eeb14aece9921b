"""One column for each part of a conversation, named by ``columns=``."""

from ..messages import Conversation
from ..rows import bad
from .base import CONTEXT, Format, Row


def read(row: Row) -> Conversation:
    """The user's text, and the assistant's with its reasoning; either may be messages."""
    before, _ = row.messages("user", text_role="user")
    after, masked = row.messages("assistant", text_role="assistant")
    if row.written("reasoning"):
        if not after or after[-1]["role"] != "assistant":
            bad(f"column {row.columns['reasoning']!r}: reasoning without an assistant turn after it")
        after[-1] = {**after[-1], "reasoning_content": row.one_text("reasoning")}
    return row.conversation([*before, *after], {len(before) + i for i in masked}, first_counted=len(before))


FORMAT = Format("parts", 90, ("user", "assistant"), read, ("reasoning", *CONTEXT))
