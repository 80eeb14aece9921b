import inspect
import math
import re

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict, Features, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from rsr_datasets import explode_candidates, select_subset, select_trajectories
from rsr_datasets.curation.pool import Pool, selection_rule
from rsr_datasets.curation.report import finish
from rsr_datasets.scoring.scorer import RSRScorer
from rsr_datasets.tables.columns import ScoreColumns
from rsr_datasets.tables.records import read_records


def scored_dataset(rsr, prefix="rsr", **others):
    """Rows with the score columns of the contract; None is a row that could not be scored."""
    columns = ScoreColumns(prefix)
    n = len(rsr)
    values = {
        columns.rsr: rsr,
        columns.avg_rank: [None if v is None else v * 0.5 for v in rsr],
        columns.avg_surprisal: [None if v is None else 0.5 for v in rsr],
        columns.num_tokens: [0 if v is None else 100 for v in rsr],
        columns.settings: ["a1"] * n,
        columns.status: ["no_response" if v is None else "scored" for v in rsr],
    } | {name: others.pop(name) for name in columns.row_types if name in others}
    table = pa.table({name: pa.array(values[name], kind) for name, kind in columns.row_types.items()})
    for name, column in others.items():
        table = table.append_column(name, pa.array(column))
    return Dataset(table.append_column("row", pa.array(range(n), pa.int64())))


def kept(dataset):
    return dataset["row"][:]


PROBLEMS = ["p", "p", "q", "q", "q"]


class TestTrajectories:
    @pytest.mark.parametrize(
        ("rsr", "arguments", "expected"),
        [
            ([3.0, 2.0, 4.0, 5.0, 3.5], {}, [1, 4]),
            ([3.0, 2.0, 4.0, 5.0, 3.5], {"keep": 2}, [0, 1, 2, 4]),
            ([2.0, 2.0, 3.0, 3.0, 3.0], {"keep": 1}, [0, 2]),  # ties go to the earlier row
            ([3.0, 2.5, 4.0, 5.0, 1.5], {"sort": True}, [4, 1]),
        ],
    )
    def test_the_lowest_ratios_of_each_problem_are_kept(self, rsr, arguments, expected):
        assert kept(select_trajectories(scored_dataset(rsr, problem=PROBLEMS), "problem", **arguments)) == expected

    def test_several_columns_make_one_key(self):
        ds = scored_dataset([3.0, 2.0, 4.0, 5.0, 3.5], source=["a", "a", "a", "b", "b"], number=[1, 2, 1, 1, 1])
        assert kept(select_trajectories(ds, ["source", "number"])) == [0, 1, 4]

    def test_nested_keys_are_compared_by_content(self):
        ds = scored_dataset([3.0, 2.0, 4.0], problem=[{"id": 1, "tags": ["x"]}, {"id": 1, "tags": ["x"]}, None])
        assert kept(select_trajectories(ds, "problem")) == [1]

    def test_float_keys_without_a_value_belong_to_no_group(self):
        ds = scored_dataset([3.0, 2.0, 4.0], problem=[1.0, math.nan, 1.0])
        result, report = select_trajectories(ds, "problem", return_report=True)
        assert kept(result) == [0]
        assert report.dropped == {"no_group": 1, "worse": 1}

    def test_a_dataset_with_an_indices_mapping_is_read_through_it(self):
        ds = scored_dataset([3.0, 2.0, 4.0, 5.0, 3.5], problem=PROBLEMS).select([4, 0, 3])
        assert kept(select_trajectories(ds, "problem")) == [4, 0]

    def test_the_format_does_not_matter_and_stays(self):
        ds = scored_dataset([3.0, 2.0], problem=["p", "p"]).with_format("numpy", columns=["row"])
        result = select_trajectories(ds, "problem")
        assert result.format["type"] == "numpy"
        assert result["row"][:].tolist() == [1]

    def test_text_is_not_copied(self):
        ds = scored_dataset([3.0, 2.0, 4.0], problem=["p", "p", "q"], text=["a", "b", "c"])
        before, after = (d.data["text"].chunk(0).buffers()[2] for d in (ds, select_trajectories(ds, "problem")))
        assert after.address == before.address

    def test_numbers_may_be_numpys(self):
        ds = scored_dataset([3.0, 2.0, 4.0, 5.0, 3.5], problem=PROBLEMS)
        result = select_trajectories(ds, "problem", keep=np.int64(2), min_tokens=np.int32(5), seed=np.int64(1))
        assert kept(select_subset(result, np.float32(0.5))) == [0, 1]

    def test_an_empty_dataset_stays_empty(self):
        result, report = select_trajectories(
            scored_dataset([], problem=pa.array([], pa.string())), "problem", return_report=True
        )
        assert len(result) == 0
        assert (report.rows_in, report.groups_in) == (0, 0)

    def test_each_split_is_selected_by_itself(self):
        split = scored_dataset([3.0, 2.0], problem=["p", "p"])
        other = scored_dataset([2.0, 3.0], problem=["p", "p"])
        result, reports = select_trajectories(DatasetDict(a=split, b=other), "problem", return_report=True)
        assert (kept(result["a"]), kept(result["b"])) == ([1], [0])
        assert reports["b"].rows_out == 1


def messages(question, answer):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


SHAREGPT = [[{"from": "human", "value": "1+1?"}, {"from": "gpt", "value": v}] for v in "234"]


class TestPrompt:
    @pytest.mark.parametrize(
        ("columns", "names"),
        [
            ({"messages": [messages("1+1?", "2"), messages("1+1?", "two"), messages("1+2?", "3")]}, None),
            ({"conversations": SHAREGPT, "system": ["be brief", "be brief", "think"]}, None),
            ({"instruction": ["add"] * 3, "input": ["1", "1", "2"], "output": ["x", "y", "z"]}, None),
            (
                {"question": ["a", "a", "b"], "solution": ["x", "y", "z"]},
                {"prompt": "question", "completion": "solution"},
            ),
            ({"prompt": ["a", "a", "b"], "messages": [messages("1+1?", a) for a in "234"]}, None),
            ({"prompt": [messages("a", "b")] * 2 + [messages("b", "b")], "completion": ["x", "y", "z"]}, None),
        ],
    )
    def test_what_stands_before_the_answer_is_compared_by_content(self, columns, names):
        ds = scored_dataset([3.0, 2.0, 4.0], **columns)
        assert kept(select_trajectories(ds, "prompt", columns=names)) == [1, 2]

    def test_only_the_last_turn_is_the_answer_where_only_it_was_scored(self):
        rows = [
            [*messages("hi", first), *messages("1+1?", last)]
            for first, last in [("hello", "2"), ("hey", "2"), ("hello", "two")]
        ]
        ds = scored_dataset([3.0, 2.0, 1.0], messages=rows)
        assert kept(select_trajectories(ds, "prompt", turns="last")) == [1, 2]
        assert kept(select_trajectories(ds, "prompt", turns="all")) == [2]

    def test_a_row_that_cannot_be_read_belongs_to_no_problem(self):
        ds = scored_dataset([3.0, None], messages=[messages("1+1?", "2"), [{"role": "user", "content": "?"}]])
        result, report = select_trajectories(ds, "prompt", return_report=True)
        assert kept(result) == [0]
        assert report.dropped == {"no_group": 1}

    def test_text_without_a_prompt_is_refused(self):
        with pytest.raises(ValueError, match="no prompt apart; name a key column"):
            select_trajectories(scored_dataset([3.0], text=["abc"]), "prompt")


class TestCorrect:
    @pytest.mark.parametrize(
        ("flags", "expected"),
        [
            ([True, False], 0),  # an incorrect candidate gives way to a correct one
            ([False, False], 1),  # a problem without a correct one keeps its candidates
            ([True, None], 0),
            ([None, False], 1),  # null and false are equals
            ([False, None], 1),
        ],
    )
    def test_correct_candidates_come_first(self, flags, expected):
        ds = scored_dataset([3.0, 2.0], problem=["p", "p"], ok=pa.array(flags, pa.bool_()))
        assert kept(select_trajectories(ds, "problem", correct="ok")) == [expected]

    def test_unknown_correctness_gives_way_to_a_correct_candidate_and_is_counted_apart(self):
        ds = scored_dataset([1.0, 2.0, 3.0, 4.0, 1.0], problem=[*"ppppq"], ok=[None, False, None, True, None])
        result, report = select_trajectories(ds, "problem", correct="ok", return_report=True)
        assert kept(result) == [3, 4]
        assert report.dropped == {"incorrect": 1, "correctness_unknown": 2}

    def test_a_wrong_one_is_not_kept_because_the_correct_one_has_no_score(self):
        ds = scored_dataset([None, 2.0], problem=["p", "p"], ok=[True, False])
        result, report = select_trajectories(ds, "problem", correct="ok", return_report=True)
        assert kept(result) == []
        assert report.lost_groups == ("problem='p'",)

    def test_a_column_that_is_not_boolean_is_refused(self):
        ds = scored_dataset([3.0], problem=["p"], ok=["yes"])
        with pytest.raises(ValueError, match="column 'ok' is string, not boolean"):
            select_trajectories(ds, "problem", correct="ok")


class TestBaselines:
    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            ({"metric": "rsr_avg_surprisal"}, 0),
            ({"metric": "rsr_num_tokens", "largest": True}, 0),
            ({"metric": "quality"}, 1),
        ],
    )
    def test_any_numeric_column_is_compared(self, arguments, expected):
        scores = {"rsr_avg_surprisal": [0.2, 0.4], "rsr_num_tokens": [20, 10], "quality": [9, 1]}
        ds = scored_dataset([3.0, 2.0], problem=["p", "p"], **scores)
        assert kept(select_trajectories(ds, "problem", **arguments)) == [expected]

    def test_random_is_the_same_for_the_same_seed_only(self):
        ds = scored_dataset([1.0] * 100, problem=["p"] * 100)
        first, again, other = (kept(select_subset(ds, 0.5, metric="random", seed=seed)) for seed in (1, 1, 2))
        assert first == again != other

    def test_random_draws_from_the_rows_that_can_be_kept(self):
        ds = scored_dataset([None, 2.0] * 50, problem=["p"] * 100)
        assert all(row % 2 for row in kept(select_subset(ds, n=50, metric="random")))

    def test_random_needs_no_scores(self):
        ds = Dataset.from_dict({"problem": ["p", "p", "q"]})
        assert len(select_trajectories(ds, "problem", metric="random")) == 2

    def test_another_scorers_column_counts_with_its_own_status(self):
        ds = scored_dataset([1.0, 2.0], problem=["p", "p"])
        other = scored_dataset([1.0, 2.0], prefix="big", big_status=["truncated", "scored"])
        ds = Dataset(
            pa.table({**{c: ds.data[c] for c in ds.column_names}, **{c: other.data[c] for c in other.column_names}})
        )
        assert kept(select_trajectories(ds, "problem", metric="big")) == [1]
        assert kept(select_trajectories(ds, "problem", column_prefix="big")) == [1]
        assert kept(select_trajectories(ds, "problem")) == [0]


class TestRealScores:
    def test_rows_that_a_student_scored(self, dataset, student_folder):
        scored = dataset.map(RSRScorer(student_folder, device="cpu"), batched=True)
        best, report = select_trajectories(scored, "problem_id", return_report=True)
        scores = {}
        for row in scored:
            if row["rsr"] is not None:
                scores.setdefault(row["problem_id"], []).append(row["rsr"])
        assert dict(zip(best["problem_id"], best["rsr"], strict=True)) == {p: min(v) for p, v in scores.items()}
        assert report.unscored == {"no_response": 1, "bad_row": 1}
        by_prompt = select_trajectories(scored, "prompt")
        assert [row["messages"][0]["content"] for row in by_prompt] == ["Solve it.", "?"]


class TestSubset:
    @pytest.mark.parametrize(
        ("rsr", "arguments", "expected"),
        [
            ([5.0, 1.0, 4.0, 2.0], {"fraction": 0.5}, [1, 3]),
            ([5.0, None, 4.0, None], {"fraction": 0.5}, [2]),  # a share of the rows that can be kept
            ([5.0, 1.0, 4.0], {"fraction": 0.01}, [1]),  # the smallest share keeps one
            ([5.0, 1.0, 4.0, 2.0], {"n": 3}, [1, 2, 3]),
            ([5.0, 1.0, 4.0, None], {"max_rsr": 4.0}, [1, 2]),  # its bound is included
            ([2.0, 1.0, 4.0], {"n": 2, "sort": True}, [1, 0]),
        ],
    )
    def test_the_lowest_ratios_are_kept(self, rsr, arguments, expected):
        assert kept(select_subset(scored_dataset(rsr), **arguments)) == expected

    @pytest.mark.parametrize(
        ("rsr", "teachers", "arguments", "expected"),
        [
            ([1.0, 2.0, 3.0, 9.0, 8.0], "aaabb", {"fraction": 0.5}, [0, 1, 4]),
            ([1.0, 2.0, 3.0, 9.0, 8.0, 7.0], "aaabbb", {"n": 4}, [0, 1, 4, 5]),
            ([1.0, 2.0, 3.0, 9.0], "aaab", {"n": 3}, [0, 1, 3]),  # a small group leaves its places to others
        ],
    )
    def test_balanced_among_groups(self, rsr, teachers, arguments, expected):
        ds = scored_dataset(rsr, teacher=list(teachers))
        assert kept(select_subset(ds, balance_by="teacher", **arguments)) == expected

    def test_n_beyond_what_can_be_kept_warns(self, caplog):
        assert kept(select_subset(scored_dataset([5.0, None]), n=2)) == [0]
        assert "n=2: only 1 of 2 rows can be kept" in caplog.text


class TestUnscoredAndTruncated:
    @pytest.mark.parametrize(
        ("rsr", "statuses", "arguments", "expected"),
        [
            ([1.0, 2.0], ["truncated", "scored"], {}, [1]),
            ([1.0, 2.0], ["truncated", "scored"], {"keep_truncated": True}, [0]),
            ([1.0, 2.0], ["bad_row", "scored"], {}, [1]),  # a status without score counts whatever the value
            ([None, 2.0, None], ["no_response", "scored", "no_response"], {}, [1]),
            ([None, 2.0, None], ["no_response", "scored", "no_response"], {"keep_unscored": True}, [1, 2]),
        ],
    )
    def test_they_are_kept_only_when_asked(self, rsr, statuses, arguments, expected):
        ds = scored_dataset(rsr, rsr_status=statuses, problem=["p", "p", "q"][: len(rsr)])
        assert kept(select_trajectories(ds, "problem", **arguments)) == expected

    def test_a_group_with_no_scored_row_is_reported(self, caplog):
        ds = scored_dataset([None, 2.0], problem=["lonely", "q"])
        _, report = select_trajectories(ds, "problem", return_report=True)
        assert (report.groups_in, report.groups_out, report.groups_without_score) == (2, 1, 1)
        assert report.lost_groups == ("problem='lonely'",)
        assert "1 of 2 groups keep no row (1 groups have no scored row)" in caplog.text

    def test_token_limits(self):
        ds = scored_dataset([1.0, 2.0, 3.0], rsr_num_tokens=[5, 50, 500], problem=["p", "p", "p"])
        assert kept(select_trajectories(ds, "problem", min_tokens=6, max_tokens=100)) == [1]
        assert kept(select_subset(ds, n=3, max_tokens=50)) == [0, 1]


class TestReport:
    def report(self):
        ds = scored_dataset(
            [1.0, 3.0, 2.0, None, 4.0, 2.5],
            problem=["p", "p", "q", "q", None, "r"],
            teacher=["a", "b", "b", "a", "a", "b"],
            rsr_status=["scored", "scored", "scored", "skipped_too_long", "scored", "truncated"],
            rsr_num_tokens=[10, 20, 30, 0, 40, 50],
        )
        return select_trajectories(ds, "problem", return_report=True)

    def test_every_row_is_accounted_for(self):
        _, report = self.report()
        assert report.dropped == {"no_group": 1, "unscored": 1, "truncated": 1, "worse": 1}
        assert report.rows_out + sum(report.dropped.values()) == report.rows_in == 6
        assert report.unscored == {"skipped_too_long": 1}
        assert report.teacher_share == {"a": 0.5, "b": 0.5}
        assert report.rsr_before == pytest.approx(np.mean([1.0, 3.0, 2.0, 4.0, 2.5]))
        assert report.rsr_after == pytest.approx(1.5)
        assert (report.mean_tokens_before, report.mean_tokens_after) == (30, 20)
        for part in ("6 -> 2", "3 -> 2", "skipped_too_long", "2.500 -> 1.500", "50.0%"):
            assert part in str(report)

    def test_rule_and_report_are_kept_as_provenance(self):
        result, report = self.report()
        (record,) = read_records(result)
        assert record["step"] == "select_trajectories"
        assert record["rule"]["group_by"] == "problem"
        assert record["report"] == report.to_dict()
        assert record["rule"]["turns"] == "all" and record["rule"]["columns"] is None

    def test_share_and_ratio_of_each_teacher(self):
        names = ["a", "b", "a", None, "b"]
        ds = scored_dataset([1.0, 3.0, None, 2.0, 5.0], teacher=names)
        _, report = select_subset(ds, n=2, return_report=True)
        assert report.teacher_share_before == {"a": 0.4, "b": 0.4, "None": 0.2}
        assert report.teacher_rsr_before == pytest.approx({"a": 1.0, "b": 4.0, "None": 2.0})
        assert report.teacher_rsr_after == pytest.approx({"a": 1.0, "None": 2.0})

    def test_a_report_names_a_hundred_teachers(self):
        ds = scored_dataset([float(i + 1) for i in range(150)], teacher=[f"t{i}" for i in range(150)])
        _, report = select_subset(ds, n=150, return_report=True)
        assert len(report.teacher_share) == 150
        assert len(report.teacher_rsr_before) == len(report.teacher_share_before) == 100

    def test_ratios_of_different_settings_are_not_averaged(self):
        ds = scored_dataset([1.0, 2.0], rsr_settings=["a1", "b2"])
        _, report = select_subset(ds, n=1, metric="random", return_report=True)
        assert report.rsr_before is None


class TestMixedSettings:
    ds = scored_dataset([1.0, 2.0], rsr_settings=["a1", "b2"], problem=["p", "p"])

    def test_scores_of_two_settings_are_never_compared_in_silence(self):
        with pytest.raises(ValueError, match=r"'rsr_settings'.*a1, b2.*allow_mixed_settings=True"):
            select_trajectories(self.ds, "problem")
        assert kept(select_trajectories(self.ds, "problem", allow_mixed_settings=True)) == [0]

    def test_a_setting_only_of_rows_that_are_not_compared_does_not_matter(self):
        ds = scored_dataset([1.0, None], rsr_settings=["a1", "b2"])
        assert kept(select_subset(ds, n=1)) == [0]


class TestExplode:
    ds = Dataset.from_dict({"id": [1, 2], "generations": [["a", "b"], ["c"]], "ok": [[True, False], [True]]})

    def test_one_row_per_candidate_with_the_rest_repeated(self):
        result = explode_candidates(DatasetDict(train=self.ds), ["generations", "ok"])["train"]
        assert result.to_dict() == {"id": [1, 1, 2], "generations": ["a", "b", "c"], "ok": [True, False, True]}

    def test_a_problem_without_candidates_keeps_one_row(self):
        ds = Dataset.from_dict({"id": [1, 2, 3], "generations": [[], ["a"], None]})
        assert explode_candidates(ds, "generations").to_dict() == {"id": [1, 2, 3], "generations": [None, "a", None]}

    def test_candidates_may_be_conversations(self):
        message = {"role": "assistant", "content": "x"}
        ds = Dataset.from_dict({"generations": [[[message], [message, message]]]})
        assert explode_candidates(ds, "generations")["generations"][:] == [[message], [message, message]]

    def test_lists_of_a_fixed_length(self):
        features = Features({"g": List(Value("string"), length=2)})
        ds = Dataset.from_dict({"g": [["a", "b"], ["c", "d"]]}, features=features)
        assert explode_candidates(ds, "g")["g"][:] == ["a", "b", "c", "d"]

    def test_slices_and_batches_line_up(self):
        ds = Dataset.from_dict({"id": list(range(250)), "g": [[f"{i}-{j}" for j in range(i % 4)] for i in range(250)]})
        result = explode_candidates(ds.select(range(7, 250)), "g")
        expected = [(i, f"{i}-{j}" if i % 4 else None) for i in range(7, 250) for j in range(max(1, i % 4))]
        assert list(zip(result["id"], result["g"], strict=True)) == expected

    def test_mistakes_name_the_row_and_the_column(self):
        ds = Dataset.from_dict({"a": [["x"], ["x", "y"]], "b": [[1], [1]]})
        with pytest.raises(ValueError, match="row 1: column 'b' lists 1 candidates, 'a' 2"):
            explode_candidates(ds, ["a", "b"])
        with pytest.raises(ValueError, match=r"column 'id' is .*; expected a list of candidates"):
            explode_candidates(self.ds, "id")

    def test_candidates_beside_another_response_are_refused(self):
        messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "a"}]
        ds = self.ds.add_column("messages", [messages] * 2)
        with pytest.raises(ValueError, match=r"'generations': the rows keep the column 'messages'.*remove_columns"):
            explode_candidates(ds, "generations")
        assert len(explode_candidates(ds.remove_columns("messages"), "generations")) == 3

    def test_the_format_stays(self):
        result = explode_candidates(self.ds.with_format("numpy", columns=["id"]), ["generations", "ok"])
        assert result.format["type"] == "numpy"
        assert result.format["columns"] == ["id"]


class TestBadInput:
    ds = scored_dataset([1.0, 2.0], problem=["p", "q"], label=["x", "y"])

    @pytest.mark.parametrize(
        ("group_by", "arguments", "message"),
        [
            (
                "problem_id",
                {},
                r"no column 'problem_id' \(did you mean 'problem'\?\); the dataset has \['rsr', .*'problem'",
            ),
            ("problem", {"teacher_column": "model"}, "no column 'model'; the dataset has"),
            ("problem", {"metric": "label"}, "column 'label' is string, not numeric"),
            ("problem", {"min_tokens": 9, "max_tokens": 3}, "min_tokens=9 is more than max_tokens=3"),
            ("problem", {"column_prefix": "big"}, r"RSRScorer\(student, column_prefix='big'\)"),
            ([], {}, "name at least one column"),
            *(("problem", {"keep": keep}, "keep=.*: must be a positive whole number") for keep in (0, -1, 1.5, True)),
        ],
    )
    def test_mistakes_in_selecting_trajectories(self, group_by, arguments, message):
        with pytest.raises(ValueError, match=message):
            select_trajectories(self.ds, group_by, **arguments)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            *(({"fraction": x}, r"fraction=.*: must be in \(0, 1\]") for x in (0, -0.1, 1.1, math.nan)),
            *(({"n": n}, r"n=.*: must be a positive whole number") for n in (0, 1.5)),
            *(({"max_rsr": x}, r"max_rsr=.*: must be a positive number") for x in (0, math.nan, math.inf)),
            *(
                (sizes, "exactly one of fraction, n and max_rsr")
                for sizes in ({}, {"fraction": 0.5, "n": 1}, {"n": 1, "max_rsr": 2.0})
            ),
            ({"max_rsr": 2.0, "metric": "rsr_avg_surprisal"}, "max_rsr= compares the ratio itself"),
        ],
    )
    def test_mistakes_in_selecting_a_subset(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            select_subset(self.ds, **arguments)

    def test_a_dataset_never_scored_names_the_call(self):
        ds = Dataset.from_dict({"problem": ["p"]})
        with pytest.raises(ValueError, match=r"never scored.*dataset\.map\(RSRScorer\(student\), batched=True\)"):
            select_trajectories(ds, "problem")

    def test_something_else_than_a_dataset(self):
        with pytest.raises(TypeError, match="expected a Dataset, found IterableDataset"):
            select_trajectories(self.ds.to_iterable_dataset(), "problem")


class TestRules:
    ds = scored_dataset([1.0, 3.0, 2.0, None], num=[4, 1, 2, 3])

    def test_a_new_rule_is_a_function_of_a_pool(self):
        @selection_rule
        def select_worst(dataset, n=1, *, options):
            """Keeps the worst.

            Args:
                dataset: Rows.
                n: How many.
                options: Shared.

            Returns:
                Them.
            """
            pool = Pool(dataset, options)
            pool.drop_by_score()
            order, _ = pool.order(np.zeros(len(dataset), dtype=int))
            return finish(pool, order[-n:], "select_worst", {"n": n})

        result, report = select_worst(DatasetDict(a=self.ds), 2, metric="num", return_report=True)
        assert kept(result["a"]) == [0, 2]
        assert report["a"].dropped == {"unscored": 1, "worse": 1}
        assert read_records(result["a"])[0]["rule"]["n"] == 2
        with pytest.raises(TypeError, match="unexpected keyword argument 'what'"):
            select_worst(self.ds, what=1)

    @pytest.mark.parametrize("select", [select_trajectories, select_subset])
    def test_every_argument_is_in_the_signature_and_the_docstring(self, select):
        documented = re.findall(r"^    (\w+): ", inspect.getdoc(select).split("Returns:")[0], re.MULTILINE)
        assert sorted(documented) == sorted(inspect.signature(select).parameters)

    def test_the_old_name_of_metric_is_accepted(self):
        with pytest.warns(FutureWarning, match="by= is now called metric="):
            assert kept(select_subset(self.ds, n=1, by="num")) == [1]


finite_scores = st.floats(0.5, 50, allow_nan=False).map(lambda x: round(x, 1))
rows = st.lists(
    st.tuples(st.integers(0, 4), st.one_of(st.none(), st.just(math.nan), finite_scores)), min_size=1, max_size=30
)


def from_rows(values):
    return scored_dataset([score for _, score in values], problem=[group for group, _ in values])


class TestProperties:
    @settings(max_examples=60, deadline=None)
    @given(rows)
    def test_the_kept_row_of_each_group_has_its_minimum(self, values):
        result, report = select_trajectories(from_rows(values), "problem", return_report=True)
        lowest = {}
        for group, score in values:
            if score is not None and not math.isnan(score):
                lowest[group] = min(score, lowest.get(group, math.inf))
        assert dict(zip(result["problem"], result["rsr"], strict=True)) == lowest
        groups = {group for group, _ in values}
        assert (report.groups_in, report.groups_out) == (len(groups), len(lowest))
        assert report.groups_without_score == len(groups) - len(lowest)

    @settings(max_examples=60, deadline=None)
    @given(rows, st.integers(1, 3), st.randoms(use_true_random=False))
    def test_permuting_rows_changes_nothing_but_ties(self, values, keep, random):
        shuffled = random.sample(values, len(values))
        first, second = (select_trajectories(from_rows(v), "problem", keep=keep) for v in (values, shuffled))
        assert sorted(zip(first["problem"], first["rsr"], strict=True)) == sorted(
            zip(second["problem"], second["rsr"], strict=True)
        )

    @settings(max_examples=60, deadline=None)
    @given(rows, st.integers(1, 3))
    def test_selecting_twice_equals_selecting_once(self, values, keep):
        once = select_trajectories(from_rows(values), "problem", keep=keep)
        assert kept(select_trajectories(once, "problem", keep=keep)) == kept(once)

    @settings(max_examples=60, deadline=None)
    @given(rows, st.floats(0.01, 1))
    def test_nulls_and_nan_are_never_kept(self, values, fraction):
        for result in (select_trajectories(from_rows(values), "problem"), select_subset(from_rows(values), fraction)):
            assert all(score is not None and not math.isnan(score) for score in result["rsr"])

    @settings(max_examples=60, deadline=None)
    @given(rows, st.integers(1, 30))
    def test_no_row_left_out_of_a_subset_is_better_than_one_in_it(self, values, n):
        result = select_subset(from_rows(values), n=n)
        inside = sorted(result["rsr"])
        everything = sorted(s for _, s in values if s is not None and not math.isnan(s))
        assert inside == everything[:n]


def test_tokenized_rows_have_no_prompt_to_group_by(caplog: pytest.LogCaptureFixture) -> None:
    rows = Dataset.from_dict({"input_ids": [[1, 2, 3]] * 2, "labels": [[-100, 2, 3]] * 2, "rsr": [1.0, 2.0]})
    kept, report = select_trajectories(rows, group_by="prompt", return_report=True)
    assert (len(kept), report.dropped) == (0, {"no_group": 2})
