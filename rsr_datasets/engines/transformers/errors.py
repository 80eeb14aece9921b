"""Errors of model families, said in one line that names the student."""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Iterator

_LONGEST_REASON = 400


@contextlib.contextmanager
def refusing(failure: str) -> Iterator[None]:
    """Turns every error of a model family, of any class, into a ``ValueError`` that says the failure."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{failure}: {_shorten(error)}") from error


def _shorten(error: Exception) -> str:
    """The reason on one line."""
    said = " ".join(str(error).split())
    kind = "" if isinstance(error, OSError | ValueError | RuntimeError) and said else f"{type(error).__name__}: "
    return textwrap.shorten(kind + said, _LONGEST_REASON, placeholder=" ...")
