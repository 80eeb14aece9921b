"""Data sets from the names on a command line, and back to files. Mistakes in names are found before any import."""

from __future__ import annotations

import glob
import json
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

_BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".arrow": "arrow", ".csv": "csv"}
_SAVED = ("state.json", "dataset_dict.json")


def find_files(names: Sequence[str]) -> list[str]:
    """The files that names and globs stand for; none if the one name is a folder or a Hub id."""
    if len(names) == 1 and (Path(names[0]).is_dir() or Path(names[0]).suffix not in _BUILDERS):
        return []
    files: list[str] = []
    for name in names:
        is_pattern = glob.has_magic(name) and not Path(name).exists()
        # A pattern may be absolute or relative, which Path.glob does not take.
        found = sorted(glob.glob(name, recursive=True)) if is_pattern else [name] * Path(name).is_file()  # noqa: PTH207
        if not found:
            raise FileNotFoundError(f"no file {name!r}")
        files += found
    suffixes = sorted({Path(file).suffix for file in files})
    if len({_BUILDERS.get(suffix) for suffix in suffixes}) > 1 or suffixes[0] not in _BUILDERS:
        raise ValueError(f"files of different or unknown kinds {suffixes}; known are {sorted(_BUILDERS)}")
    return files


def open_dataset(
    names: Sequence[str], split: str | None = None, config_name: str | None = None, teacher_from_file: bool = False
) -> Dataset | DatasetDict:
    """Opens a dataset: a ``save_to_disk`` folder, a run folder, a Hub id, or files and globs of one kind.

    Files become one split; the provenance records beside them, as :func:`save_dataset` writes them, are read.

    Args:
        names: The folder, the Hub id, or the files and globs.
        split: Which split; all without it.
        config_name: Which configuration of a Hub dataset that has several.
        teacher_from_file: Add a column ``teacher``: each row's is the name of its file, without the ending.
    """
    files, folder = find_files(names), Path(names[0])
    if config_name is not None and (files or folder.is_dir()):
        raise ValueError(f"--config-name {config_name}: {folder} is no Hub dataset, which alone has configurations")
    if files:
        found: Dataset | DatasetDict = _open_files(files, teacher_from_file)
    else:
        found = _open_folder(folder) if folder.is_dir() else _open_hub(names[0], config_name)
        if teacher_from_file:
            raise ValueError(f"{folder} is not a file: its rows cannot be named after one")
    if split is None:
        return found
    splits = found if isinstance(found, dict) else {str(found.split): found} if found.split else {}
    if split not in splits:
        raise ValueError(f"no split {split!r}; there {f'are {[*splits]}' if splits else 'is none, only rows'}")
    return splits[split]


def splits_of(dataset: Dataset | DatasetDict) -> Mapping[str, Dataset]:
    """The splits by name; a ``Dataset`` is one split without a name."""
    return dataset if isinstance(dataset, dict) else {"": dataset}


def one_split(dataset: Dataset | DatasetDict) -> Dataset:
    """The only split; several are a ``ValueError``."""
    if isinstance(dataset, dict) and len(dataset) > 1:
        raise ValueError(f"the dataset has the splits {list(dataset)}: name one with --split")
    return next(iter(splits_of(dataset).values()))


def check_output(output: Path, overwrite: bool) -> None:
    """Checks that a command may write there: nothing is there that must stay, and the folder around it exists."""
    if not output.parent.is_dir():
        raise NotADirectoryError(f"{output}: there is no folder {output.parent}")
    if output.exists() and not overwrite:
        raise FileExistsError(f"{output} exists: give another name, or --overwrite")
    if output.is_dir() and not any((output / name).exists() for name in _SAVED):
        raise FileExistsError(f"{output} is a folder that was not written by save_to_disk: it is left alone")


def save_dataset(dataset: Dataset | DatasetDict, output: Path, overwrite: bool = False) -> None:
    """Writes a dataset, all at once or nothing, and its provenance records into a file beside it.

    The output is a ``.parquet`` or ``.jsonl`` file for one split, or a folder for ``save_to_disk``.
    """
    from ..tables.records import read_records

    check_output(output, overwrite)
    aside = output.with_name(f".{output.name}.{uuid.uuid4().hex}")
    try:
        if output.suffix in (".parquet", ".jsonl"):
            if isinstance(dataset, dict):
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
    records = read_records("\n".join(part.info.description or "" for part in splits_of(dataset).values()))
    _provenance_file(output).write_text(json.dumps(records, indent=1, ensure_ascii=False), encoding="utf-8")


def _open_folder(folder: Path) -> Dataset | DatasetDict:
    from datasets import DatasetDict, load_from_disk

    if any((folder / name).exists() for name in _SAVED):
        return load_from_disk(folder)
    if (folder / "scored").is_dir():
        return load_from_disk(folder / "scored")
    if splits := sorted(part.parent for part in folder.glob("*/scored")):
        return DatasetDict({split.name: load_from_disk(split / "scored") for split in splits})
    raise FileNotFoundError(f"{folder} is no folder of save_to_disk; name the files in it, e.g. '{folder}/*.jsonl'")


def _open_hub(name: str, config_name: str | None) -> Dataset | DatasetDict:
    from datasets import load_dataset

    try:
        return load_dataset(name, config_name)
    except (OSError, ValueError) as error:  # datasets lists the configurations of a dataset that has several
        advice = "" if config_name else " (--config-name chooses one of several configurations)"
        raise FileNotFoundError(
            f"{name!r} is no file or folder here, and not to be loaded from the Hub{advice}: {error}"
        ) from error


def _open_files(files: Sequence[str], teacher_from_file: bool) -> Dataset:
    from datasets import concatenate_datasets

    from ..tables.records import append_record

    if teacher_from_file:
        parts = {file: _load([file]) for file in files}
        if any("teacher" in part.column_names for part in parts.values()):
            raise ValueError("the files have a column 'teacher' already: leave --teacher-from-file out")
        named = [part.add_column("teacher", [Path(file).stem] * len(part)) for file, part in parts.items()]
        dataset = concatenate_datasets(named, split="train")
    else:
        dataset = _load(files)
    for file in files:
        if (beside := _provenance_file(Path(file))).is_file():
            for record in json.loads(beside.read_text(encoding="utf-8")):
                dataset = append_record(dataset, record)
    return dataset


def _load(files: Sequence[str]) -> Dataset:
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    try:
        return load_dataset(_BUILDERS[Path(files[0]).suffix], data_files=list(files), split="train")
    except DatasetGenerationError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise ValueError(f"cannot read {', '.join(files[:3])}: {reason}") from error


def _provenance_file(output: Path) -> Path:
    return output.with_name(f"{output.name}.provenance.json")
