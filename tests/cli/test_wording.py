"""Messages on the command line: arguments as flags, one line, not too long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsr_datasets.cli.commands import _flags
from rsr_datasets.cli.wording import LONGEST_LINE, in_flags, one_line
from rsr_datasets.reading.formats import find_format
from rsr_datasets.tables.arrays import metric_column, require_columns
from rsr_datasets.tables.columns import ScoreColumns

FLAGS = _flags()


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (
            'name others with columns=, e.g. columns={"prompt": "question"}',
            'name others with --columns, e.g. --columns \'{"prompt": "question"}\'',
        ),
        (
            "columns={'prompt': 'q'}: it has ['columns', 'n']",
            "--columns '{\"prompt\": \"q\"}': it has ['columns', 'n']",
        ),
        ('raise max_length, or use on_overflow="skip"', "raise --max-length, or use --on-overflow skip"),
        ("or pass allow_mixed_settings=True", "or pass --allow-mixed-settings"),
        ("rank_clip=0: must be at least 1", "--rank-clip 0: must be at least 1"),
        ("metrics=['a', 'b c']: unknown", "--metrics a --metrics 'b c': unknown"),
        ("give another output_dir; 3 turns, split", "give another --output-dir; 3 turns, split"),
        ("dataset.map(RSRScorer(student), batched=True) adds it", "rsr-datasets score adds it"),
        ("RSRScorer(student, metrics=['x']) adds it", "rsr-datasets score --metrics x adds it"),
        ("rescore(dataset, metrics=['x']) adds it", "in Python rescore(dataset, metrics=['x']) adds it"),
        ("column 'group_by', key \"seed\"=1, {seed: 1}, WORLD_SIZE=2", None),
        ('columns={"prompt": of no end', "--columns '{'\"prompt\": of no end"),
    ],
)
def test_arguments_are_flags_on_the_command_line(message: str, said: str | None) -> None:
    assert in_flags(message, FLAGS) == (said or message)


@given(st.text(max_size=2000))
def test_any_message_is_one_short_line(text: str) -> None:
    line = one_line(in_flags(text, FLAGS))
    assert len(line) <= LONGEST_LINE and len(line.splitlines()) <= 1
    if len(" ".join(text.split())) <= LONGEST_LINE:
        assert one_line(text) == " ".join(text.split())


def test_long_lists_of_columns_are_cut_and_the_advice_is_kept() -> None:
    names = [f"a_rather_long_name_{i}" for i in range(200)]
    columns = ScoreColumns()
    dataset = type("Wide", (), {"column_names": names})
    calls = [
        lambda: find_format(names),
        lambda: find_format(names, {"prompt": "question"}),
        lambda: require_columns(dataset, ["rsr"], columns),
        lambda: require_columns(dataset, ["task"], columns),
        lambda: metric_column(dataset, "avg_entropy", columns),
    ]
    for call in calls:
        with pytest.raises(ValueError) as refused:
            call()
        line = one_line(in_flags(str(refused.value), FLAGS))
        assert len(line) <= LONGEST_LINE and "'a_rather_long_name_0', " in line
    assert line.startswith("metric 'avg_entropy': no column") and "rsr-datasets score --metrics avg_entropy" in line
