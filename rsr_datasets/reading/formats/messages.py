"""One column of messages."""

from ..messages import Conversation
from .base import Format, Row


def read_column(row: Row, name: str) -> Conversation:
    """The conversation of a column of messages."""
    messages, masked = row.messages(name)
    return row.conversation(messages, masked)


FORMAT = Format("messages", 10, ("messages",), lambda row: read_column(row, "messages"))
