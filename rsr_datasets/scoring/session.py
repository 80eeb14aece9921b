"""A student at work: rows to token ids, token ids to outcomes; and its second reading, with less before the tokens."""

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice, product
from typing import Any, TypeVar

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ..engines.base import ENTROPIES, Engine, OnBatch, TokenScores
from ..metrics import Metric
from ..reading.encoder import ConversationEncoder
from ..reading.formats import TOKENIZED, RowFormat
from ..reading.formats.tokenized import encode_tokenized
from ..reading.media import MediaOptions
from ..reading.rows import EncodedRow, UnscorableRowError, fit
from ..reading.steps import split_text, token_steps
from ..tables.columns import BAD_ROW, NONFINITE, SKIPPED_TOO_LONG
from .columns import ScoredRow
from .settings import Settings, refuse_unfit_metrics

logger = logging.getLogger(__name__)

_LONGEST_REASON = 350

Encoded = EncodedRow | UnscorableRowError
Found = TokenScores | UnscorableRowError | None
Value = TypeVar("Value")


class Session:
    """Loads a scorer's tokenizer and student once each and reads rows with them; copies of a scorer share it."""

    def __init__(self, settings: Settings) -> None:
        self.engine: Engine | None = None
        self.encoder: ConversationEncoder | None = None
        self.media_folder: str | None = None
        self._settings = settings
        self._chosen: dict[str, Any] = {}
        self._identity: dict[str, Any] | None = None
        self._warned: set[str] = set()

    @property
    def identity(self) -> dict[str, Any]:
        """The identity of the student that is loaded, else of the one that would be."""
        return self._identity or self._settings.source.identity()

    def warn_once(self, key: str, message: str, *values: object) -> None:
        """Logs a warning, unless one of the same key was logged before."""
        if key not in self._warned:
            self._warned.add(key)
            logger.warning(message, *values)

    def load_encoder(self) -> ConversationEncoder:
        """Loads the student's tokenizer and reads its chat template, not its weights."""
        if self.encoder is None:
            settings = self._settings
            _ = self._limit  # a student without a configuration is refused first
            self.encoder = ConversationEncoder(
                settings.source.load_tokenizer(),
                chat_template=settings.chat_template,
                chat_template_kwargs=settings.chat_template_kwargs,
                turns=settings.turns,
                reasoning=settings.reasoning,
                template_date=settings.template_date,
                media=MediaOptions(settings.media_root, settings.allow_urls, settings.drop_images, self.media_folder),
                load_processor=getattr(settings.source, "load_processor", lambda: None),
                unread=getattr(settings.source, "unread", {}),
            )
        return self.encoder

    @cached_property
    def _limit(self) -> int | None:
        """The longest sequence, by the student's configuration where the settings do not say."""
        given = self._settings.max_length
        trained = getattr(self._settings.source.load_config().get_text_config(), "max_position_embeddings", None)
        if trained is not None and given is not None and given > trained:
            message = "max_length=%d: the student was made for %d positions (max_position_embeddings); "
            logger.warning(message + "tokens beyond them are scored out of its range", given, trained)
        return given or trained

    def load_engine(self, options: Mapping[str, Any], device: torch.device) -> tuple[Engine, dict[str, Any]]:
        """Loads the student or sets options of the loaded one; gives it and its options as given or chosen."""
        source = self._settings.source
        if self.engine is None:
            identity, chosen = source.identity(), dict(options)
            engine = source.load(device, chosen)
            self._refuse_unfit(engine)
            self.engine, self._chosen = engine, chosen
            if not getattr(source, "is_loaded", False):  # else its weights may change from call to call
                self._identity = identity
        used = self._chosen | {name: value for name, value in options.items() if value is not None}
        _set_options(self.engine, used)
        return self.engine, used

    def encode(self, rows: Sequence[Mapping[str, Any]], row_format: RowFormat, places: Sequence[str]) -> list[Encoded]:
        """Encodes rows and applies the length limit; ``places`` name the rows in messages."""
        if row_format.kind == TOKENIZED:
            encoded = encode_tokenized(rows, row_format)
        else:
            encoded = self.load_encoder().encode(rows, row_format)
        encoded = [self._seen(row) for row in encoded] if self._media_ids else encoded
        return [self._fit(row, self._limit, place) for row, place in zip(encoded, places, strict=True)]

    @cached_property
    def _media_ids(self) -> list[int]:
        """The token ids that stand for images and videos, by the student's configuration."""
        config, names = self._settings.source.load_config(), product(("image", "video"), ("id", "index"))
        found = (getattr(config, f"{kind}_token_{name}", None) for kind, name in names)
        return [number for number in found if isinstance(number, int)]

    def _seen(self, row: Encoded) -> Encoded:
        """A row, unless it has tokens for images and no image: the student would read them as any other token."""
        parts = row.sequences if isinstance(row, EncodedRow) else ()
        if any(not part.images and np.isin(part.input_ids, self._media_ids).any() for part in parts):
            return UnscorableRowError(
                BAD_ROW, f"tokens {self._media_ids} stand for an image, and the row has no image"
            )
        return row

    def score(
        self,
        encoded: Sequence[Encoded],
        places: Sequence[str],
        options: Mapping[str, Any],
        device: torch.device,
        on_batch: OnBatch | None,
        metrics: Sequence[Metric],
    ) -> list[ScoredRow]:
        """Runs the student over encoded rows; ``places`` name the rows in messages, ``metrics`` say what to add."""
        needs: set[str] = {need for metric in metrics for need in metric.needs}
        if not any(isinstance(row, EncodedRow) for row in encoded):
            return [ScoredRow(row.status) for row in encoded]
        engine, _ = self.load_engine(options, device)
        checked = [self._check(row, engine, place) for row, place in zip(encoded, places, strict=True)]
        wanted = [part for row in checked if isinstance(row, EncodedRow) for part in row.sequences]
        found = iter(engine.score(wanted, entropies=ENTROPIES in needs, on_batch=on_batch) if wanted else ())
        outcomes = [self._outcome(row, found, place) for row, place in zip(checked, places, strict=True)]
        if needs <= {ENTROPIES}:
            return outcomes
        _set_options(engine, {"share_prefixes": False})  # sharing would round these scores otherwise than before
        return self._read_again(outcomes, checked, places, engine, on_batch, needs)

    def _read_again(
        self,
        outcomes: Sequence[ScoredRow],
        encoded: Sequence[Encoded],
        places: Sequence[str],
        engine: Engine,
        on_batch: OnBatch | None,
        needs: set[str],
    ) -> list[ScoredRow]:
        """Adds the surprisals for which the student reads a trajectory again, with less before its tokens."""
        tokenizer = self.load_encoder().tokenizer
        parts: dict[str, Callable[[EncodedRow], list[EncodedRow]]] = {
            "local_surprisals": lambda row: local_rows(row, tokenizer),
            "surprisals_without_prompt": lambda row: [row_without_prompt(row, tokenizer)],
        }
        # The first pass has counted the rows.
        count_no_rows = on_batch and (lambda batch: on_batch(replace(batch, row_tokens=0)))
        again = list(outcomes)
        for need in sorted(parts.keys() & needs):
            rows = {
                i: [part for sequence in row.sequences for part in parts[need](sequence)]
                for i, row in enumerate(encoded)
                if isinstance(row, EncodedRow) and again[i].ranks is not None
            }
            flat = [part for some in rows.values() for part in some]
            found = iter(engine.score(flat, on_batch=count_no_rows) if flat else ())
            for i, some in rows.items():
                given = [
                    each.surprisals if isinstance(each, TokenScores) else None for each in islice(found, len(some))
                ]
                if (values := _all(given)) is None:
                    again[i] = ScoredRow(self._no_memory(encoded[i], places[i]).status)
                else:
                    added: dict[str, Any] = {need: np.concatenate(values)}
                    again[i] = replace(again[i], **added)
        return again

    def read_tokens(
        self, rows: Sequence[EncodedRow], options: Mapping[str, Any], device: torch.device
    ) -> list[TokenScores | None]:
        """Runs the student over rows that are no trajectories; ``None`` for a row that the student cannot read."""
        if not rows:
            return []
        engine, _ = self.load_engine(options, device)
        most = (engine.max_positions or sys.maxsize) + 1
        fits = [row.input_ids.size <= most and row.input_ids.max() < engine.vocab_size for row in rows]
        readable = [row for row, fit in zip(rows, fits, strict=True) if fit]
        found = iter(engine.score(readable) if readable else ())
        given = [next(found) if fit else None for fit in fits]
        return [each if isinstance(each, TokenScores) else None for each in given]

    def _refuse_unfit(self, engine: Engine) -> None:
        longest, limit = engine.max_positions, self._settings.max_length
        if longest is not None and limit is not None and limit > longest + 1:
            reason = f"student {engine.name!r} reads at most {longest} tokens at once, of a row all but the last"
            raise ValueError(f"max_length={limit}: {reason}: pass max_length={longest + 1} or less")
        refuse_unfit_metrics(self._settings.metrics, engine.provides, engine.name)

    def _check(self, row: Encoded, engine: Engine, place: str) -> Encoded:
        """Applies the limits of the loaded student: its longest row and its vocabulary."""
        if isinstance(row, EncodedRow) and engine.max_positions is not None:
            row = self._fit(row, engine.max_positions + 1, place)
        largest = max(part.input_ids.max() for part in row.sequences) if isinstance(row, EncodedRow) else -1
        if largest < engine.vocab_size:
            return row
        reason = f"token id {largest} lies outside the {engine.vocab_size} entries of student {engine.name!r}"
        return self._unscorable(BAD_ROW, f"{reason}: is the tokenizer this student's?", place)

    def _fit(self, row: Encoded, limit: int | None, place: str) -> Encoded:
        try:
            if isinstance(row, EncodedRow):
                return fit(row, limit, self._settings.on_overflow)
        except OverflowError as error:
            raise ValueError(f"{place}: {error}") from error
        except UnscorableRowError as error:
            row = error
        return self._unscorable(row.status, str(row), place)

    def _outcome(self, row: Encoded, found: Iterator[Found], place: str) -> ScoredRow:
        if not isinstance(row, EncodedRow):
            return ScoredRow(row.status)
        given = list(islice(found, len(row.sequences)))
        if refused := next((each for each in given if isinstance(each, UnscorableRowError)), None):
            return ScoredRow(self._unscorable(refused.status, str(refused), place).status)
        parts = _all([each for each in given if not isinstance(each, UnscorableRowError)])
        if parts is None:
            return ScoredRow(self._no_memory(row, place).status)
        ranks, surprisals = (np.concatenate([getattr(p, name) for p in parts]) for name in ("ranks", "surprisals"))
        total = float(surprisals.sum(dtype=np.float64))
        if not np.isfinite(total) or total == 0:
            reason = f"the surprisals sum to {total}, which gives no ratio"
            return ScoredRow(self._unscorable(NONFINITE, reason, place).status)
        ids = np.concatenate([part.input_ids[part.positions] for part in row.sequences])
        entropies = [part.entropies for part in parts if part.entropies is not None]
        return ScoredRow(row.status, ids, ranks, surprisals, np.concatenate(entropies) if entropies else None)

    def _no_memory(self, row: Encoded, place: str) -> UnscorableRowError:
        length = max(part.input_ids.size for part in row.sequences) if isinstance(row, EncodedRow) else 0
        reason = f"student {self._settings.source.name!r} has no memory for {length} tokens at once"
        return self._unscorable(SKIPPED_TOO_LONG, f"{reason}; max_length cuts longer rows", place)

    def _unscorable(self, status: str, reason: str, place: str) -> UnscorableRowError:
        """Says why a row has no score, once for each status; raises ``ValueError`` if the scorer is strict."""
        said = f"{place}: {status}: {reason}"
        said = said if len(said) <= _LONGEST_REASON else f"{said[: _LONGEST_REASON - 1]}…"
        if self._settings.strict:
            raise ValueError(said)
        self.warn_once(f"status {status}", "%s (said once; the status column has them all)", said)
        return UnscorableRowError(status, reason)


def _all(values: Sequence[Value | None]) -> list[Value] | None:
    """The values, if none of them is missing."""
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else None


def _set_options(engine: Engine, options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        if hasattr(engine, name):
            setattr(engine, name, value)


def local_rows(row: EncodedRow, tokenizer: PreTrainedTokenizerBase, steps_before: int = 4) -> list[EncodedRow]:
    """One row for each step and the prompt, with only ``steps_before`` steps as context (arXiv:2601.14249, Eq. 11)."""
    bounds = _step_bounds(row, tokenizer)
    opening = row.input_ids[:1] if row.input_ids[0] == tokenizer.bos_token_id else row.input_ids[:0]
    rows = []
    for i, (first, end) in enumerate(bounds):
        start = 0 if i < steps_before else int(row.positions[bounds[i - steps_before][0]])
        lead = opening if start else opening[:0]
        shift, stop = lead.size - start, int(row.positions[end - 1]) + 1
        ids, positions = np.concatenate([lead, row.input_ids[start:stop]]), row.positions[first:end] + shift
        rows.append(EncodedRow(ids, positions, **row.shown(start, stop, shift)))
    return rows


def row_without_prompt(row: EncodedRow, tokenizer: PreTrainedTokenizerBase) -> EncodedRow:
    """The trajectory without its prompt (arXiv:2308.12032), after the token for the beginning of a text or the end."""
    start = int(row.positions[0])
    anchors = (tokenizer.bos_token_id, tokenizer.eos_token_id, int(row.input_ids[start - 1]))
    anchor = next(token for token in anchors if token is not None)
    ids = np.concatenate([np.array([anchor], dtype=row.input_ids.dtype), row.input_ids[start:]])
    return EncodedRow(ids, row.positions - start + 1, **row.shown(start, row.input_ids.size, 1 - start))


def _step_bounds(row: EncodedRow, tokenizer: PreTrainedTokenizerBase) -> Sequence[tuple[int, int]]:
    """First scored token of each step and the one after its last, as indices into ``positions``."""
    breaks = np.flatnonzero(np.diff(row.positions) > 1) + 1
    bounds = []
    for first, end in zip([0, *breaks.tolist()], [*breaks.tolist(), row.positions.size], strict=True):
        steps = token_steps(split_text(tokenizer, row.input_ids[row.positions[first:end]].tolist()))
        starts = first + np.flatnonzero(np.diff(steps, prepend=-1))
        bounds += list(zip(starts.tolist(), [*starts[1:].tolist(), end], strict=True))
    return bounds
