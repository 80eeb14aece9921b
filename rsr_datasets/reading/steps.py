"""Where the steps of a trajectory end: its sentences and lines, as text and as tokens."""

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

# A sentence's last mark with what closes the sentence and white space, or the end of a line. White space need not
# follow a Chinese or Japanese mark.
_STEP_END = re.compile(
    r"[.!?]+[\"'\u201d\u2019)\]*]*\s+"
    r"|[\u3002\uff01\uff1f\uff1b]+[\"'\u201d\u2019)\]*\u300d\u300f\uff09]*\s*"
    r"|\n\s*"
)


def step_ends(text: str) -> list[int]:
    """Where steps end: after a sentence with the white space that follows it, after a line, and after the text.

    Args:
        text: The text.

    Returns:
        Increasing offsets into the text, the last one its length; none for a text without any visible character.
        White space at the beginning belongs to the first step.
    """
    start = len(text) - len(text.lstrip())
    if start == len(text):
        return []
    ends = [match.end() for match in _STEP_END.finditer(text, start)]
    return ends if ends and ends[-1] == len(text) else [*ends, len(text)]


def token_steps(parts: Sequence[str]) -> npt.NDArray[np.int64]:
    """Tells the step of each token of a text.

    Args:
        parts: The text that each token adds, from :func:`rsr_datasets.reading.token_texts.split_text`.

    Returns:
        Number of its step, int64, shape ``(tokens,)``: a token belongs to the step that has its first visible
        character, one of white space alone to that of its first character.
    """
    ends = step_ends("".join(parts))
    lengths = np.array([len(part) for part in parts], dtype=np.int64)
    lead = np.array([len(part) - len(part.lstrip()) if part.strip() else 0 for part in parts], dtype=np.int64)
    first = np.cumsum(lengths) - lengths + lead
    steps = np.searchsorted(np.array(ends[:-1], dtype=np.int64), first, side="right")
    return steps.astype(np.int64)
