"""Score reasoning trajectories with the Rank-Surprisal Ratio (arXiv:2601.14249) inside Hugging Face Datasets."""

from .scorer import RSRScorer, rescore

__version__ = "0.1.0"

__all__ = ["RSRScorer", "rescore"]
