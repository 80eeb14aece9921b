"""Scoring of big datasets in work units: many processes and machines, checkpoints, resuming, one result."""

import errno
import functools
import logging
import os
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset, DatasetDict
from datasets.utils import tqdm

from ..engines.base import BatchAccount
from ..engines.transformers.source import default_device
from ..reading.formats import TOKENIZED
from ..scoring.scorer import RSRScorer
from ..tables.columns import STATUSES_WITH_SCORE
from ..tables.splits import require_dataset
from ..utils.deprecation import renamed_arguments
from .folder import PreparedUnit, RunFolder, Unit
from .workers import BEAT_SECONDS, POLL_SECONDS, Workers

logger = logging.getLogger(__name__)


@renamed_arguments(dead_after="heartbeat_timeout")
def score_dataset(
    dataset: Dataset | DatasetDict,
    scorer: RSRScorer,
    output_dir: str | os.PathLike[str],
    unit_rows: int = 1000,
    heartbeat_timeout: float = 600.0,
) -> Dataset | DatasetDict:
    """Scores a dataset in checkpointed units; under ``accelerate launch`` on all processes of all machines.

    Run it again, with any number of processes, to resume: units that are done are not scored again. The result has the
    same bits for any number of processes with the same hardware and number of threads. Several machines need a shared
    file system. One launch at a time works on a folder: a second one is refused while the first one lives.

    Args:
        dataset: The rows to score; each split of a ``DatasetDict`` in a folder of its name.
        scorer: The scorer; its student is loaded once a process, from a Hub id or a path.
        output_dir: Run folder: a new or empty one, or that of an earlier run of the same dataset and settings.
        unit_rows: Rows a unit; a resumed run keeps its own.
        heartbeat_timeout: Seconds without a sign of life after which a process counts as dead and other processes
            score its units. Processes that work give a sign of life every 3 seconds.

    Returns:
        The dataset with the score columns, in row order, loaded from ``output_dir/scored``, in every process.

    Raises:
        TypeError: If ``dataset`` is streamed, or no dataset.
        ValueError: If the folder belongs to another run (the message names what differs) or is not a run folder.
        FolderInUseError: If another launch is at work in the folder.
        RuntimeError: If ``accelerate`` does not see the processes that were launched.
        OSError: If a file cannot be written; what is done stays done.
    """
    if unit_rows < 1:
        raise ValueError(f"unit_rows={unit_rows}: must be a positive number")
    if not heartbeat_timeout >= 3 * BEAT_SECONDS:
        least = f"{3 * BEAT_SECONDS:g} seconds, because processes give a sign of life every {BEAT_SECONDS:g} seconds"
        raise ValueError(f"heartbeat_timeout={heartbeat_timeout}: must be at least {least}")
    splits = dataset if isinstance(dataset, DatasetDict) else {"": require_dataset(dataset)}
    state = process_state()
    launch = [uuid.uuid4().hex]
    if state.num_processes > 1:
        # The only message between processes: the environment has no name of its own for each launch.
        broadcast_object_list(launch, from_process=0)
    scored = {}
    for name, split in splits.items():
        folder = Path(output_dir, name)
        run = RunFolder(folder, split, scorer)
        # A student that is not there must not leave a folder behind. Tokenized rows need no tokenizer.
        (scorer.source.load_config if run.row_format.kind == TOKENIZED else scorer.load_tokenizer)()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with Workers(folder, launch[0], state.process_index, state.num_processes, heartbeat_timeout) as workers:
                workers.once("alone", workers.refuse_other_launches)
                opened = workers.once("open", functools.partial(run.open, unit_rows, state.device))
                run.load()
                _score_units(run, workers, state, **opened)
                statuses = workers.once("join", run.join)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            advice = "units that are done stay done: make room and run again"
            raise OSError(f"cannot write to {folder}: {error}; {advice}") from error
        unscored = {status: count for status, count in statuses.items() if status not in STATUSES_WITH_SCORE}
        if unscored and state.is_main_process:
            said = ", ".join(f"{count} {status}" for status, count in unscored.items())
            logger.warning("%d of %d rows have no score: %s", sum(unscored.values()), len(split), said)
        scored[name] = run.result()
    return DatasetDict(scored) if isinstance(dataset, DatasetDict) else scored[""]


def process_state() -> PartialState:
    """The processes that were launched; RuntimeError if ``accelerate`` sees more or fewer than ``WORLD_SIZE``."""
    state = PartialState(cpu=True) if default_device().type == "cpu" else PartialState()
    if (launched := int(os.environ.get("WORLD_SIZE", "1"))) != state.num_processes:
        raise RuntimeError(
            f"WORLD_SIZE={launched}, but accelerate sees {state.num_processes} processes: construct "
            "PartialState(cpu=True) before anything else does, or unset ACCELERATE_USE_CPU on a machine with GPUs"
        )
    return state


def order_of_work(units: list[Unit], process: int, count: int) -> list[int]:
    """Units for one of ``count`` processes: its share, costliest first, then the shares of others from their ends."""
    ordered = [unit.number for unit in sorted(units, key=lambda unit: (-unit.cost, unit.number))]
    others = [number for i in range(1, count) for number in ordered[(process + i) % count :: count][::-1]]
    return ordered[process::count] + others


def _score_units(run: RunFolder, workers: Workers, state: PartialState, todo: list[int], tokens: int) -> None:
    """Scores free units until all are done, whoever does them; ``tokens`` were scored before this launch."""
    missing = order_of_work([run.units[number] for number in todo], state.process_index, state.num_processes)
    last_shown = 0.0

    def show(pause: float = POLL_SECONDS) -> None:
        nonlocal last_shown
        if state.is_main_process and time.monotonic() - last_shown >= pause:
            last_shown, done = time.monotonic(), tokens + workers.tokens_of_all()
            bar.total = max(done, run.expected_tokens())
            bar.update(done - bar.n)

    def score(unit: PreparedUnit, waited: float) -> None:
        batches: list[BatchAccount] = []
        tokens_after = workers.tokens + unit.tokens

        def on_batch(batch: BatchAccount) -> None:
            batches.append(batch)
            workers.tokens += batch.row_tokens
            show()

        started, rows = time.monotonic(), range(unit.unit.start, unit.unit.end)
        scored = run.scorer.score_encoded(unit.rows, rows, run.scorer.device or state.device, on_batch)
        workers.tokens = tokens_after  # not every engine reports its batches
        seconds = {"seconds": time.monotonic() - started, "seconds_waiting_for_text": waited}
        run.save(unit, scored, batches, **seconds, process=state.process_index)

    title, shown = f"Scoring {len(run.dataset):,} rows", state.is_main_process
    with (
        ThreadPoolExecutor(1, thread_name_prefix="encode") as reader,
        tqdm(initial=tokens, desc=title, unit="tok", unit_scale=True, disable=not shown) as bar,
    ):
        while missing := [number for number in missing if not run.is_done(number)]:
            free = (number for number in missing if not run.is_done(number) and workers.free_claim(f"unit-{number}"))
            prepared = ((number, reader.submit(run.prepare, number)) for number in free)
            ahead, waited = next(prepared, None), 0.0
            if ahead is None:
                time.sleep(POLL_SECONDS)
            while ahead is not None:
                (number, future), started = ahead, time.monotonic()
                unit = future.result()
                waited += time.monotonic() - started
                ahead = next(prepared, None)  # is read and encoded meanwhile, and stays free for processes that wait
                if workers.claim(f"unit-{number}"):
                    score(unit, waited)
                    waited = 0.0
            show()
        show(pause=0)
        bar.total = bar.n  # the last signs of life of the others may be still to come
