"""Tokens of a trajectory as text, and where its steps end: its sentences and lines."""

import re
from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from .rows import IntArray

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# A character is at most four tokens of one byte; a longer run that decodes to nothing is not UTF-8 at all.
_LONGEST_RUN = 64
# A sentence's last mark with what closes the sentence and white space, or the end of a line. White space need not
# follow a Chinese or Japanese mark.
_STEP_END = re.compile(
    r"[.!?]+[\"'\u201d\u2019)\]*]*\s+"
    r"|[\u3002\uff01\uff1f\uff1b]+[\"'\u201d\u2019)\]*\u300d\u300f\uff09]*\s*"
    r"|\n\s*"
)


def step_ends(text: str) -> list[int]:
    """Where steps end: after a sentence with the white space that follows it, after a line, and after the text.

    The offsets increase, the last one is the text's length; a text without any visible character has none. White space
    at the beginning belongs to the first step.
    """
    start = len(text) - len(text.lstrip())
    if start == len(text):
        return []
    ends = [match.end() for match in _STEP_END.finditer(text, start)]
    return ends if ends and ends[-1] == len(text) else [*ends, len(text)]


def token_steps(parts: Sequence[str]) -> IntArray:
    """Gives the number of each token's step, int64, from the text that each token adds (:func:`split_text`).

    A token belongs to the step that has its first visible character, one of white space alone to that of its first
    character.
    """
    ends = step_ends("".join(parts))
    lengths = np.array([len(part) for part in parts], dtype=np.int64)
    lead = np.array([len(part) - len(part.lstrip()) if part.strip() else 0 for part in parts], dtype=np.int64)
    first = np.cumsum(lengths) - lengths + lead
    steps = np.searchsorted(np.array(ends[:-1], dtype=np.int64), first, side="right")
    return steps.astype(np.int64)


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of token ids as it is: special tokens stay, and no white space is cleaned up."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def split_text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """Decodes tokens one by one, so that the parts put together are the text.

    Where several tokens spell one character, as byte-level tokenizers do, the last of them has the character and the
    others have no text. An id that is not one of the tokenizer's is a ``ValueError``.
    """
    ids = list(ids)
    if wrong := [each for each in ids if not 0 <= each < len(tokenizer)]:
        raise ValueError(
            f"tokenizer: token id {wrong[0]} is not one of the {len(tokenizer)} of {tokenizer.name_or_path!r}; "
            "give the student's own tokenizer"
        )
    parts: list[str] = []
    # Decoding starts one part back, since some decoders drop the space before what they take for the first word.
    first = done = 0
    known = ""
    for end in range(1, len(ids) + 1):
        text = decode(tokenizer, ids[first:end])
        if text.endswith(_REPLACEMENT) and end < len(ids) and end - done < _LONGEST_RUN:
            parts.append("")
            continue
        parts.append(text[len(known) :])
        first, done = done, end
        known = decode(tokenizer, ids[first:done])
    return parts
