"""The parts of the small experiment, on two steps: solutions are right, training trains, and a run resumes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import replicate_claim
from replicate_claim import TEACHERS, Sizes, draw_problems, evaluate, is_right, make_prompt, make_trajectories, train

TINY = Sizes(start_steps=2, steps=2, problems=12, held_out=4, seeds=2, hidden=16)


def test_all_teachers_are_right_in_their_own_way() -> None:
    problems = draw_problems(50, 99, seed=0)
    for numbers in problems:
        written = [write(numbers) for write in TEACHERS.values()]
        assert all(is_right(numbers, answer) for answer in written)
        for line in "\n".join(written[1:5]).split("\n"):
            for left, right in re.findall(r"([\d+]+\+[\d+]+)=(\d+)", line):
                assert sum(map(int, left.split("+"))) == int(right)
    lengths = [sum(len(write(numbers)) for numbers in problems) for write in TEACHERS.values()]
    assert len(set(lengths)) == len(lengths)
    assert not is_right(problems[0], f"={sum(problems[0]) + 1}")


def test_held_out_problems_are_others() -> None:
    problems = draw_problems(200, 30, seed=1)
    others = draw_problems(200, 30, seed=2, without=problems)
    assert len({*problems, *others}) == 400
    assert draw_problems(200, 30, seed=1) == problems


def test_the_tokenizer_gives_back_every_solution() -> None:
    tokenizer = replicate_claim.make_tokenizer()
    for row in make_trajectories(draw_problems(5, 99, seed=0)):
        assert tokenizer.decode(tokenizer.encode(row["completion"])) == row["completion"]
        assert tokenizer.eos_token_id not in tokenizer.encode(row["prompt"] + row["completion"])


def test_training_lowers_the_loss_and_is_the_same_for_a_seed() -> None:
    tokenizer, rows = replicate_claim.make_tokenizer(), [(make_prompt([10, 20, 30]), "=60")]
    losses = []
    for steps in (1, 30, 30):
        student = replicate_claim.make_student(tokenizer, 16)
        losses.append(train(student, tokenizer, rows, steps, seed=0, rate=1e-2))
    assert losses[0] > 2 > losses[1] == losses[2]
    assert evaluate(student, tokenizer, [(10, 20, 30)]) == 1


def test_a_run_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    replicate_claim.run(tmp_path, TINY)
    first = capsys.readouterr().out
    results = tmp_path / "results.jsonl"
    lines = results.read_text().splitlines()
    assert len(lines) == 22 and {json.loads(line)["seed"] for line in lines} == {0, 1}
    assert "tokens a row: arm lowest" in first and "inconclusive" in first
    results.write_text("\n".join(lines[:-1]) + "\n")
    trained: list[Any] = []
    monkeypatch.setattr(replicate_claim, "train", lambda *given: trained.append(given) or train(*given))
    replicate_claim.run(tmp_path, TINY)
    assert len(trained) == 1
    assert [json.loads(line) for line in results.read_text().splitlines()] == [json.loads(line) for line in lines]
    with pytest.raises(SystemExit, match="holds other sizes"):
        replicate_claim.run(tmp_path, Sizes())
