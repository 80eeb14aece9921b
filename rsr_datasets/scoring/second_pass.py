"""Rows that the student reads a second time, with less before their tokens: for local surprisals and for IFD."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..engines.base import BatchAccount, Engine, OnBatch
from ..reading.rows import EncodedRow, UnscorableRowError
from ..reading.steps import token_steps
from ..reading.token_texts import split_text
from .columns import ScoredRow

LOCAL_STEPS = 4
"""Steps that a token of :func:`local_rows` sees before its own."""


def read_again(
    outcomes: Sequence[ScoredRow],
    encoded: Sequence[EncodedRow | UnscorableRowError],
    needs: Collection[str],
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    on_batch: OnBatch | None,
) -> list[ScoredRow]:
    """Adds the surprisals for which the student reads a trajectory again, with less before its tokens.

    ``needs`` are the metrics'; ``on_batch`` hears of no row tokens, since the first pass counted the rows.
    """
    parts: dict[str, Callable[[EncodedRow], list[EncodedRow]]] = {
        "local_surprisals": lambda row: local_rows(row, tokenizer),
        "surprisals_without_prompt": lambda row: [row_without_prompt(row, tokenizer)],
    }

    def count_no_rows(batch: BatchAccount) -> None:
        if on_batch is not None:
            on_batch(replace(batch, row_tokens=0))

    again = list(outcomes)
    for need in sorted(parts.keys() & set(needs)):
        pairs = enumerate(zip(outcomes, encoded, strict=True))
        rows = {
            i: [part for sequence in row.sequences for part in parts[need](sequence)]
            for i, (outcome, row) in pairs
            if isinstance(row, EncodedRow) and outcome.ranks is not None
        }
        flat = [part for some in rows.values() for part in some]
        found = iter(engine.score(flat, on_batch=on_batch and count_no_rows) if flat else ())
        for i, some in rows.items():
            added: dict[str, Any] = {need: np.concatenate([next(found).surprisals for _ in some])}
            again[i] = replace(again[i], **added)
    return again


def local_rows(
    row: EncodedRow, tokenizer: PreTrainedTokenizerBase, steps_before: int = LOCAL_STEPS
) -> list[EncodedRow]:
    """One row for each step of a trajectory, with only ``steps_before`` steps as context (arXiv:2601.14249, Eq. 11).

    Steps are sentences and lines (:mod:`rsr_datasets.reading.steps`). A step also begins where scored tokens do not
    follow each other. The prompt counts as one more step. Context is all that stands between, also tokens that are
    not scored. If the row begins with the tokenizer's token for the beginning of a text, so does each of these rows.

    Returns:
        Rows whose scored tokens put together are those of ``row``, in order.
    """
    bounds = _step_bounds(row, tokenizer)
    opening = row.input_ids[:1] if row.input_ids[0] == tokenizer.bos_token_id else row.input_ids[:0]
    rows = []
    for i, (first, end) in enumerate(bounds):
        start = 0 if i < steps_before else int(row.positions[bounds[i - steps_before][0]])
        lead = opening if start else opening[:0]
        positions = row.positions[first:end] - start + lead.size
        rows.append(EncodedRow(np.concatenate([lead, row.input_ids[start : row.positions[end - 1] + 1]]), positions))
    return rows


def row_without_prompt(row: EncodedRow, tokenizer: PreTrainedTokenizerBase) -> EncodedRow:
    """The trajectory without the prompt before its first scored token (arXiv:2308.12032).

    The first token needs one to be predicted from: the tokenizer's token for the beginning of a text, else its token
    for the end, else the token that stood before.
    """
    start = int(row.positions[0])
    anchors = (tokenizer.bos_token_id, tokenizer.eos_token_id, int(row.input_ids[start - 1]))
    anchor = next(token for token in anchors if token is not None)
    ids = np.concatenate([np.array([anchor], dtype=row.input_ids.dtype), row.input_ids[start:]])
    return EncodedRow(ids, row.positions - start + 1)


def _step_bounds(row: EncodedRow, tokenizer: PreTrainedTokenizerBase) -> Sequence[tuple[int, int]]:
    """First scored token of each step and the one after its last, as indices into ``positions``."""
    breaks = np.flatnonzero(np.diff(row.positions) > 1) + 1
    bounds = []
    for first, end in zip([0, *breaks.tolist()], [*breaks.tolist(), row.positions.size], strict=True):
        steps = token_steps(split_text(tokenizer, row.input_ids[row.positions[first:end]].tolist()))
        starts = first + np.flatnonzero(np.diff(steps, prepend=-1))
        bounds += list(zip(starts.tolist(), [*starts[1:].tolist(), end], strict=True))
    return bounds
