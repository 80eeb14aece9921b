"""The HTML report: one page that shows what was scored."""

from .page import build_report

__all__ = ["build_report"]
