"""Score reasoning trajectories with the Rank-Surprisal Ratio (arXiv:2601.14249) inside Hugging Face Datasets."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .curation.confidence import answer_confidence as answer_confidence
    from .curation.confidence import truncate_at as truncate_at
    from .curation.controls import ControlReport as ControlReport
    from .curation.controls import control_subsets as control_subsets
    from .curation.diagnosis import diagnose as diagnose
    from .curation.explode import explode_candidates as explode_candidates
    from .curation.findings import Diagnosis as Diagnosis
    from .curation.mixture import mixture_weights as mixture_weights
    from .curation.outcomes import Outcomes as Outcomes
    from .curation.outcomes import compare_outcomes as compare_outcomes
    from .curation.quality import add_rule_based_quality as add_rule_based_quality
    from .curation.quality import add_verified as add_verified
    from .curation.report import SelectionReport as SelectionReport
    from .curation.selections import select_subset as select_subset
    from .curation.selections import select_trajectories as select_trajectories
    from .hub import HubError as HubError
    from .hub import Published as Published
    from .hub import preview_card as preview_card
    from .hub import push_curated as push_curated
    from .metrics import Metric as Metric
    from .metrics import TrajectoryTokens as TrajectoryTokens
    from .metrics import available_metrics as available_metrics
    from .metrics import register_metric as register_metric
    from .runs.score import score_dataset as score_dataset
    from .scoring.rescore import rescore as rescore
    from .scoring.scorer import RSRScorer as RSRScorer
    from .teachers.correlation import Correlation as Correlation
    from .teachers.correlation import correlation as correlation
    from .teachers.dataset_rsr import DatasetRSR as DatasetRSR
    from .teachers.dataset_rsr import dataset_rsr as dataset_rsr
    from .teachers.ranking import TeacherRanking as TeacherRanking
    from .teachers.ranking import rank_teachers as rank_teachers

__version__ = "0.1.0"

# Public names are imported at their first use: importing the package loads neither torch nor datasets.
_NAMES = {
    "curation.confidence": "answer_confidence truncate_at",
    "curation.controls": "ControlReport control_subsets",
    "curation.diagnosis": "diagnose",
    "curation.explode": "explode_candidates",
    "curation.findings": "Diagnosis",
    "curation.mixture": "mixture_weights",
    "curation.outcomes": "Outcomes compare_outcomes",
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
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
