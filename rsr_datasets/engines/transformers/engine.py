"""The engine that runs a student of transformers: rows to batches, to ranks and surprisals."""

import bisect
import contextlib
import functools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from ...reading.rows import EncodedRow, conversations, tokens_read
from ..base import ENTROPIES, BatchAccount, OnBatch, TokenScores
from .batches import Ids, bytes_per_token, choose_tokens_per_batch, plan_batches
from .classes import causal_model, refuse_encoder_decoder, text_module
from .decoder import Decoder
from .head import LogitsDtype, OutputHead
from .packing import plan_packs, sharing_runs
from .probes import check, refusing
from .reduction import Reduced
from .speedups import SPEEDUPS
from .speedups.side_by_side import available_bytes, side_by_side
from .vision import Vision, kinds

logger = logging.getLogger(__name__)

# Sharing less of a row does not pay for a mask, which replaces a kernel's own causal one.
_LEAST_SHARED = 0.05
_NOTHING_SHARED = 2.0

_Read = tuple[Callable[[], list[Any]], BatchAccount | None]
"""Waits for a batch's results, and the batch's account."""


@dataclass(frozen=True)
class _Batch:
    """Numbers of rows that are read together; see :meth:`.decoder.Decoder.read` and :attr:`BatchAccount.split`."""

    rows: list[int]
    least_shared: float | None = None
    of_conversations: bool = False
    of_images: bool = False
    split: bool = False


def _leaving(found: Reduced) -> Callable[[], list[Any]]:
    """Starts to copy results of a batch from the device; returns a function that waits for the copies."""
    copies = [None if tensor is None else tensor.to("cpu", non_blocking=True) for tensor in found]
    arrived = torch.cuda.Event() if found[0].is_cuda else None
    if arrived:
        arrived.record(torch.cuda.current_stream(found[0].device))

    def wait() -> list[Any]:
        if arrived:
            arrived.synchronize()
        # A GPU writes into page-locked memory, which the next batch uses again.
        return [None if tensor is None else tensor.numpy().copy() for tensor in copies]

    return wait


class TransformersEngine:
    """A loaded causal language model, an :class:`rsr_datasets.engines.base.Engine`.

    Hidden states at scored positions go through the output head, ``chunk_tokens`` at a time, and each chunk of logits
    is reduced at once. ``tokens_per_batch`` counts padding too, and may be changed, as ``share_prefixes``. ``None``
    leaves a number to the device. ``ValueError`` refuses a model that :func:`.probes.check` finds unfit.
    ``load_processor`` is called for the first row with images, which :class:`.vision.Vision` reads.
    """

    provides = frozenset({ENTROPIES})

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        name: str = "student",
        logits_dtype: LogitsDtype = "student",
        tokens_per_batch: int | None = None,
        share_prefixes: bool = True,
        chunk_tokens: int | None = None,
        load_processor: Callable[[], Any] = lambda: None,
    ) -> None:
        refuse_encoder_decoder(model.config, name)
        described = f"student {name!r} ({type(model).__name__})"
        with refusing(f"{described}: it does not say what its embeddings are"):
            causal, prefix = causal_model(model)
        if causal.get_output_embeddings() is None or prefix is None:
            raise ValueError(f"{described} is no causal language model with a decoder")
        self.name = name
        self.model = model.eval()
        self.share_prefixes = share_prefixes
        self._described = described
        self._load_processor = load_processor
        with refusing(f"{described}: its forward pass fails"):
            self.head = OutputHead(causal, prefix, logits_dtype)
        self.decoder = self._checked_decoder(causal._modules[prefix])
        self.max_positions = self.decoder.max_positions
        self.vocab_size = self.decoder.vocab_size
        for speedup in SPEEDUPS:
            self._take(speedup)
        self.chunk_tokens = chunk_tokens or self.head.chunk_tokens(self.vocab_size)
        self.tokens_per_batch = tokens_per_batch or choose_tokens_per_batch(
            self.device, self.max_positions, self.decoder.hidden
        )

    @property
    def device(self) -> torch.device:
        """Where the token ids go."""
        return self.decoder.device

    def _checked_decoder(self, base: Any) -> Decoder:
        """The decoder: the part of the base model that reads text, if that gives the same as the whole base model."""
        with contextlib.suppress(ValueError):
            if (text := text_module(base)) is not base:
                decoder = Decoder(self.model, text)
                decoder.vocab_size = check(decoder, self.head, self._described)
                return decoder
        decoder = Decoder(self.model, base)
        decoder.vocab_size = check(decoder, self.head, self._described)
        return decoder

    @functools.cached_property
    def _vision(self) -> Vision:
        """Reads rows with images; ``ValueError`` names a student that does not read them."""
        processor = self._load_processor()
        if processor is None:
            raise ValueError(f"{self._described} reads text alone, and a row has images")
        return Vision(self.model, self.head, processor, self._described)

    def _take(self, speedup: Callable[[torch.nn.Module, bool], torch.nn.Module]) -> None:
        """Takes a speed-up if decoder and head give the same with it."""
        decoder, head = self.decoder, self.head

        def read(rows: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
            hidden = decoder.hidden(rows)
            given = hidden.to(head.dtype or hidden.dtype)
            heads = (speedup(head.module, True), head.module)
            logits, expected = (each(inputs_embeds=given, use_cache=False).logits for each in heads)
            return [(decoder.hidden(rows, speedup(decoder.module, True)), hidden), (logits, expected)]

        try:
            layers, output = speedup(decoder.module, False), speedup(head.module, False)
            if (layers is not decoder.module or output is not head.module) and decoder.agrees(read):
                decoder.module, head.module = layers, output
        except Exception as error:  # the layers of model families may raise any error
            logger.debug("student %r is read without %s: %s", self.name, speedup.__name__, error)

    def score(
        self, rows: Sequence[EncodedRow], *, entropies: bool = False, on_batch: OnBatch | None = None
    ) -> list[TokenScores]:
        """Scores rows, batches beyond the memory in halves; a single row beyond it raises ``OutOfMemoryError``."""
        ids = [row.read_ids for row in rows]
        row_tokens = tokens_read(rows)
        pictured = [i for i, row in enumerate(rows) if row.images]
        _ = pictured and self._vision  # a student that does not read images is refused first
        turns = [i for numbers in conversations(rows) for i in range(len(rows))[numbers] if not rows[i].images]
        turns = self._sharing(turns, ids, None) if self.share_prefixes and turns and self.decoder.can_branch else []
        packed = self._packed_rows(sorted(set(range(len(rows))).difference(turns, pictured)), ids)
        others = sorted(set(range(len(rows))).difference(turns, pictured, packed))
        least_shared = _LEAST_SHARED if self.share_prefixes else _NOTHING_SHARED
        parts = self._plan(turns, ids, least_shared, of_conversations=True)
        parts += self._plan(packed, ids, least_shared) + self._plan(others, ids, None)
        for alike in dict.fromkeys(kinds(rows[i]) for i in pictured):
            some = [i for i in pictured if kinds(rows[i]) == alike]
            parts += [replace(batch, of_images=True) for batch in self._plan(some, ids, None)]
        parts.reverse()
        results: list[Any] = [None] * len(rows)
        running: deque[tuple[_Batch, Callable[[], _Read]]] = deque()
        # A rotary embedding that a long row rescales has one scale at a time.
        apart = 0 if self.decoder.turning_lengths else len(parts)
        if apart and self.device.type == "cpu":  # small batches last, so that all cores end together
            parts.sort(key=lambda batch: sum(ids[i].size for i in batch.rows))
        with side_by_side(self.device, apart) as (start, most):
            while parts or running:
                while parts and (not running or (len(running) < most and self._fits(parts[-1], running, row_tokens))):
                    batch = parts.pop()
                    running.append((batch, start(functools.partial(self._read, batch, rows, entropies))))
                batch, wait = running.popleft()
                arrived, account = wait()
                if not account:
                    parts += self._halves(batch, ids)
                    continue
                arrays = arrived()
                if account.tokens < sum(ids[i].size for i in batch.rows) and not np.isfinite(arrays[1]).all():
                    # A NaN gets through a mask, and must not get from one row into another.
                    alone = self._plan(batch.rows, ids, _NOTHING_SHARED)
                    parts += [replace(each, split=batch.split) for each in alone]
                    continue
                ends = np.cumsum([rows[i].positions.size for i in batch.rows])[:-1]
                by_row = ([None] * len(batch.rows) if array is None else np.split(array, ends) for array in arrays)
                for i, *found in zip(batch.rows, *by_row, strict=True):
                    results[i] = TokenScores(*found)
                if on_batch:
                    on_batch(replace(account, row_tokens=sum(row_tokens[i] for i in batch.rows)))
        return results

    def _fits(self, batch: _Batch, running: Iterable[tuple[_Batch, Any]], row_tokens: Sequence[int]) -> bool:
        """Whether a CPU's memory has room for one more batch beside those that run; a GPU runs one at a time."""
        if self.device.type != "cpu":
            return True
        tokens = sum(row_tokens[row] for some in (batch, *(each for each, _ in running)) for row in some.rows)
        return tokens * bytes_per_token(self.model.config, self.model.dtype) < available_bytes() / 2

    def _packed_rows(self, rows: list[int], ids: Sequence[Ids]) -> list[int]:
        """Rows to read in one sequence: all where that pays without sharing, else those that share."""
        if self.decoder.attends_by_row and self.decoder.can_pack:
            return rows
        if not self.share_prefixes or not self.decoder.can_pack:
            return []
        return self._sharing(rows, ids, self.decoder.pack_size)

    def _sharing(self, rows: list[int], ids: Sequence[Ids], hidden_size: int | None) -> list[int]:
        """Those of some rows that share first tokens."""
        runs = sharing_runs([ids[row] for row in rows], _LEAST_SHARED, hidden_size)
        return sorted(rows[i] for run in runs if len(run) > 1 for i in run)

    def _plan(
        self, rows: Sequence[int], ids: Sequence[Ids], least_shared: float | None, of_conversations: bool = False
    ) -> list[_Batch]:
        """Batches of rows that the student reads in the same way, whatever the longest of them."""
        groups: dict[int, list[int]] = {}
        for row in rows:
            groups.setdefault(bisect.bisect_left(self.decoder.turning_lengths, ids[row].size), []).append(row)
        batches: list[_Batch] = []
        for _, group in sorted(groups.items(), reverse=True):
            some = [ids[row] for row in group]
            if least_shared is None:
                planned = plan_batches([each.size for each in some], self.tokens_per_batch)
            else:
                size = self.decoder.pack_size
                planned = plan_packs(some, self.tokens_per_batch, least_shared, size, of_conversations)
            batches += [_Batch([group[i] for i in batch], least_shared, of_conversations) for batch in planned]
        return batches

    def _read(self, batch: _Batch, rows: Sequence[EncodedRow], entropies: bool) -> _Read:
        """Queues the computation of a batch; without an account where the device has no memory for several rows."""
        try:
            found, account = self._score_batch([rows[i] for i in batch.rows], batch, entropies)
            return _leaving(found), replace(account, split=batch.split)
        except torch.OutOfMemoryError:
            if len(batch.rows) == 1:
                raise
        return list, None

    def _halves(self, batch: _Batch, ids: Sequence[Ids]) -> list[_Batch]:
        """Two halves of a batch that did not fit into memory."""
        # Only here, outside the handler, is the failed pass's memory free to be given back.
        if self.device.type != "cpu":
            getattr(torch, self.device.type).empty_cache()
        half = len(batch.rows) // 2
        longest = max(ids[row].size for row in batch.rows)
        logger.warning("out of memory with %d rows of at most %d tokens: in halves", len(batch.rows), longest)
        return [replace(batch, rows=each, split=True) for each in (batch.rows[half:], batch.rows[:half])]

    @torch.no_grad()
    def _score_batch(self, rows: Sequence[EncodedRow], batch: _Batch, entropies: bool) -> tuple[Reduced, BatchAccount]:
        """Queues the computation of a batch, without waiting for a GPU."""
        if batch.of_images:
            hidden, account = self._vision.read(rows)
        else:
            hidden, account = self.decoder.read(rows, batch.least_shared, batch.of_conversations)
        targets = torch.from_numpy(np.concatenate([row.input_ids[row.positions] for row in rows]))
        return self.head.reduce(hidden, targets, self.chunk_tokens, entropies), account
