"""The answer probed along a trajectory, and trajectories cut where it is sure."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
from conftest import conversation, make_model
from datasets import Dataset
from oracle import plain_scores
from transformers import PreTrainedTokenizerFast

from rsr_datasets import RSRScorer, answer_confidence, truncate_at
from rsr_datasets.reading.formats import find_format
from rsr_datasets.reading.rows import EncodedRow

SOLUTION = "First x is 3. Then y is 4.\nSo x + y is 7. Therefore the answer is 7."


@pytest.fixture(scope="module")
def scorer(student_folder: str) -> RSRScorer:
    return RSRScorer(student_folder)


def test_the_answers_surprisal_after_each_step(scorer: RSRScorer) -> None:
    rows = [{"messages": conversation("Add.", SOLUTION), "answer": 7}]
    ds = Dataset.from_list(rows)
    row = answer_confidence(ds, scorer, "answer", cue=" = ")[0]
    encoded = scorer.encode(rows, find_format(["messages"]))[0]
    tokenizer, model = scorer.load_tokenizer(), scorer._session.load_engine({}, "cpu")[0].model
    own = tokenizer.decode(encoded.input_ids[encoded.positions])
    expected, steps = [], ["", "First x is 3.", " Then y is 4.", "\nSo x + y is 7.", " Therefore the answer is 7."]
    assert own == "".join(steps) == SOLUTION
    cue, answer = (tokenizer(text)["input_ids"] for text in (" = ", "7"))
    for k in range(5):
        text = "".join(steps[: k + 1])
        own_ids = encoded.input_ids[encoded.positions]
        end = next(n for n in range(len(own) + 1) if tokenizer.decode(own_ids[:n]) == text)
        white = tokenizer.decode(own_ids[end : end + 1])
        end += 1 if k and not white.strip() and k < 4 else 0  # white space alone belongs to the step before it
        prefix = encoded.input_ids[: encoded.positions[0] + end]
        ids = np.concatenate([prefix, cue, answer])
        probe = EncodedRow(ids, np.arange(ids.size - len(answer), ids.size))
        expected.append(plain_scores(model, probe).surprisals.sum())
    np.testing.assert_allclose(row["rsr_answer_surprisals"], expected, rtol=0, atol=1e-5)
    assert row["rsr_answer_probes"] == [0, 1, 2, 3, 4]
    assert row["rsr_confidence_gain"] == pytest.approx(expected[0] - expected[-1], abs=1e-5)
    assert row["rsr_ascending_share"] == np.mean(np.diff(expected) < 0)


def test_the_shortest_prefix_from_which_the_answer_stays_likely(scorer: RSRScorer) -> None:
    ds = Dataset.from_list([{"messages": conversation("Add.", SOLUTION), "answer": "7"}])
    series = answer_confidence(ds, scorer, "answer")["rsr_answer_surprisals"][0]
    for threshold in np.exp(-np.array([*series, *(np.array(series) + 1e-3), *(np.array(series) - 1e-3)])):
        threshold = float(np.clip(threshold, 1e-30, 1 - 1e-9))
        found = answer_confidence(ds, scorer, "answer", threshold=threshold)["rsr_shortest_sufficient_prefix"][0]
        stays = [all(math.exp(-s) > threshold for s in series[k:]) for k in range(len(series))]
        unsure = any(abs(math.exp(-s) / threshold - 1) < 1e-5 for s in series)
        assert unsure or found == (stays.index(True) if any(stays) else None)


def test_probes_are_spread_and_rows_without_answer_are_null(scorer: RSRScorer) -> None:
    long = " ".join(f"Step {c}." for c in "abcdefghij")
    rows = [("?", long, "j"), ("?", long, None), ("?", "", "x"), ("?", "one step", "x")]
    ds = Dataset.from_list([{"messages": conversation(q, text), "answer": answer} for q, text, answer in rows])
    found = answer_confidence(ds, scorer, "answer", max_probes=3)
    assert found["rsr_answer_probes"][:] == [[0, 5, 10], None, None, [0, 1]]
    for name in ("answer_surprisals", "confidence_gain", "ascending_share", "shortest_sufficient_prefix"):
        assert found[f"rsr_{name}"][1:3] == [None, None]
    assert found.features["rsr_confidence_gain"].dtype == "float64"
    assert answer_confidence(found, scorer, "answer", max_probes=3).to_dict() == found.to_dict()


def test_an_answer_beyond_the_students_last_position_is_null(tokenizer: PreTrainedTokenizerFast) -> None:
    student = make_model("gpt2", len(tokenizer), n_positions=48)
    scorer = RSRScorer(student, tokenizer=tokenizer, max_length=48, chat_template="plain")
    texts = ["short.", "a. " * 60]
    ds = Dataset.from_list([{"messages": conversation("?", text), "answer": "x"} for text in texts])
    found = answer_confidence(ds, scorer, "answer", cue="=")
    assert found["rsr_answer_probes"][:] == [[0, 1], None]


def test_the_order_of_rows_and_what_stands_beside_them_do_not_matter(scorer: RSRScorer) -> None:
    rows = [{"messages": conversation("?", SOLUTION[: 9 * i]), "answer": "7"} for i in range(1, 6)]
    ds = Dataset.from_list([*rows, {"messages": conversation("?", "x"), "answer": None}])
    whole = answer_confidence(ds, scorer, "answer")["rsr_answer_surprisals"][:]
    alone = [answer_confidence(ds.select([i]), scorer, "answer")["rsr_answer_surprisals"][0] for i in range(6)]
    assert whole[5] is alone[5] is None
    np.testing.assert_allclose(np.concatenate(whole[:5]), np.concatenate(alone[:5]), rtol=0, atol=1e-5)


def test_answers_outside_the_vocabulary_are_null_and_warned_of_once(
    tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    wider = copy.deepcopy(tokenizer)
    wider.add_tokens(["<new>"])
    scorer = RSRScorer(make_model("llama", len(tokenizer)), tokenizer=wider)
    answers = ["<new>", "x"] * 65
    ds = Dataset.from_list([{"messages": conversation("?", "y"), "answer": answer} for answer in answers])
    found = answer_confidence(ds, scorer, "answer")["rsr_confidence_gain"]
    assert [value is None for value in found] == [answer == "<new>" for answer in answers]
    said = [record.getMessage() for record in caplog.records if "cannot be read" in record.getMessage()]
    assert said == ["65 of 130 rows cannot be read up to the answer or have none: null"]


def test_chinese_and_japanese_sentences_are_steps(scorer: RSRScorer) -> None:
    ds = Dataset.from_list([{"messages": conversation("?", "先算x。「再算y！」 所以7。"), "answer": "7"}])
    assert answer_confidence(ds, scorer, "answer")["rsr_answer_probes"][:] == [[0, 1, 2, 3]]


def test_mistakes_in_probing(scorer: RSRScorer) -> None:
    ds = Dataset.from_list([{"messages": conversation("?", "x"), "answer": "x"}])
    for arguments, message in (
        ({"max_probes": 1}, "max_probes=1"),
        ({"threshold": 1.0}, "threshold=1.0"),
        ({"answer_column": "gold"}, "no column 'gold'; the dataset has"),
    ):
        with pytest.raises(ValueError, match=message):
            answer_confidence(ds, scorer, **{"answer_column": "answer"} | arguments)
    with pytest.raises(ValueError, match='turns="all"'):
        answer_confidence(ds, RSRScorer(scorer.source.name, turns="each"), "answer")


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(None, SOLUTION), (0, SOLUTION), (1, "First x is 3."), (3, SOLUTION[:41]), (4, SOLUTION), (9, SOLUTION)],
)
def test_trajectories_are_cut_after_a_step(steps: int | None, expected: str) -> None:
    ds = Dataset.from_list([{"messages": conversation("Add.", SOLUTION), "n": steps}, {"messages": [], "n": None}])
    assert truncate_at(ds, "n")[0]["messages"] == conversation("Add.", expected)
    texts = Dataset.from_dict({"prompt": ["Add."], "completion": [SOLUTION], "n": [steps or 0]})
    assert truncate_at(texts, "n")["completion"][:] == [expected]
    share = Dataset.from_list([{"conversations": [{"from": "gpt", "value": SOLUTION}], "n": steps or 0}])
    assert truncate_at(share, "n")[0]["conversations"][0]["value"] == expected


def test_cut_rows_lose_their_scores(scorer: RSRScorer) -> None:
    ds = Dataset.from_list([{"messages": conversation("Add.", SOLUTION), "n": 1, "rsr_note": "mine"}])
    scored = ds.map(RSRScorer(scorer.source.name, token_columns=True, metrics=["perplexity"]), batched=True)
    assert truncate_at(scored, "n").column_names == ds.column_names
    shown = truncate_at(scored.with_format("numpy", columns=["rsr", "n"]), "n")
    assert shown.format["columns"] == ["n"] and shown.format["type"] == "numpy"


def test_what_cannot_be_cut_is_named() -> None:
    turns = [*conversation("?", "One. Two."), *conversation("?", "Three. Four.")]
    with pytest.raises(ValueError, match="row 0, column 'messages': expected one assistant turn"):
        truncate_at(Dataset.from_list([{"messages": turns, "n": 1}]), "n")
    with pytest.raises(ValueError, match="no column 'm'; the dataset has"):
        truncate_at(Dataset.from_list([{"messages": turns, "n": 1}]), "m")
