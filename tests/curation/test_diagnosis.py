"""Diagnoses: intervals that cover, confounds that are named and others that are not, and every kind of poor data."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rsr_datasets import Diagnosis, diagnose
from rsr_datasets.curation.associations import Blocks, Ranked, auc_within, spearman, spearman_between, spearman_within
from rsr_datasets.curation.traits import count_turns

pytestmark = pytest.mark.filterwarnings("error")


def rows_of(rsr: Any, **others: Any) -> Dataset:
    """Scored rows; NaN is a row without a score. Without ``tokens`` all have 100."""
    rsr = np.asarray(rsr, dtype=float)
    missing = np.isnan(rsr)
    surprisal = others.pop("surprisal", np.full(rsr.size, 0.5))
    tokens = others.pop("tokens", np.full(rsr.size, 100))
    columns = {
        "rsr": [None if gone else value for gone, value in zip(missing, rsr.tolist(), strict=True)],
        "rsr_avg_rank": [None if g else v for g, v in zip(missing, (rsr * surprisal).tolist(), strict=True)],
        "rsr_avg_surprisal": [None if g else v for g, v in zip(missing, np.asarray(surprisal).tolist(), strict=True)],
        "rsr_num_tokens": np.where(missing, 0, tokens).astype(np.int32),
        "rsr_settings": ["a1-100"] * rsr.size,
        "rsr_status": others.pop("status", np.where(missing, "bad_row", "scored")).tolist(),
    }
    return Dataset.from_dict(columns | others)


def drawn(seed: int, groups: int = 60, size: int = 6, by_length: float = 0.0) -> Dataset:
    """Candidates whose ratio is made from their length by a share, the rest at random; problems differ in both."""
    random = np.random.default_rng(seed)
    problem = np.repeat(np.arange(groups), size)
    length, own = random.standard_normal((2, groups * size))
    level = random.standard_normal((2, groups))
    score = by_length * (length + level[0][problem]) + math.sqrt(1 - by_length**2) * (own + level[1][problem])
    tokens = np.exp(6 + 0.5 * (length + level[0][problem])).astype(int)
    surprisal = random.gamma(4, 0.2, problem.size)
    teacher = random.choice(["ada", "bob", "eve"], problem.size).tolist()
    rsr = np.exp(1 + 0.2 * score)
    return rows_of(rsr, tokens=tokens, surprisal=surprisal, problem_id=problem, teacher=teacher)


def said(found: Diagnosis) -> str:
    return " ".join(found.sentences)


def association(found: Diagnosis, trait: str) -> Any:
    return next(each for each in found.associations if each.trait == trait)


class TestNumbers:
    """The correlations are what SciPy gives for the plain definition."""

    VALUES = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(-1, 3)), min_size=3, max_size=40)

    @given(VALUES)
    def test_correlations_are_those_of_the_definition(self, drawn_rows: list[tuple[int, int, int]]) -> None:
        a, b, codes = (np.array(column) for column in zip(*drawn_rows, strict=True))
        x, y, blocks = Ranked(a.astype(float), codes), Ranked(b.astype(float), codes), Blocks(codes, 0)
        groups = [(a[codes == g], b[codes == g]) for g in range(4) if (codes == g).any()]
        within = [_spearman(*group) for group in groups]
        within = [value for value in within if not math.isnan(value)]
        between = (
            _spearman(*([side.mean() for side in sides] for sides in zip(*groups, strict=True)))
            if groups
            else math.nan
        )
        for statistic, expected in (
            (spearman(x, y, blocks, blocks.of_rows), _spearman(a, b)),
            (spearman_within(x, y, blocks, 4), np.mean(within) if within else math.nan),
            (spearman_between(x, y, blocks, 4), between),
        ):
            assert statistic.value == pytest.approx(expected, nan_ok=True, abs=1e-9)

    @given(VALUES)
    def test_the_auc_is_the_share_of_pairs(self, drawn_rows: list[tuple[int, int, int]]) -> None:
        values, right, codes = (np.array(column) for column in zip(*drawn_rows, strict=True))
        right = right % 2
        shares = []
        for g in range(4):
            good, poor = (values[(codes == g) & (right == r)] for r in (1, 0))
            if good.size and poor.size:
                differences = poor[:, None] - good
                shares.append(np.mean((differences > 0) + (differences == 0) / 2))
        found = auc_within(Ranked(values.astype(float), codes), right.astype(float), Blocks(codes, 0), 4)
        assert found.value == pytest.approx(np.mean(shares) if shares else math.nan, nan_ok=True)


def _spearman(a: Any, b: Any) -> float:
    return math.nan if np.ptp(a) == 0 or np.ptp(b) == 0 else float(stats.spearmanr(a, b).statistic)


def coverage(draws: int) -> np.ndarray:
    """How often intervals hold the correlations of the distribution that the rows are drawn from."""
    within, between, groups, size = 0.5, 0.8, 150, 5
    codes = np.repeat(np.arange(groups), size)
    rho, tau = (c / math.pi * math.asin(r) for c, r in ((6, within / 2), (2, within)))
    truth = (
        6 / math.pi * math.asin((within + between) / 2 / 2),
        ((size - 2) * rho + 3 * tau) / (size + 1),  # of a sample: Hoeffding
        6 / math.pi * math.asin((within / size + between) / (1 / size + 1) / 2),
    )
    hits = np.zeros(3)
    for seed in range(draws):
        random = np.random.default_rng(seed)
        rows, levels = random.standard_normal((2, codes.size)), random.standard_normal((2, groups))
        for pair, correlation in ((rows, within), (levels, between)):
            pair[1] = correlation * pair[0] + math.sqrt(1 - correlation**2) * pair[1]
        x, y = (Ranked(own + level[codes], codes) for own, level in zip(rows, levels, strict=True))
        blocks = Blocks(codes, seed)
        made = (
            spearman(x, y, blocks, blocks.of_rows),
            *(f(x, y, blocks, groups) for f in (spearman_within, spearman_between)),
        )
        hits += [e.low <= value <= e.high for e, value in zip(blocks.estimate(made), truth, strict=True)]
    return hits / draws


class TestIntervals:
    def test_they_cover(self) -> None:
        """With 100 draws, a 95% interval holds in fewer than 89 of them less than once in a hundred runs."""
        assert (coverage(100) >= 0.89).all()

    @pytest.mark.slow
    def test_they_cover_93_to_97_percent(self) -> None:
        shares = coverage(500)
        assert ((shares >= 0.93) & (shares <= 0.97)).all(), shares

    def test_groups_are_resampled_not_rows(self) -> None:
        """Ten copies of each row say no more than the row."""
        once = drawn(0, groups=40)
        copies = Dataset.from_dict({name: np.repeat(once[name][:], 10).tolist() for name in once.column_names})
        widths = []
        for rows in (once, copies):
            overall = association(diagnose(rows, "problem_id"), "length").overall
            widths.append(overall.high - overall.low)
        assert widths[1] == pytest.approx(widths[0], rel=0.1)

    def test_many_groups_have_intervals_as_wide_in_blocks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rows = drawn(0, groups=1500, size=2)
        exact = association(diagnose(rows, "problem_id"), "length").within
        monkeypatch.setattr("rsr_datasets.curation.associations.MAX_BLOCKS", 300)
        blocked = association(diagnose(rows, "problem_id"), "length").within
        assert blocked.value == exact.value
        assert blocked.high - blocked.low == pytest.approx(exact.high - exact.low, rel=0.15)


class TestSentences:
    @pytest.mark.parametrize("share", [0.85, 0.97, 1.0])
    def test_a_metric_made_from_length_is_named(self, share: float) -> None:
        for seed in range(10):
            found = diagnose(drawn(seed, by_length=share), "problem_id")
            assert "RSR is largely length here" in said(found)
            assert {"length", "shortest"} <= {*found.confounds}
            assert "compare with that control" in said(found)

    @pytest.mark.parametrize("sets", [40, pytest.param(200, marks=pytest.mark.slow)])
    def test_other_metrics_are_not(self, sets: int) -> None:
        """In at least 95% of sets without a confound none is named, and a sentence denies length."""
        found = [diagnose(drawn(seed), "problem_id") for seed in range(sets)]
        assert sum(not each.confounds for each in found) >= 0.95 * sets
        assert sum("RSR is not length here" in said(each) for each in found) >= 0.95 * sets

    def test_a_metric_of_the_longest_is_named_too(self) -> None:
        rows = drawn(1, by_length=0.95)
        found = diagnose(rows.map(lambda row: {"rsr": 9 - row["rsr"]}), "problem_id")
        assert {"length", "longest"} <= {*found.confounds}

    def test_some_overlap_beyond_chance_is_said(self) -> None:
        found = diagnose(drawn(0, groups=400, by_length=0.4), "problem_id")
        shortest = found.overlaps[0]
        assert 0.05 < shortest.beyond_chance.low < 0.2 and "shortest" not in found.confounds
        share = f"{shortest.share.value:.0%} (chance: 17%)"
        assert f"Some picks of RSR, more than by chance, are also the shortest {share}." in found.sentences
        assert "its own" not in said(found)

    def test_length_between_problems_alone_is_said_to_count_between_problems(self) -> None:
        rows = drawn(2)
        level = np.log(rows["rsr_num_tokens"][:]).reshape(-1, 6).mean(axis=1)
        problem = np.array(rows["problem_id"])
        own = np.random.default_rng(0).random(len(rows)) * 0.01
        found = diagnose(
            rows_of(level[problem] + own, tokens=rows["rsr_num_tokens"][:], problem_id=problem), "problem_id"
        )
        assert "RSR is not length here" in said(found)
        assert "Between problems RSR goes along with length" in said(found) and "select_subset" in said(found)

    def test_columns_that_were_asked_for_are_named(self) -> None:
        rows = drawn(3)
        rows = rows.add_column("hardness", (np.array(rows["rsr"]) ** 3).tolist()).add_column(
            "dull", [True] * len(rows)
        )
        found = diagnose(rows, "problem_id", also=["hardness", "dull"])
        assert "RSR is largely hardness here" in said(found) and "hardness" in found.confounds
        assert "Dull is the same in every row" in said(found)

    def test_columns_may_be_named_as_traits_are(self) -> None:
        rows = drawn(3).add_column("length", list(range(360))).add_column("correctness", [0.5, 0.7] * 180)
        found = diagnose(rows.add_column("ok", [True, False] * 180), "problem_id", correct="ok", also=["length"])
        tokens = np.array(rows["rsr_num_tokens"])
        expected = {"length": tokens, "column length": np.arange(360)}
        for trait, values in expected.items():
            value = association(found, trait).overall.value
            assert value == pytest.approx(_spearman(np.array(rows["rsr"]), values))
        plain = diagnose(rows, "problem_id", also="correctness")
        assert association(plain, "column correctness").overall.count == 360

    def test_parts_of_the_ratio_are_no_confounds(self) -> None:
        random = np.random.default_rng(0)
        surprisal = random.gamma(4, 0.2, 300) + 0.1
        rows = rows_of(3 / surprisal, surprisal=surprisal, problem_id=np.arange(300) // 5)
        found = diagnose(rows, "problem_id")
        assert "RSR is largely average surprisal here, from which RSR is made" in said(found)
        assert "average surprisal" not in found.confounds
        asked = diagnose(rows, "problem_id", also=["rsr_avg_surprisal"])
        assert "rsr_avg_surprisal here, from which RSR is made" in said(asked) and not asked.confounds

    def test_correct_candidates_are_preferred(self) -> None:
        rows = drawn(4)
        right = (np.array(rows["rsr"]) < 2.7).tolist()
        found = diagnose(rows.add_column("ok", right), "problem_id", correct="ok")
        assert found.correctness is not None and found.correctness.value == 1
        assert "RSR prefers correct candidates" in said(found)
        wrong = [None if i % 7 == 0 else not ok for i, ok in enumerate(right)]
        found = diagnose(rows.add_column("ok", wrong), "problem_id", correct="ok")
        assert "RSR prefers incorrect candidates" in said(found) and association(found, "correctness").missing == 52
        coin = np.random.default_rng(0).random(len(rows)) < 0.5
        found = diagnose(rows.add_column("ok", coin.tolist()), "problem_id", correct="ok")
        assert "RSR does not tell correct from incorrect candidates" in said(found)
        found = diagnose(rows.add_column("ok", [True] * len(rows)), "problem_id", correct="ok")
        assert "No problem has both correct and incorrect candidates" in said(found)

    def test_a_metric_of_which_more_is_better_picks_its_greatest(self) -> None:
        rows = drawn(5).rename_column("rsr", "rsr_top1_share")
        rows = rows.add_column("rsr", [1.0] * len(rows)).add_column(
            "ok", (np.array(rows["rsr_top1_share"]) > 2.7).tolist()
        )
        found = diagnose(rows, "problem_id", "top1_share", correct="ok")
        assert found.metric == "rsr_top1_share" and found.correctness is not None and found.correctness.value == 1

    def test_more_may_be_better_in_any_column(self) -> None:
        rows = drawn(5)
        reward = rows.add_column("reward", [float(n) for n in rows["rsr_num_tokens"]])
        shared = {o.rule: o.share.value for o in diagnose(reward, "problem_id", "reward", largest=True).overlaps}
        assert shared["longest"] == 1 and shared["shortest"] == 0

    def test_a_metric_without_lengths_says_so(self) -> None:
        rows = drawn(5).select_columns(["rsr", "problem_id"]).rename_column("rsr", "reward")
        assert "No lengths or surprisals tell candidates apart" in said(diagnose(rows, "problem_id", "reward"))

    def test_equal_lengths_are_no_rule(self) -> None:
        """Whatever is picked would be among the shortest, and among the longest."""
        rows = drawn(5)
        rows = rows.remove_columns("rsr_num_tokens").add_column("rsr_num_tokens", [7] * 6 + [5] * 354)
        found = diagnose(rows, "problem_id")
        assert [each.rule for each in found.overlaps] == ["lowest average surprisal", "random"]

    def test_problems_with_an_unknown_length_are_left_out_of_overlaps_with_lengths(self) -> None:
        rows = drawn(5).remove_columns(["rsr_status", "rsr_settings"])
        tokens: list[int | None] = [int(n) for n in rows["rsr_num_tokens"]]
        tokens[0] = None
        found = diagnose(rows.remove_columns("rsr_num_tokens").add_column("rsr_num_tokens", tokens), "problem_id")
        counts = {each.rule: each.share.count for each in found.overlaps}
        assert counts == {"shortest": 59, "longest": 59, "lowest average surprisal": 60, "random": 60}

    def test_turns_are_counted(self) -> None:
        rows = drawn(6, groups=30)
        turns = 1 + np.argsort(np.argsort(rows["rsr"])) // 30
        written = [[{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}] * int(n) for n in turns]
        found = diagnose(rows.add_column("messages", written), "problem_id")
        assert association(found, "number of turns").within.value > 0.9 and "number of turns" in found.confounds
        mapped = rows.add_column("messages", written).select(range(len(rows))[::-1])
        assert association(diagnose(mapped, "problem_id"), "number of turns").overall.value == pytest.approx(
            association(found, "number of turns").overall.value
        )

    @pytest.mark.parametrize(
        ("column", "columns"),
        [("messages", None), ("conversation", None), ("completion", None), ("trace", {"assistant": "trace"})],
    )
    def test_turns_are_counted_in_every_format_and_under_every_name_of_the_assistant(
        self, column: str, columns: dict[str, str] | None
    ) -> None:
        names = ["assistant", "GPT", "ai", "user", "tool_call", "system"]
        written = [[{"role": name, "content": "!"} for name in names]]
        rows = Dataset.from_dict({column: [*written, None], "prompt": ["?"] * 2, "q": ["?"] * 2})
        given = columns and {"user": "q", **columns}
        counted = count_turns(rows, given)
        assert counted is not None and counted[0] == 4 and np.isnan(counted[1])

    def test_a_share_has_no_interval_below_0_or_above_1(self) -> None:
        rows = rows_of([1.0, 2, 3] * 6, tokens=[1, 2, 3] * 5 + [2, 1, 3], problem_id=np.arange(18) // 3)
        shares = {overlap.rule: overlap.share for overlap in diagnose(rows, "problem_id").overlaps}
        assert shares["shortest"].high == 1 and 0 < shares["shortest"].low < 5 / 6

    def test_teachers_of_picks_by_length(self) -> None:
        """One of two teachers is always better and always shorter."""
        rows = rows_of([1, 2] * 40, tokens=[50, 500] * 40, problem_id=np.arange(80) // 2, teacher=["ada", "bob"] * 40)
        found = diagnose(rows, "problem_id")
        shares = {(each.teacher, each.length): each.of_chosen for each in found.teachers}
        assert shares["ada", "all"] == 1 and shares["bob", "all"] == 0 and shares["ada", "shortest quarter"] == 1
        assert shares["bob", "third quarter"] != shares["bob", "third quarter"] and "100% -> none" in str(found)
        assert "The teacher picked most is ada: 100% of the picks, 50% of the candidates." in found.sentences
        assert "100% of what RSR picks is also the shortest (chance: 50%)" in said(found)

    def test_rows_without_a_score_are_compared(self) -> None:
        rows = drawn(7)
        teacher = np.array(rows["teacher"])
        rsr = np.where((teacher == "eve") & (np.arange(len(rows)) % 2 == 0), np.nan, rows["rsr"][:])
        text = ["word " * (500 if gone else 50 + i % 9) for i, gone in enumerate(np.isnan(rsr))]
        extra = {"problem_id": rows["problem_id"][:], "teacher": teacher.tolist(), "text": text}
        found = diagnose(rows_of(rsr, **extra), "problem_id")
        assert "have no score" in said(found) and "eve lacks" in said(found)
        assert "Rows without a score are longer: 2,500 characters in the median" in said(found)
        assert "No teacher surely lacks" not in said(found)
        even = np.where(np.arange(len(rows)) % 7 == 0, np.nan, rows["rsr"][:])
        text = ["word " * (i % 50) for i in range(len(rows))]
        calm = diagnose(rows_of(even, **extra | {"text": text}), "problem_id")
        assert "No teacher surely lacks more scores than all together." in calm.sentences
        assert "Rows without a score are not surely longer or shorter" in said(calm)

    def test_rows_without_a_problem_are_said(self) -> None:
        rows = drawn(7)
        ids = [None if i % 6 == 0 else f"p{key}" for i, key in enumerate(rows["problem_id"])]
        found = diagnose(rows.remove_columns("problem_id").add_column("problem_id", ids), "problem_id")
        assert found.ungrouped == 60 and found.groups == 60
        assert "60 of these rows without problem_id count over all rows alone." in found.sentences
        assert {each.overall.count for each in found.associations} == {360}

    def test_teachers_with_few_rows_are_together(self) -> None:
        rows = drawn(7).remove_columns("teacher").add_column("teacher", [f"t{i % 72}" for i in range(360)])
        shares = [each for each in diagnose(rows, "problem_id").teachers if each.length == "all"]
        assert len(shares) == 51 and shares[-1].teacher == "(other teachers)"
        assert sum(each.of_candidates for each in shares) == pytest.approx(1)
        assert sum(each.of_chosen for each in shares) == pytest.approx(1)


class TestStability:
    def test_halves_agree_where_teachers_differ(self) -> None:
        rows = drawn(8, groups=100)
        level = {"ada": 0.0, "bob": 0.5, "eve": 1.0}
        changed = rows.map(lambda r: {"rsr_avg_rank": (1 + level[r["teacher"]]) * r["rsr_avg_surprisal"]})
        halves = diagnose(changed, "problem_id").stability[0]
        assert (halves.spearman, halves.same_best) == (1, 1)
        assert "Whether another rank_clip changes this order is not known" in said(diagnose(changed, "problem_id"))

    def test_truncated_rows_and_rank_clips_may_change_the_best(self) -> None:
        """Bob's truncated rows are good, and Ada has single freak tokens, which a higher clip lets count."""
        teacher = ["ada", "bob"] * 40
        status = ["truncated" if i % 4 == 1 else "scored" for i in range(80)]
        rsr = [0.001 if s == "truncated" else 3.0 if t == "bob" else 2.0 for s, t in zip(status, teacher, strict=True)]
        rows = rows_of(
            rsr, surprisal=np.ones(80), status=np.array(status), problem_id=np.arange(80) // 4, teacher=teacher
        )
        ranks = [[1, 1, 9000] if t == "ada" else [3, 3, 3] for t in teacher]
        found = diagnose(rows.add_column("rsr_token_ranks", ranks), "problem_id")
        changed = {each.change: each.same_best for each in found.stability}
        assert changed["halves of the data"] == 1 and changed["truncated rows"] == 0
        assert changed["rank_clip=50"] == changed["rank_clip=500"] == 0
        assert "Another teacher is the best with truncated rows." in found.sentences
        assert "20 truncated rows left out" in said(found) and "rank_clip changes this order" not in said(found)


EDGES: dict[str, tuple[dict[str, Any], str | None, str]] = {
    "no group column": ({"rsr": [1, 2, 3, 4, 5]}, None, "not grouped: group_by="),
    "no row in a group": (
        {"rsr": [1, 2], "problem_id": [None, None]},
        "problem_id",
        "nothing is known within problems",
    ),
    "one group": ({"rsr": [1, 2, 3], "problem_id": ["p"] * 3}, "problem_id", "all in one problem"),
    "groups of one": ({"rsr": [1, 2, 3], "problem_id": ["p", "q", "r"]}, "problem_id", "has one candidate"),
    "two rows": ({"rsr": [1, 2], "problem_id": ["p", "q"]}, "problem_id", "Too few rows say whether RSR goes along"),
    "constant metric": ({"rsr": [2] * 6, "problem_id": list("ppqqrr")}, "problem_id", "RSR is the same in every row"),
    "all null": ({"rsr": [np.nan] * 4, "problem_id": list("ppqq")}, "problem_id", "None of 4 rows has a complete"),
    "no rows": ({"rsr": [], "problem_id": []}, "problem_id", "None of 0 rows"),
    "one row": ({"rsr": [1], "problem_id": ["p"]}, "problem_id", "One of 1 row has a complete score"),
    "infinite metric": (
        {"rsr": [math.inf, -math.inf, 1.0, 2.0], "surprisal": np.ones(4), "problem_id": list("ppqq")},
        "problem_id",
        "2 of 4 rows (50.0%) have no score: 2 no_value",
    ),
}


class TestPoorData:
    @pytest.mark.parametrize("name", EDGES)
    def test_it_is_said_in_a_sentence(self, name: str) -> None:
        values, group_by, sentence = EDGES[name]
        size = len(values["rsr"])
        others = [math.inf, math.nan, -math.inf, 1.0, None, 1e308][:size]
        extra = {
            "teacher": ["ada", "bob", None, "ada", "bob", "ada"][:size],
            "also": others,
            "nothing": [None] * size,
            "ok": [True, False, None, True, False, True][:size],
        }
        tokens = np.array([5, 9, 9, 3, 5, 1])[:size]
        rows = rows_of(**({"tokens": tokens} | values | extra))
        found = diagnose(rows, group_by, also=["also", "nothing"], correct="ok")
        assert sentence in said(found)
        assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["sentences"] == [*found.sentences]
        assert said(found) in str(found).replace("\n", " ")
        assert len(found.to_pandas().columns) == 7

    def test_missing_values_of_a_column_are_counted(self) -> None:
        rows = drawn(9)
        values = [math.nan if i % 10 == 0 else math.inf if i % 10 == 1 else float(i % 7) for i in range(len(rows))]
        found = association(diagnose(rows.add_column("extra", values), "problem_id", also=["extra"]), "extra")
        assert found.missing == 72 and found.overall.count == 288 and not math.isnan(found.within.low)

    def test_mistakes_are_named(self) -> None:
        rows = drawn(10, groups=3)
        with pytest.raises(ValueError, match="no column 'nowhere'"):
            diagnose(rows, "nowhere")
        with pytest.raises(ValueError, match="column 'teacher' is string, not numeric"):
            diagnose(rows, "problem_id", also=["teacher"])
        mixed = rows.map(lambda _, i: {"rsr_settings": f"a{i % 2}"}, with_indices=True)
        with pytest.raises(ValueError, match=r"2 different students or settings.* allow_mixed_settings=True"):
            diagnose(mixed, "problem_id")
        assert diagnose(mixed, "problem_id", allow_mixed_settings=True).compared == len(rows)
        for wrong in ([0, 1] * 9, ["yes", "no"] * 9):
            with pytest.raises(ValueError, match=r"column 'ok' is .* not boolean"):
                diagnose(rows.add_column("ok", wrong), "problem_id", correct="ok")


def test_champ_passes() -> None:
    """The numbers that a plain computation with pandas gives for the shipped scores."""
    scores = Path(__file__).parents[1] / "data" / "champ_smollm2_scores.parquet"
    found = diagnose(Dataset.from_parquet(str(scores)), "problem_id")
    within = {each.trait: round(each.within.value, 2) for each in found.associations}
    assert within == {"length": -0.03, "average surprisal": 0.21, "average rank": 0.41}
    assert "RSR is not length here: Spearman -0.03 [-0.08, 0.03] within a problem." in found.sentences
    assert found.confounds == ()
