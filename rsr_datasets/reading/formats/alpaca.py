"""Alpaca's columns, with LLaMA-Factory's system prompt and history."""

from ..messages import Conversation
from .base import CONTEXT, Format, Row


def read(row: Row) -> Conversation:
    """Instruction and input are the question."""
    parts = [row.text("instruction")]
    if row.values.get("input") is not None:
        parts.append(row.text("input"))
    output = row.text("output")
    request = {"role": "user", "content": "\n".join(part for part in parts if part)}
    return row.conversation([request, {"role": "assistant", "content": output}], first_counted=1)


FORMAT = Format("alpaca", 40, ("instruction", "output"), read, ("input", *CONTEXT))
