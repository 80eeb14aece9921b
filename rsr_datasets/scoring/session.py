"""A student at work: rows to token ids, token ids to outcomes."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..engines.base import ENTROPIES, Engine, OnBatch, TokenScores
from ..reading.encoder import ConversationEncoder
from ..reading.formats import TOKENIZED, RowFormat
from ..reading.rows import EncodedRow, UnscorableRowError, fit
from ..reading.tokenized import encode_tokenized
from ..tables.columns import BAD_ROW, NONFINITE
from .columns import ScoredRow
from .second_pass import read_again
from .settings import Settings

logger = logging.getLogger(__name__)

_UNKNOWN = -1

Encoded = EncodedRow | UnscorableRowError


class Session:
    """Loads a scorer's tokenizer and student once each and reads rows with them; copies of a scorer share it."""

    def __init__(self, settings: Settings) -> None:
        self.engine: Engine | None = None
        self.encoder: ConversationEncoder | None = None
        self._settings = settings
        self._limit: int | None = _UNKNOWN
        self._chosen: dict[str, Any] = {}
        self._identity: dict[str, Any] | None = None
        self._needs = {need for metric in settings.metrics for need in metric.needs}
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
            self._load_limit()
            self.encoder = ConversationEncoder(
                settings.source.load_tokenizer(),
                chat_template=settings.chat_template,
                chat_template_kwargs=settings.chat_template_kwargs,
                turns=settings.turns,
                template_date=settings.template_date,
            )
        return self.encoder

    def _load_limit(self) -> int | None:
        """The longest sequence, by the student's configuration where the settings do not say."""
        if self._limit == _UNKNOWN:
            given = self._settings.max_length
            trained = getattr(self._settings.source.load_config().get_text_config(), "max_position_embeddings", None)
            if trained is not None and given is not None and given > trained:
                message = (
                    "max_length=%d: the student was made for %d positions (max_position_embeddings); "
                    "tokens beyond them are scored out of its range"
                )
                logger.warning(message, given, trained)
            self._limit = given or trained
        return self._limit

    def load_engine(self, options: Mapping[str, Any], device: torch.device) -> tuple[Engine, dict[str, Any]]:
        """Loads the student, or sets the options of the loaded one.

        Args:
            options: The engine's options; ``None`` in an option is the engine's own choice.
            device: Where the student goes when it is loaded for this.

        Returns:
            The engine and its options as given or chosen.

        Raises:
            ValueError: If the student cannot be loaded, reads less than ``max_length``, or lacks what a metric needs.
        """
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
        limit = self._load_limit()
        return [self._fit(row, limit, place) for row, place in zip(encoded, places, strict=True)]

    def score(
        self,
        encoded: Sequence[Encoded],
        places: Sequence[str],
        options: Mapping[str, Any],
        device: torch.device,
        on_batch: OnBatch | None,
    ) -> list[ScoredRow]:
        """Runs the student over encoded rows; ``places`` name the rows in messages."""
        if not any(isinstance(row, EncodedRow) for row in encoded):
            return [ScoredRow(row.status) for row in encoded]
        engine, _ = self.load_engine(options, device)
        checked = [self._check(row, engine, place) for row, place in zip(encoded, places, strict=True)]
        wanted = [part for row in checked if isinstance(row, EncodedRow) for part in row.sequences]
        found = iter(engine.score(wanted, entropies=ENTROPIES in self._needs, on_batch=on_batch) if wanted else ())
        outcomes = [
            self._outcome(row, [next(found) for _ in row.sequences], place)
            if isinstance(row, EncodedRow)
            else ScoredRow(row.status)
            for row, place in zip(checked, places, strict=True)
        ]
        if self._needs <= {ENTROPIES}:
            return outcomes
        _set_options(engine, {"share_prefixes": False})  # sharing would round these scores otherwise than before
        return read_again(outcomes, checked, self._needs, engine, self.load_encoder().tokenizer, on_batch)

    def read_tokens(
        self, rows: Sequence[EncodedRow], options: Mapping[str, Any], device: torch.device
    ) -> list[TokenScores | None]:
        """Runs the student over rows that are no trajectories; ``None`` for a row that the student cannot read."""
        if not rows:
            return []
        engine, _ = self.load_engine(options, device)
        longest = engine.max_positions or sys.maxsize
        fits = [row.input_ids.size <= longest + 1 and row.input_ids.max() < engine.vocab_size for row in rows]
        readable = [row for row, fit in zip(rows, fits, strict=True) if fit]
        found = iter(engine.score(readable) if readable else ())
        return [next(found) if fit else None for fit in fits]

    def _refuse_unfit(self, engine: Engine) -> None:
        longest, limit = engine.max_positions, self._settings.max_length
        if longest is not None and limit is not None and limit > longest + 1:
            raise ValueError(
                f"max_length={limit}: student {engine.name!r} reads at most {longest} tokens at once, "
                f"of a row all but the last: pass max_length={longest + 1} or less"
            )
        needing = [metric.name for metric in self._settings.metrics if ENTROPIES in metric.needs]
        if needing and ENTROPIES not in engine.provides:
            raise ValueError(f"metrics {needing} need entropies, which student {engine.name!r} does not give")

    def _check(self, row: Encoded, engine: Engine, place: str) -> Encoded:
        """Applies the limits of the loaded student: its longest row and its vocabulary."""
        if isinstance(row, EncodedRow) and engine.max_positions is not None:
            row = self._fit(row, engine.max_positions + 1, place)
        if isinstance(row, EncodedRow) and (
            (largest := max(part.input_ids.max() for part in row.sequences)) >= engine.vocab_size
        ):
            reason = f"token id {largest} lies outside the {engine.vocab_size} entries of student {engine.name!r}"
            return self._unscorable(BAD_ROW, f"{reason}: is the tokenizer this student's?", place)
        return row

    def _fit(self, row: Encoded, limit: int | None, place: str) -> Encoded:
        try:
            if isinstance(row, EncodedRow):
                return fit(row, limit, self._settings.on_overflow)
        except OverflowError as error:
            raise ValueError(f"{place}: {error}") from error
        except UnscorableRowError as error:
            row = error
        return self._unscorable(row.status, str(row), place)

    def _outcome(self, row: EncodedRow, parts: Sequence[TokenScores], place: str) -> ScoredRow:
        ranks, surprisals = (np.concatenate([getattr(p, name) for p in parts]) for name in ("ranks", "surprisals"))
        total = float(surprisals.sum(dtype=np.float64))
        if not np.isfinite(total) or total == 0:
            reason = f"the surprisals sum to {total}, which gives no ratio"
            return ScoredRow(self._unscorable(NONFINITE, reason, place).status)
        ids = np.concatenate([part.input_ids[part.positions] for part in row.sequences])
        entropies = [part.entropies for part in parts if part.entropies is not None]
        return ScoredRow(row.status, ids, ranks, surprisals, np.concatenate(entropies) if entropies else None)

    def _unscorable(self, status: str, reason: str, place: str) -> UnscorableRowError:
        """Says why a row has no score, once for each status; raises ``ValueError`` if the scorer is strict."""
        if self._settings.strict:
            raise ValueError(f"{place}: {status}: {reason}")
        message = "%s: %s: %s (said once; the status column has them all)"
        self.warn_once(f"status {status}", message, place, status, reason)
        return UnscorableRowError(status, reason)


def _set_options(engine: Engine, options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        if hasattr(engine, name):
            setattr(engine, name, value)
