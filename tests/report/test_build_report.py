"""The file of the report: its bytes, the data in it, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from report_pages import Rows, embedded

import rsr_datasets.report
from rsr_datasets.figures.plotting import SERIES_DARK, SERIES_LIGHT
from rsr_datasets.report import build_report
from rsr_datasets.report.page import load_tokenizer
from rsr_datasets.report.samples import choose_problems


def test_it_is_one_file_that_loads_nothing(small: Dataset, tokenizer: Any, tmp_path: Path) -> None:
    path = build_report(small, tmp_path / "folder" / "report.html", tokenizer=tokenizer)
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    content = path.read_text("utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="(.*?)"', content)
    assert policy and re.fullmatch(
        r"default-src 'none'; script-src 'sha256-\S{44}'; style-src 'sha256-\S{44}'; img-src data:; base-uri 'none'; "
        r"form-action 'none'",
        policy[1],
    )
    assert not re.search(r"(src|href)=\"(?!#|data:,)", content) and "innerHTML" not in content
    assert content == build_report(small, tmp_path / "again.html", tokenizer=tokenizer).read_text("utf-8")


def test_the_page_has_the_colours_of_the_figures() -> None:
    style = (Path(rsr_datasets.report.__file__).parent / "assets" / "page.css").read_text("utf-8")
    found = re.findall(r"--c[0-6]: (#\w{6});", style)
    assert found == [*SERIES_LIGHT, *SERIES_DARK]


def test_problems_may_be_prompts_or_rows(small: Dataset, tmp_path: Path) -> None:
    unnamed = small.remove_columns("problem_id")
    by_prompt = embedded(build_report(unnamed, tmp_path / "a.html", problem_column="prompt"))
    assert by_prompt["overview"]["problems"] == 3
    assert [len(problem["candidates"]) for problem in by_prompt["texts"]["problems"]] == [3, 3, 3]
    by_row = embedded(build_report(unnamed, tmp_path / "b.html"))
    assert by_row["overview"]["problems"] is None
    assert [problem["label"] for problem in by_row["texts"]["problems"]] == [f"row {i}" for i in range(9)]


def test_long_trajectories_are_cut(make_rows: Rows, tokenizer: Any, tmp_path: Path) -> None:
    codes = np.repeat(np.arange(100), 33)
    chosen, limit = choose_problems(codes, np.full(3300, 30_000.0), np.ones(3300, bool), 4_000_000, 16, seed=0)
    assert (len(chosen), limit) == (14, 500) and all(np.ptp(codes[rows]) == 0 and rows.size == 33 for rows in chosen)
    row = make_rows({("p", "ada"): "x = 1, y = 2, "})[0]
    lists = {name: row[name] * 3000 for name in ("rsr_token_ids", "rsr_token_ranks", "rsr_token_surprisals")}
    length = len(lists["rsr_token_ids"])
    path = build_report(
        Dataset.from_list([row | lists | {"rsr_num_tokens": length}]), tmp_path / "a.html", tokenizer=tokenizer
    )
    shown = embedded(path)["texts"]["problems"][0]["candidates"][0]
    assert len(shown["tokens"]["ranks"]) == 16_000 and shown["omittedTokens"] == length - 16_000 > 0


def test_problems_with_several_candidates_come_first() -> None:
    codes = np.array([0, 1, 1, 2, 3, 3, -1])
    scored = np.array([True, True, True, True, True, False, True])
    chosen, _ = choose_problems(codes, np.full(7, 10.0), scored, 1_200, 16, seed=0)
    assert chosen[0].tolist() == [1, 2] and len(chosen) == 1


def test_a_failure_leaves_what_was_there(small: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("before")
    other = small.rename_columns({name: f"qwen{name[3:]}" for name in small.column_names if name.startswith("rsr")})
    for rows, arguments, message in (
        (small.remove_columns("rsr"), {}, "never scored"),
        (other, {}, "never scored"),
        (Dataset.from_list([small[0], {**small[1], "rsr_settings": "b-100"}]), {}, "2 different students or settings"),
        (small, {"teacher_column": "model"}, "no column 'model'"),
        (small, {"problem_column": "model"}, "no column 'model'"),
        (small, {"tokenizer": "nowhere/none"}, "tokenizer='nowhere/none' cannot be loaded"),
        (small, {"max_points": 0}, "max_points=0: must be between"),
        (small, {"selected": other}, "never scored"),
        (small, {"selected": small.map(lambda row: {"rsr_settings": "b-100"})}, "2 different students or settings"),
        (small, {"selected": small.map(lambda row: {"teacher": "mia"})}, "teacher 'mia' is not among"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            build_report(rows, path, **arguments)
    many = Dataset.from_list([{**small[0], "teacher": f"t{i}"} for i in range(201)])
    with pytest.raises(ValueError, match="201 different teachers, the report takes 200"):
        build_report(many, path)
    with pytest.raises(ValueError, match="is a folder; name the HTML file"):
        build_report(small, tmp_path)
    with pytest.raises(TypeError, match="scored: expected a Dataset, found DatasetDict; choose a split"):
        build_report(DatasetDict({"train": small}), path)
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]
    assert embedded(build_report(other, path, column_prefix="qwen"))["overview"]["scored"] == 9


def test_an_adapter_without_a_tokenizer_has_that_of_its_base(student_folder: str, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": student_folder}))
    assert load_tokenizer(tmp_path).get_vocab() == load_tokenizer(student_folder).get_vocab()
