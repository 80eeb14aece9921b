"""Time and peak memory of selection over synthetic scores: one process per size, so that peaks do not mix.

    python scripts/selection_benchmark.py --rows 1000000 3000000 10000000

The rows hold scores, string keys of the problems and teachers, no text, and lie on disk as Arrow as they do in use.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa

from rsr_datasets import select_subset, select_trajectories
from rsr_datasets.tables.columns import SCORED, SKIPPED_TOO_LONG, TRUNCATED, ScoreColumns

CANDIDATES = 10
TEACHERS = 11
CHUNK = 500_000


def synthetic_scores(rows: int, first: int, problems: int) -> pa.Table:
    rng = np.random.default_rng(first)
    columns = ScoreColumns()
    surprisal = rng.lognormal(-0.3, 0.25, rows)
    rsr = rng.normal(2.9, 0.3, rows).clip(1.5)
    status = rng.choice([SCORED, TRUNCATED, SKIPPED_TOO_LONG], rows, p=[0.96, 0.02, 0.02])
    unscored = status == SKIPPED_TOO_LONG
    values = {
        columns.rsr: pa.array(rsr, mask=unscored),
        columns.avg_rank: pa.array(rsr * surprisal, mask=unscored),
        columns.avg_surprisal: pa.array(surprisal, mask=unscored),
        columns.num_tokens: pa.array(np.where(unscored, 0, rng.integers(1_000, 32_000, rows)), pa.int32()),
        columns.settings: pa.array(["0123456789abcdef"] * rows),
        columns.status: pa.array(status),
        "problem_id": pa.array([f"problem-{i:09d}" for i in rng.integers(0, problems, rows)]),
        "teacher": pa.array([f"teacher-{i:02d}" for i in rng.integers(0, TEACHERS, rows)]),
        "is_correct": pa.array(rng.random(rows) < 0.6),
    }
    return pa.table(values)


def measure(path: Path) -> None:
    datasets.disable_progress_bars()
    dataset = datasets.Dataset.from_file(str(path))
    before = peak_gigabytes()
    start = time.perf_counter()
    best, report = select_trajectories(dataset, "problem_id", correct="is_correct", return_report=True)
    middle = time.perf_counter()
    subset = select_subset(dataset, fraction=0.3, balance_by="teacher")
    end = time.perf_counter()
    print(
        f"{len(dataset):>12,}{report.groups_in:>12,}{len(best):>12,}{middle - start:>15.1f}"
        f"{len(subset):>12,}{end - middle:>11.1f}{before:>11.2f}{peak_gigabytes():>10.2f}",
        flush=True,
    )


def peak_gigabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 3_000_000, 10_000_000])
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure)
        return
    print(
        f"{'rows':>12}{'problems':>12}{'kept':>12}{'per problem, s':>15}{'subset':>12}{'subset, s':>11}"
        f"{'start, GB':>11}{'peak, GB':>10}",
        flush=True,
    )
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "scores.arrow"
            with pa.OSFile(str(path), "wb") as file:
                writer = None
                for first in range(0, rows, CHUNK):
                    table = synthetic_scores(min(CHUNK, rows - first), first, max(1, rows // CANDIDATES))
                    writer = writer or pa.ipc.new_stream(file, table.schema)
                    writer.write_table(table)
                if writer:
                    writer.close()
            subprocess.run([sys.executable, __file__, "--measure", str(path)], check=True)


if __name__ == "__main__":
    main()
