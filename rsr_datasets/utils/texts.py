"""Values and names as texts that fit into a message."""

from collections.abc import Iterable
from typing import Any


def shorten(value: Any, most: int = 60) -> str:
    """A value as text that fits beside others."""
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def shorten_list(names: Iterable[Any], most: int = 120) -> str:
    """The first of some names, as many as fit into ``most`` characters, and how many more there are."""
    shown = [shorten(name, 40) for name in names]
    fitting = next((k for k in range(len(shown), 0, -1) if len(", ".join(shown[:k])) <= most), min(1, len(shown)))
    return f"[{', '.join(shown[:fitting])}{f', and {len(shown) - fitting} more' if fitting < len(shown) else ''}]"
