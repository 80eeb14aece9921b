"""The README's examples run as they are printed, with a local student in place of the one on the Hub."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from champ import load_champ
from conftest import ROOT, conversation, make_model
from datasets import Dataset
from forked_python import run_python
from hub_server import Hub
from transformers import PreTrainedTokenizerFast

from rsr_datasets import available_metrics, diagnose
from rsr_datasets.tables.columns import STATUSES_WITH_SCORE, STATUSES_WITHOUT_SCORE, ScoreColumns

README = (ROOT / "README.md").read_text(encoding="utf-8")
TOKEN = "hf_MeMeMeMeMeMeMeMeMeMeMeMeMeMeMeMeMe"
HUB_STUDENT = "HuggingFaceTB/SmolLM2-135M-Instruct"


def python_blocks() -> list[str]:
    """All but the recipe for Ray, which has a test of its own."""
    return [block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "import ray" not in block]


@pytest.fixture
def trajectories(tmp_path: Path) -> Path:
    answers = ["the answer is 42.", "Therefore x = 3 and so on.", "a + b = c", "f(n) = 2 f(n-1) + 3"]
    rows = [
        {"problem_id": f"p{i}", "teacher": f"t{k}", "messages": conversation(f"Solve it ({i}).", f"{answer} {i} {k}")}
        for i in range(3)
        for k, answer in enumerate(answers)
    ]
    (tmp_path / "trajectories.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def test_the_examples_run_in_order(trajectories: Path, student_folder: str) -> None:
    first, *others = python_blocks()
    assert len(others) == 14
    assert HUB_STUDENT in first
    # One script, guarded as the examples that start processes ask for; a local Hub stands for the real one.
    body = [re.sub(r"^(?=.)", "    ", block, flags=re.MULTILINE) for block in others]
    text = "\n".join([first, "if __name__ == '__main__':", *body])
    for hub_student in (HUB_STUDENT, "Qwen/Qwen2.5-1.5B"):
        text = text.replace(hub_student, student_folder)
    text = text.replace('"trained")', '"trained", use_cpu=True, bf16=False)')
    script = trajectories / "example.py"
    script.write_text(text)
    with Hub({TOKEN: ["me"]}) as hub:
        done = run([sys.executable, str(script)], trajectories, HF_ENDPOINT=hub.endpoint, HF_TOKEN=TOKEN)
        assert done.returncode == 0, done.stderr
        assert hub.dataset("me/curated").private
    assert done.stdout.count("scored\n") == 12
    assert "# curated" in done.stdout
    assert (trajectories / "runs" / "smollm2" / "scored").is_dir()
    assert (trajectories / "report.html").is_file()
    assert list((trajectories / "trained").glob("checkpoint-*"))


def test_the_commands_run_in_order(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    student = tmp_path / "student"
    make_model("llama", len(tokenizer), max_position_embeddings=9000).save_pretrained(student)
    tokenizer.save_pretrained(student)
    section = README.split("## From files to a published subset, without Python")[1]
    block = re.search(r"```bash\n(.*?)```", section, re.DOTALL)
    assert block is not None and len(block[1].splitlines()) == 5
    (tmp_path / "traces").mkdir()
    rows = load_champ(2).to_pandas()
    for teacher in list(rows["teacher"].unique())[:4]:
        own = rows[rows["teacher"] == teacher].drop(columns="teacher")
        Dataset.from_pandas(own, preserve_index=False).to_json(tmp_path / "traces" / f"{teacher}.jsonl")
    record = 'rsr-datasets() { printf "%s\\n" "$@" ""; }\n'  # the shell says which words each command gets
    given = run(["bash", "-ec", record + block[1].replace(HUB_STUDENT, str(student))], tmp_path).stdout.split("\n\n")
    done = [run_python("-m", "rsr_datasets", *words.split("\n"), cwd=tmp_path) for words in given[:-1]]
    assert [command.returncode for command in done] == [0] * 5, [command.stderr for command in done]
    assert "PaLM 2 Medium" in done[1].stdout and "rows    8 -> 2" in done[2].stdout
    assert (tmp_path / "report.html").is_file()


def run(command: list[str], folder: Path, **more: str) -> subprocess.CompletedProcess:
    home = {"PYTHONPATH": str(ROOT), "HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_XET": "1"}
    environment = os.environ | home | ({"HF_HUB_OFFLINE": "0"} if "HF_ENDPOINT" in more else {}) | more
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_the_table_of_columns_is_complete() -> None:
    table = README.split("### The columns")[1].split("###")[0]
    for name, kind in ScoreColumns().types(token_columns=True).items():
        line = next(line for line in table.splitlines() if f"`{name}`" in line)
        written = (
            str(kind).replace("double", "float64").replace("float>", "float32>").replace("list<item: ", "list of ")
        )
        assert written.rstrip(">") in line
    for status in (*STATUSES_WITH_SCORE, *STATUSES_WITHOUT_SCORE):
        assert f"`{status}`" in table


def test_the_table_of_metrics_is_complete() -> None:
    table = README.split("### Other signals of the same pass")[1].split("### Select")[0]
    listed = dict(re.findall(r"^\| `(\w+)`(?: \(always\))? \| .*? \| (lower|higher) \|", table, re.MULTILINE))
    assert listed == {name: metric.direction for name, metric in available_metrics().items()}


def test_the_diagnosis_is_what_is_printed() -> None:
    printed = str(diagnose(Dataset.from_parquet(str(ROOT / "tests/data/champ_smollm2_scores.parquet")), "problem_id"))
    shown = README.split("```text\n")[1].split("```")[0].strip()
    assert printed.startswith(shown)


def test_the_two_commands_are_there() -> None:
    for script in re.findall(r"```bash\nbash (\S+)\n```", README):
        assert os.access(ROOT / script, os.R_OK)
    assert README.count("```bash\nbash scripts/") == 2
