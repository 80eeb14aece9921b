"""One column for each part of a conversation, named by ``columns=``."""

from ..messages import Conversation
from .base import CONTEXT, Format, Row


def read(row: Row) -> Conversation:
    """The user's text, and the assistant's with its reasoning."""
    question = {"role": "user", "content": row.one_text("user")}
    answer = {"role": "assistant", "content": row.one_text("assistant")}
    if row.written("reasoning"):
        answer["reasoning_content"] = row.one_text("reasoning")
    return row.conversation([question, answer], first_counted=1)


FORMAT = Format("parts", 90, ("user", "assistant"), read, ("reasoning", *CONTEXT))
