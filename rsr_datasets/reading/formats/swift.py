"""The columns of ms-swift: a query and its response."""

from ..messages import Conversation
from .base import Format, Row


def read(row: Row) -> Conversation:
    """The query is a user turn, the response an assistant turn."""
    query = {"role": "user", "content": row.text("query")}
    return row.conversation([query, {"role": "assistant", "content": row.text("response")}], first_counted=1)


FORMAT = Format("swift", 70, ("query", "response"), read)
