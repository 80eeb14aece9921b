"""The same column under the name that ms-swift and LMSYS give to it."""

from .base import Format
from .messages import read_column

FORMAT = Format("conversation", 80, ("conversation",), lambda row: read_column(row, "conversation"))
