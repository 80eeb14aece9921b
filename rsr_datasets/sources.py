"""Data sets from what a person names on the command line."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset, DatasetDict, load_dataset, load_from_disk

_BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".arrow": "arrow", ".csv": "csv"}


def open_dataset(names: Sequence[str], split: str | None = None) -> Dataset | DatasetDict:
    """Opens a data set.

    Args:
        names: A ``save_to_disk`` folder, a Hub data set id, or files and globs of one kind (``.jsonl``, ``.json``,
            ``.parquet``, ``.arrow``, ``.csv``), which become one split.
        split: Which split; ``None`` for all there are.

    Raises:
        FileNotFoundError: If a file, a folder or the Hub data set is not there, or a glob matches nothing.
        ValueError: If files are of different or unknown kinds, or there is no such split.
    """
    if len(names) == 1 and Path(names[0]).is_dir():
        return _choose(_open_folder(Path(names[0])), split)
    suffixes = {Path(name).suffix for name in names}
    if suffixes & set(_BUILDERS) or len(names) > 1:
        kinds = {_BUILDERS.get(suffix) for suffix in suffixes}
        if len(kinds) > 1 or None in kinds:
            raise ValueError(f"files of different or unknown kinds {sorted(suffixes)}; known are {sorted(_BUILDERS)}")
        files = [file for name in names for file in _matches(name)]
        return load_dataset(kinds.pop(), data_files=files, split="train")
    return _choose(load_dataset(names[0]), split)


def _open_folder(folder: Path) -> Dataset | DatasetDict:
    if not any((folder / name).exists() for name in ("state.json", "dataset_dict.json")):
        raise FileNotFoundError(
            f"{folder} is no folder of save_to_disk; name the files in it, e.g. '{folder}/*.jsonl'"
        )
    return load_from_disk(folder)


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
