"""Text to token ids, and which of them hold characters that count.

A text is tokenized as a whole, as the student sees it in training: where the tokenizer merges across the border of
prompt and response, the merged token is the first one that counts. A token counts if it holds at least one character
that counts, or a part of one: all byte tokens of an emoji count if the emoji does.
"""

import itertools
import re
from collections.abc import Iterator, Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from .response import RenderedText, common_length
from .rows import BoolArray, IntArray, Tokens
from .steps import decode

# Without offsets, tokens are decoded in windows that begin at least this many tokens before the one that is looked at.
_WINDOW = 16
_UNFINISHED = "\ufffd"


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[RenderedText]) -> list[Tokens | None]:
    """Tokenizes texts in valid Unicode.

    A tokenizer without character offsets (a "slow" one) is followed by decoding its tokens one after the other, which
    is exact where they spell the text; where they do not, ``None`` stands for the tokens.
    """
    if not tokenizer.is_fast:
        return [_tokenize_without_offsets(tokenizer, text) for text in texts]
    tokens: list[Tokens | None] = [None] * len(texts)
    for add_special_tokens in (False, True):
        chosen = [i for i, text in enumerate(texts) if text.add_special_tokens == add_special_tokens]
        encoded = _encode(tokenizer, [texts[i].text for i in chosen], add_special_tokens)
        for i, (ids, bounds, added) in zip(chosen, encoded, strict=True):
            tokens[i] = Tokens(ids, tokens_holding(bounds, texts[i].own) & ~added)
    return tokens


def _encode(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], add_special_tokens: bool
) -> Iterator[tuple[IntArray, IntArray, BoolArray]]:
    """Ids of tokens, their bounds, shape ``(tokens, 2)``, and which tokens the tokenizer added around each text.

    A text that begins as the text before it is tokenized from the last border that both have; the tokens before the
    border are those of the text before it.
    """
    starts = [0] * len(texts) if add_special_tokens else _common_borders(tokenizer, texts)
    ids, bounds = np.empty(0, dtype=np.int64), np.empty((0, 2), dtype=np.int64)
    rests = [text[start:] for text, start in zip(texts, starts, strict=True)]
    for text, start, rest in zip(texts, starts, encode_each(tokenizer, rests, add_special_tokens), strict=True):
        before = int(np.argmax((bounds[:, 0] == start) & (bounds[:, 1] > start))) if start else 0
        if start and ids[before] != rest[0][0]:
            start, before, rest = 0, 0, next(encode_each(tokenizer, [text], add_special_tokens))
        ids = np.concatenate((ids[:before], rest[0]))
        bounds = np.concatenate((bounds[:before], rest[1] + start))
        yield ids, bounds, np.pad(rest[2], (before, 0))


def encode_each(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], add_special_tokens: bool
) -> Iterator[tuple[IntArray, IntArray, BoolArray]]:
    """Ids of tokens, their bounds and which tokens were added, as a fast tokenizer gives them for each text."""
    if not texts:
        return
    batch = tokenizer(
        texts,
        add_special_tokens=add_special_tokens,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        truncation=False,
        padding=False,
        verbose=False,
    )
    for ids, offsets, added in zip(
        batch["input_ids"], batch["offset_mapping"], batch["special_tokens_mask"], strict=True
    ):
        bounds = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)
        marked = np.asarray(added, dtype=bool) if add_special_tokens else np.zeros(len(ids), dtype=bool)
        yield np.asarray(ids, dtype=np.int64), bounds, marked


def _common_borders(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[int]:
    """For each text a position up to which its tokens are those of the text before it.

    The position is a border: there begins a token that a tokenizer looks for before all else it does, so that it reads
    the text on either side by itself. The longest such token beyond the border lies in what the texts have in common.
    """
    added = [] if tokenizer.split_special_tokens else tokenizer.added_tokens_decoder.values()
    sought = sorted((token for token in added if not token.normalized), key=lambda token: -len(token.content))
    borders = {
        token.content
        for token in sought
        if not token.lstrip and not token.single_word and token.content == token.content.strip()
    }
    pattern = re.compile("|".join(re.escape(token.content) for token in sought) or r"(?!)")
    longest = len(sought[0].content) if sought else 0
    starts: list[int] = []
    found: list[int] = []
    for before, text in itertools.pairwise(["", *texts]):
        common = common_length(before, text)
        while found and found[-1] + longest > common:
            found.pop()
        starts.append(found[-1] if found else 0)
        matches = pattern.finditer(text, starts[-1])
        found += [match.start() for match in matches if match[0] in borders and match.start() > starts[-1]]
    return starts


def tokens_holding(bounds: IntArray, own: BoolArray) -> BoolArray:
    """Chooses the tokens that hold at least one own character, from their bounds, shape ``(tokens, 2)``.

    Byte-level tokenizers may trim white space from offsets, so a token reaches back to where the one before ended.
    """
    previous_end = np.concatenate(([0], np.maximum.accumulate(bounds[:, 1])))[: len(bounds)]
    start = np.minimum(bounds[:, 0], previous_end)
    end = np.maximum(bounds[:, 1], start)
    own_before = np.concatenate(([0], np.cumsum(own)))
    counts: BoolArray = own_before[end] > own_before[start]
    return counts


def _tokenize_without_offsets(tokenizer: PreTrainedTokenizerBase, text: RenderedText) -> Tokens | None:
    ids = tokenizer.encode(text.text, add_special_tokens=False)
    bounds = _spelled_bounds(tokenizer, ids, text.text)
    if bounds is None:
        return None
    counts = tokens_holding(bounds, text.own)
    if not text.add_special_tokens:
        return Tokens(np.asarray(ids, dtype=np.int64), counts)
    full = tokenizer.encode(text.text, add_special_tokens=True)
    # A text of special tokens would hide how many are added before it: a letter does not.
    letter, around = (tokenizer.encode("a", add_special_tokens=added) for added in (False, True))
    lead = around.index(letter[0])
    if full[lead : lead + len(ids)] != ids:
        return None
    return Tokens(np.asarray(full, dtype=np.int64), np.pad(counts, (lead, len(full) - len(ids) - lead)))


def _spelled_bounds(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], text: str) -> IntArray | None:
    """Bounds of tokens in a text, shape ``(tokens, 2)``; ``None`` where the decoded tokens are not the text.

    A token that only begins or goes on with a character of several tokens reaches one character far. A run of
    replacement characters is such a token, so that a text with a replacement character of its own cannot be followed.
    """
    if _UNFINISHED in text:
        return None
    bounds = np.zeros((len(ids), 2), dtype=np.int64)
    window, first, lead, origin = 0, 0, "", 0  # ids[window:first] spell lead, and ids[:first] spell text[:origin]
    position = 0
    for k in range(len(ids)):
        decoded = decode(tokenizer, ids[window : k + 1])
        spelled = decoded[len(lead) :].rstrip(_UNFINISHED)
        if not decoded.startswith(lead) or not text.startswith(spelled, origin):
            return None
        end = max(position, origin + len(spelled))
        bounds[k] = position, min(max(end, position + 1), len(text))
        position = end
        if k - first >= _WINDOW and decoded == lead + spelled:
            later = decode(tokenizer, ids[k + 1 - _WINDOW : k + 1])
            if text[:position].endswith(later):
                window, first, lead, origin = k + 1 - _WINDOW, k + 1, later, position
    return bounds if position == len(text) else None
