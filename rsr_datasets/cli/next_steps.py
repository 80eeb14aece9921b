"""The commands that follow a finished ``score``, as one can type them."""

import json
import shlex
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

PROBLEM, TEACHER = "problem_id", "teacher"


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
    lines = [["select", *run, *choice, "--output", "best"]]
    if "--group-by" in choice:
        lines.insert(0, ["diagnose", *run, *choice])
    if TEACHER in columns:
        lines.insert(0, ["teachers", *run, *(["--problem-column", problem] if problem == PROBLEM else [])])
    page = ["--problem-column", problem, *read] if problem == "prompt" and "--group-by" in choice else []
    page += ["--tokenizer", options["tokenizer"] or student] if options["token_columns"] else []
    lines.append(["report", *run, "--selected", "best", *page, "--output", "report.html"])
    return "\n".join(["Next, for example:", *(f"  {shlex.join(['rsr-datasets', *line])}" for line in lines)])
