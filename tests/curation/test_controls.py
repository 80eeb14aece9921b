"""Control arms: as many rows of each problem, by other rules, matched where asked, and the same whatever the order."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from rsr_datasets import control_subsets, select_trajectories
from rsr_datasets.curation.controls import ARMS
from rsr_datasets.tables.records import read_records

pytestmark = pytest.mark.filterwarnings("error")

# Each problem's ratios and tokens, in disorder.
RATIOS = {"p": [3.0, 1.0, 5.0, 2.0, 4.0], "q": [2.0, 9.0, 7.0]}
TOKENS = {"p": [30, 10, 20, 50, 40], "q": [5, 3, 4]}


def rows_of(**columns: Any) -> Dataset:
    size = len(columns["rsr"])
    status = ["bad_row" if value is None else "scored" for value in columns["rsr"]]
    given = {"rsr_num_tokens": [9] * size, "rsr_settings": ["a1-100"] * size, "rsr_status": status}
    return Dataset.from_dict({"rsr": columns.pop("rsr"), **(given | columns), "row": list(range(size))})


@pytest.fixture
def rows() -> Dataset:
    keys = [key for key, values in RATIOS.items() for _ in values]
    ratios, tokens = ([*values["p"], *values["q"]] for values in (RATIOS, TOKENS))
    return rows_of(rsr=ratios, rsr_num_tokens=tokens, problem_id=keys)


@pytest.fixture(scope="module")
def champ() -> Dataset:
    file = Path(__file__).parents[1] / "data" / "champ_smollm2_scores.parquet"
    found = Dataset.from_parquet(str(file))
    return found.add_column("row", list(range(len(found))))


def kept(arms: DatasetDict) -> dict[str, list[int]]:
    return {arm: rows["row"][:] for arm, rows in arms.items()}


class TestRules:
    def test_each_arm_takes_as_many_rows_of_each_problem(self, rows: Dataset) -> None:
        arms = kept(control_subsets(rows, select_trajectories(rows, "problem_id"), "problem_id"))
        assert list(arms) == list(ARMS)
        expected = {"lowest": [1, 5], "middle": [0, 7], "highest": [2, 6], "shortest": [1, 6]}
        assert {arm: arms[arm] for arm in expected} == expected
        assert [row < 5 for row in arms["random"]] == [True, False]

    def test_several_rows_of_a_problem(self, rows: Dataset) -> None:
        arms = kept(control_subsets(rows, rows.select([0, 1, 5]), "problem_id"))
        assert arms["lowest"] == [1, 3, 5] and arms["highest"] == [2, 4, 6] and arms["shortest"] == [1, 2, 6]
        assert arms["middle"] == [0, 3, 7]

    def test_a_problem_that_was_not_selected_from_is_in_no_arm(self, rows: Dataset) -> None:
        arms = kept(control_subsets(rows, rows.select([6]), "problem_id"))
        assert all(len(found) == 1 and found[0] >= 5 for found in arms.values())

    def test_rows_without_a_complete_score_are_no_candidates(self, rows: Dataset) -> None:
        states = {1: "truncated", 2: "bad_row"}
        changed = rows.map(lambda row: {"rsr_status": states.get(row["row"], "scored")})
        assert not {1, 2} & {
            row for found in kept(control_subsets(changed, rows, "problem_id")).values() for row in found
        }

    def test_limits_of_the_selection_hold_for_the_arms(self, rows: Dataset) -> None:
        right = rows.add_column("ok", [True, False, True, True, False, False, False, False])
        best = select_trajectories(right, "problem_id", correct="ok", max_tokens=45)
        arms = kept(control_subsets(right, best, "problem_id", correct="ok", max_tokens=45))
        assert arms["lowest"] == best["row"][:] == [0, 5]
        assert arms["highest"] == [2, 6] and not {1, 3, 4} & {found[0] for found in arms.values()}

    def test_a_metric_of_which_more_is_better_has_its_selection_at_the_upper_end(self, rows: Dataset) -> None:
        rows = rows.add_column("rsr_top1_share", [row / 10 for row in range(8)])
        best = select_trajectories(rows, "problem_id", metric="rsr_top1_share")
        arms = kept(control_subsets(rows, best, "problem_id", metric="top1_share"))
        assert arms["highest"] == best["row"][:] == [4, 7] and arms["lowest"] == [0, 5]

    def test_truncated_rows_and_mixed_settings_are_candidates_where_the_selection_had_them(
        self, rows: Dataset
    ) -> None:
        mixed = rows.map(lambda row: {"rsr_settings": f"a{row['row'] % 2}", "rsr_status": "truncated"})
        given = {"keep_truncated": True, "allow_mixed_settings": True}
        best = select_trajectories(mixed, "problem_id", **given)
        assert kept(control_subsets(mixed, best, "problem_id", **given))["lowest"] == best["row"][:] == [1, 5]
        with pytest.raises(ValueError, match="allow_mixed_settings=True"):
            control_subsets(mixed, best, "problem_id", keep_truncated=True)

    def test_rows_of_unknown_length_are_no_candidates(self, rows: Dataset) -> None:
        lengths = [None if row in (2, 6) else 5 for row in range(8)]
        plain = rows.select_columns(["rsr", "problem_id", "row"]).add_column("rsr_num_tokens", lengths)
        arms, reports = control_subsets(
            plain, plain.select([1, 5]), "problem_id", match=["tokens"], return_report=True
        )
        assert not {2, 6} & {row for found in kept(arms).values() for row in found}
        assert all(report.tokens_ratio == 1 for report in reports.values())

    @pytest.mark.parametrize("kind", ["large_string", "string"])
    def test_a_selection_from_a_file_may_have_another_type_of_key(self, rows: Dataset, kind: str) -> None:
        best = rows.select([1, 5]).cast_column("problem_id", Value(kind))
        assert kept(control_subsets(rows, best, "problem_id"))["lowest"] == [1, 5]

    def test_problems_may_be_told_by_their_prompts(self, rows: Dataset) -> None:
        prompts = rows["problem_id"][:]
        texts = rows.remove_columns("problem_id").add_column("question", prompts).add_column("output", ["x"] * 8)
        named = {"prompt": "question", "completion": "output"}
        arms = kept(control_subsets(texts, texts.select([1, 5]), "prompt", columns=named))
        assert arms["highest"] == [2, 6]


class TestDeterminism:
    @settings(max_examples=25, deadline=None)
    @given(
        st.randoms(use_true_random=False), st.integers(0, 5), st.sampled_from([(), ("tokens",), ("tokens", "teacher")])
    )
    def test_arms_depend_on_seed_and_content_not_on_order(
        self, random: Any, seed: int, match: tuple[str, ...]
    ) -> None:
        """Also where scores are equal and only an unscored column tells rows apart."""
        drawn = np.random.default_rng(seed)
        values = {
            "rsr": drawn.integers(1, 4, 60).astype(float).tolist(),
            "rsr_num_tokens": drawn.integers(1, 5, 60).tolist(),
            "problem_id": drawn.integers(0, 12, 60).tolist(),
            "teacher": drawn.choice(["ada", "bob"], 60).tolist(),
        }
        rows = rows_of(**values)
        order = list(range(60))
        random.shuffle(order)
        best = rows.select(sorted({key: i for i, key in enumerate(values["problem_id"])}.values()))
        first = control_subsets(rows, best, "problem_id", seed, match=match)
        second = control_subsets(rows.select(order), best, "problem_id", seed, match=match)
        assert {arm: sorted(found) for arm, found in kept(second).items()} == kept(first)

    def test_another_seed_draws_other_rows(self, champ: Dataset) -> None:
        best = select_trajectories(champ, "problem_id")
        draws = [kept(control_subsets(champ, best, "problem_id", seed))["random"] for seed in range(4)]
        assert len({tuple(draw) for draw in draws}) == 4
        assert control_subsets(champ, best, "problem_id", 1)["lowest"]["row"][:] == best["row"][:]

    def test_random_draws_are_even(self, champ: Dataset) -> None:
        """Each of five candidates is drawn for about a fifth of 20 times 270 problems."""
        best = select_trajectories(champ, "problem_id")
        drawn = [kept(control_subsets(champ, best, "problem_id", seed))["random"] for seed in range(20)]
        teachers = Counter(champ.select(np.concatenate(drawn))["teacher"][:])
        assert all(count == pytest.approx(1080, abs=5 * 29) for count in teachers.values())


class TestMatching:
    def test_tokens_are_within_five_percent(self, champ: Dataset) -> None:
        best = select_trajectories(champ, "problem_id")
        arms, reports = control_subsets(champ, best, "problem_id", match=["tokens"], return_report=True)
        plain = control_subsets(champ, best, "problem_id")
        total = sum(best["rsr_num_tokens"])
        for arm in ("lowest", "middle", "highest", "random"):
            assert abs(sum(arms[arm]["rsr_num_tokens"]) / total - 1) <= 0.05
            assert not reports[arm].unmatched
            assert Counter(arms[arm]["problem_id"][:]) == Counter(best["problem_id"][:])
        assert sum(plain["middle"]["rsr_num_tokens"]) / total > 1.2
        assert arms["shortest"]["row"][:] == plain["shortest"]["row"][:]
        assert reports["shortest"].unmatched == ("the arm has 42.6% of the selection's tokens, not within 5%",)

    def test_a_matched_arm_keeps_near_to_its_rule(self, champ: Dataset) -> None:
        best = select_trajectories(champ, "problem_id")
        mean = {}
        for match in ((), ("tokens", "teacher")):
            arms = control_subsets(champ, best, "problem_id", match=match)
            mean[match] = [np.mean(arms[arm]["rsr"]) for arm in ("lowest", "middle", "highest")]
        assert mean[()][0] == mean["tokens", "teacher"][0]
        assert mean["tokens", "teacher"][0] < mean["tokens", "teacher"][1] < mean["tokens", "teacher"][2]

    def test_teachers_have_the_same_shares(self, champ: Dataset) -> None:
        best = select_trajectories(champ, "problem_id")
        arms = control_subsets(champ, best, "problem_id", match="teacher")
        wanted = Counter(best["teacher"][:])
        for found in arms.values():
            has = Counter(found["teacher"][:])
            assert sum(abs(has[name] - wanted[name]) for name in wanted) / 2 <= 0.01 * len(best)

    def test_shares_that_no_choice_gives_are_said(self, caplog: pytest.LogCaptureFixture) -> None:
        rows = rows_of(rsr=[1.0, 2.0, 3.0, 4.0], problem_id=list("ppqq"), teacher=["ada", "ada", "bob", "bob"])
        selected = rows.select([0, 2]).remove_columns("teacher").add_column("teacher", ["ada", "ada"])
        with caplog.at_level(logging.WARNING):
            _, reports = control_subsets(rows, selected, "problem_id", match=["teacher"], return_report=True)
        assert reports["random"].unmatched == (
            "50.0% of the arm's rows have another teacher than the selection's shares ask for",
        )
        assert [record.getMessage() for record in caplog.records] == [
            "all arms: 50.0% of the arm's rows have another teacher than the selection's shares ask for",
        ]


class TestAccount:
    def test_every_arm_says_how_it_was_made(self, rows: Dataset) -> None:
        best = select_trajectories(rows, "problem_id")
        for arm, found in control_subsets(rows, best, "problem_id", 3, match=["tokens"]).items():
            record = read_records(found)[-1]
            assert record["step"] == "control_subsets"
            assert record["rule"] | {"arm": arm, "seed": 3, "match": ["tokens"], "metric": "rsr"} == record["rule"]
            assert (record["report"]["rows_in"], record["report"]["rows_out"]) == (8, 2)
            assert record["selection"]["step"] == "select_trajectories" and record["selection"]["rule"]["keep"] == 1

    def test_selected_rows_without_a_problem_are_said(self, rows: Dataset) -> None:
        keys = [None, *rows["problem_id"][1:]]
        some = rows.remove_columns("problem_id").add_column("problem_id", keys)
        arms, reports = control_subsets(some, some.select([0, 1, 5]), "problem_id", return_report=True)
        assert {len(found) for found in arms.values()} == {2}
        assert reports["random"].unmatched == ("1 of 3 selected rows belong to no problem and have no counterpart",)
        assert read_records(arms["random"])[-1]["report"]["dropped"] == {"no_group": 1}

    def test_rows_without_a_counterpart_are_said(self, rows: Dataset) -> None:
        poor = rows.map(lambda row: {"rsr_status": "bad_row" if row["row"] > 5 else "scored"})
        arms, reports = control_subsets(poor, rows, "problem_id", return_report=True)
        assert {len(found) for found in arms.values()} == {6}
        assert reports["random"].unmatched == (
            "2 of 8 selected rows have no counterpart: their problems have fewer candidates with a complete score",
            "2 of 2 problems have no more candidates than are taken: there all arms are the same",
        )
        assert "6 rows" in str(reports["random"])

    def test_nothing_to_choose_from_gives_empty_arms(self, rows: Dataset) -> None:
        nothing = rows.map(lambda row: {"rsr": None, "rsr_status": "bad_row"}, features=rows.features)
        for selected in (rows, rows.select([])):
            arms, reports = control_subsets(nothing, selected, "problem_id", match=["tokens"], return_report=True)
            assert {len(found) for found in arms.values()} == {0}
        assert reports["lowest"].rows == 0
        assert {len(found) for found in control_subsets(rows, rows.select([]), "problem_id").values()} == {0}

    def test_mistakes_are_named(self, rows: Dataset) -> None:
        best = select_trajectories(rows, "problem_id")
        with pytest.raises(ValueError, match="match='length': must be among"):
            control_subsets(rows, best, "problem_id", match=["length"])
        with pytest.raises(ValueError, match="no column 'teacher'; name the column"):
            control_subsets(rows, best, "problem_id", match=["teacher"])
        with pytest.raises(ValueError, match="selected: no column 'problem_id'"):
            control_subsets(rows, best.remove_columns("problem_id"), "problem_id")
        numbered = best.remove_columns("problem_id").add_column("problem_id", [1, 2])
        with pytest.raises(ValueError, match=r"scored has the types .*int64.*, selected has .*string"):
            control_subsets(numbered, best, "problem_id")
        with pytest.raises(TypeError, match="selected: expected a Dataset, found list"):
            control_subsets(rows, [], "problem_id")  # type: ignore[arg-type]
