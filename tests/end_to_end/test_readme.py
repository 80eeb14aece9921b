"""The examples of the README and the guides run as they are printed, with a local student for the Hub's."""

from __future__ import annotations

import ast
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

from rsr_datasets import RSRScorer, available_metrics, diagnose, rank_teachers
from rsr_datasets.tables.columns import STATUSES_WITH_SCORE, STATUSES_WITHOUT_SCORE, ScoreColumns

README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDES = {file.stem: file.read_text(encoding="utf-8") for file in sorted((ROOT / "cards" / "guides").glob("*.md"))}
PAGES = {"README": README, **GUIDES}
TOKEN = "hf_MeMeMeMeMeMeMeMeMeMeMeMeMeMeMeMeMe"
HUB_STUDENT = "HuggingFaceTB/SmolLM2-135M-Instruct"
CHAMP_SCORES = ROOT / "tests" / "data" / "champ_smollm2_scores.parquet"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def python_blocks() -> list[str]:
    """All but the recipe for Ray, which has a test of its own."""
    found = [block for page in PAGES.values() for block in blocks(page, "python")]
    return [block for block in found if "import ray" not in block]


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


@pytest.mark.slow
def test_the_examples_run_in_order(trajectories: Path, student_folder: str) -> None:
    assert len(python_blocks()) >= 18
    # One script, guarded as the examples that start processes ask for; a local Hub stands for the real one.
    body = [re.sub(r"^(?=.)", "    ", block, flags=re.MULTILINE) for block in python_blocks()]
    text = "\n".join(["if __name__ == '__main__':", *body])
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


def test_the_first_example_prints_its_row(smollm2: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, shown = re.findall(r"```python\n(.*?)```\s+prints\s+```text\n(.*?)```", README, re.DOTALL)[0]
    assert len([line for line in code.splitlines() if line]) == 5
    exec(code.replace(f'"{HUB_STUDENT}"', f'{smollm2!r}, dtype="float32"'), {})
    printed, expected = (ast.literal_eval(text) for text in (capsys.readouterr().out, shown))
    assert printed.keys() == expected.keys()
    numbers = [name for name, value in expected.items() if isinstance(value, int | float)]
    assert [printed[name] for name in numbers] == pytest.approx([expected[name] for name in numbers], rel=1e-3)
    assert printed["rsr_status"] == expected["rsr_status"]


def test_the_table_of_teachers_is_what_is_printed() -> None:
    printed = str(rank_teachers(Dataset.from_parquet(str(CHAMP_SCORES)), problem_column="problem_id"))
    assert printed.startswith(blocks(README, "text")[0].strip("\n"))


def test_the_lines_of_the_files_are_scored(student_folder: str) -> None:
    rows = [json.loads(line) for line in blocks(README, "json")[0].splitlines()]
    assert RSRScorer(student_folder)(Dataset.from_list(rows)[:])["rsr_status"] == ["scored"] * len(rows)


def test_the_commands_run_in_order(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    student = tmp_path / "student"
    make_model("llama", len(tokenizer), max_position_embeddings=9000).save_pretrained(student)
    tokenizer.save_pretrained(student)
    (block,) = (block for block in blocks(README, "bash") if "rsr-datasets score" in block)
    assert len(block.splitlines()) == 5
    (tmp_path / "traces").mkdir()
    rows = load_champ(2).to_pandas()
    for teacher in list(rows["teacher"].unique())[:4]:
        own = rows[rows["teacher"] == teacher].drop(columns="teacher")
        Dataset.from_pandas(own, preserve_index=False).to_json(tmp_path / "traces" / f"{teacher}.jsonl")
    record = 'rsr-datasets() { printf "%s\\n" "$@" ""; }\n'  # the shell says which words each command gets
    given = run(["bash", "-ec", record + block.replace(HUB_STUDENT, str(student))], tmp_path).stdout.split("\n\n")
    done = [run_python("-m", "rsr_datasets", *words.split("\n"), cwd=tmp_path) for words in given[:-1]]
    assert [command.returncode for command in done] == [0] * 5, [command.stderr for command in done]
    assert "PaLM 2 Medium" in done[1].stdout and "rows    8 -> 2" in done[2].stdout
    assert (tmp_path / "report.html").is_file()


def run(command: list[str], folder: Path, **more: str) -> subprocess.CompletedProcess:
    home = {"PYTHONPATH": str(ROOT), "HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_XET": "1"}
    environment = os.environ | home | ({"HF_HUB_OFFLINE": "0"} if "HF_ENDPOINT" in more else {}) | more
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_the_table_of_columns_is_complete() -> None:
    table = GUIDES["inputs"].split("## The columns")[1]
    for name, kind in ScoreColumns().types(token_columns=True).items():
        line = next(line for line in table.splitlines() if f"`{name}`" in line)
        written = (
            str(kind).replace("double", "float64").replace("float>", "float32>").replace("list<item: ", "list of ")
        )
        assert written.rstrip(">") in line


def test_the_table_of_statuses_is_complete() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", README.split("`rsr_status`")[1].split("##")[0], re.MULTILINE)
    assert sorted(listed) == sorted([*STATUSES_WITH_SCORE, *STATUSES_WITHOUT_SCORE])


def test_the_table_of_metrics_is_complete() -> None:
    listed = dict(re.findall(r"^\| `(\w+)`(?: \(always\))? \| .*? \| (lower|higher) \|", GUIDES["metrics"], re.M))
    assert listed == {name: metric.direction for name, metric in available_metrics().items()}


def test_the_diagnosis_is_what_is_printed() -> None:
    printed = str(diagnose(Dataset.from_parquet(str(CHAMP_SCORES)), "problem_id"))
    assert printed.startswith(blocks(GUIDES["curating"], "text")[0].strip())


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page: str) -> None:
    folder = ROOT if page == "README" else ROOT / "cards" / "guides"
    found = re.findall(r"\]\(([^)]+)\)|src(?:set)?=\"([^\"]+)\"", PAGES[page])
    links = [link for pair in found for link in pair if link and "://" not in link]
    assert [link for link in links if not (folder / link.split("#")[0]).is_file()] == []


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 180


def test_the_two_commands_are_there() -> None:
    for script in re.findall(r"```bash\nbash (\S+)\n```", README):
        assert os.access(ROOT / script, os.R_OK)
    assert README.count("```bash\nbash scripts/") == 2
