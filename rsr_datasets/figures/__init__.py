"""Static figures of scores for papers."""

from .plots import plot_plane, plot_teachers

__all__ = ["plot_plane", "plot_teachers"]
