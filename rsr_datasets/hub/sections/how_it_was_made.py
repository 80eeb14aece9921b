"""How it was made: the students, the settings of scoring, and the selections."""

from __future__ import annotations

from typing import Any

from ...tables.records import package_versions
from ..facts import Facts, read_rule


def how_it_was_made(facts: Facts) -> dict[str, Any]:
    """The scorings, and the later steps with their rules and reports."""
    students = {score.label for score in facts.scores}
    steps = [
        {
            "name": record.get("step"),
            "split": split if len(facts.splits) > 1 else None,
            "rule": read_rule(record),
            "report": record.get("report"),
            "record": record,
        }
        for split, record in facts.steps
    ]
    return {
        "student": students.pop() if len(students) == 1 else None,
        "scores": list({score.settings_hash: score for score in facts.scores}.values()),
        "own_versions": package_versions(),
        "steps": steps,
        "parallel": facts.parallel,
    }
