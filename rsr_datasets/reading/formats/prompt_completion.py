"""TRL's prompt and completion: two texts, which pass no template, or messages."""

from ..messages import Conversation, is_json_of_messages
from .base import Format, Row


def is_text(row: Row) -> bool:
    """Whether both the prompt and the completion of a row are text."""
    return all(
        isinstance(value, str) and not is_json_of_messages(value)
        for value in (row.values.get("prompt"), row.values.get("completion"))
    )


def read(row: Row) -> Conversation | tuple[str, str]:
    """The messages of prompt and completion; of two texts the texts."""
    if is_text(row):
        return row.text("prompt"), row.text("completion")
    before, _ = row.messages("prompt", text_role="user")
    after, masked = row.messages("completion", text_role="assistant")
    return row.conversation([*before, *after], {len(before) + i for i in masked}, first_counted=len(before))


FORMAT = Format("prompt_completion", 30, ("prompt", "completion"), read)
