"""Plain text, of which every token but the first is scored."""

from .base import MEDIA, Format

FORMAT = Format("text", 50, ("text",), lambda row: ("", row.text("text")), optional=MEDIA)
