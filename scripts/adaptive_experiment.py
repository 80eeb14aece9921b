"""How much adaptive sampling saves and how often it chooses well, over many seeds on scores made beforehand.

    python scripts/adaptive_experiment.py scores.parquet

The file holds one scored row per problem and teacher: ``problem_id``, ``teacher`` and the score columns. For every
seed ``rank_teachers(adaptive=True)`` looks up the scores of the trajectories it asks for, as if it scored them then.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from datasets import Dataset

from rsr_datasets import dataset_rsr, rank_teachers


def run(
    dataset: Dataset, seeds: int, sample: int | None, confidence: float, tolerance: float, problem_column: str | None
) -> dict[str, Any]:
    """Ranks the teachers once per seed.

    Args:
        dataset: Scored rows of all teachers.
        seeds: Number of seeds.
        sample: Most trajectories per teacher; ``None`` for all.
        confidence: Confidence of the stopping rule.
        tolerance: Relative difference from the best that is accepted.
        problem_column: Column with the problem; ``None`` to sample rows independently.

    Returns:
        The full-data RSR of each teacher, how often each one was chosen, the share of seeds in which the choice lies
        within the tolerance of the best, and quantiles of the trajectories and tokens that were scored.
    """
    full = {teacher: result.value for teacher, result in dataset_rsr(dataset, "teacher").items()}
    best = min(full.values())
    rankings = [
        rank_teachers(
            dataset,
            problem_column=problem_column,
            sample=sample,
            seed=seed,
            adaptive=True,
            confidence=confidence,
            tolerance=tolerance,
            resamples=1,
        )
        for seed in range(seeds)
    ]
    trajectories = np.array([ranking.trajectories_scored for ranking in rankings])
    tokens = np.array([ranking.tokens_scored for ranking in rankings])
    fixed = rankings[0].fixed_trajectories
    return {
        "full_rsr": full,
        "chosen": dict(Counter(ranking.best for ranking in rankings).most_common()),
        "within_tolerance": float(np.mean([full[r.best] <= best * (1 + tolerance) for r in rankings])),
        "certain": float(np.mean([ranking.stopped == "certain" for ranking in rankings])),
        "all_trajectories": fixed,
        "all_tokens": round(float(np.median([ranking.fixed_tokens for ranking in rankings]))),
        "median_trajectories": float(np.median(trajectories)),
        "median_share": float(np.median(trajectories)) / fixed,
        "trajectories_10_90": np.percentile(trajectories, [10, 90]).tolist(),
        "median_tokens": float(np.median(tokens)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scores", type=Path, help="Parquet file of scored rows")
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--sample", type=int, help="most trajectories per teacher (default: all)")
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument("--tolerance", type=float, default=0.01)
    parser.add_argument("--problem-column", default="problem_id")
    parser.add_argument("--independent", action="store_true", help="do not compare teachers on the same problems")
    parser.add_argument("--json", type=Path, help="also write the result here")
    arguments = parser.parse_args()
    dataset = Dataset(pq.read_table(arguments.scores))
    problem_column = None if arguments.independent else arguments.problem_column
    result = run(dataset, arguments.seeds, arguments.sample, arguments.confidence, arguments.tolerance, problem_column)
    print("RSR over all data:  " + ", ".join(f"{teacher} {rsr:.4f}" for teacher, rsr in result["full_rsr"].items()))
    print("chosen:             " + ", ".join(f"{teacher} {count}x" for teacher, count in result["chosen"].items()))
    print(f"within {arguments.tolerance:.0%} of best:  {result['within_tolerance']:.1%} of {arguments.seeds} seeds")
    print(f"stopped certain:    {result['certain']:.1%}")
    low, high = result["trajectories_10_90"]
    print(
        f"trajectories:       median {result['median_trajectories']:.0f} of {result['all_trajectories']} "
        f"({result['median_share']:.1%}); 10% to 90% of seeds: {low:.0f} to {high:.0f}"
    )
    print(f"tokens:             median {result['median_tokens']:,.0f} of about {result['all_tokens']:,}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
