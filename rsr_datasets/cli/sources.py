"""Data sets from what a person names on the command line, and back to files."""

from __future__ import annotations

import glob
import json
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset, DatasetDict, concatenate_datasets, load_dataset, load_from_disk
from datasets.exceptions import DatasetGenerationError

from ..tables.records import append_record, read_records

_BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".arrow": "arrow", ".csv": "csv"}
_SAVED = ("state.json", "dataset_dict.json")
_TEACHER = "teacher"


def open_dataset(
    names: Sequence[str], split: str | None = None, teacher_from_file: bool = False
) -> Dataset | DatasetDict:
    """Opens a data set.

    Args:
        names: A ``save_to_disk`` folder, a run folder of :func:`rsr_datasets.score_dataset`, a Hub data set id, or
            files and globs of one kind (``.jsonl``, ``.json``, ``.parquet``, ``.arrow``, ``.csv``), which become one
            split. Provenance records beside a file, as :func:`save_dataset` writes them, are read.
        split: Which split; ``None`` for all there are.
        teacher_from_file: Add the column ``teacher``, each row's the name of its file without its ending.

    Raises:
        FileNotFoundError: If a file, a folder or the Hub data set is not there, or a glob matches nothing.
        ValueError: If files are of different or unknown kinds or cannot be read, or there is no such split.
    """
    if len(names) == 1 and Path(names[0]).is_dir():
        found = _open_folder(Path(names[0]))
    elif len(names) > 1 or Path(names[0]).suffix in _BUILDERS:
        return _open_files([file for name in names for file in _matches(name)], teacher_from_file)
    else:
        found = _open_hub(names[0])
    if teacher_from_file:
        raise ValueError(f"{names[0]} is not a file: its rows cannot be named after one")
    return _choose(found, split)


def check_output(output: Path, overwrite: bool) -> None:
    """Checks that :func:`save_dataset` may write there.

    Raises:
        FileExistsError: If something is there and must stay.
        NotADirectoryError: If the folder that it should be in is not there.
    """
    if not output.parent.is_dir():
        raise NotADirectoryError(f"{output}: there is no folder {output.parent}")
    if output.exists() and not overwrite:
        raise FileExistsError(f"{output} exists: give another name, or --overwrite")
    if output.is_dir() and not any((output / name).exists() for name in _SAVED):
        raise FileExistsError(f"{output} is a folder that was not written by save_to_disk: it is left alone")


def save_dataset(dataset: Dataset | DatasetDict, output: Path, overwrite: bool = False) -> None:
    """Writes a data set, and its provenance records into a file beside it; all at once, or nothing.

    Args:
        dataset: The data set.
        output: A ``.parquet`` or ``.jsonl`` file, or a folder for ``save_to_disk``.
        overwrite: Replace what is there.

    Raises:
        FileExistsError: As :func:`check_output`.
        ValueError: If several splits should go into one file, or the ending is of another kind of file.
    """
    check_output(output, overwrite)
    aside = output.with_name(f".{output.name}.{uuid.uuid4().hex}")
    try:
        if output.suffix in (".parquet", ".jsonl"):
            if isinstance(dataset, DatasetDict):
                raise ValueError(f"{output}: the splits {list(dataset)} need a folder, or name one with --split")
            dataset.to_parquet(aside) if output.suffix == ".parquet" else dataset.to_json(aside, double_precision=15)
        elif output.suffix in _BUILDERS:
            raise ValueError(f"{output}: give a .parquet or .jsonl file, or a folder")
        else:
            dataset.save_to_disk(aside)
        if output.is_dir():
            shutil.rmtree(output)
        aside.replace(output)
    finally:
        shutil.rmtree(aside) if aside.is_dir() else aside.unlink(missing_ok=True)
    parts = dataset.values() if isinstance(dataset, DatasetDict) else [dataset]
    records = [record for part in parts for record in read_records(part)]
    unique = [record for i, record in enumerate(records) if record not in records[:i]]
    _provenance_file(output).write_text(json.dumps(unique, indent=1, ensure_ascii=False), encoding="utf-8")


def _open_folder(folder: Path) -> Dataset | DatasetDict:
    if any((folder / name).exists() for name in _SAVED):
        return load_from_disk(folder)
    if (folder / "scored").is_dir():
        return load_from_disk(folder / "scored")
    if splits := sorted(part.parent for part in folder.glob("*/scored")):
        return DatasetDict({split.name: load_from_disk(split / "scored") for split in splits})
    raise FileNotFoundError(f"{folder} is no folder of save_to_disk; name the files in it, e.g. '{folder}/*.jsonl'")


def _open_hub(name: str) -> Dataset | DatasetDict:
    try:
        return load_dataset(name)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(f"{name!r} is no file or folder here, and no dataset of the Hub: {error}") from error


def _open_files(files: Sequence[str], teacher_from_file: bool) -> Dataset:
    kinds = {_BUILDERS.get(Path(file).suffix) for file in files}
    if len(kinds) > 1 or None in kinds:
        suffixes = sorted({Path(file).suffix for file in files})
        raise ValueError(f"files of different or unknown kinds {suffixes}; known are {sorted(_BUILDERS)}")
    kind = kinds.pop()
    if teacher_from_file:
        parts = [_load(kind, [file]) for file in files]
        if any(_TEACHER in part.column_names for part in parts):
            raise ValueError(f"the files have a column {_TEACHER!r} already: leave --teacher-from-file out")
        named = [
            part.add_column(_TEACHER, [Path(file).stem] * len(part)) for part, file in zip(parts, files, strict=True)
        ]
        dataset = concatenate_datasets(named)
    else:
        dataset = _load(kind, files)
    for file in files:
        if (beside := _provenance_file(Path(file))).is_file():
            for record in json.loads(beside.read_text(encoding="utf-8")):
                dataset = append_record(dataset, record)
    return dataset


def _load(kind: str | None, files: Sequence[str]) -> Dataset:
    try:
        return load_dataset(kind, data_files=list(files), split="train")
    except DatasetGenerationError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise ValueError(f"cannot read {', '.join(files[:3])}: {reason}") from error


def _provenance_file(output: Path) -> Path:
    return output.with_name(f"{output.name}.provenance.json")


def _matches(name: str) -> list[str]:
    is_pattern = glob.has_magic(name) and not Path(name).exists()
    # A pattern may be absolute or relative, which Path.glob does not take.
    found = sorted(glob.glob(name, recursive=True)) if is_pattern else [name] * Path(name).is_file()  # noqa: PTH207
    if not found:
        raise FileNotFoundError(f"no file {name!r}")
    return found


def _choose(dataset: Dataset | DatasetDict, split: str | None) -> Dataset | DatasetDict:
    if split is None or isinstance(dataset, Dataset):
        return dataset
    if split not in dataset:
        raise ValueError(f"no split {split!r}; there are {list(dataset)}")
    return dataset[split]
