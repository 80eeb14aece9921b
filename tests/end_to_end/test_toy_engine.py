"""A student of another engine goes through everything: the protocol of engines/base.py is enough."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import conversation
from datasets import Dataset
from transformers import PreTrainedConfig, PreTrainedTokenizerFast

from rsr_datasets import RSRScorer, score_dataset, select_trajectories
from rsr_datasets.engines.base import BatchAccount, OnBatch, StudentSource, TokenScores
from rsr_datasets.reading.rows import EncodedRow
from rsr_datasets.report import build_report

DECAY = 0.01  # of the log-probability from one rank to the next


class BigramEngine:
    """After token ``a`` the token ``b`` has the rank ``1 + (b - a) % vocab_size``."""

    name, max_positions, provides = "bigrams", None, frozenset[str]()

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        ids = np.arange(vocab_size)
        logits = -DECAY * (1 + (ids[None] - ids[:, None]) % vocab_size)
        self.table = np.log(np.exp(logits).sum(1, keepdims=True)) - logits

    def score(
        self, rows: Sequence[EncodedRow], *, entropies: bool = False, on_batch: OnBatch | None = None
    ) -> list[TokenScores]:
        after = [self.table[row.input_ids[row.positions - 1]] for row in rows]
        own = [np.take_along_axis(t, r.input_ids[r.positions][:, None], 1) for t, r in zip(after, rows, strict=True)]
        ranks = [1 + (table < each).sum(1) for table, each in zip(after, own, strict=True)]
        if on_batch:
            tokens = sum(row.input_ids.size for row in rows)
            on_batch(BatchAccount(tokens, tokens, tokens))
        pairs = zip(ranks, own, strict=True)
        return [TokenScores(rank.astype(np.int32), each[:, 0].astype(np.float32)) for rank, each in pairs]


class Bigrams:
    name = "toy/bigrams"

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer

    def identity(self) -> dict[str, Any]:
        return {"engine": "bigrams", "entries": len(self.tokenizer)}

    def load_config(self) -> PreTrainedConfig:
        return PreTrainedConfig()

    def load_tokenizer(self) -> PreTrainedTokenizerFast:
        return self.tokenizer

    def load(self, device: Any, options: dict[str, Any]) -> BigramEngine:
        return BigramEngine(len(self.tokenizer))


def test_a_bigram_table_is_scored_selected_and_reported(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    source, size = Bigrams(tokenizer), len(tokenizer)
    assert isinstance(source, StudentSource)
    answers = ["The answer is 42.", "x", "So f(n) = 2 f(n-1) + 3.", "b = c? Yes."]
    rows = [{"problem": i // 2, "messages": conversation("Solve it.", text)} for i, text in enumerate(answers)]
    scorer = RSRScorer(source, token_columns=True)
    scored = Dataset.from_list(rows).map(scorer, batched=True)
    for row, (encoded,) in zip(
        scored, ([e] for e in scorer.encode(rows, scorer.find_format(["messages"]))), strict=True
    ):
        before, ids = encoded.input_ids[encoded.positions - 1], encoded.input_ids[encoded.positions]
        ranks = 1 + (ids - before) % size
        normaliser = np.log(np.exp(-DECAY * np.arange(1, size + 1)).sum())
        assert row["rsr_token_ranks"] == ranks.tolist()
        np.testing.assert_allclose(row["rsr_token_surprisals"], DECAY * ranks + normaliser, rtol=1e-6)
        assert row["rsr"] == pytest.approx(np.minimum(ranks, 100).sum() / (DECAY * ranks + normaliser).sum(), rel=1e-6)
    run = score_dataset(Dataset.from_list(rows), scorer, tmp_path / "run", unit_rows=3)
    assert run.to_list() == scored.to_list()
    best = select_trajectories(run, "problem")
    assert best["rsr"][:] == [min(scored["rsr"][:2]), min(scored["rsr"][2:])]
    assert "toy/bigrams" in build_report(run, tmp_path / "report.html").read_text()
    with pytest.raises(ValueError, match=r"metrics \['avg_entropy'\] need entropies.*'bigrams'"):
        RSRScorer(source, metrics=["perplexity", "avg_entropy"])({"text": "a b c"})
    with pytest.raises(ValueError, match=r"\['dtype', 'revision'\] have no effect"):
        RSRScorer(source, dtype="float32", revision="main")
