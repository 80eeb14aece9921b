"""Scoring of big data sets in work units: many processes and machines, checkpoints, resuming, one result.

A run folder holds ``run.json`` (what is scored, and how), ``units/`` with one Arrow file of new columns a unit and a
note beside it, and in the end ``scored/``, the data set with its columns, and ``manifest.json``, the whole account.
A unit is done when its note is there and fits its file; what its batches are depends on its rows and the settings
alone, so that any number of processes gives the same bits. ``launch-*/`` is where the processes of one launch meet:
the plan, their signs of life, and who has taken which unit.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import json
import logging
import os
import shutil
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset, DatasetDict, Features, concatenate_datasets, load_from_disk
from datasets.utils import tqdm

from ..engines.base import BatchAccount
from ..reading.formats import RowFormat
from ..reading.rows import EncodedRow, UnscorableRowError
from ..scoring.scorer import RSRScorer
from ..tables.arrays import read_rows
from ..tables.columns import STATUSES_WITH_SCORE
from ..tables.content_hash import content_hash
from ..tables.records import append_record, package_versions, student_name
from ..utils.files import hash_file, read_json, write_json, written_aside
from .heartbeat import Heartbeat, Watch

logger = logging.getLogger(__name__)

RUN_FORMAT = 2
CONFIG_FILE = "config.yaml"
DEFAULT_UNIT_ROWS = 1000
DEFAULT_DEAD_AFTER = 600.0
_POLL_SECONDS = 0.5
_LAUNCH = "launch-"
_BATCHING = ("tokens_per_batch", "share_prompts", "torch_compile")


class FolderInUseError(RuntimeError):
    """Another launch is at work in the run folder."""


@dataclass(frozen=True)
class Unit:
    """Consecutive rows that are scored together.

    Attributes:
        number: Place in the data set, from 0.
        start: First row.
        end: Row after the last.
        cost: Estimated work, in bytes of text.
    """

    number: int
    start: int
    end: int
    cost: int


def score_dataset(
    dataset: Dataset | DatasetDict,
    scorer: RSRScorer,
    output_dir: str | os.PathLike[str],
    unit_rows: int = DEFAULT_UNIT_ROWS,
    dead_after: float = DEFAULT_DEAD_AFTER,
) -> Dataset | DatasetDict:
    """Scores a data set in checkpointed units; under ``accelerate launch`` on all processes of all machines.

    Run it again to resume: units that are done are not scored again, with any number of processes. Processes with
    the same number of threads give the same bits on the same hardware, however many there are; a different number
    of threads changes the order in which floating-point sums are taken. Several machines need a shared file system.
    One launch at a time works on a folder: a second one is refused while the first one lives.

    Args:
        dataset: What to score; of a ``DatasetDict`` each split in a folder of its name.
        scorer: The scorer; its student is loaded once a process, from a Hub id or a path.
        output_dir: Run folder: a new or empty one, or that of an earlier run of the same data set and settings.
        unit_rows: Rows a unit; a resumed run keeps its own.
        dead_after: Seconds without a sign of life after which a process, on another machine say, counts as dead.
            Processes that work give one every few seconds. The main process scores what a dead one had begun; if
            it is the main process that died, the others give up with an error.

    Returns:
        The data set with the score columns, in row order, loaded from ``output_dir/scored``, in every process.

    Raises:
        ValueError: If the folder belongs to another run (the message names what differs) or is not a run folder.
        FolderInUseError: If another launch is at work in the folder.
        RuntimeError: If ``accelerate`` does not see the processes that were launched, or the main process died.
        OSError: If a file cannot be written; what is done stays done.
    """
    if unit_rows < 1:
        raise ValueError(f"unit_rows={unit_rows}: must be a positive number")
    if not dead_after > 0:
        raise ValueError(f"dead_after={dead_after}: must be a positive number of seconds")
    state = process_state()
    folder = Path(output_dir)

    def score(split: Dataset, folder: Path) -> Dataset:
        return _score_split(split, scorer, folder, unit_rows, state, dead_after)

    if isinstance(dataset, DatasetDict):
        return DatasetDict({name: score(split, folder / name) for name, split in dataset.items()})
    return score(dataset, folder)


def process_state() -> PartialState:
    """The processes that were launched.

    Raises:
        RuntimeError: If ``accelerate`` sees another number of them than ``WORLD_SIZE`` says.
    """
    on_cpu = not torch.accelerator.is_available() or os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"
    state = PartialState(cpu=True) if on_cpu else PartialState()
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != state.num_processes:
        raise RuntimeError(
            f"WORLD_SIZE={launched}, but accelerate sees {state.num_processes} processes: construct "
            "PartialState(cpu=True) before anything else does, or unset ACCELERATE_USE_CPU on a machine with GPUs"
        )
    return state


def plan_units(dataset: Dataset, row_format: RowFormat, unit_rows: int) -> list[Unit]:
    """Cuts a data set into units of consecutive rows and estimates their work, without tokenizing.

    Args:
        dataset: The data set.
        row_format: Which columns are read.
        unit_rows: Rows a unit.
    """
    text = dataset.select_columns(row_format.names).with_format("arrow")
    units = []
    for number, start in enumerate(range(0, len(dataset), unit_rows)):
        end = min(start + unit_rows, len(dataset))
        units.append(Unit(number, start, end, text[start:end].nbytes))
    return units


def deal_units(units: Sequence[Unit], num_processes: int) -> list[list[int]]:
    """Deals units to processes, costliest first, each to the process with the least work so far.

    Args:
        units: What is to be done.
        num_processes: How many share it.

    Returns:
        For each process the numbers of its units, costliest first.
    """
    dealt: list[list[int]] = [[] for _ in range(num_processes)]
    loads = [(0, process) for process in range(num_processes)]
    for unit in sorted(units, key=lambda unit: (-unit.cost, unit.number)):
        load, process = heapq.heappop(loads)
        dealt[process].append(unit.number)
        heapq.heappush(loads, (load + unit.cost, process))
    return dealt


class Claims:
    """Who scores what in one launch: each process its own share, and then what slower ones have not begun.

    Args:
        folder: Where the processes meet. A unit belongs to the process that makes its file there first.
        shares: For each process the numbers of its units.
        process: Which process this is.
    """

    def __init__(self, folder: Path, shares: Sequence[Sequence[int]], process: int) -> None:
        self._folder = folder
        self._process = process
        self._own = shares[process]
        self._of_others = [number for share in (*shares[process + 1 :], *shares[:process]) for number in share[::-1]]

    def free(self) -> Iterator[int]:
        """Units that nobody has taken when they are asked for: this process's own, then others' from the end."""
        for number in (*self._own, *self._of_others):
            if not self._file(number).exists():
                yield number

    def take(self, number: int) -> bool:
        """Takes a unit; says whether this process was the first to do so."""
        file = self._file(number)
        with _clear_write_errors(file):
            try:
                with file.open("x") as stream:
                    stream.write(str(self._process))
            except FileExistsError:
                return False
        return True

    def release(self, numbers: Iterable[int]) -> None:
        """Makes units free again."""
        for number in numbers:
            self._file(number).unlink(missing_ok=True)

    def owner(self, number: int) -> int | None:
        """Which process took a unit; ``None`` if that was not written, or not yet."""
        try:
            return int(self._file(number).read_text())
        except (OSError, ValueError):
            return None

    def _file(self, number: int) -> Path:
        return self._folder / f"unit-{number:07d}"


def _score_split(
    dataset: Dataset, scorer: RSRScorer, folder: Path, unit_rows: int, state: PartialState, dead_after: float
) -> Dataset:
    row_format = scorer.find_format(dataset.column_names)
    with contextlib.ExitStack() as held:
        refusal: Exception | None = None
        launch = uuid.uuid4().hex
        if state.is_main_process:
            try:
                scorer.load_tokenizer()  # a student that is not there must not leave a run behind
                held.enter_context(_lock(folder))
                (folder / f"{_LAUNCH}{launch}").mkdir()
            except (OSError, ValueError, FolderInUseError) as error:
                refusal = error
        launch, reason = _shared([launch, refusal and str(refusal)], state)
        if reason is not None:
            raise refusal or ValueError(reason)
        exchange = folder / f"{_LAUNCH}{launch}"
        if state.num_processes == 1:  # else others may still have to read it, and the next launch removes it
            held.callback(shutil.rmtree, exchange, ignore_errors=True)
        heartbeats = [exchange / f"alive-{process}.json" for process in range(state.num_processes)]
        with Heartbeat(heartbeats[state.process_index]) as heartbeat:
            if not state.is_main_process:
                watch = Watch(heartbeats[:1], dead_after)
                shares = _wait_for(exchange / "plan.json", watch)["shares"]
                run = _Run(dataset, row_format, scorer, folder, read_json(folder / "run.json"))
                run.score(Claims(exchange, shares, state.process_index), state, heartbeat)
                _wait_for(exchange / "finished.json", watch)
                return run.result()
            try:
                _remove_left_overs(folder, exchange)
                run = _Run.start(dataset, row_format, scorer, folder, unit_rows, state.device)
                shares = run.deal(state.num_processes)
                write_json(exchange / "plan.json", {"shares": shares})
                claims = Claims(exchange, shares, state.process_index)
                watch = Watch(heartbeats[1:], dead_after)
                with run.progress(watch, heartbeat):
                    run.score(claims, state, heartbeat)
                    while abandoned := run.wait_for_others(claims, watch):
                        claims.release(abandoned)
                        run.score(claims, state, heartbeat)
                scored = run.finish()
            except Exception as error:
                # Whoever waits must hear that there is nothing to wait for.
                with contextlib.suppress(OSError):
                    for name in ("plan.json", "finished.json"):
                        write_json(exchange / name, {"error": str(error)})
                raise
            write_json(exchange / "finished.json", {})
            return scored


class _Run:
    """One process's view of a run folder."""

    def __init__(
        self, dataset: Dataset, row_format: RowFormat, scorer: RSRScorer, folder: Path, settings: Mapping[str, Any]
    ) -> None:
        self.dataset = dataset
        self.row_format = row_format
        self.folder = folder
        self.settings = settings
        self.units = [Unit(*unit) for unit in settings["units"]]
        self.scorer = scorer.with_batching(**{name: settings[name] for name in _BATCHING})
        self.tokens_by_cost = [0, 0]
        self._text = dataset.select_columns(row_format.names).with_format("arrow")

    @classmethod
    def start(
        cls,
        dataset: Dataset,
        row_format: RowFormat,
        scorer: RSRScorer,
        folder: Path,
        unit_rows: int,
        device: torch.device,
    ) -> _Run:
        """Makes the folder, or checks that it is this run's."""
        wanted = _describe(dataset, scorer)
        file = folder / "run.json"
        if file.exists() and any(folder.glob("units/*.json")):
            settings = read_json(file)
            _require_same_run(settings, wanted, folder)
        else:
            units = plan_units(dataset, row_format, unit_rows)
            place = scorer.device or device
            settings = wanted | {
                "tokens_per_batch": scorer.choose_tokens_per_batch(place),
                "share_prompts": scorer.share_prompts,
                "torch_compile": scorer.choose_torch_compile(sum(unit.cost for unit in units), place),
                "units": [[unit.number, unit.start, unit.end, unit.cost] for unit in units],
            }
            (folder / "units").mkdir(exist_ok=True)
            write_json(file, settings)
        return cls(dataset, row_format, scorer, folder, settings)

    def deal(self, num_processes: int) -> list[list[int]]:
        """Says who scores which units: those that are not done, and those whose file is damaged.

        Raises:
            ValueError: If a unit was scored from other rows than the data set has there.
        """
        missing = []
        for unit in self.units:
            account = self._whole(unit)
            if account is None:
                missing.append(unit)
            elif content_hash(self._read(unit)) != account["content"]:
                raise ValueError(
                    f"{self.folder} holds scores of another dataset: rows {unit.start} to {unit.end - 1} of the "
                    f"columns {self.row_format.names} are not those that were scored; give another output_dir"
                )
            else:
                self._learn(unit, account["tokens"])
        if len(missing) < len(self.units):
            logger.info("resuming: %d of %d units are done", len(self.units) - len(missing), len(self.units))
        return deal_units(missing, num_processes)

    def score(self, claims: Claims, state: PartialState, heartbeat: Heartbeat) -> None:
        """Scores units as long as there are free ones, reading and encoding the next one meanwhile."""

        def prepare(number: int) -> tuple[str, list[EncodedRow | UnscorableRowError]]:
            unit = self.units[number]
            table = self._read(unit)
            rows = read_rows(table, self.dataset.features)
            encoded = self.scorer.encode(rows, self.row_format, range(unit.start, unit.end))
            self._learn(unit, _tokens(encoded))
            return content_hash(table), encoded

        with ThreadPoolExecutor(1, thread_name_prefix="encode") as reader:
            prepared = ((number, reader.submit(prepare, number)) for number in claims.free())
            waited = 0.0
            ahead = next(prepared, None)
            while ahead is not None:
                number, future = ahead
                started = time.monotonic()
                content, encoded = future.result()
                waited += time.monotonic() - started
                ahead = next(prepared, None)
                # Taken now, not when it was read: what another was free to take is not held back by what is in hand.
                if claims.take(number):
                    self._score_unit(self.units[number], content, encoded, waited, state, heartbeat)
                    waited = 0.0

    def _score_unit(
        self,
        unit: Unit,
        content: str,
        encoded: Sequence[EncodedRow | UnscorableRowError],
        waited: float,
        state: PartialState,
        heartbeat: Heartbeat,
    ) -> None:
        batches: list[BatchAccount] = []

        def on_batch(batch: BatchAccount) -> None:
            batches.append(batch)
            heartbeat.tokens += batch.tokens

        started = time.monotonic()
        device = self.scorer.device or state.device
        outcomes = self.scorer.score_encoded(encoded, range(unit.start, unit.end), device, on_batch)
        table = pa.table(self.scorer.to_columns(outcomes))
        seconds = time.monotonic() - started
        data, note = self._files(unit)
        with (
            _clear_write_errors(data),
            written_aside(data) as aside,
            pa.ipc.new_stream(str(aside), table.schema) as writer,
        ):
            writer.write_table(table)
        write_json(
            note,
            {
                "unit": unit.number,
                "rows": unit.end - unit.start,
                "statuses": dict(Counter(outcome.status for outcome in outcomes)),
                "content": content,
                "checksum": hash_file(data),
                "tokens": _tokens(encoded),
                "scored_tokens": sum(table[self.scorer.score_columns.num_tokens].to_pylist()),
                "forward_tokens": sum(batch.tokens for batch in batches),
                "padded_tokens": sum(batch.padded_tokens for batch in batches),
                "batches": len(batches),
                "batches_split_for_memory": sum(batch.split for batch in batches),
                "seconds": round(seconds, 3),
                "seconds_waiting_for_text": round(waited, 3),
                "process": state.process_index,
            },
        )

    def wait_for_others(self, claims: Claims, watch: Watch) -> list[int]:
        """Waits until every unit is done, or a process that has taken some of them is dead.

        Returns:
            The units of dead processes.
        """
        missing = {unit.number for unit in self.units}
        while True:
            present = {entry.name for entry in os.scandir(self.folder / "units")}
            missing = {number for number in missing if self._files(self.units[number])[1].name not in present}
            watch.look()
            dead = {process + 1 for process in watch.silent()}
            # What is taken by nobody knows whom may be a dead one's too; to score it twice would do no harm.
            abandoned = [number for number in missing if claims.owner(number) in {None, *dead}] if dead else []
            if abandoned:
                logger.warning(
                    "processes %s have given no sign of life for %g s: the main process scores the units that they "
                    "had begun, %s",
                    sorted(dead),
                    watch.patience,
                    sorted(abandoned),
                )
            if abandoned or not missing:
                return abandoned
            time.sleep(_POLL_SECONDS)

    @contextlib.contextmanager
    def progress(self, watch: Watch, own: Heartbeat) -> Iterator[None]:
        """Shows all processes' progress while the block runs."""
        done_before = self.tokens_by_cost[0]
        ended = threading.Event()
        rows = sum(unit.end - unit.start for unit in self.units)

        def show() -> None:
            while not ended.wait(_POLL_SECONDS):
                update()

        def update() -> None:
            watch.look()
            done = done_before + own.tokens + watch.tokens
            # What a byte of text is in tokens shows once some text is encoded; the total gets better with it.
            tokens, cost = self.tokens_by_cost
            bar.total = max(done, round(total_cost * tokens / cost) if cost else 0)
            bar.update(done - bar.n)

        total_cost = sum(unit.cost for unit in self.units)
        with tqdm(initial=done_before, desc=f"Scoring {rows:,} rows", unit="tok", unit_scale=True) as bar:
            thread = threading.Thread(target=show, name="progress", daemon=True)
            thread.start()
            try:
                yield
            finally:
                ended.set()
                thread.join()
                update()
            bar.update(bar.total - bar.n)  # not all processes have said their last number yet

    def finish(self) -> Dataset:
        """Checks every unit, joins the columns to the data set, and saves it with its account."""
        accounts = [self._whole(unit) for unit in self.units]
        if damaged := [unit.number for unit, account in zip(self.units, accounts, strict=True) if account is None]:
            raise OSError(f"units {damaged} of {self.folder} are damaged: run again to score them")
        found = [account for account in accounts if account]
        manifest = {
            **self.settings,
            "fingerprint": self.dataset._fingerprint,
            "accounts": found,
            "totals": _totals(found),
        }
        file = self.folder / "manifest.json"
        saved = self.folder / "scored"
        if not (saved.exists() and file.exists() and read_json(file) == json.loads(json.dumps(manifest))):
            aside = self.folder / "scored.aside"
            file.unlink(missing_ok=True)
            with _clear_write_errors(saved):
                self._joined().save_to_disk(aside)
                shutil.rmtree(saved, ignore_errors=True)
                aside.rename(saved)
            write_json(file, manifest)
        statuses = manifest["totals"]["statuses"]
        if unscored := {status: count for status, count in statuses.items() if status not in STATUSES_WITH_SCORE}:
            logger.warning("%d of %d rows have no score: %s", sum(unscored.values()), len(self.dataset), unscored)
        return self.result()

    def result(self) -> Dataset:
        """The data set that :meth:`finish` saved."""
        # `datasets` 5.2 saves a data set without rows but cannot load it.
        return load_from_disk(self.folder / "scored") if self.units else self._joined()

    def _joined(self) -> Dataset:
        columns = self.scorer.column_types
        if self.units:
            scores = concatenate_datasets([Dataset.from_file(str(self._files(unit)[0])) for unit in self.units])
        else:
            scores = Dataset(pa.table({name: pa.array([], kind) for name, kind in columns.items()}))
        kept = self.dataset.remove_columns([name for name in columns if name in self.dataset.column_names])
        joined = concatenate_datasets([kept.with_format(None), scores], axis=1)
        joined._info = self.dataset.info.copy()
        joined._info.features = Features(kept.features | scores.features)
        account = {part: self.settings[part] for part in ("settings", "output", "versions")}
        return append_record(joined, {"step": "score", "student": student_name(self.scorer.spec.name), **account})

    def _learn(self, unit: Unit, tokens: int) -> None:
        self.tokens_by_cost[0] += tokens
        self.tokens_by_cost[1] += unit.cost

    def _whole(self, unit: Unit) -> dict[str, Any] | None:
        """A unit's account if its file is whole; the note of one that is not is removed."""
        data, note = self._files(unit)
        if not note.exists():
            return None
        account = read_json(note)
        if data.exists() and hash_file(data) == account.get("checksum"):
            return account
        logger.warning("%s is damaged: its rows are scored again", data)
        note.unlink()
        return None

    def _read(self, unit: Unit) -> pa.Table:
        return self._text[unit.start : unit.end]

    def _files(self, unit: Unit) -> tuple[Path, Path]:
        stem = self.folder / "units" / f"{unit.number:07d}"
        return stem.with_suffix(".arrow"), stem.with_suffix(".json")


def _describe(dataset: Dataset, scorer: RSRScorer) -> dict[str, Any]:
    """What must be the same for a run to be resumed."""
    return {
        "format": RUN_FORMAT,
        "settings": scorer.settings,
        "output": scorer.output,
        "rows": len(dataset),
        "versions": package_versions(),
    }


def _require_same_run(found: Mapping[str, Any], wanted: Mapping[str, Any], folder: Path) -> None:
    differences = []
    for part in ("format", "rows"):
        if found.get(part) != wanted[part]:
            differences.append(f"{part} {found.get(part)!r}, now {wanted[part]!r}")
    for part in ("settings", "output"):
        before, now = found.get(part, {}), wanted[part]
        differences += [
            f"{k} {before.get(k)!r}, now {now.get(k)!r}" for k in {**before, **now} if before.get(k) != now.get(k)
        ]
    if differences:
        raise ValueError(f"{folder} belongs to another run: {'; '.join(differences)}; give another output_dir")
    if found.get("versions") != wanted["versions"]:
        logger.warning("%s was begun with %s; now %s", folder, found.get("versions"), wanted["versions"])


def _tokens(encoded: Sequence[EncodedRow | UnscorableRowError]) -> int:
    """What the student reads of encoded rows: the last token of each is only ever a target."""
    return sum(row.input_ids.size - 1 for row in encoded if isinstance(row, EncodedRow))


def _totals(accounts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    def total(key: str, process: int | None = None) -> Any:
        return sum(account[key] for account in accounts if process in (None, account["process"]))

    statuses: Counter[str] = Counter()
    for account in accounts:
        statuses.update(account["statuses"])
    parts = ("rows", "tokens", "seconds", "seconds_waiting_for_text")
    processes = sorted({account["process"] for account in accounts})
    padded, busy = total("padded_tokens"), total("seconds")
    return {
        "statuses": dict(statuses.most_common()),
        "tokens": total("tokens"),
        "scored_tokens": total("scored_tokens"),
        "padding_share": round(1 - total("forward_tokens") / padded, 5) if padded else None,
        "batches_split_for_memory": total("batches_split_for_memory"),
        "tokens_per_second_and_process": round(total("tokens") / busy, 1) if busy else None,
        "processes": {str(p): {part: round(total(part, p), 3) for part in parts} for p in processes},
    }


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Holds the folder for this launch; the system lets go of it when the process ends, however it ends."""
    if folder.exists() and any(folder.iterdir()) and not (folder / "run.json").exists():
        leftovers = {item.name for item in folder.iterdir()} - {"lock", "units", CONFIG_FILE}
        leftovers = {name for name in leftovers if not (name.endswith(".aside") or name.startswith(_LAUNCH))}
        if leftovers:
            raise ValueError(
                f"{folder} is not a run folder and not empty ({sorted(leftovers)[0]!r}): nothing is touched"
            )
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise FolderInUseError(f"another launch is at work in {folder}: wait for it, or stop it first") from error
        yield


def _remove_left_overs(folder: Path, exchange: Path) -> None:
    """Removes what earlier launches, killed or not, left half-written or no longer need."""
    for item in (*folder.glob("*.aside"), *folder.glob("units/*.aside"), *folder.glob(f"{_LAUNCH}*")):
        if item.is_dir() and item != exchange:
            shutil.rmtree(item)
        elif item.is_file():
            item.unlink()


def _shared(values: list[Any], state: PartialState) -> list[Any]:
    """The main process's values: all that is exchanged directly. What takes longer goes through the folder."""
    if state.num_processes > 1:
        broadcast_object_list(values, from_process=0)
    return values


def _wait_for(file: Path, watch: Watch) -> dict[str, Any]:
    """Waits for a file of the main process.

    Raises:
        RuntimeError: If the main process says that it failed, or gives no sign of life.
    """
    while not file.exists():
        time.sleep(_POLL_SECONDS)
        watch.look()
        if watch.silent():
            raise RuntimeError(
                f"the main process has given no sign of life for {watch.patience:g} s: run again to resume"
            )
    content = read_json(file)
    if "error" in content:
        raise RuntimeError(f"the main process failed: {content['error']}")
    return content


@contextlib.contextmanager
def _clear_write_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(
            f"cannot write {path}: {error}; units that are done stay done: make room and run again"
        ) from error
