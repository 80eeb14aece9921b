"""Data sets from the names on a command line, and back to files. Mistakes in names are found before any import."""

from __future__ import annotations

import glob
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

    from ..scoring.scorer import RSRScorer

_BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".arrow": "arrow", ".csv": "csv"}
_COMPRESSED = {".gz": ("json", "csv"), ".zst": ("json",), ".bz2": ("json", "csv")}
# Endings of files that hold no rows, where a name without a file behind it is not taken for a Hub id.
_OTHER_FILES = (".txt", ".tsv", ".xlsx", ".zip", ".tar", ".yaml", ".yml", ".md", ".gguf", ".safetensors", ".html")
_SAVED = ("state.json", "dataset_dict.json")


def find_files(names: Sequence[str]) -> dict[str, list[str]]:
    """The files that each name or glob stands for; none if it is a folder or a Hub id."""
    found: dict[str, list[str]] = {}
    for name in names:
        path, files = Path(name), []
        if glob.has_magic(name) and not path.exists():
            # A pattern may be absolute or relative, which Path.glob does not take.
            files = sorted(file for file in glob.glob(name, recursive=True) if Path(file).is_file())  # noqa: PTH207
            if not files:
                raise FileNotFoundError(f"no file {name!r}")
        elif path.is_file():
            files = [name]
        elif not path.is_dir() and (_kind(name) or path.suffix in (*_COMPRESSED, *_OTHER_FILES)):
            raise FileNotFoundError(f"no file {name!r}")
        for file in files:
            if not _kind(file):
                known = ", ".join([*_BUILDERS, *(f".jsonl{ending}" for ending in _COMPRESSED)])
                raise ValueError(f"{file!r} is no file of rows, which end in {known}; {_advice(file)}")
        found[name] = files
    counts = Counter(chain.from_iterable(found[name] or [name] for name in names))
    if twice := [name for name, count in counts.items() if count > 1]:
        raise ValueError(f"{twice[0]!r} is named twice, by itself or by a glob")
    return found


def _kind(file: str) -> str | None:
    """How a file is read, by its name."""
    path = Path(file)
    kind = _BUILDERS.get(Path(path.stem).suffix if path.suffix in _COMPRESSED else path.suffix)
    return kind if kind in _COMPRESSED.get(path.suffix, (kind,)) else None


def _advice(file: str) -> str:
    """Advice for a file of another kind."""
    if Path(file).suffix == ".txt":
        return 'plain text is read as a column of JSON lines: {"text": "..."}'
    if Path(file).suffix in _COMPRESSED:
        return "decompress the file, or name it after what is in it, e.g. rows.jsonl.gz"
    return "convert the file"


def _teacher(file: str) -> str:
    """The name of a file without its endings."""
    path = Path(file)
    return Path(path.stem).stem if path.suffix in _COMPRESSED else path.stem


def open_dataset(
    names: Sequence[str],
    split: str | None = None,
    config_name: str | None = None,
    teacher_from_file: bool = False,
    scorer: RSRScorer | None = None,
) -> Dataset | DatasetDict:
    """Opens a dataset: ``save_to_disk`` folders, run folders, Hub ids, or files and globs, of one kind or several.

    Several names become one split with the columns of all; the provenance records beside files, as
    :func:`save_dataset` writes them, are read.

    Args:
        names: The folders, Hub ids, files and globs.
        split: Which split; all without it.
        config_name: Which configuration of a Hub dataset that has several.
        teacher_from_file: Add a column ``teacher``: each row's is the name of its file, without the ending.
        scorer: Who is to score the rows, for which several names must have one format.
    """
    found = find_files(names)
    hub = [name for name, files in found.items() if not files and not Path(name).is_dir()]
    if config_name is not None and not hub:
        raise ValueError(f"--config-name {config_name}: {names[0]} is no Hub dataset, which alone has configurations")
    if teacher_from_file and not all(found.values()):
        other = next(name for name, files in found.items() if not files)
        raise ValueError(f"{other} is not a file: its rows cannot be named after one")
    opened: dict[str, Dataset | DatasetDict] = {}
    for name, files in found.items():
        if files:
            opened |= {file: _open_file(file) for file in files}
        else:
            opened[name] = _open_folder(Path(name)) if Path(name).is_dir() else _open_hub(name, config_name)
    if split is None and len(opened) == 1 and not teacher_from_file:
        return next(iter(opened.values()))
    parts = {name: _choose_split(part, split) for name, part in opened.items()}
    if len(parts) > 1:
        from .merging import concatenate, require_one_format, warn_of_plain_texts

        if scorer is None:
            warn_of_plain_texts(parts)
        else:
            require_one_format(parts, scorer.output["columns"])
    if teacher_from_file:
        parts = _with_teachers(parts)
    return concatenate(parts) if len(parts) > 1 else next(iter(parts.values()))


def folder_of(names: Sequence[str]) -> str | None:
    """The folder of the files that the names stand for; ``None`` if there are several folders or none."""
    folders = {str(Path(file).parent) for files in find_files(names).values() for file in files}
    return folders.pop() if len(folders) == 1 else None


def splits_of(dataset: Dataset | DatasetDict) -> Mapping[str, Dataset]:
    """The splits by name; a ``Dataset`` is one split without a name."""
    return dataset if isinstance(dataset, dict) else {"": dataset}


def one_split(dataset: Dataset | DatasetDict) -> Dataset:
    """The only split; several are a ``ValueError``."""
    if isinstance(dataset, dict) and len(dataset) > 1:
        raise ValueError(f"the dataset has the splits {list(dataset)}: name one with --split")
    return next(iter(splits_of(dataset).values()))


def _choose_split(dataset: Dataset | DatasetDict, split: str | None) -> Dataset:
    if split is None:
        return one_split(dataset)
    splits = dataset if isinstance(dataset, dict) else {str(dataset.split): dataset} if dataset.split else {}
    if split not in splits:
        raise ValueError(f"no split {split!r}; there {f'are {[*splits]}' if splits else 'is none, only rows'}")
    return splits[split]


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
    from ..utils.bars import no_bar_if_quick
    from ..utils.files import written_aside

    check_output(output, overwrite)
    with written_aside(output) as aside:
        if output.suffix in (".parquet", ".jsonl"):
            if isinstance(dataset, dict):
                raise ValueError(f"{output}: the splits {list(dataset)} need a folder, or name one with --split")
            dataset.to_parquet(aside) if output.suffix == ".parquet" else dataset.to_json(aside, double_precision=15)
        elif output.suffix in _BUILDERS:
            raise ValueError(f"{output}: give a .parquet or .jsonl file, or a folder")
        else:
            with no_bar_if_quick(sum(map(len, splits_of(dataset).values()))):
                dataset.save_to_disk(aside)
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
    endings = Counter("".join(file.suffixes[-2:]) for file in folder.iterdir() if _kind(file.name))
    files = f"'{folder}/*{endings.most_common(1)[0][0]}'" if endings else "it has no files of rows either"
    raise FileNotFoundError(f"{folder} is no folder of save_to_disk; {'name its files, ' * bool(endings)}{files}")


def _open_hub(name: str, config_name: str | None) -> Dataset | DatasetDict:
    from datasets import load_dataset

    try:
        return load_dataset(name, config_name)
    except (OSError, ValueError) as error:  # datasets lists the configurations of a dataset that has several
        advice = "" if config_name else " (--config-name chooses one of several configurations)"
        raise FileNotFoundError(
            f"{name!r} is no file or folder here, and not to be loaded from the Hub{advice}: {error}"
        ) from error


def _open_file(file: str) -> Dataset:
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    from ..tables.records import append_record
    from .json_rows import load_json

    if not Path(file).stat().st_size:
        raise ValueError(f"{file} is empty: it has no row")
    kind = _kind(file)
    try:
        if kind == "csv":
            _check_commas(file)
        data_files = [glob.escape(file)]
        dataset = load_json(file) if kind == "json" else load_dataset(kind, data_files=data_files, split="train")
    except (DatasetGenerationError, OSError, ValueError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        if "corresponds to no data" in reason:  # how datasets says so
            reason = f"{file} is empty: it has no row"
        raise ValueError(reason if file in reason else f"cannot read {file}: {reason}") from error
    if (beside := _provenance_file(Path(file))).is_file():
        for record in json.loads(beside.read_text(encoding="utf-8")):
            dataset = append_record(dataset, record)
    return dataset


def _check_commas(file: str) -> None:
    import pyarrow as pa

    with io.TextIOWrapper(pa.input_stream(file, compression="detect"), encoding="utf-8", errors="replace") as stream:
        header = stream.readline()
    for other in (";", "\t"):
        if other in header and "," not in header:
            raise ValueError(f"{file}: its columns stand between {other!r}; write it with commas, or as JSON lines")


def _with_teachers(parts: Mapping[str, Dataset]) -> dict[str, Dataset]:
    """Adds the column ``teacher`` to the rows of files."""
    files: dict[str, str] = {}
    for file, part in parts.items():
        if "teacher" in part.column_names:
            raise ValueError(f"{file} has a column 'teacher' already: leave --teacher-from-file out")
        if (name := _teacher(file)) in files:
            raise ValueError(f"{files[name]} and {file} would both be the teacher {name!r}: rename one of them")
        files[name] = file
    return {file: part.add_column("teacher", [_teacher(file)] * len(part)) for file, part in parts.items()}


def _provenance_file(output: Path) -> Path:
    return output.with_name(f"{output.name}.provenance.json")
