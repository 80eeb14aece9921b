"""The claim itself, small: does a lower RSR of the training data go with a better student?

    python scripts/replicate_claim.py --output-dir claim

A tiny transformer learns sums of two numbers, and some of three, in several styles of writing, from scratch. Six
"teachers" then write correct solutions of sums of three numbers, each in a style and length of its own; one style is
new to the transformer. The transformer scores them; ``select_trajectories`` takes the lowest RSR of each problem,
``control_subsets`` makes the arms to compare with. From the same start a student is trained on each arm and on each
teacher, for several seeds, and answers held-out problems. ``compare_outcomes`` prints RSR against the share of right
answers, whatever the result is.

The run can be stopped and started again: ``OUTPUT_DIR`` holds the start, the scores, and a line for each student.

The default sizes were declared before the run. They were the only ones of six, piloted with other seeds, with
which a student trained on a mixture of all teachers was right more than 15% of the time (30%). In an earlier run, from
a start that knew sums of two numbers alone and with 60 steps a student, all students were right 0 to 8% of the time.

The run took 10.8 CPU minutes and does not support the claim: students of the lowest RSR were right 56% of the time, of
random picks 52% (difference +0.03 [-0.10, +0.17], inconclusive), of the shortest 92%, and the start alone 59%. RSR
against score is inconclusive over five arms (Spearman +0.60 [-0.67, +0.98]) and six teachers (+0.03 [-0.80, +0.82]).
86% of the rows with the lowest RSR are in the style that is new to the start, whose own students were the worst (52%).
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import datasets
import torch
import transformers
from datasets import Dataset, load_from_disk
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from rsr_datasets import RSRScorer, compare_outcomes, control_subsets, dataset_rsr, diagnose, select_trajectories

CHARACTERS = "0123456789+=?\n.,: abcdefghijklmnopqrstuvwxyz"
LONGEST = 120  # new tokens of an answer
BATCH = 64
START_RATE, RATE = 3e-3, 1e-3
START_THREE = 0.3  # the start's share of sums of three numbers

Problem = tuple[int, ...]
Pair = tuple[str, str]
Tokens = tuple[list[int], list[int]]  # of a prompt and of its completion


@dataclass(frozen=True)
class Sizes:
    """How much is computed: steps of 64 rows each, problems, seeds, width of the student, and the largest number."""

    start_steps: int = 1400
    steps: int = 150
    problems: int = 1000
    held_out: int = 300
    seeds: int = 4
    hidden: int = 64
    largest: int = 24


def write_direct(numbers: Sequence[int]) -> str:
    return f"={sum(numbers)}"


def write_steps(numbers: Sequence[int]) -> str:
    totals = [sum(numbers[: i + 1]) for i in range(len(numbers))]
    return "\n".join(f"{totals[i]}+{numbers[i + 1]}={totals[i + 1]}" for i in range(len(numbers) - 1))


def write_columns(numbers: Sequence[int]) -> str:
    tens, ones = sum(n // 10 * 10 for n in numbers), sum(n % 10 for n in numbers)
    lines = ["+".join(str(n // 10 * 10) for n in numbers), "+".join(str(n % 10) for n in numbers)]
    return f"{lines[0]}={tens}\n{lines[1]}={ones}\n{tens}+{ones}={tens + ones}"


def write_wordy(numbers: Sequence[int]) -> str:
    total, lines = numbers[0], [f"we take {numbers[0]}."]
    for number in numbers[1:]:
        total += number
        lines.append(f"we add {number}, this gives {total}.")
    return "\n".join([*lines, f"the sum is ={total}"])


def write_careful(numbers: Sequence[int]) -> str:
    return f"{write_steps(numbers)}\ncheck: {write_steps(numbers[::-1])}"


def write_mirrored(numbers: Sequence[int]) -> str:
    """Every number but the last is written from its last digit to its first."""
    mirrored = "\n".join(
        "=".join("+".join(part[::-1] for part in side.split("+")) for side in line.split("="))
        for line in write_steps(numbers).split("\n")
    )
    return f"{mirrored}\n={sum(numbers)}"


TEACHERS: dict[str, Callable[[Sequence[int]], str]] = {
    "direct": write_direct,
    "steps": write_steps,
    "columns": write_columns,
    "wordy": write_wordy,
    "careful": write_careful,
    "mirrored": write_mirrored,
}
START_SHARES = {"direct": 0.45, "steps": 0.25, "columns": 0.1, "wordy": 0.1, "careful": 0.1}  # of mirrored none


def make_prompt(numbers: Sequence[int]) -> str:
    return f"{'+'.join(map(str, numbers))}=?\n"


def is_right(numbers: Sequence[int], answer: str) -> bool:
    """Whether the text after the last equals sign is the sum."""
    return answer.rpartition("=")[2].strip() == str(sum(numbers))


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of single characters."""
    tokenizer = Tokenizer(models.WordLevel({c: i for i, c in enumerate(["<end>", *CHARACTERS])}, unk_token="<end>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>")


def make_student(tokenizer: PreTrainedTokenizerFast, hidden: int) -> PreTrainedModel:
    """A random student of three layers."""
    torch.manual_seed(0)
    sizes = {"hidden_size": hidden, "intermediate_size": 3 * hidden, "num_hidden_layers": 3, "num_attention_heads": 4}
    ends = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), tokenizer.eos_token_id)
    config = LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=512, tie_word_embeddings=True, **sizes, **ends
    )
    return LlamaForCausalLM(config)


def draw_problems(count: int, largest: int, seed: int, without: Iterable[Problem] = ()) -> list[Problem]:
    """Distinct sums of three numbers from 10 to ``largest``, none of them among others."""
    known = set(without)
    others = [numbers for numbers in product(range(10, largest + 1), repeat=3) if numbers not in known]
    return random.Random(seed).sample(others, count)


def start_rows(count: int, largest: int, seed: int, without: Iterable[Problem] = ()) -> list[Pair]:
    """Sums in the styles that the start knows: of two numbers, or of three, none of these among others."""
    draw, known = random.Random(seed), set(without)
    three = [numbers for numbers in product(range(10, largest + 1), repeat=3) if numbers not in known]
    rows = []
    for style in draw.choices([*START_SHARES], [*START_SHARES.values()], k=count):
        two = (draw.randrange(10, 2 * largest + 1), draw.randrange(10, largest + 1))
        numbers = draw.choice(three) if draw.random() < START_THREE else two
        rows.append((make_prompt(numbers), TEACHERS[style](numbers)))
    return rows


def make_trajectories(problems: Sequence[Sequence[int]]) -> Dataset:
    """The solution of every problem by every teacher."""
    return Dataset.from_list([
        {"problem_id": i, "teacher": name, "prompt": make_prompt(numbers), "completion": write(numbers)}
        for i, numbers in enumerate(problems)
        for name, write in TEACHERS.items()
    ])  # fmt: skip


def make_batches(encoded: Sequence[Tokens], steps: int, draw: random.Random) -> list[list[Tokens]]:
    """Batches of shuffled rows, again and again; of each sixteen batches, rows of like length stand together."""
    rows: list[Tokens] = []
    while len(rows) < steps * BATCH:
        rows += draw.sample(encoded, len(encoded))
    batches, rows = [], rows[: steps * BATCH]
    for start in range(0, len(rows), 16 * BATCH):
        window = sorted(rows[start : start + 16 * BATCH], key=lambda row: sum(map(len, row)))
        pieces = [window[i : i + BATCH] for i in range(0, len(window), BATCH)]
        batches += draw.sample(pieces, len(pieces))
    return batches


def train(
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    rows: Sequence[Pair],
    steps: int,
    seed: int,
    rate: float,
) -> float:
    """Trains on completions and their end, batch by batch through shuffled rows; gives the last loss in nats."""
    draw, end = random.Random(seed), tokenizer.eos_token_id
    encoded = [(tokenizer.encode(prompt), [*tokenizer.encode(completion), end]) for prompt, completion in rows]
    optimizer = torch.optim.AdamW(student.parameters(), lr=rate, weight_decay=0.01)
    warm = max(1, steps // 10)
    rates = [min((step + 1) / warm, (steps - step) / steps) for step in range(steps)]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, [*rates, 0.0].__getitem__)
    student.train()
    for batch in make_batches(encoded, steps, draw):
        width = max(len(prompt) + len(answer) for prompt, answer in batch)
        ids, labels = torch.full((BATCH, width), end), torch.full((BATCH, width), -100)
        for i, (prompt, answer) in enumerate(batch):
            total = len(prompt) + len(answer)
            ids[i, :total] = torch.tensor(prompt + answer)
            labels[i, len(prompt) : total] = torch.tensor(answer)
        logits = student(input_ids=ids).logits
        loss = cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return float(loss.detach())


@torch.inference_mode()
def evaluate(student: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, problems: Sequence[Sequence[int]]) -> float:
    """The share of problems whose greedy answer is right."""
    student.eval()
    ids = torch.tensor([tokenizer.encode(make_prompt(numbers)) for numbers in problems])  # all of one length
    written = student.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=LONGEST)
    answers = tokenizer.batch_decode(written[:, ids.shape[1] :], skip_special_tokens=True)
    return sum(map(is_right, problems, answers)) / len(problems)


def make_start(folder: Path, sizes: Sizes, held_out: Sequence[Problem]) -> None:
    """Trains the start that all students begin from, unless it is there."""
    if (folder / "config.json").is_file():
        return
    tokenizer = make_tokenizer()
    student = make_student(tokenizer, sizes.hidden)
    rows = start_rows(BATCH * sizes.start_steps, sizes.largest, 0, without=held_out)
    loss = train(student, tokenizer, rows, sizes.start_steps, 0, START_RATE)
    print(f"start: {sizes.start_steps} steps, last loss {loss:.3f}", flush=True)
    tokenizer.save_pretrained(folder)
    student.save_pretrained(folder)


def make_sets(folder: Path, start: Path, problems: Sequence[Sequence[int]]) -> dict[str, Dataset]:
    """The scored trajectories by the name of the set to train on: arms, then teachers."""
    if not (folder / "state.json").is_file():
        scorer = RSRScorer(str(start), device="cpu")
        make_trajectories(problems).map(scorer, batched=True, batch_size=1000).save_to_disk(folder)
    scored = load_from_disk(folder)
    arms = control_subsets(scored, select_trajectories(scored, "problem_id"), "problem_id")
    print(diagnose(scored, "problem_id"), "\n", flush=True)
    own = {name: [i for i, teacher in enumerate(scored["teacher"]) if teacher == name] for name in TEACHERS}
    return {**{f"arm {k}": v for k, v in arms.items()}, **{f"teacher {k}": scored.select(v) for k, v in own.items()}}


def run(output_dir: Path, sizes: Sizes) -> None:
    """Trains and evaluates all students that have no result yet, and prints the comparisons."""
    began, start, results = time.process_time(), output_dir / "start", output_dir / "results.jsonl"
    output_dir.mkdir(parents=True, exist_ok=True)
    settings = output_dir / "sizes.json"
    if settings.is_file() and json.loads(settings.read_text()) != vars(sizes):
        raise SystemExit(f"{settings} holds other sizes: give another --output-dir")
    settings.write_text(json.dumps(vars(sizes)))
    problems = draw_problems(sizes.problems, sizes.largest, seed=1)
    held_out = draw_problems(sizes.held_out, sizes.largest, seed=2, without=problems)
    make_start(start, sizes, held_out)
    sets = make_sets(output_dir / "scored", start, problems)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(start)
    done = [json.loads(line) for line in results.read_text().splitlines()] if results.is_file() else []
    known = {(row["arm"], row["seed"]) for row in done}
    for seed in range(sizes.seeds):
        for name, rows in sets.items():
            if (name, seed) in known:
                continue
            student = AutoModelForCausalLM.from_pretrained(start)
            pairs = list(zip(rows["prompt"], rows["completion"], strict=True))
            loss = train(student, tokenizer, pairs, sizes.steps, seed, RATE)
            row = {"arm": name, "seed": seed, "score": evaluate(student, tokenizer, held_out), "loss": loss}
            done.append(row)
            with results.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(f"{name}, seed {seed}: {row['score']:.1%} right, last loss {loss:.3f}", flush=True)
    untrained = evaluate(AutoModelForCausalLM.from_pretrained(start), tokenizer, held_out)
    minutes = (time.process_time() - began) / 60
    print(f"\nThe start alone: {untrained:.1%} right. This call took {minutes:.1f} CPU minutes.")
    for kind in ("arm", "teacher"):
        names = [name for name in sets if name.startswith(kind)]
        ratios = {name: dataset_rsr(sets[name]) for name in names}
        tokens = {name: sum(sets[name]["rsr_num_tokens"]) / len(sets[name]) for name in names}
        print(f"\n{compare_outcomes([row for row in done if row['arm'] in names], ratios)}")
        print("tokens a row: " + ", ".join(f"{name} {mean:.0f}" for name, mean in tokens.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=Path("claim"))
    for name, value in vars(Sizes()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value, help=f"default: {value}")
    arguments = vars(parser.parse_args())
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    run(arguments.pop("output_dir"), Sizes(**arguments))


if __name__ == "__main__":
    main()
