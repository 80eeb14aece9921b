"""The texts that commands print."""

from pathlib import Path

from rsr_datasets.cli.texts import next_steps

OPTIONS = {"column_prefix": "rsr", "turns": "all", "columns": None, "tokenizer": None, "token_columns": False}


def test_the_next_selection_takes_correct_rows_where_they_are_known() -> None:
    for columns, ends in (
        (["problem_id", "is_correct"], "--group-by problem_id --correct is_correct --output best"),
        (["problem_id"], "--group-by problem_id --output best"),
        (["text", "is_correct"], "--fraction 0.5 --output best"),
    ):
        lines = next_steps(Path("run"), "student", {"": columns}, OPTIONS).splitlines()
        assert [line.endswith(ends) for line in lines if "rsr-datasets select" in line] == [True]
