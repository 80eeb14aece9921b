"""Score reasoning trajectories with the Rank-Surprisal Ratio (arXiv:2601.14249) inside Hugging Face Datasets."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .curation.confidence import answer_confidence, truncate_at
    from .curation.explode import explode_candidates
    from .curation.mixture import mixture_weights
    from .curation.quality import add_rule_based_quality, add_verified
    from .curation.report import SelectionReport
    from .curation.selections import select_subset, select_trajectories
    from .hub import HubError, Published, preview_card, push_curated
    from .metrics import Metric, TrajectoryTokens, available_metrics, register_metric
    from .runs.score import score_dataset
    from .scoring.rescore import rescore
    from .scoring.scorer import RSRScorer
    from .teachers.correlation import Correlation, correlation
    from .teachers.dataset_rsr import DatasetRSR, dataset_rsr
    from .teachers.ranking import TeacherRanking, rank_teachers

__version__ = "0.1.0"

# Public names are imported at their first use: importing the package loads neither torch nor datasets.
_NAMES = {
    "curation.confidence": "answer_confidence truncate_at",
    "curation.explode": "explode_candidates",
    "curation.mixture": "mixture_weights",
    "curation.quality": "add_rule_based_quality add_verified",
    "curation.report": "SelectionReport",
    "curation.selections": "select_subset select_trajectories",
    "hub": "HubError Published preview_card push_curated",
    "metrics": "Metric TrajectoryTokens available_metrics register_metric",
    "runs.score": "score_dataset",
    "scoring.rescore": "rescore",
    "scoring.scorer": "RSRScorer",
    "teachers.correlation": "Correlation correlation",
    "teachers.dataset_rsr": "DatasetRSR dataset_rsr",
    "teachers.ranking": "TeacherRanking rank_teachers",
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names.split()}

__all__ = [
    "Correlation",
    "DatasetRSR",
    "HubError",
    "Metric",
    "Published",
    "RSRScorer",
    "SelectionReport",
    "TeacherRanking",
    "TrajectoryTokens",
    "add_rule_based_quality",
    "add_verified",
    "answer_confidence",
    "available_metrics",
    "correlation",
    "dataset_rsr",
    "explode_candidates",
    "mixture_weights",
    "preview_card",
    "push_curated",
    "rank_teachers",
    "register_metric",
    "rescore",
    "score_dataset",
    "select_subset",
    "select_trajectories",
    "truncate_at",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
