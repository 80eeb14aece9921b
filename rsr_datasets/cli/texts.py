"""Texts that the commands print: counts of statuses, the cost of a run, control arms, the next commands."""

import json
import shlex
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ..utils.texts import dashed, text_table

PROBLEM, TEACHER, CORRECT = "problem_id", "teacher", "is_correct"


def next_steps(
    output_dir: Path, student: str, splits: Mapping[str, Collection[str]], options: Mapping[str, Any]
) -> str:
    """The next commands for scores in a folder.

    Args:
        output_dir: The folder that ``score`` wrote to.
        student: The student as it was given.
        splits: The columns of the scored rows of each split; a single one may have no name.
        options: The options of ``score``.
    """
    split, columns = next(iter(splits.items()))
    run = [str(output_dir), *(["--split", split] if len(splits) > 1 else [])]
    if options["column_prefix"] != "rsr":
        run += ["--column-prefix", options["column_prefix"]]
    problem, read = PROBLEM, []
    if PROBLEM not in columns:
        problem = "prompt"
        read += ["--turns", options["turns"]] if options["turns"] != "all" else []
        read += ["--columns", json.dumps(options["columns"], ensure_ascii=False)] if options["columns"] else []
    choice = ["--fraction", "0.5"] if problem == "prompt" and "text" in columns else ["--group-by", problem, *read]
    correct = ["--correct", CORRECT] if CORRECT in columns and "--group-by" in choice else []
    lines = [["select", *run, *choice, *correct, "--output", "best"]]
    if "--group-by" in choice:
        lines.insert(0, ["diagnose", *run, *choice])
    if TEACHER in columns:
        lines.insert(0, ["teachers", *run, *(["--problem-column", problem] if problem == PROBLEM else [])])
    page = ["--problem-column", problem, *read] if problem == "prompt" and "--group-by" in choice else []
    page += ["--tokenizer", options["tokenizer"] or student] if options["token_columns"] else []
    lines.append(["report", *run, "--selected", "best", *page, "--output", "report.html"])
    return "\n".join(["Next, for example:", *(f"  {shlex.join(['rsr-datasets', *line])}" for line in lines)])


def counted(statuses: Mapping[str, int]) -> str:
    """How many rows have each status."""
    return ", ".join(f"{count:,} {status}" for status, count in statuses.items())


def estimate_text(name: str, estimate: Mapping[str, Any]) -> str:
    """The cost of scoring the rows of a split, or of all."""
    done = estimate["rows_done"]
    if done and not estimate["rows"]:
        return f"{name or 'all'}: nothing is left to score: all {done:,} rows are done"
    rows = f"{estimate['rows']:,} rows" + (f" ({done:,} more are done)" if done else "")
    parameters = f"{estimate['parameters'] / 1e6:,.0f} million parameters"
    cost = "time and memory of its engine are not known here"
    if estimate["hours"] is not None:
        minutes = f"about {60 * estimate['hours']:,.1f} minutes of one process"
        cost = f"{minutes} and {estimate['memory_gib']:.2f} GiB of device memory"
    found = f"{sum(estimate['statuses'].values()):,} rows were looked at: {counted(estimate['statuses']) or 'none'}"
    about = f"about {estimate['tokens']:,} tokens, for a student of {parameters}"
    return f"{name or 'all'}: {rows}, {about}: {cost}. {found}"


def arms_table(accounts: Mapping[str, Any]) -> str:
    """The :class:`rsr_datasets.ControlReport` of each arm as a line of a table."""
    head = ["arm", "rows", "tokens, of the selection's", "other teachers"]
    lines = []
    for arm, each in accounts.items():
        shares = (each.tokens_ratio, each.teacher_difference)
        lines.append([arm, f"{each.rows:,}", *(dashed(share, ".1%") for share in shares)])
    return text_table(head, lines)
