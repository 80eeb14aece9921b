"""Scores CHAMP trajectories for SmolLM2-135M-Instruct and prints what that student would learn from.

Run by demo.sh. Stopping it loses at most the scores of this run; a finished run is found in the cache of `datasets`.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the student and the trajectories are installed packages

import transformers
from champ import load_champ, smollm2_path
from datasets import Dataset, load_from_disk

from rsr_datasets import RSRScorer, rank_teachers, select_trajectories
from rsr_datasets.report import build_report

FOLDER = Path(__file__).resolve().parents[1] / ".demo"
ROWS_PER_BATCH = 5


def load_trajectories(problems: int) -> Dataset:
    """The trajectories as a dataset on disk, where `datasets` caches what it computes."""
    path = FOLDER / f"champ-{problems}"
    if not (path / "state.json").exists():  # written last
        load_champ(problems).save_to_disk(path)
    return load_from_disk(path)


def describe(row: dict, width: int = 88) -> str:
    answer = " ".join(row["messages"][-1]["content"].split())
    head = f"{row['problem_id']:<22} {row['teacher']:<14} RSR {row['rsr']:.3f}  {row['rsr_num_tokens']:>4} tokens"
    return f"{head}\n    {answer[:width]}{' ...' if len(answer) > width else ''}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=12, help="how many of the 270 problems (default: 12)")
    problems = parser.parse_args().problems

    transformers.utils.logging.disable_progress_bar()  # the one of scoring is enough
    dataset = load_trajectories(problems)
    add_rsr = RSRScorer(smollm2_path(), dtype="float32", token_columns=True)
    print(f"Scoring {len(dataset)} trajectories of {problems} problems for SmolLM2-135M-Instruct ...")
    started = time.monotonic()
    scored = dataset.map(add_rsr, batched=True, batch_size=ROWS_PER_BATCH, desc="RSR")
    seconds = time.monotonic() - started
    print(f"{sum(scored['rsr_num_tokens']):,} response tokens in {seconds:.0f} s\n")

    print("Teachers by dataset-level RSR (lower teaches this student better):")
    print(rank_teachers(scored, teacher_column="teacher", problem_column="problem_id"), "\n")

    print("The best trajectory of the first problems:")
    best = select_trajectories(scored, group_by="problem_id")
    for row in best.select(range(min(4, problems))):
        print(describe(row))

    output = FOLDER / "champ-scored"
    scored.save_to_disk(output)
    page = build_report(
        scored,
        FOLDER / "report.html",
        selected=best,
        problem_column="problem_id",
        tokenizer=add_rsr.load_tokenizer(),
        title="CHAMP trajectories for SmolLM2-135M-Instruct",
    )
    print(f"\nThe scored dataset: {output}")
    print(f"The report, for a browser: {page}")
    print("Next: score your own trajectories, README.md, 'From files to a published subset'.")


if __name__ == "__main__":
    main()
