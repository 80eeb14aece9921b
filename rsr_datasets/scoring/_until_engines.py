"""The student behind the protocols of an engine, until the engine itself implements them."""

from __future__ import annotations

from typing import Any

from ..engines.base import ENTROPIES, BatchAccount, TokenScores
from ..engines.transformers.student import LogitsDtype, StudentSpec, default_device

__all__ = ["LogitsDtype", "TransformersStudent", "default_device"]


class _Engine:
    provides = frozenset({ENTROPIES})

    def __init__(self, student: Any, options: dict[str, Any]) -> None:
        self.student, self.model, self.name = student, student.model, student.name
        self.vocab_size, self.max_positions = student.vocabulary, student.positions
        self.tokens_per_batch = options.get("tokens_per_batch") or student.tokens_per_batch
        self.share_prefixes = options.get("share_prefixes", True)
        options["tokens_per_batch"] = self.tokens_per_batch

    def score(self, rows: Any, *, entropies: bool = False, on_batch: Any = None) -> list[TokenScores]:
        def account(batch: Any) -> None:
            on_batch(BatchAccount(batch.tokens, batch.tokens, batch.padded_tokens, batch.split))

        heard = account if on_batch else None
        found = self.student.score(rows, self.tokens_per_batch, heard, entropies, self.share_prefixes)
        return [TokenScores(*arrays) for arrays in found]


class TransformersStudent(StudentSpec):
    def load(self, device: Any, options: dict[str, Any] | None = None) -> Any:
        student = super().load(device)
        return student if options is None else _Engine(student, options)
