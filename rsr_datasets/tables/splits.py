"""One step for a ``Dataset``, or for each split of a ``DatasetDict``."""

from collections.abc import Callable
from typing import Any, TypeVar

from datasets import Dataset, DatasetDict

Result = TypeVar("Result")


def require_dataset(dataset: Any, name: str = "dataset") -> Dataset:
    """Checks that an argument is a ``Dataset``; else a ``TypeError`` says what to do."""
    if isinstance(dataset, Dataset):
        return dataset
    kind = type(dataset).__name__
    streamed = "; a stream has no length: load it without streaming=True" if kind.startswith("Iterable") else ""
    advice = "; choose a split" if isinstance(dataset, DatasetDict) else streamed
    raise TypeError(f"{name}: expected a Dataset, found {kind}{advice}")


def map_splits(dataset: Any, step: Callable[[Dataset], Result]) -> Result | dict[str, Result]:
    """Applies a step to a ``Dataset`` or to each split of a ``DatasetDict``, whose results are one too, or a dict."""
    if not isinstance(dataset, DatasetDict):
        return step(require_dataset(dataset))
    results = {name: step(split) for name, split in dataset.items()}
    if all(isinstance(result, Dataset) for result in results.values()):
        return DatasetDict(results)
    return results
