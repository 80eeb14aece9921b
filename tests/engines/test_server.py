"""A student behind a server, against a stub of vLLM's answers; test_vllm.py asks a real one."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import conversation
from datasets import Dataset
from vllm_stub import DROP, FINGERPRINT, HANG, KEY, Stub, serving

from rsr_datasets import RSRScorer, rank_teachers, score_dataset
from rsr_datasets.cli.commands import main
from rsr_datasets.engines.base import StudentSource
from rsr_datasets.runs.estimate import estimate_run


@pytest.fixture(scope="module")
def started(student_folder: str) -> Iterator[Stub]:
    with serving(Stub(student_folder)) as stub:
        yield stub


@pytest.fixture
def server(started: Stub) -> Stub:
    """A stub as it is at first."""
    plain = Stub.__dataclass_fields__
    for name in ("fingerprint", "change", "most_in_flight", "seconds"):
        setattr(started, name, plain[name].default)
    started.faults.clear()
    started.prompts.clear()
    started.cards = [{"id": "student", "root": started.folder, "max_model_len": 512}]
    return started


def make_scorer(server: Stub, **arguments: Any) -> RSRScorer:
    kwargs = server.kwargs | arguments.pop("model_kwargs", {})
    return RSRScorer(server.folder, engine="server", model_kwargs=kwargs, **arguments)


def long_dataset(count: int = 12) -> Dataset:
    texts = [f"f({i}) = {i} + 2, and so the answer is {3 * i}. " * (1 + i % 4) for i in range(count)]
    rows = [{"teacher": f"t{i % 2}", "problem": i // 2, "messages": conversation("?", t)} for i, t in enumerate(texts)]
    return Dataset.from_list(rows)


def test_scores_are_those_of_transformers(server: Stub, dataset: Dataset) -> None:
    scored = dataset.map(make_scorer(server, token_columns=True), batched=True)
    expected = dataset.map(RSRScorer(server.folder, token_columns=True, share_prefixes=False), batched=True)
    assert scored["rsr_status"][:] == expected["rsr_status"][:]
    for row, own in zip(scored, expected, strict=True):
        assert row["rsr_token_ranks"] == own["rsr_token_ranks"]
        np.testing.assert_allclose(row["rsr_token_surprisals"] or [], own["rsr_token_surprisals"] or [], atol=1e-5)
        assert row["rsr"] == (own["rsr"] and pytest.approx(own["rsr"], rel=1e-5))


def test_a_second_reading_of_a_trajectory_works(server: Stub) -> None:
    more, rows = {"metrics": ["local_surprisal", "ifd"]}, long_dataset(4)
    scored = rows.map(make_scorer(server, **more), batched=True)
    expected = rows.map(RSRScorer(server.folder, **more), batched=True)
    for name in ("rsr_local_surprisal", "rsr_ifd"):
        assert scored[name][:] == pytest.approx(expected[name][:], rel=1e-5)


def test_works_where_an_event_loop_runs_as_in_a_notebook(server: Stub) -> None:
    async def cell() -> Any:
        return make_scorer(server)({"text": "the answer is 42."})

    assert asyncio.run(cell())["rsr_status"] == "scored"


def test_no_more_tokens_are_in_flight_than_asked_for(server: Stub) -> None:
    server.seconds = 0.02
    rows = long_dataset(24)
    scorer = make_scorer(server, tokens_per_batch=250)
    lengths = [row.input_ids.size for row in scorer.encode(rows.to_list(), scorer.find_format(["messages"]))]
    scorer.resolve_options()
    server.most_in_flight = 0
    rows.map(scorer, batched=True)
    assert max(lengths) < server.most_in_flight <= 250


def test_a_row_longer_than_the_bound_goes_alone(server: Stub) -> None:
    scored = long_dataset(6).map(make_scorer(server, tokens_per_batch=10), batched=True)
    assert scored["rsr_status"][:] == ["scored"] * 6


@pytest.mark.parametrize(
    ("faults", "arguments"),
    [
        ([429, 500, 503, 429] * 6, {"max_retries": 30}),
        ([DROP, 500, DROP], {}),
        ([HANG, HANG], {"timeout": 0.5}),
    ],
    ids=["429 and 500 storm", "dropped connections", "time-outs"],
)
def test_requests_that_fail_are_sent_again(server: Stub, faults: list[Any], arguments: dict[str, Any]) -> None:
    expected = long_dataset().map(make_scorer(server), batched=True, load_from_cache_file=False)
    server.prompts.clear()
    scorer = make_scorer(server, model_kwargs=arguments)
    scorer.resolve_options()
    server.faults.extend(faults)
    scored = long_dataset().map(scorer, batched=True, load_from_cache_file=False)
    assert not server.faults
    assert scored.to_list() == expected.to_list()


def test_a_run_resumes_after_its_server_died(student_folder: str, tmp_path: Path) -> None:
    rows, stub = long_dataset(12), Stub(student_folder)
    with serving(stub):
        expected = score_dataset(rows, make_scorer(stub), tmp_path / "expected", unit_rows=3)
        stub.prompts.clear()
        port = int(stub.url.rpartition(":")[2].split("/")[0])
        scorer = make_scorer(stub, model_kwargs={"max_retries": 0})
        scorer.resolve_options()
        stub.prompts.clear()
        stub.change = lambda answer, prompt: stub.faults.extend([DROP] * 99 * (len(stub.prompts) >= 6))
        with pytest.raises(ConnectionError, match="no connection, also when tried again: finished units stay"):
            score_dataset(rows, scorer, tmp_path / "run", unit_rows=3)
    stub.faults.clear()
    stub.change = lambda answer, prompt: None
    done = len([*(tmp_path / "run" / "units").glob("*.json")])
    assert 1 <= done < 4
    with pytest.raises(ConnectionError, match="no connection"):
        score_dataset(rows, make_scorer(stub, model_kwargs={"max_retries": 0}), tmp_path / "run", unit_rows=3)
    with serving(stub, port):
        stub.prompts.clear()
        resumed = score_dataset(rows, make_scorer(stub), tmp_path / "run", unit_rows=3)
        assert len(stub.scored_prompts()) == 12 - 3 * done
    assert resumed.to_list() == expected.to_list()


@pytest.mark.parametrize(
    "refusal",
    [
        (500, "CUDA out of memory. Tried to allocate 9.00 GiB"),
        (400, "The decoder prompt (length 600) is longer than the maximum model length of 512"),
        (413, "payload too large"),
    ],
)
def test_a_row_that_the_server_has_no_memory_for_is_skipped(
    server: Stub, refusal: tuple[int, str], caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(answer: dict[str, Any], prompt: list[int]) -> None:
        if len(prompt) > 60 and prompt[:2] != [0, 1]:
            answer |= {"status": refusal[0], "error": {"error": {"message": refusal[1]}}}

    server.change = refuse
    rows = long_dataset(12)
    scorer = make_scorer(server, metrics=["ifd"], model_kwargs={"max_retries": 1})
    lengths = [row.input_ids.size for row in scorer.encode(rows.to_list(), scorer.find_format(["messages"]))]
    scored = rows.map(scorer, batched=True)
    expected = ["skipped_too_long" if length > 60 else "scored" for length in lengths]
    assert scored["rsr_status"][:] == expected and len(set(expected)) == 2
    assert "has no memory for" in caplog.text


def give(**fields: Any) -> Callable[[dict[str, Any], list[int]], object]:
    return lambda answer, prompt: answer.update(fields)


def entries_of(answer: dict[str, Any]) -> list[Any]:
    return answer["choices"][0]["prompt_logprobs"]


def another_vocabulary(answer: dict[str, Any], prompt: list[int]) -> None:
    for entry in entries_of(answer)[1:]:
        next(iter(entry.values()))["decoded_token"] = "zebra"


WRONG_ANSWERS: dict[str, tuple[Callable[[dict[str, Any], list[int]], object], str]] = {
    "no prompt_logprobs": (give(choices=[{"text": "x"}]), "answers without prompt_logprobs"),
    "no ranks": (
        lambda answer, _: [entry[key].pop("rank") for entry in entries_of(answer)[1:] for key in entry],
        "answers without ranks",
    ),
    "truncates": (lambda answer, _: entries_of(answer).__delitem__(slice(20, None)), "it truncates: 20 tokens"),
    "adds a BOS": (lambda answer, _: entries_of(answer).insert(1, {"1": {"logprob": -1.0, "rank": 1}}), "adds tokens"),
    "other ids": (
        lambda answer, _: entries_of(answer).__setitem__(-1, {"7": {"logprob": -1.0, "rank": 1}}),
        "of other tokens came back: token 385",
    ),
    "another vocabulary": (another_vocabulary, "its vocabulary is another one"),
    "a smaller vocabulary": (
        give(status=400, error={"error": {"message": "Token id 399 is out of vocabulary"}}),
        "Token id 399 is out of vocabulary",
    ),
    "no choices": (give(choices=[]), "has no choices"),
}


@pytest.mark.parametrize("name", WRONG_ANSWERS)
def test_a_server_that_cannot_score_is_refused_at_load(server: Stub, name: str, tmp_path: Path) -> None:
    server.change, message = WRONG_ANSWERS[name]
    with pytest.raises(ValueError, match=message) as refusal:
        score_dataset(long_dataset(2), make_scorer(server), tmp_path / "run")
    assert server.url in str(refusal.value) and len(str(refusal.value)) < 400
    assert not [*tmp_path.glob("run/units/*")]


@pytest.mark.parametrize(
    ("cards", "arguments", "message"),
    [
        ([{"id": "other", "root": "a/other"}], {}, r"does not serve student .*'other' \(root 'a/other'\).*name it"),
        ([{"id": "student", "root": "/models/other"}], {}, "does not serve student"),
        ([], {}, "but nothing"),
        (None, {"model": "elsewhere"}, r"does not serve model_kwargs\['model'\]='elsewhere'"),
        (None, {"api_key": "wrong"}, r"refuses the key \(401\).*VLLM_API_KEY"),
        (None, {"api_key": None}, r"refuses the key \(401\)"),
        (None, {"base_url": "http://127.0.0.1:9/v1", "max_retries": 0}, "no connection"),
    ],
)
def test_a_wrong_model_key_or_address_is_refused(
    server: Stub, cards: Any, arguments: dict[str, Any], message: str
) -> None:
    server.cards = server.cards if cards is None else cards
    with pytest.raises((ValueError, ConnectionError), match=message):
        make_scorer(server, model_kwargs=arguments)({"text": "a b"})


def test_a_server_that_changes_while_it_scores_is_refused(server: Stub) -> None:
    scorer = make_scorer(server)
    scorer({"text": "a b c"})
    server.fingerprint = "vllm-0.33.0-00000000"
    with pytest.raises(ValueError, match=r"was 'vllm-0\.32\.0-7d8537cc' and is 'vllm-0\.33\.0"):
        scorer({"text": "a b c d"})


def test_the_identity_names_the_engine_and_what_the_server_runs(server: Stub) -> None:
    source = make_scorer(server).source
    assert isinstance(source, StudentSource)
    own = RSRScorer(server.folder).source.identity()
    assert source.identity() == own | {"engine": f"server {FINGERPRINT}"}
    server.fingerprint = None
    assert make_scorer(server).source.identity() == own | {"engine": "server vllm-0.10.1"}
    server.cards = [{"id": "alias", "root": "/models/student-fp8"}]
    named = make_scorer(server, model_kwargs={"model": "alias"}).source.identity()
    assert named == own | {"engine": "server vllm-0.10.1", "served": "student-fp8"}


@pytest.mark.parametrize(("rank", "said"), [(2, {"ranks": "ties count"}), (1, {})])
def test_a_server_whose_ranks_count_ties_is_told_apart(
    server: Stub, rank: int, said: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """In a tie at the top a strict rank is 1, and a rank of vLLM's own is 2."""

    def tie(answer: dict[str, Any], prompt: list[int]) -> None:
        if prompt == list(range(32)):
            top = {"5": {"logprob": -1.0, "rank": 1}, "6": {"logprob": -1.0, "rank": 2}, "7": {"logprob": -2.0}}
            entries_of(answer)[1:] = [top] * 31
        elif prompt[-1] == 5:
            entries_of(answer)[-1] = {"5": {"logprob": -1.0, "rank": rank}}

    server.change = tie
    scorer = make_scorer(server)
    assert scorer.source.identity() == RSRScorer(server.folder).source.identity() | said | {
        "engine": f"server {FINGERPRINT}"
    }
    scorer({"text": "a b c"})
    assert ("--worker-extension-cls" in caplog.text) == bool(said)


def test_the_address_the_key_and_patience_are_not_part_of_the_scores(server: Stub) -> None:
    moved = server.kwargs["base_url"].replace("127.0.0.1", "localhost")
    other = make_scorer(server, model_kwargs={"base_url": moved, "timeout": 9.0, "max_retries": 1, "model": "student"})
    assert other.settings == make_scorer(server).settings and other.settings["engine"] == "server"
    assert other.settings_hash != RSRScorer(server.folder).settings_hash


def test_the_key_is_nowhere(
    server: Stub, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    scorer = make_scorer(server)
    scored = score_dataset(long_dataset(2), scorer, tmp_path / "run")
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    assert make_scorer(server, model_kwargs={"api_key": None}).settings == scorer.settings
    server.faults.extend([(500, f"Unauthorized: Bearer {KEY}")] * 9)
    with pytest.raises(ConnectionError, match=r"Bearer \(key\)") as refusal:
        scorer({"text": "a b"})
    said = [repr(scorer), json.dumps(scorer.settings), scored.info.description, str(refusal.value), caplog.text]
    files = [file.read_bytes().decode(errors="replace") for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) > 3 and not [text for text in said + files if KEY in text]


def test_metrics_that_need_entropies_are_refused_before_anything_is_loaded() -> None:
    with pytest.raises(ValueError, match=r"metrics \['avg_entropy'\] need entropies"):
        RSRScorer("nobody/nothing", engine="server", metrics=["perplexity", "avg_entropy"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "float32", "device": "cpu"}, r"\['device', 'dtype'\] have no effect under engine='server'"),
        ({"attn_implementation": "sdpa"}, "attn_implementation"),
        ({"logits_dtype": "float32"}, "logits_dtype"),
        ({"share_prefixes": False}, "share_prefixes"),
        ({"model_kwargs": {"tensor_parallel_size": 2}}, r"not \['tensor_parallel_size'\]"),
        ({"model_kwargs": {"base_url": "localhost:8000"}}, "base_url"),
        ({"model_kwargs": {"base_url": "http://me:secret@host/v1"}}, "without a user"),
        ({"model_kwargs": {"max_retries": -1}}, "max_retries"),
        ({"model_kwargs": {"timeout": 0}}, "timeout"),
        ({"engine": "llama.cpp"}, r"engine='llama.cpp': must be one of \['server', 'transformers', 'vllm'\]"),
    ],
)
def test_arguments_that_cannot_be_right_are_refused_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        RSRScorer("nobody/nothing", **{"engine": "server", **arguments})
    assert "secret" not in str(refusal.value)


def test_a_longer_row_than_the_server_reads_is_cut_there(server: Stub) -> None:
    server.cards[0]["max_model_len"] = 100
    scorer = make_scorer(server)
    row = {"text": "f(n) = 2 f(n-1) + 3 " * 40}
    assert scorer(row)["rsr_status"] == "truncated" and scorer(row)["rsr_num_tokens"] == 98
    with pytest.raises(ValueError, match=r"max_length=200: .* reads at most 98 tokens at once"):
        make_scorer(server, max_length=200)({"text": "a b"})


def test_teachers_are_ranked_by_a_server(server: Stub) -> None:
    rows = long_dataset(12)
    asked = {"teacher_column": "teacher", "problem_column": "problem", "sample": 4}
    ranking = rank_teachers(rows, scorer=make_scorer(server), **asked)
    expected = rank_teachers(rows, scorer=RSRScorer(server.folder), **asked)
    assert [t.teacher for t in ranking.teachers] == [t.teacher for t in expected.teachers]


def test_the_commands_take_an_engine_and_an_address(
    server: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    long_dataset(4).to_json(tmp_path / "rows.jsonl")
    command = ["rsr-datasets", "score", str(tmp_path / "rows.jsonl"), "--student", server.folder]
    command += ["--base-url", server.url, "--output-dir", str(tmp_path / "run")]

    def run(*more: str) -> tuple[Any, str]:
        monkeypatch.setattr(sys, "argv", [*command, *more])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, "".join(capsys.readouterr())

    code, said = run("--engine", "server")
    assert code == 2 and "refuses the key" in said and said.count("\n") == 1
    code, said = run()
    assert code == 2 and "only with --engine server" in said
    code, said = run("--engine", "server", "--model-kwargs", json.dumps({"api_key": KEY}))
    assert code == 0 and "4 scored" in said
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["engine"] == "server" and config["base_url"] == server.url and KEY not in str(config)


def test_an_estimate_leaves_out_the_servers_time(server: Stub, tmp_path: Path) -> None:
    estimate = estimate_run(long_dataset(4), make_scorer(server), tmp_path / "run", 1000)
    assert estimate["tokens"] > 100 and estimate["hours"] is estimate["memory_gib"] is None


def test_a_scorer_is_sent_to_other_processes_without_its_connection(server: Stub) -> None:
    scorer = make_scorer(server)
    scorer({"text": "a b c"})
    again = copy.copy(scorer)
    assert again({"text": "a b c"}) == scorer({"text": "a b c"})
