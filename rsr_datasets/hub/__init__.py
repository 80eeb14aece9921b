"""Publishing: the dataset card and the way to the Hub."""

from .card import preview_card
from .push import HubError, Published, push_curated

__all__ = ["HubError", "Published", "preview_card", "push_curated"]
