"""A run folder: ``run.json`` (what is scored, how, in which units), ``units/``, ``scored/`` and ``manifest.json``.

A unit is an Arrow file of new columns and a note: the unit is done when its note is there and fits its file. A unit's
batches depend on its rows and the settings alone: any number of processes gives the same bits.
"""

import json
import logging
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import torch
from datasets import Dataset, concatenate_datasets, load_from_disk

from ..engines.base import BatchAccount
from ..reading.formats import RowFormat
from ..reading.rows import EncodedRow, UnscorableRowError
from ..scoring.columns import ScoredRow, add_features, empty_dataset
from ..scoring.scorer import RSRScorer
from ..tables.arrays import read_rows
from ..tables.content_hash import content_hash
from ..tables.records import append_record, package_versions, student_name
from ..utils.bars import no_bar_if_quick
from ..utils.files import hash_file, read_json, write_json, written_aside
from .same_run import is_begun, require_same_settings

logger = logging.getLogger(__name__)

RUN_FORMAT = 3
CONFIG_FILE = "config.yaml"


class Unit(NamedTuple):
    """The rows from ``start`` to before ``end``, scored together; ``cost`` is bytes of text."""

    number: int
    start: int
    end: int
    cost: int


class PreparedUnit(NamedTuple):
    """A unit's encoded rows, the hash of their text, and how many tokens the student reads of them."""

    unit: Unit
    content: str
    rows: list[EncodedRow | UnscorableRowError]
    tokens: int


def plan_units(dataset: Dataset, row_format: RowFormat, unit_rows: int) -> list[Unit]:
    """Cuts a dataset into units of ``unit_rows`` consecutive rows and estimates their work, without tokenizing."""
    text = dataset.select_columns(row_format.names).with_format("arrow")
    bounds = [(start, min(start + unit_rows, len(dataset))) for start in range(0, len(dataset), unit_rows)]
    return [Unit(number, *rows, text[slice(*rows)].nbytes) for number, rows in enumerate(bounds)]


class RunFolder:
    """One process's view of a run folder; after :meth:`load`, ``scorer`` has the options that the run records."""

    def __init__(self, path: Path, dataset: Dataset, scorer: RSRScorer) -> None:
        self.path, self.dataset, self.scorer = path, dataset, scorer
        self.row_format = scorer.find_format(dataset.column_names)
        self._text = dataset.select_columns(self.row_format.names).with_format("arrow")
        self._known_tokens, self._known_cost = 0, 0
        if path.exists() and not (path / "run.json").exists():
            found = {item.name for item in path.iterdir()} - {"lock", "units", CONFIG_FILE}
            if foreign := [name for name in sorted(found) if not name.endswith(".aside") and "launch-" not in name]:
                raise ValueError(f"{path} is not a run folder and not empty ({foreign[0]!r}): nothing is touched")

    def open(self, unit_rows: int, device: torch.device) -> dict[str, Any]:
        """Begins the run, or checks that the folder is this run's; gives what is to do, and tokens that are done."""
        for item in (*self.path.glob("*.aside"), *self.path.glob("units/*.aside")):  # left by processes that died
            shutil.rmtree(item) if item.is_dir() else item.unlink()
        if not self._is_begun():
            units = plan_units(self.dataset, self.row_format, unit_rows)
            options = self.scorer.resolve_options(self.scorer.device or device)
            (self.path / "units").mkdir(exist_ok=True)
            write_json(self.path / "run.json", self._wanted | {"options": options, "units": units})
        self.load()
        todo, tokens = self._remaining()
        if len(todo) < len(self.units):
            logger.info("resuming: %d of %d units are done", len(self.units) - len(todo), len(self.units))
        return {"todo": [unit.number for unit in todo], "tokens": tokens}

    def units_left(self, unit_rows: int) -> list[Unit]:
        """The units that :meth:`open` would give to score; nothing is written."""
        if not self._is_begun():
            return plan_units(self.dataset, self.row_format, unit_rows)
        self.load()
        return self._remaining()[0]

    def _is_begun(self) -> bool:
        """Whether units of this run are done; ``ValueError`` if the folder is another run's."""
        if not is_begun(self.path):
            return False
        found, wanted = _read_settings(self.path / "run.json"), self._wanted
        before, now = (
            {"rows": run["rows"], "media_root": run.get("media_root"), **run["settings"], **run["output"]}
            for run in (found, wanted)
        )
        require_same_settings(before, dict.fromkeys(before) | now, self.path)
        if found["versions"] != wanted["versions"]:
            logger.warning("%s was begun with %s; now %s", self.path, found["versions"], wanted["versions"])
        return True

    @cached_property
    def _wanted(self) -> dict[str, Any]:
        scorer = self.scorer
        run = {"format": RUN_FORMAT, "settings": scorer.settings, "output": scorer.output, "rows": len(self.dataset)}
        run |= {"versions": package_versions(), "media_root": scorer.media_root}
        return dict(json.loads(json.dumps(run)))  # without tuples, as in the file

    def _remaining(self) -> tuple[list[Unit], int]:
        """Units without scores of their rows, and the tokens of the others."""
        todo, tokens = [], 0
        for unit in self.units:
            if not (account := self._whole(unit)):
                todo.append(unit)
            elif account["content"] == content_hash(self._text[unit.start : unit.end]):
                tokens += account["tokens"]
            else:
                rows = f"rows {unit.start} to {unit.end - 1} of the columns {self.row_format.names}"
                advice = "are not those that were scored; give another output_dir"
                raise ValueError(f"{self.path} holds scores of another dataset: {rows} {advice}")
        return todo, tokens

    def load(self) -> None:
        """Reads what the run records: its units, and the engine's options, which are the same in every process."""
        self.settings = _read_settings(self.path / "run.json")
        self.units = [Unit(*unit) for unit in self.settings["units"]]
        self.scorer = self.scorer.with_options(self.settings["options"])

    def is_done(self, number: int) -> bool:
        """Says that a unit has its note."""
        return self._files(number)[1].exists()

    def prepare(self, number: int) -> PreparedUnit:
        """Reads and encodes a unit's rows."""
        unit = self.units[number]
        text = self._text[unit.start : unit.end]
        rows = read_rows(text, self.dataset.features)
        encoded = self.scorer.encode(rows, self.row_format, range(unit.start, unit.end))
        tokens = sum(row.num_read for row in encoded if isinstance(row, EncodedRow))
        self._known_tokens, self._known_cost = self._known_tokens + tokens, self._known_cost + unit.cost
        return PreparedUnit(unit, content_hash(text), encoded, tokens)

    def expected_tokens(self) -> int:
        """Tokens of the whole dataset, from the tokens of a byte of text that this process has encoded."""
        return round(sum(unit.cost for unit in self.units) * self._known_tokens / max(self._known_cost, 1))

    def save(self, done: PreparedUnit, scored: list[ScoredRow], batches: list[BatchAccount], **more: Any) -> None:
        """Writes a unit's columns, then the note with its account and ``more``: now the unit is done."""
        data, note = self._files(done.unit.number)
        table = pa.table(self.scorer.to_columns(scored))
        with written_aside(data) as aside, pa.ipc.new_stream(str(aside), table.schema) as writer:
            writer.write_table(table)
        account = {
            "unit": done.unit.number,
            "rows": table.num_rows,
            "statuses": Counter(row.status for row in scored),
            "content": done.content,
            "checksum": hash_file(data),
            "tokens": done.tokens,
            "scored_tokens": sum(table[self.scorer.score_columns.num_tokens].to_pylist()),
            "forward_tokens": sum(batch.tokens for batch in batches),
            "padded_tokens": sum(batch.padded_tokens for batch in batches),
            "batches": len(batches),
            "batches_split_for_memory": sum(batch.split for batch in batches),
        }
        write_json(note, account | more)

    def join(self) -> dict[str, int]:
        """Checks every unit, joins the columns to the dataset, and saves it with its account; counts the statuses."""
        accounts = [account for unit in self.units if (account := self._whole(unit))]
        if damaged := {unit.number for unit in self.units} - {account["unit"] for account in accounts}:
            raise OSError(f"units {sorted(damaged)} of {self.path} are damaged: run again to score them")
        about = {"fingerprint": self.dataset._fingerprint, "split": self.dataset.split and str(self.dataset.split)}
        manifest = {**self.settings, **about, "accounts": accounts, "totals": _totals(accounts)}
        file, saved = self.path / "manifest.json", self.path / "scored"
        if not (saved.exists() and file.exists() and read_json(file) == manifest):
            file.unlink(missing_ok=True)
            with written_aside(saved) as aside, no_bar_if_quick(len(self.dataset)):
                self._joined().save_to_disk(aside)
            write_json(file, manifest)
        return dict(manifest["totals"]["statuses"])

    def result(self) -> Dataset:
        """The dataset that :meth:`join` saved."""
        # `datasets` 5.2 saves a dataset without rows but cannot load it.
        return load_from_disk(self.path / "scored") if self.units else self._joined()

    def _joined(self) -> Dataset:
        columns = self.scorer.column_types
        features = add_features(self.dataset.features, columns)
        if parts := [Dataset.from_file(str(self._files(unit.number)[0])) for unit in self.units]:
            kept = self.dataset.remove_columns([name for name in columns if name in self.dataset.column_names])
            joined = concatenate_datasets([kept.with_format(None), concatenate_datasets(parts)], axis=1)
        else:
            joined = empty_dataset(features)
        joined._info, joined._split = self.dataset.info.copy(), self.dataset.split
        joined._info.features = features
        account = {part: self.settings[part] for part in ("settings", "output", "versions")}
        return append_record(joined, {"step": "score", "student": student_name(self.scorer.source.name), **account})

    def _whole(self, unit: Unit) -> dict[str, Any] | None:
        """A unit's account if its file is whole; the note of a damaged file is removed."""
        data, note = self._files(unit.number)
        if not note.exists():
            return None
        account = read_json(note)
        if data.exists() and hash_file(data) == account.get("checksum"):
            return account
        logger.warning("%s is damaged: its rows are scored again", data)
        note.unlink()
        return None

    def _files(self, number: int) -> tuple[Path, Path]:
        stem = self.path / "units" / f"{number:07d}"
        return stem.with_suffix(".arrow"), stem.with_suffix(".json")


def _read_settings(file: Path) -> dict[str, Any]:
    """A run's settings, also of a run that an earlier version of this package began."""
    settings = read_json(file)
    if settings["format"] == 2:
        if settings["torch_compile"]:
            raise ValueError(f"{file.parent} was begun with torch_compile, which is gone: give another output_dir")
        options = {"tokens_per_batch": settings["tokens_per_batch"], "share_prefixes": settings["share_prompts"]}
        settings |= {"format": RUN_FORMAT, "options": options}
    if settings["format"] != RUN_FORMAT:
        raise ValueError(f"{file.parent} has format {settings['format']}, of a later version: give another output_dir")
    return settings


def _totals(accounts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    def total(key: str, process: int | None = None) -> Any:
        return round(sum(account[key] for account in accounts if process in (None, account["process"])), 3)

    statuses = sum((Counter(account["statuses"]) for account in accounts), Counter[str]())
    processes = sorted({account["process"] for account in accounts})
    parts = ("rows", "tokens", "seconds", "seconds_waiting_for_text")
    padded, busy = total("padded_tokens"), total("seconds")
    return {
        "statuses": dict(statuses.most_common()),
        **{key: total(key) for key in ("tokens", "scored_tokens", "batches_split_for_memory")},
        "padding_share": round(1 - total("forward_tokens") / padded, 5) if padded else None,
        "tokens_per_second_and_process": round(total("tokens") / busy, 1) if busy else None,
        "processes": {str(process): {part: total(part, process) for part in parts} for process in processes},
    }
