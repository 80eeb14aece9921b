import json
import math

import numpy as np
import pyarrow as pa
import pytest
from conftest import conversation
from datasets import Dataset, DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st

from rsr_datasets import RSRScorer, correlation, dataset_rsr, rank_teachers
from rsr_datasets.metrics import find_metric
from rsr_datasets.tables.columns import ScoreColumns
from rsr_datasets.teachers.ranking import too_few

COLUMNS = ScoreColumns()
LEVELS = {"best": 2.5, "near": 2.51, "far": 2.9, "worst": 3.4}


def scored_dataset(ranks, surprisals, **others):
    n = len(ranks)
    with_score = [r is not None and s is not None for r, s in zip(ranks, surprisals, strict=True)]
    values = {
        COLUMNS.rsr: [r / s if ok else None for r, s, ok in zip(ranks, surprisals, with_score, strict=True)],
        COLUMNS.avg_rank: ranks,
        COLUMNS.avg_surprisal: surprisals,
        COLUMNS.num_tokens: [100 if ok else 0 for ok in with_score],
        COLUMNS.settings: ["a1"] * n,
        COLUMNS.status: ["scored" if ok else "bad_row" for ok in with_score],
    } | {name: others.pop(name) for name in COLUMNS.row_types if name in others}
    table = pa.table({name: pa.array(values[name], kind) for name, kind in COLUMNS.row_types.items()})
    for name, column in others.items():
        table = table.append_column(name, pa.array(column))
    return Dataset(table)


def teachers_dataset(levels=LEVELS, problems=150, seed=0, spread=0.1):
    """Every teacher's trajectory for every problem; a hard problem raises the ratio of all teachers alike."""
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(0, 0.1, problems)
    ranks, surprisals = [], []
    for level in levels.values():
        surprisal = rng.lognormal(-0.2, 0.2, problems)
        surprisals += surprisal.tolist()
        ranks += (level * surprisal * np.exp(difficulty + rng.normal(0, spread, problems))).tolist()
    return scored_dataset(
        ranks,
        surprisals,
        teacher=np.repeat(list(levels), problems).tolist(),
        problem=list(range(problems)) * len(levels),
    )


class TableScorer:
    """Stands where a scorer would, and remembers which rows it was asked for."""

    def __init__(self, scored):
        self.scores = scored.select_columns(list(COLUMNS.row_types)).to_pandas()
        self.asked = []

    def __call__(self, batch):
        self.asked += batch["id"]
        return self.scores.iloc[batch["id"]].to_dict("list")


def unscored(scored):
    return scored.remove_columns(list(COLUMNS.row_types)).add_column("id", list(range(len(scored))))


class TestDatasetRSR:
    def test_it_is_the_ratio_of_means(self):
        assert dataset_rsr(scored_dataset([2.0, 4.0], [0.5, 1.5])).value == pytest.approx(3.0)

    def test_each_group_by_itself_in_order_of_appearance(self):
        ds = scored_dataset([2.0, 4.0, 6.0], [1.0, 1.0, 1.0], teacher=["b", "a", "b"])
        assert {name: result.value for name, result in dataset_rsr(ds, "teacher").items()} == {"b": 4.0, "a": 4.0}
        assert list(dataset_rsr(ds, "teacher")) == ["b", "a"]
        assert list(dataset_rsr(ds.select([1, 2, 0]), "teacher")) == ["a", "b"]

    def test_rows_without_a_group_are_one_of_their_own(self):
        ds = scored_dataset([2.0, 4.0], [1.0, 1.0], teacher=["a", None])
        assert dataset_rsr(ds, "teacher")[None].value == 4.0

    def test_rows_without_a_score_are_counted_and_left_out(self):
        result = dataset_rsr(scored_dataset([2.0, None], [1.0, None]))
        assert (result.value, result.num_trajectories, result.num_unscored) == (2.0, 1, 1)
        assert math.isnan(result.low) and math.isnan(result.high)  # of one trajectory

    def test_truncated_rows_are_counted_and_stay(self):
        result = dataset_rsr(scored_dataset([2.0, 4.0], [1.0, 1.0], rsr_status=["scored", "truncated"]))
        assert (result.value, result.num_truncated) == (3.0, 1)

    def test_a_group_without_a_score_is_not_a_number(self):
        result = dataset_rsr(scored_dataset([None], [None]))
        assert math.isnan(result.value)
        assert result.to_dict()["value"] is None

    def test_the_interval_is_the_same_for_the_same_seed(self):
        ds = teachers_dataset()
        first, again, other = (dataset_rsr(ds, seed=seed) for seed in (1, 1, 2))
        assert first == again and first.low != other.low

    def test_the_interval_agrees_with_the_linearised_standard_error(self):
        ranks, surprisals = np.random.default_rng(0).lognormal(0, 0.3, (2, 500))
        result = dataset_rsr(scored_dataset(ranks.tolist(), surprisals.tolist()))
        error = np.std(ranks - result.value * surprisals) / surprisals.mean() / math.sqrt(500)
        assert (result.high - result.low) / 2 == pytest.approx(1.96 * error, rel=0.1)

    def test_blocks_of_many_trajectories_give_as_wide_an_interval(self):
        ranks, surprisals = np.random.default_rng(0).lognormal(0, 0.3, (2, 30_000))
        result = dataset_rsr(scored_dataset(ranks.tolist(), surprisals.tolist()), resamples=500)
        error = np.std(ranks - result.value * surprisals) / surprisals.mean() / math.sqrt(30_000)
        assert (result.high - result.low) / 2 == pytest.approx(1.96 * error, rel=0.15)

    def test_the_interval_covers_the_truth_about_as_often_as_it_says(self):
        rng = np.random.default_rng(0)
        hits = 0
        for _ in range(200):
            surprisals = rng.lognormal(-0.2, 0.3, 100)
            ranks = 3 * surprisals * rng.lognormal(-0.02, 0.2, 100)
            result = dataset_rsr(scored_dataset(ranks.tolist(), surprisals.tolist()), resamples=500)
            hits += result.low <= 3 <= result.high
        assert 0.89 <= hits / 200 <= 0.99

    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.tuples(st.floats(1, 100), st.floats(0.01, 10)), min_size=2, max_size=20))
    def test_the_ratio_lies_in_its_interval_of_possible_values(self, pairs):
        ranks, surprisals = zip(*pairs, strict=True)
        result = dataset_rsr(scored_dataset(list(ranks), list(surprisals)), resamples=50)
        ratios = [rank / surprisal for rank, surprisal in pairs]
        for value in (result.value, result.low, result.high):
            assert min(ratios) * (1 - 1e-9) <= value <= max(ratios) * (1 + 1e-9)

    def test_old_names_are_accepted_with_a_warning(self):
        ds = scored_dataset([2.0, 4.0], [1.0, 1.0], teacher=["a", "b"])
        with pytest.warns(FutureWarning, match="by= is now called group_by="):
            assert dataset_rsr(ds, by="teacher") == dataset_rsr(ds, "teacher")
        with pytest.warns(FutureWarning, match="value"):
            assert dataset_rsr(ds).rsr == 3.0

    def test_it_prints_ratio_and_interval(self):
        result = dataset_rsr(scored_dataset([2.0, 2.0], [1.0, 1.0]))
        assert str(result) == "RSR 2.000 [2.000, 2.000] over 2 trajectories"


class TestRanking:
    def test_the_lowest_ratio_comes_first(self):
        ranking = rank_teachers(teachers_dataset({"b": 3.0, "a": 2.0, "c": 4.0}))
        assert [ranked.teacher for ranked in ranking.teachers] == ["a", "b", "c"] and ranking.best == "a"

    def test_a_mapping_names_the_teachers(self):
        ds = teachers_dataset({"a": 2.0, "b": 3.0})
        datasets = {name: ds.select(range(start, start + 150)) for name, start in (("second", 150), ("first", 0))}
        ranking = rank_teachers(datasets, problem_column="problem")
        assert [ranked.teacher for ranked in ranking.teachers] == ["first", "second"]

    def test_each_teacher_gets_the_same_sample_size(self):
        ranking = rank_teachers(teachers_dataset(), sample=40)
        assert [ranked.score.num_trajectories for ranked in ranking.teachers] == [40] * 4
        assert (ranking.trajectories_scored, ranking.tokens_scored) == (160, 16_000)
        assert (ranking.fixed_trajectories, ranking.fixed_tokens) == (160, 16_000)

    def test_a_small_teacher_gives_all_it_has(self):
        ranking = rank_teachers(scored_dataset([2.0, 3.0, 3.0], [1.0, 1.0, 1.0], teacher=["a", "b", "b"]), sample=2)
        assert [ranked.score.num_trajectories for ranked in ranking.teachers] == [1, 2]

    def test_the_same_seed_draws_the_same_sample(self):
        first, again, other = (rank_teachers(teachers_dataset(), sample=30, seed=seed) for seed in (1, 1, 2))
        assert first == again != other

    def test_teachers_are_compared_on_the_same_problems(self):
        ds = teachers_dataset()
        scorer = TableScorer(ds)
        rank_teachers(unscored(ds).shuffle(seed=3), problem_column="problem", sample=30, scorer=scorer)
        problems = np.array(scorer.asked).reshape(4, 30) % 150
        assert all(set(row) == set(problems[0]) for row in problems)

    def test_a_second_trajectory_of_a_problem_comes_after_all_first_ones(self):
        ds = scored_dataset([2.0] * 9, [1.0] * 9, teacher=["a"] * 9, problem=[0, 0, 0, 0, 0, 0, 0, 1, 2])
        scorer = TableScorer(ds)
        rank_teachers(unscored(ds), problem_column="problem", sample=4, scorer=scorer)
        assert set(scorer.asked[:3]) > {7, 8}

    def test_problems_that_all_teachers_answered_come_first(self):
        ds = scored_dataset([2.0] * 8, [1.0] * 8, teacher=["a"] * 5 + ["b"] * 3, problem=[0, 1, 2, 3, 4, 3, 4, 9])
        scorer = TableScorer(ds)
        rank_teachers(unscored(ds), problem_column="problem", sample=2, scorer=scorer)
        assert sorted(scorer.asked) == [3, 4, 5, 6]

    def test_the_order_is_surer_when_problems_are_shared(self):
        ds = teachers_dataset({"a": 2.5, "b": 2.56}, spread=0.05)
        paired = rank_teachers(ds, problem_column="problem", sample=None)
        assert paired.order_confidence[0] > rank_teachers(ds, sample=None).order_confidence[0]

    def test_the_order_of_equals_is_a_coin_flip(self):
        ds = scored_dataset([2.0, 3.0] * 20, [1.0] * 40, teacher=["a"] * 20 + ["b"] * 20)
        assert 0.3 < rank_teachers(ds).order_confidence[0] < 0.7

    def test_a_teacher_without_any_score_is_last(self, caplog):
        ds = scored_dataset([None, 2.0, 3.0], [None, 1.0, 1.0], teacher=["a", "b", "b"])
        ranking = rank_teachers(ds)
        assert [ranked.teacher for ranked in ranking.teachers] == ["b", "a"]
        assert "no sampled trajectory of a could be scored" in caplog.text

    def test_rows_without_a_teacher_are_said(self, caplog):
        ds = scored_dataset([2.0, 3.0], [1.0, 1.0], teacher=["a", None])
        assert rank_teachers(ds).best == "a" and "null in 1 rows" in caplog.text

    def test_it_prints_the_order_and_what_its_columns_mean(self):
        ranking = rank_teachers(teachers_dataset({"a": 2.0, "b": 3.0}))
        head, first, second, *notes = str(ranking).splitlines()
        assert head.split() == ["teacher", "RSR", "95%", "interval", "trajectories", "ahead", "of", "the", "next"]
        assert first.split()[:3] == ["1", "a", f"{ranking.teachers[0].score.value:.3f}"] and first.endswith(" 100%")
        assert second.split()[:2] == ["2", "b"] and second.endswith(" -")
        assert notes[0] == "Lower suits the student better." and "50% is a coin flip" in notes[1]
        assert notes[2] == "1 of 1 neighbours are sure at 95%."
        assert notes[3:] == ["Looked at 300 trajectories and 30,000 tokens."]

    def test_an_unsure_order_is_said(self):
        ds = scored_dataset([2.0, 3.0] * 20, [1.0] * 40, teacher=["a"] * 20 + ["b"] * 20)
        assert "0 of 1 neighbours are sure at 95%: these trajectories are too few" in str(rank_teachers(ds))

    def test_few_trajectories_give_no_share_and_the_sentence_of_the_page(self):
        ds = scored_dataset(
            [2.0] * 25 + [3.0] * 19 + [4.0] * 25, [1.0] * 69, teacher=[*"a" * 25, *"b" * 19, *"c" * 25]
        )
        ranking = rank_teachers(ds)
        assert ranking.order_confidence == (1.0, 1.0)  # each time 2 < 3 < 4
        _, *rows, _, _, sure, few, _ = str(ranking).splitlines()
        assert [row.endswith("too few") for row in rows] == [True, True, False]
        assert sure.startswith("0 of 2 neighbours are sure at 95%") and few == too_few(19)

    def test_a_sample_is_spoken_of_only_where_sampling_stops_early(self):
        ds = teachers_dataset({"a": 2.0, "b": 3.0})
        for chosen in ({}, {"sample": 20}):
            assert "Without early stopping" not in str(rank_teachers(ds, **chosen))
        assert "Without early stopping: 300 trajectories and about 30,000 tokens. Stopped because the first" in str(
            rank_teachers(ds, adaptive=True)
        )

    def test_a_dash_stands_where_there_is_no_number(self):
        ranking = rank_teachers(scored_dataset([None, 2.0], [None, 1.0], teacher=["a", "b"]))
        assert str(ranking).splitlines()[2].split() == ["2", "a", "-", "-", "0", "1", "-"]
        assert "nan" not in str(ranking) + "".join(str(each.score) for each in ranking.teachers)

    def test_all_scores_count_where_there_are_any(self):
        ds = teachers_dataset({"a": 2.0, "b": 3.0}, problems=300)
        ranking, results = rank_teachers(ds), dataset_rsr(ds, "teacher")
        assert ranking.trajectories_scored == ranking.fixed_trajectories == 600
        assert [r.score.value for r in ranking.teachers] == pytest.approx([results[name].value for name in "ab"])

    def test_it_converts_to_a_data_frame(self):
        frame = rank_teachers(teachers_dataset(), sample=20).to_pandas()
        assert frame["teacher"].tolist()[-1] == "worst" and frame["num_trajectories"].tolist() == [20] * 4
        assert frame["before_the_next"].notna().tolist() == [True] * 3 + [False]

    def test_it_converts_to_json(self):
        ranking = rank_teachers(scored_dataset([None, 2.0], [None, 1.0], teacher=["a", "b"]))
        assert json.loads(json.dumps(ranking.to_dict(), allow_nan=False))["teachers"][1]["score"]["value"] is None


class TestScoringTheSample:
    def test_only_the_sample_is_scored(self):
        ds = teachers_dataset()
        scorer = TableScorer(ds)
        ranking = rank_teachers(unscored(ds), scorer=scorer, sample=25)
        assert len(scorer.asked) == len(set(scorer.asked)) == 100
        assert ranking.trajectories_scored == 100

    def test_two_hundred_of_each_teacher_are_enough(self):
        ds = teachers_dataset({"a": 2.0, "b": 3.0}, problems=300)
        assert rank_teachers(unscored(ds), scorer=TableScorer(ds)).trajectories_scored == 400

    def test_a_scorer_without_the_metric_is_refused_before_it_scores(self):
        scorer = TableScorer(teachers_dataset())
        scorer.metrics = [find_metric("token_mean")]
        with pytest.raises(ValueError, match=r"'perplexity': the scorer lacks it.*metrics=\['perplexity'\]"):
            rank_teachers(unscored(teachers_dataset()), scorer=scorer, metric="perplexity")
        assert not scorer.asked

    def test_it_gives_what_scores_made_before_give(self):
        ds = teachers_dataset()
        options = {"problem_column": "problem", "sample": 50, "adaptive": True}
        assert rank_teachers(unscored(ds), scorer=TableScorer(ds), **options) == rank_teachers(ds, **options)

    def test_no_trajectory_is_scored_twice(self):
        ds = teachers_dataset()
        scorer = TableScorer(ds)
        ranking = rank_teachers(unscored(ds), scorer=scorer, sample=None, adaptive=True)
        assert len(scorer.asked) == len(set(scorer.asked)) == ranking.trajectories_scored

    def test_a_real_student_scores_it(self, dataset, student_folder):
        ds = dataset.add_column("teacher", ["a", "b"] * 3 + ["a"]).with_format("numpy")
        scorer = RSRScorer(student_folder, device="cpu")
        expected = dataset_rsr(ds.with_format(None).map(scorer, batched=True), "teacher")
        ranking = rank_teachers(ds, scorer=scorer)
        assert {r.teacher: r.score.value for r in ranking.teachers} == pytest.approx(
            {teacher: result.value for teacher, result in expected.items()}, rel=1e-4
        )
        assert sum(ranked.score.num_unscored for ranked in ranking.teachers) == 2


class TestAdaptive:
    def test_a_clear_leader_is_found_early(self):
        ranking = rank_teachers(teachers_dataset({"a": 2.0, "b": 3.0, "c": 4.0}), sample=None, adaptive=True)
        assert (ranking.best, ranking.stopped) == ("a", "certain")
        assert ranking.trajectories_scored < ranking.fixed_trajectories / 3

    def test_hopeless_teachers_are_dropped_and_keep_a_smaller_sample(self):
        ranking = rank_teachers(teachers_dataset(), problem_column="problem", sample=None, adaptive=True)
        by_name = {ranked.teacher: ranked for ranked in ranking.teachers}
        assert by_name["worst"].dropped
        dropped = [ranked.dropped for ranked in ranking.teachers]
        assert not dropped[0] and dropped == sorted(dropped)
        assert by_name["worst"].score.num_trajectories < by_name["best"].score.num_trajectories

    def test_a_wider_tolerance_needs_less(self):
        ds = teachers_dataset({"a": 2.5, "b": 2.52})
        strict, loose = (
            rank_teachers(ds, sample=None, adaptive=True, tolerance=tolerance) for tolerance in (0.01, 0.2)
        )
        assert loose.trajectories_scored < strict.trajectories_scored

    def test_everything_scored_is_certain(self):
        ds = teachers_dataset({"a": 2.5, "b": 2.5}, problems=30)
        assert rank_teachers(ds, sample=None, adaptive=True, tolerance=0).stopped == "certain"

    def test_a_budget_that_is_too_small_is_said(self):
        ranking = rank_teachers(teachers_dataset({"a": 2.5, "b": 2.5}), sample=25, adaptive=True)
        assert ranking.stopped == "budget"
        assert ranking.trajectories_scored == ranking.fixed_trajectories == 50

    def test_one_teacher_needs_one_look(self):
        assert rank_teachers(teachers_dataset({"a": 2.5}), adaptive=True).trajectories_scored == 20

    def test_the_chosen_teacher_is_within_tolerance_as_often_as_promised(self):
        hits = 0
        for seed in range(60):
            ds = teachers_dataset({"a": 2.5, "b": 2.56, "c": 2.56, "d": 2.62}, problems=100, seed=seed)
            full = {name: result.value for name, result in dataset_rsr(ds, "teacher", resamples=1).items()}
            ranking = rank_teachers(
                ds, problem_column="problem", sample=None, adaptive=True, confidence=0.9, resamples=1, seed=seed
            )
            hits += full[ranking.best] <= 1.01 * min(full.values())
        assert hits >= 54


class TestCorrelation:
    def test_coefficients_are_signed_per_student(self):
        result = correlation({"s": [1, 2, 3, 4]}, {"s": [4, 3, 2, 1]})
        assert result.spearman["s"] == pytest.approx(-1) and result.pearson["s"] == pytest.approx(-1)

    def test_the_average_is_the_absolute_value_of_the_signed_mean(self):
        result = correlation({"s": [1, 2, 3], "t": [3, 2, 1]}, {"s": [1, 2, 3], "t": [1, 2, 3]})
        assert result.average_spearman == pytest.approx(0)

    def test_one_sequence_serves_every_student(self):
        assert correlation([1, 2, 3], {"s": [1, 2, 3], "t": [3, 2, 1]}).spearman == pytest.approx({"s": 1, "t": -1})

    def test_teachers_are_matched_by_name(self):
        metric = {"s": {"a": 1, "b": 2, "c": 3}}
        assert correlation(metric, {"s": {"c": 3, "b": 2, "a": 1}}).spearman["s"] == pytest.approx(1)

    def test_it_prints_every_student_and_the_average(self):
        lines = str(correlation({"s": [1, 2, 3]}, {"s": [1, 2, 3]})).splitlines()
        assert [line.split()[0] for line in lines[1:]] == ["s", "average"]

    @pytest.mark.parametrize(
        ("metric", "performance", "message"),
        [
            ({"s": [1, 2, 3]}, {"t": [1, 2, 3]}, r"students \['s'\], performance \['t'\]"),
            ({"s": {"a": 1, "b": 2, "c": 3}}, {"s": {"a": 1, "b": 2, "d": 3}}, "student 's': metric has the teachers"),
            ({"s": [1, 2]}, {"s": [1, 2]}, "needs three or more pairs"),
            ({"s": [1, 1, 1]}, {"s": [1, 2, 3]}, "metric values are all the same or not finite"),
            ({"s": [1, 2, math.nan]}, {"s": [1, 2, 3]}, "metric values are all the same or not finite"),
        ],
    )
    def test_what_cannot_be_correlated(self, metric, performance, message):
        with pytest.raises(ValueError, match=message):
            correlation(metric, performance)


TWO = scored_dataset([2.0, 3.0], [1.0, 1.0], teacher=["a", "b"])


class TestBadInput:
    def test_an_unknown_group_lists_the_columns(self):
        with pytest.raises(ValueError, match=r"no column 'source'; the dataset has \['rsr'"):
            dataset_rsr(TWO, "source")

    @pytest.mark.parametrize(
        ("teachers", "arguments", "message"),
        [
            (TWO, {"teacher_column": "model"}, "no column 'model'; the dataset has"),
            (
                TWO.remove_columns("teacher"),
                {},
                r"teacher_column=NAME, of \['rsr', .*score again with --teacher-from-file",
            ),
            ({"a": TWO}, {"problem_column": "problem"}, "no column 'problem'; the dataset has"),
            *((TWO, {"confidence": confidence}, "must be between 0 and 1") for confidence in (0, 1, 95)),
            *((TWO, {"sample": sample}, f"sample={sample}: must be a positive number") for sample in (0, -1)),
            (TWO, {"tolerance": -0.1}, r"tolerance=-0\.1: must be at least 0"),
            ({}, {}, "no teacher to rank"),
            ({"a": TWO.select([])}, {}, "teacher 'a' has no rows"),
        ],
    )
    def test_what_cannot_be_ranked(self, teachers, arguments, message):
        with pytest.raises(ValueError, match=message):
            rank_teachers(teachers, **arguments)

    @pytest.mark.parametrize("call", [dataset_rsr, rank_teachers])
    def test_a_dataset_never_scored_names_the_call(self, call):
        with pytest.raises(ValueError, match=r"never scored.*dataset\.map\(RSRScorer\(student\)"):
            call(Dataset.from_dict({"teacher": ["a"]}))

    @pytest.mark.parametrize("call", [dataset_rsr, rank_teachers])
    def test_mixed_settings_are_refused_and_allowed(self, call):
        ds = scored_dataset([2.0, 3.0], [1.0, 1.0], teacher=["a", "b"], rsr_settings=["a1", "b2"])
        with pytest.raises(ValueError, match=r"'rsr_settings'.*a1, b2"):
            call(ds)
        call(ds, allow_mixed_settings=True)

    @pytest.mark.parametrize("call", [dataset_rsr, rank_teachers])
    def test_splits_are_not_teachers_unless_said(self, call):
        with pytest.raises(TypeError, match="choose a split"):
            call(DatasetDict(train=TWO))


def test_a_scorers_own_prefix_is_ranked_by_and_old_scores_are_not(student_folder: str) -> None:
    rows = [{"teacher": t, "messages": conversation("?", f"x = {i} {t * 3}")} for i in range(6) for t in ("a", "b")]
    dataset = Dataset.from_list(rows)
    scored = dataset.map(RSRScorer(student_folder, rank_clip=3), batched=True)
    expected = dataset_rsr(dataset.map(RSRScorer(student_folder), batched=True), group_by="teacher")
    for prefix in ("rsr", "other"):
        ranking = rank_teachers(scored, scorer=RSRScorer(student_folder, column_prefix=prefix))
        for ranked in ranking.teachers:
            assert abs(ranked.score.value / expected[ranked.teacher].value - 1) < 1e-6
