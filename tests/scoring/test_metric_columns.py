"""Metrics as columns: asked of a scorer, recomputed, selected by and ranked by."""

from __future__ import annotations

import itertools
import json
import logging
import math
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import conversation, make_model
from datasets import Dataset
from datasets.fingerprint import Hasher
from oracle import plain_tokens
from transformers import PreTrainedTokenizerFast

from rsr_datasets import (
    RSRScorer,
    dataset_rsr,
    metrics,
    preview_card,
    rank_teachers,
    rescore,
    score_dataset,
    select_subset,
    select_trajectories,
)
from rsr_datasets.engines.transformers.engine import TransformersEngine
from rsr_datasets.hub.markdown import code
from rsr_datasets.metrics import Metric, TrajectoryTokens, available_metrics, metric_values
from rsr_datasets.reading.formats import find_format
from rsr_datasets.reading.rows import EncodedRow
from rsr_datasets.report.page import build_report
from rsr_datasets.scoring.session import local_rows, row_without_prompt
from rsr_datasets.tables.columns import ScoreColumns

SINGLE_PASS = [name for name, metric in available_metrics().items() if set(metric.needs) <= {"entropies"}]
EVERYTHING = list(available_metrics())
TEXT = "First, let x be 3. Then f(x) = 2 x + 1!\nSo f(x) = 7. We know that.\n\nTherefore the answer is 7. Done. Yes?"


def encode(scorer: RSRScorer, rows: Sequence[dict[str, Any]]) -> list[Any]:
    return scorer.encode(rows, find_format(list(rows[0])))


def tokens_of(scorer: RSRScorer, row: EncodedRow) -> TrajectoryTokens:
    return plain_tokens(scorer._session.load_engine({}, "cpu")[0].model, scorer.load_tokenizer(), row)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics.registry, "_registry", dict(available_metrics()))


def test_columns_equal_the_metrics_of_full_logits(student_folder: str, rows: list[dict[str, Any]]) -> None:
    rows = [*rows, {"problem_id": "p4", "messages": conversation("Solve it.", TEXT)}]
    scorer = RSRScorer(student_folder, metrics=EVERYTHING)
    scored = Dataset.from_list(rows).map(scorer, batched=True)
    encoded = encode(scorer, rows)
    tokens = [tokens_of(scorer, row) if isinstance(row, EncodedRow) else None for row in encoded]
    assert sum(token is None for token in tokens) == 2
    for name, metric in available_metrics().items():
        column = ScoreColumns().metric(name)
        assert scored.features[column].dtype == "float64"
        expected = metric_values(metric, tokens)
        found = np.array([math.nan if value is None else value for value in scored[column]])
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6, err_msg=name)
        assert [value is None for value in scored[column]] == np.isnan(expected).tolist()


def test_the_default_columns_and_scores_stay_as_they_are(student_folder: str, dataset: Dataset) -> None:
    plain, asked = RSRScorer(student_folder), RSRScorer(student_folder, metrics=EVERYTHING)
    before, after = dataset.map(plain, batched=True), dataset.map(asked, batched=True)
    default = list(ScoreColumns().row_types)
    assert before.column_names == [*dataset.column_names, *default]
    assert after.column_names[: len(before.column_names)] == before.column_names
    assert after.select_columns(before.column_names).to_dict() == before.to_dict()
    assert set(after["rsr_settings"]) == {plain.settings_hash} == {asked.settings_hash}


def test_default_metrics_add_nothing(student_folder: str) -> None:
    plain = RSRScorer(student_folder)
    for asked in (RSRScorer(student_folder, metrics=["rsr", "avg_surprisal"]), RSRScorer(student_folder, metrics=[])):
        assert asked.column_types == plain.column_types
        assert asked.fingerprint == plain.fingerprint and asked.output == plain.output
    assert plain.output == {"column_prefix": "rsr", "token_columns": False, "columns": {}}


def test_no_metric_costs_no_entropy_and_no_second_pass(
    student_folder: str, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[bool, int]] = []
    original = TransformersEngine.score

    def score(self: TransformersEngine, rows: Any, **named: Any) -> Any:
        asked.append((named.get("entropies", False), len(rows)))
        return original(self, rows, **named)

    monkeypatch.setattr(TransformersEngine, "score", score)
    Dataset.from_list(rows).map(RSRScorer(student_folder), batched=True)
    scored = asked[0][1]
    assert asked == [(False, scored)]
    asked.clear()
    Dataset.from_list(rows).map(RSRScorer(student_folder, metrics=["avg_entropy", "ifd"]), batched=True)
    assert asked[0] == (True, scored) and len(asked) == 2


def test_what_is_asked_changes_the_fingerprint_and_the_runs_output(student_folder: str) -> None:
    own = [metrics.low_probability_share(0.2)]
    longest, last = (lambda t: t.surprisals.max()), (lambda t: t.surprisals[-1])
    mine = [[Metric("mine", function, "lower", "mine")] for function in (longest, last)]
    asked = [None, ["perplexity"], ["perplexity", "top1_share"], ["low_prob_share"], own, *mine]
    scorers = [RSRScorer(student_folder, metrics=names) for names in asked]
    assert len({Hasher.hash(scorer) for scorer in scorers}) == len(asked)
    assert len({scorer.settings_hash for scorer in scorers}) == 1
    outputs = [json.dumps(scorer.output) for scorer in scorers]
    assert len(set(outputs[:-1])) == len(asked) - 1  # functions of one formula are told apart by the fingerprint alone
    assert Hasher.hash(RSRScorer(student_folder, metrics=["perplexity"])) == Hasher.hash(scorers[1])


def test_a_run_is_not_resumed_with_other_metrics(student_folder: str, dataset: Dataset, tmp_path: Path) -> None:
    scored = score_dataset(dataset, RSRScorer(student_folder, metrics=["perplexity"]), tmp_path / "run", unit_rows=3)
    assert scored.features["rsr_perplexity"].dtype == "float64"
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["output"]["metrics"] == {"perplexity": "exp(mean s)"}
    for others in (None, ["top1_share"]):
        with pytest.raises(ValueError, match=r"belongs to another run: metrics= was .*'perplexity'"):
            score_dataset(dataset, RSRScorer(student_folder, metrics=others), tmp_path / "run", unit_rows=3)


def test_types_hold_where_every_value_is_null_and_in_streams(student_folder: str) -> None:
    scorer = RSRScorer(student_folder, metrics=["avg_entropy", "ifd"], column_prefix="s", token_columns=True)
    empty = Dataset.from_list([{"messages": conversation("?", "")}])
    scored = empty.map(scorer, batched=True)
    assert scored["s_avg_entropy"][:] == scored["s_ifd"][:] == scored["s_token_entropies"][:] == [None]
    assert scored.features["s_avg_entropy"].dtype == scored.features["s_ifd"].dtype == "float64"
    assert scored.features["s_token_entropies"].feature.dtype == "float32"
    assert scorer.features(empty.features) == scored.features
    table = scorer(pa.table({"text": ["a b c d"]}))
    assert table.schema.field("s_avg_entropy").type == pa.float64() and table["s_avg_entropy"][0].as_py() > 0


def test_what_is_not_defined_is_null_and_said_once(student_folder: str, caplog: pytest.LogCaptureFixture) -> None:
    never = Metric("never", lambda tokens: math.inf, "lower", "1/0")
    scorer = RSRScorer(student_folder, metrics=[never])
    with caplog.at_level(logging.WARNING):
        found = [scorer({"text": ["a b", ""]}) for _ in range(2)]
    assert [part["rsr_never"] for part in found] == [[None, None]] * 2
    said = [record.getMessage() for record in caplog.records if "never" in record.getMessage()]
    assert said == ["metric 'never' (1/0) is not defined for 1 of 1 scored rows: null there (said once)"]


@pytest.mark.usefixtures("registry")
def test_a_scorer_takes_a_users_metric_to_processes_that_do_not_know_it(student_folder: str) -> None:
    metrics.register_metric(metrics.token_top(0.5, name="upper_half"))
    scorer = RSRScorer(student_folder, metrics=["upper_half", "perplexity"])
    expected = scorer({"text": "Solve the following problem."})
    packed = pickle.dumps(scorer)
    del metrics.registry._registry["upper_half"]
    again = pickle.loads(packed)
    assert again({"text": "Solve the following problem."}) == expected
    assert Hasher.hash(again) == Hasher.hash(scorer)


def test_metrics_are_computed_again_from_token_columns(student_folder: str, dataset: Dataset) -> None:
    asked = ["token_top30", "rank_entropy_ratio", "avg_entropy", "ifd"]
    scored = dataset.map(RSRScorer(student_folder, metrics=asked, token_columns=True), batched=True)
    assert rescore(scored).to_dict() == scored.to_dict()
    clipped = RSRScorer(student_folder, metrics=[*asked, "top1_share"], token_columns=True, rank_clip=3)
    expected = dataset.map(clipped, batched=True)
    found = rescore(scored, 3, metrics=["top1_share"])
    assert set(found.column_names) == set(expected.column_names)
    assert found.select_columns(expected.column_names).to_dict() == expected.to_dict()
    assert found["rsr_token_top30"][:] != scored["rsr_token_top30"][:]


def test_a_column_of_an_unknown_metric_does_not_keep_an_old_clip(student_folder: str, dataset: Dataset) -> None:
    mine = Metric("mine", lambda tokens: tokens.clipped_ranks.max(), "lower", "max r'")
    scored = dataset.map(RSRScorer(student_folder, metrics=[mine, "ifd"], token_columns=True), batched=True)
    assert rescore(scored).to_dict() == scored.to_dict()
    with pytest.raises(ValueError, match=r"columns \['rsr_mine'\]: .* keep the old clip; register"):
        rescore(scored, 3)
    assert max(value or 0 for value in rescore(scored, 3, metrics=[mine])["rsr_mine"]) == 3


def test_second_passes_count_no_row_again(student_folder: str, rows: list[dict[str, Any]]) -> None:
    counted = []
    for asked in ([], ["local_surprisal", "ifd"]):
        scorer, batches = RSRScorer(student_folder, metrics=asked), []
        scorer.score_encoded(encode(scorer, rows), on_batch=batches.append)
        counted.append([sum(batch.row_tokens for batch in batches), sum(batch.tokens for batch in batches)])
    assert 0 < counted[0][0] == counted[1][0] and counted[0][1] < counted[1][1]


def test_what_the_token_columns_do_not_hold_cannot_be_computed_again(student_folder: str, dataset: Dataset) -> None:
    scored = dataset.map(RSRScorer(student_folder, token_columns=True), batched=True)
    for name, need in (("avg_entropy", "entropies"), ("ifd", "surprisals_without_prompt")):
        with pytest.raises(ValueError, match=rf"metric '{name}' needs \['{need}'\].*metrics=\['{name}'\]"):
            rescore(scored, metrics=[name])


@pytest.fixture(scope="module")
def two_teachers(student_folder: str) -> Dataset:
    answers = ["The answer is 42.", "x", TEXT, "So f(n) = 2 f(n-1) + 3.", "We know that a + b = c.", "b = c? Yes."]
    rows = [
        {"problem": i // 2, "teacher": f"t{i % 2}", "messages": conversation("Solve it.", text)}
        for i, text in enumerate(answers)
    ]
    return Dataset.from_list(rows).map(RSRScorer(student_folder, metrics=EVERYTHING), batched=True)


@pytest.mark.parametrize("name", EVERYTHING)
def test_selecting_and_ranking_by_a_metric(two_teachers: Dataset, name: str) -> None:
    values = np.array(two_teachers[ScoreColumns().metric(name)])
    higher = available_metrics()[name].direction == "higher"
    sign = -1 if higher else 1
    best = select_trajectories(two_teachers, "problem", metric=name)
    wanted = [int(i + np.argmin(sign * values[i : i + 2])) for i in (0, 2, 4)]
    assert best["messages"][:] == two_teachers.select(wanted)["messages"][:]
    first = select_subset(two_teachers, n=1, metric=name)["messages"][0]
    assert first == two_teachers["messages"][np.argmin(sign * values)]
    other = select_subset(two_teachers, n=1, metric=ScoreColumns().metric(name), largest=not higher)
    assert other["messages"][0] == two_teachers["messages"][np.argmax(sign * values)]

    found = dataset_rsr(two_teachers, group_by="teacher", metric=name)
    ranking = rank_teachers(two_teachers, metric=name, resamples=50)
    assert [r.teacher for r in ranking.teachers] == sorted(found, key=lambda teacher: sign * found[teacher].value)
    for ranked in ranking.teachers:
        assert ranked.score.metric == name
        assert ranked.score.value == pytest.approx(found[ranked.teacher].value, rel=1e-12)
    if (known := available_metrics()[name]).numerator is None and known.denominator is None:
        assert found["t0"].value == pytest.approx(values[::2].mean())
        assert found["t0"].low <= found["t0"].value <= found["t0"].high


def test_a_ratio_is_aggregated_as_a_ratio_of_means(two_teachers: Dataset) -> None:
    rank, surprisal, entropy = (
        np.array(two_teachers[f"rsr_{name}"]) for name in ("avg_rank", "avg_surprisal", "avg_entropy")
    )
    for name, expected in (("rsr", surprisal), ("rank_entropy_ratio", entropy)):
        assert dataset_rsr(two_teachers, metric=name).value == pytest.approx(rank.mean() / expected.mean())
    assert str(dataset_rsr(two_teachers, metric="rank_entropy_ratio")).startswith("rank_entropy_ratio ")


def test_the_card_and_the_report_say_what_each_metric_is_over_all_rows(
    two_teachers: Dataset, student_folder: str, tmp_path: Path
) -> None:
    scorer = RSRScorer(student_folder, metrics=EVERYTHING)
    card = preview_card(two_teachers, scorer=scorer).text
    page = build_report(two_teachers, tmp_path / "report.html").read_text()
    for name, metric in available_metrics().items():
        if name not in metrics.DEFAULT_METRICS:
            value = dataset_rsr(two_teachers, metric=name).value
            row = f"| `rsr_{name}` | {code(metric.formula)} | {metric.direction} | {value:.3f} | 6 |"
            assert row in card
            assert f'"column":"rsr_{name}"' in page and f'"value":{value!r}' in page
    plain = two_teachers.remove_columns([c for c in two_teachers.column_names if c not in ScoreColumns().row_types])
    assert "where it is defined" not in preview_card(plain, scorer=RSRScorer(student_folder)).text


def test_the_cards_code_asks_for_the_metrics_again(student_folder: str, dataset: Dataset, tmp_path: Path) -> None:
    scorer = RSRScorer(student_folder, metrics=["top1_share", "perplexity"])
    scored = score_dataset(dataset, scorer, tmp_path / "run")
    card = preview_card(select_subset(scored, n=2, metric="top1_share")).text
    assert "metrics=['top1_share', 'perplexity']" in card.replace('"', "'")
    assert "the greatest `rsr_top1_share`" in card


def test_a_metric_that_was_not_asked_for_is_named(two_teachers: Dataset) -> None:
    without = two_teachers.remove_columns("rsr_perplexity")
    message = r"metric 'perplexity': no column 'rsr_perplexity'; RSRScorer\(student, metrics=\['perplexity'\]\) adds"
    for use in (
        lambda: select_trajectories(without, "problem", metric="perplexity"),
        lambda: dataset_rsr(without, metric="perplexity"),
        lambda: rank_teachers(without, metric="perplexity"),
    ):
        with pytest.raises(ValueError, match=message):
            use()
    with pytest.raises(ValueError, match="there is none of this name"):
        dataset_rsr(without, metric="perplexety")


def test_scores_of_two_students_are_not_compared_by_a_metric_either(two_teachers: Dataset) -> None:
    other = [f"other-{i % 2}" for i in range(len(two_teachers))]
    mixed = two_teachers.remove_columns("rsr_settings").add_column("rsr_settings", other)
    with pytest.raises(ValueError, match="2 different students or settings"):
        select_subset(mixed, n=1, metric="rsr_perplexity")


def test_adaptive_ranking_needs_positive_values_of_which_lower_is_better(two_teachers: Dataset) -> None:
    assert rank_teachers(two_teachers, metric="perplexity", adaptive=True).stopped == "certain"
    with pytest.raises(ValueError, match="of 'top1_share' higher is"):
        rank_teachers(two_teachers, metric="top1_share", adaptive=True)
    negative = two_teachers.remove_columns("rsr_rank_minus_surprisal")
    negative = negative.add_column("rsr_rank_minus_surprisal", [-1.0] * len(negative))
    with pytest.raises(ValueError, match="has the value -1"):
        rank_teachers(negative, metric="rank_minus_surprisal", adaptive=True)


def test_local_rows_see_the_steps_before_and_nothing_else(tokenizer: PreTrainedTokenizerFast) -> None:
    def ids(text: str) -> list[int]:
        return tokenizer(text)["input_ids"]

    prompt, sentences = ids("prompt<|im_start|>"), [ids(f"{c}{c}. ") for c in "abcdefg"]
    input_ids = np.array([*prompt, *itertools.chain(*sentences)])
    row = EncodedRow(input_ids, np.arange(len(prompt), input_ids.size))
    rows = local_rows(row, tokenizer, steps_before=3)
    assert len(rows) == 7
    for i, part in enumerate(rows):
        context = [*(prompt if i < 3 else []), *itertools.chain(*sentences[max(0, i - 3) : i])]
        assert part.input_ids.tolist() == context + sentences[i]
        assert part.positions.tolist() == list(range(len(context), part.input_ids.size))


def test_a_row_without_its_prompt_begins_a_text(tokenizer: PreTrainedTokenizerFast) -> None:
    row = EncodedRow(np.array([5, 6, 7, 8, 9, 10]), np.array([2, 3, 5]))
    short = row_without_prompt(row, tokenizer)
    assert short.input_ids.tolist() == [tokenizer.eos_token_id, 7, 8, 9, 10]
    assert short.input_ids[short.positions].tolist() == row.input_ids[row.positions].tolist()


def test_a_student_that_is_loaded_takes_metrics_too(tokenizer: PreTrainedTokenizerFast) -> None:
    scorer = RSRScorer(make_model("gemma2", len(tokenizer)), tokenizer=tokenizer, metrics=SINGLE_PASS)
    row = encode(scorer, [{"text": TEXT}])[0]
    found = scorer({"text": TEXT})
    for name in SINGLE_PASS:
        expected = available_metrics()[name].of(tokens_of(scorer, row))
        assert found[ScoreColumns().metric(name)] == pytest.approx(expected, rel=1e-4, abs=1e-6)
