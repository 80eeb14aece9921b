"""Measures score_dataset: two processes against one, memory against rows, and a million rows.

python scripts/benchmark_distributed.py speed    # SmolLM2 on CHAMP, one thread a process; about 10 minutes
python scripts/benchmark_distributed.py memory   # a tiny random student on 1x and 10x rows
python scripts/benchmark_distributed.py million  # the same on a million short rows, joined and saved
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import transformers
from champ import load_champ, smollm2_path
from datasets import Dataset, load_from_disk
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from rsr_datasets import RSRScorer, score_dataset
from rsr_datasets.runs.score import process_state

WORDS = "to solve the problem let x be the number of strings then the answer is 42".split()  # noqa: SIM905


def launch(processes: int, *arguments: str) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable]
    if processes > 1:
        command += [
            "-m",
            "accelerate.commands.launch",
            "--multi_gpu",
            "--num_machines",
            "1",
            "--mixed_precision",
            "no",
        ]
        command += ["--num_processes", str(processes), "--dynamo_backend", "no", "--main_process_port", "0"]
    subprocess.run([*command, __file__, *arguments], env=environment, check=True)


def worker(source: str, student: str, output: str, unit_rows: str) -> None:
    torch.set_num_threads(1)
    scored = score_dataset(load_from_disk(source), RSRScorer(student), output, unit_rows=int(unit_rows))
    if process_state().is_main_process:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        (Path(output) / "peak.json").write_text(json.dumps({"rows": len(scored), "peak_mib": round(peak)}))


def tiny_student(folder: Path) -> str:
    bpe = Tokenizer(
        models.BPE(vocab={c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, merges=[])
    )
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    transformers.PreTrainedTokenizerFast(tokenizer_object=bpe).save_pretrained(folder)
    config = transformers.LlamaConfig(
        vocab_size=256, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


def smollm2(folder: Path) -> str:
    """SmolLM2 as a folder of safetensors, which loads in a second: reading its GGUF file is no part of scoring."""
    file = smollm2_path()
    loaded = transformers.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    del loaded.config.quantization_config
    plain = transformers.LlamaForCausalLM(loaded.config)
    plain.load_state_dict(loaded.state_dict())
    plain.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
    return str(folder)


def short_rows(rows: int, folder: Path) -> str:
    def generate(start: int, end: int) -> Iterator[dict[str, object]]:
        for i in range(start, end):
            yield {"id": i, "prompt": f"Problem {i}? ", "completion": " ".join(WORDS[: 1 + i % len(WORDS)])}

    Dataset.from_generator(generate, gen_kwargs={"start": 0, "end": rows}, cache_dir=str(folder)).save_to_disk(
        folder / "rows"
    )
    return str(folder / "rows")


def products(seconds: str) -> None:
    """Prints how many matrix products, too large for the caches of a core, one thread makes in a second."""
    torch.set_num_threads(1)
    matrix = torch.ones(1536, 1536)
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < float(seconds):
        matrix @ matrix
        count += 1
    print(count / (time.perf_counter() - started))


def limit_of_the_machine(seconds: float = 10.0) -> float:
    """Time that two processes take for what one takes 1 for, where nothing is shared but the machine."""
    rates = []
    for processes in (1, 2):
        command = [sys.executable, __file__, "products", str(seconds)]
        running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
        rates.append(sum(float(process.communicate()[0]) for process in running))
    return rates[0] / rates[1]


def speed(folder: Path, rows: int) -> None:
    print(f"two processes of bare matrix products take {limit_of_the_machine():.3f} of the time of one")
    load_champ().shuffle(seed=0).select(range(rows)).save_to_disk(folder / "champ")
    student = smollm2(folder / "smollm2")
    seconds = {}
    for processes in (1, 2):
        started = time.perf_counter()
        output = folder / f"run-{processes}"
        launch(processes, "worker", str(folder / "champ"), student, str(output), "5")
        whole = time.perf_counter() - started
        totals = json.loads((output / "manifest.json").read_text())["totals"]
        seconds[processes] = [p["seconds"] + p["seconds_waiting_for_text"] for p in totals["processes"].values()]
        print(
            f"{processes} processes: {whole:.1f} s with loading; scoring, by process: {seconds[processes]} s; {totals}"
        )
    print(f"the pair takes {max(seconds[2]) / seconds[1][0]:.3f} of the time of one process;")
    print(f"the slower of the two takes {max(seconds[2]) / min(seconds[2]) - 1:.1%} longer than the other")


def grow(folder: Path, rows: int) -> None:
    source = short_rows(rows, folder)
    started = time.perf_counter()
    launch(1, "worker", source, tiny_student(folder / "student"), str(folder / "run"), "1000")
    print(f"{time.perf_counter() - started:.1f} s; {(folder / 'run' / 'peak.json').read_text()}")


def main() -> None:
    if sys.argv[1:2] == ["worker"]:
        worker(*sys.argv[2:])
        return
    if sys.argv[1:2] == ["products"]:
        products(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "memory", "million"])
    parser.add_argument("--rows", type=int, default=120, help="CHAMP rows for speed")
    arguments = parser.parse_args()
    sizes = {"memory": [20_000, 200_000], "million": [1_000_000]}
    with tempfile.TemporaryDirectory() as folder:
        if arguments.what == "speed":
            speed(Path(folder), arguments.rows)
        for rows in sizes.get(arguments.what, []):
            part = Path(folder) / str(rows)
            part.mkdir()
            grow(part, rows)


if __name__ == "__main__":
    main()
