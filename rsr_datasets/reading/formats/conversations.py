"""ShareGPT's column of messages."""

from .base import Format
from .messages import read_column

FORMAT = Format("conversations", 20, ("conversations",), lambda row: read_column(row, "conversations"))
