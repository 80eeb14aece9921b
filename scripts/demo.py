"""Scores CHAMP trajectories for SmolLM2-135M-Instruct and prints what that student would learn from.

Run by demo.sh. Run it again to go on after a stop, or to see a finished run once more.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the student and the trajectories are installed packages

import transformers
from champ import load_champ_with_answers, smollm2_path
from datasets import Dataset

from rsr_datasets import RSRScorer, rank_teachers, score_dataset, select_trajectories
from rsr_datasets.report import build_report
from rsr_datasets.runs.estimate import estimate_run
from rsr_datasets.utils.texts import text_table

FOLDER = Path(__file__).resolve().parents[1] / ".demo"
UNIT_ROWS = 40  # many batches, which the cores read side by side; a stop loses one unit at most


def tell_estimate(dataset: Dataset, scorer: RSRScorer, folder: Path) -> None:
    """Says what will be scored, and how long that takes here."""
    estimate = estimate_run(dataset, scorer, folder, UNIT_ROWS)
    if not estimate["rows"]:
        print("All trajectories are scored already.")
        return
    minutes = 60 * estimate["hours"]
    print(
        f"Scoring {estimate['rows']} trajectories, about {estimate['tokens']:,} tokens, for SmolLM2-135M-Instruct: "
        f"about {minutes:.1f} minutes, by the speed of this machine just now."
    )


def show(row: dict) -> list[str]:
    """Teacher, RSR and correctness of a picked solution."""
    return [row["teacher"], f"{row['rsr']:.3f}", "right" if row["is_correct"] else "WRONG"]


def ending(row: dict, width: int = 100) -> str:
    text = " ".join(row["messages"][-1]["content"].split())
    return f"... {text[-width:]}" if len(text) > width else text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=14, help="how many of the 33 problems (default: 14)")
    problems = parser.parse_args().problems

    transformers.utils.logging.disable_progress_bar()  # the one of scoring is enough
    dataset = load_champ_with_answers(problems)
    add_rsr = RSRScorer(smollm2_path(), dtype="float32", token_columns=True)
    folder = FOLDER / f"run-{problems}-{add_rsr.settings_hash}"
    tell_estimate(dataset, add_rsr, folder)
    started = time.monotonic()
    scored = score_dataset(dataset, add_rsr, folder, unit_rows=UNIT_ROWS)
    print(f"{sum(scored['rsr_num_tokens']):,} response tokens in {time.monotonic() - started:.0f} s\n")

    print("Which teacher suits this student?")
    ranking = rank_teachers(scored, teacher_column="teacher", problem_column="problem_id")
    right_answers = Counter(
        row["teacher"] for row in scored.select_columns(["teacher", "is_correct"]) if row["is_correct"]
    )
    counts = ", ".join(f"{each.teacher} {right_answers[each.teacher]}" for each in ranking.teachers)
    print(f"{ranking}\nRight answers of {problems}: {counts}. Who suits the student need not be right.\n")

    lowest = select_trajectories(scored, group_by="problem_id")
    right = select_trajectories(scored, group_by="problem_id", correct="is_correct")
    print("Which solution of each problem has the lowest RSR: of all, and of the right ones (correct=)?")
    picks = {row["problem_id"]: row for row in right}
    rows = [[row["problem_id"], row["answer"], *show(row), *show(picks[row["problem_id"]])[:2]] for row in lowest]
    print(text_table(["problem", "answer", "of all", "RSR", "", "of the right ones", "RSR"], rows))
    wrong = [row for row in lowest if not row["is_correct"]]
    print(
        f"RSR measures how well a solution fits the student, not whether it is true: {len(wrong)} of {problems} picks "
        f"are wrong.\nWhere answers are known, select with correct=.\n"
    )
    if wrong:
        row = wrong[0]
        print(f"For example {row['problem_id']}, whose answer is {row['answer']}:")
        for each in (row, picks[row["problem_id"]]):
            print(f"  {each['teacher']} ({'right' if each['is_correct'] else 'wrong'}): {ending(each)}")

    page = build_report(
        scored,
        FOLDER / "report.html",
        selected=right,
        problem_column="problem_id",
        tokenizer=add_rsr.load_tokenizer(),
        title="CHAMP trajectories for SmolLM2-135M-Instruct",
    )
    print(f"\nThe scored dataset: {folder / 'scored'}")
    print(f"The report, for a browser: {page}")
    print("Next: score your own trajectories, as README.md says.")


if __name__ == "__main__":
    main()
