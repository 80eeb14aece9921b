"""Candidates read in stages: a sample of the problems whole, of the others beginnings and then the survivors."""

import contextlib
import logging
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, concatenate_datasets

from ..metrics import trajectory_scores
from ..runs.prefixes import PrefixScorer
from ..runs.score import process_state, score_dataset
from ..scoring.columns import ScoredRow, add_features, empty_dataset
from ..scoring.scorer import RSRScorer
from ..tables import arrays
from ..tables.columns import NONFINITE, PRUNED, SCORED, TRUNCATED
from ..tables.records import SCORE, append_record, package_versions, student_name
from ..utils.bars import no_bar_if_quick
from ..utils.files import written_aside
from .pool import BoolArray, IntArray, SelectionOptions, positive_int
from .pruning import LEAST_PROBLEMS, LENGTHS, FloatArray, Sample, choose_rule, lowest, quota

logger = logging.getLogger(__name__)

_LEAST_TOKENS = 8  # of a beginning


@dataclass(frozen=True)
class Stages:
    """How a selection reads in stages; arguments of :func:`rsr_datasets.select_trajectories`."""

    scorer: RSRScorer
    output_dir: str | os.PathLike[str] | None
    regret: float
    confidence: float
    calibration: int

    def __post_init__(self) -> None:
        if not 0 <= self.regret < 1:
            raise ValueError(f"regret={self.regret}: must be in [0, 1), a share of the mean ratio")
        if not 0.5 <= self.confidence < 1:
            raise ValueError(f"confidence={self.confidence}: must be in [0.5, 1)")
        positive_int("calibration", self.calibration)
        if self.output_dir is None and process_state().num_processes > 1:
            raise ValueError("output_dir=None: several processes need a folder that all of them see")

    def read(
        self, dataset: Dataset, codes: IntArray, competing: BoolArray, keep: int, options: SelectionOptions
    ) -> tuple[Dataset, dict[str, BoolArray], dict[str, Any]]:
        """Reads as far as it takes to choose the best ``keep`` rows of each problem.

        Args:
            dataset: The rows, scored or not.
            codes: Each row's problem, shape ``(rows,)``; that of a competing row is not negative.
            competing: Rows that may be kept as far as is known before they are read, shape ``(rows,)``.
            keep: Rows to keep per problem.
            options: The limits of rows that may be kept, and the seed of the sample.

        Returns:
            The dataset with score columns and ``<prefix>_tokens_read``; rows that may not be kept and were therefore
            not read to their end, by reason; and an account.
        """
        with contextlib.ExitStack() as stack:
            folder = Path(self.output_dir or stack.enter_context(tempfile.TemporaryDirectory()))
            rows = _Rows(dataset, self.scorer, codes, keep, options, folder)
            random = np.random.default_rng(options.seed)
            problems = np.unique(codes[competing])
            drawn = random.choice(problems, min(self.calibration, problems.size), replace=False)
            in_sample = competing & np.isin(codes, drawn)
            alive, rule = competing & ~in_sample, None
            if competing.any():
                sample = rows.read_sample(in_sample)
            if alive.any():
                rule = choose_rule(sample, problems.size - drawn.size, self.regret, self.confidence, random)
                if rule is None:
                    message = "no rule is known to keep regret=%g at confidence=%g after %d problems: all is read"
                    few = f"; a rule needs a sample of {LEAST_PROBLEMS}" if drawn.size < LEAST_PROBLEMS else ""
                    logger.warning(message + few, self.regret, self.confidence, drawn.size)
            for stage, share in enumerate(rule or ()):
                alive = rows.read_beginnings(alive, stage, share)
            if alive.any():
                rows.read_to_end(alive, "whole", self.scorer)
            if (others := rows.replacements()).any():
                rows.read_to_end(others, "replacements", self.scorer)
            account = {
                "regret": self.regret,
                "confidence": self.confidence,
                "problems": problems.size,
                "calibration": drawn.size,
                "lengths": LENGTHS if rule else (),
                "shares": rule or (),
                "tokens": int(rows.tokens.sum()),
                "tokens_read": rows.tokens_read_in_all,
            }
            found = rows.result(account)
            if self.output_dir is not None and process_state().is_main_process and len(found):
                with written_aside(folder / "scored") as aside, no_bar_if_quick(len(found)):
                    found.save_to_disk(aside)
            return found, rows.not_kept(), account


class _Rows:
    """The state of a dataset's rows after a stage; arrays have the shape ``(rows,)``."""

    def __init__(
        self, dataset: Dataset, scorer: RSRScorer, codes: IntArray, keep: int, options: SelectionOptions, folder: Path
    ) -> None:
        self.columns = scorer.score_columns
        stale = [name for name in dataset.column_names if name in {*scorer.column_types, self.columns.tokens_read}]
        self.dataset = dataset.remove_columns(stale).with_format(None)
        self.scorer, self.codes, self.keep, self.options, self.folder = scorer, codes, keep, options, folder
        self.status = np.full(len(dataset), PRUNED, dtype=object)  # of the whole row, as soon as it was begun
        self.tokens, self.tokens_read = np.zeros((2, len(dataset)), dtype=np.int64)
        self.tokens_read_in_all = 0  # beginnings are read again by the next stage
        self.is_done = np.zeros(len(dataset), dtype=bool)
        self.done: list[tuple[IntArray, Dataset]] = []  # rows that were read to their end, with their columns

    def read_sample(self, chosen: BoolArray) -> Sample:
        """Reads problems whole; from their lengths follow the lengths of all beginnings."""
        rows, scored = self.read_to_end(chosen, "calibration", self.scorer.with_token_columns())
        sizes, has_problem = _row_bytes(self.dataset, self.scorer), self.codes >= 0
        problems = self.codes[has_problem]
        rows_of_problems = np.bincount(problems, minlength=1)
        sizes_of_problems = np.bincount(problems, sizes[has_problem], minlength=1) / np.maximum(rows_of_problems, 1)
        tokens_of_a_byte = self.tokens[rows].sum() / max(float(sizes[rows].sum()), 1)
        lengths = np.outer(sizes_of_problems[self.codes] * tokens_of_a_byte, LENGTHS)
        self.limits = np.maximum(np.rint(lengths), _LEAST_TOKENS).astype(np.int64)  # shape (rows, stages)
        is_candidate = self._may_be_kept(rows)
        candidates = rows[is_candidate]
        return Sample(
            problems=np.unique(self.codes[candidates], return_inverse=True)[1],
            rsr=arrays.read_numbers(scored, self.columns.rsr)[is_candidate],
            tokens=self.tokens[candidates],
            prefix_rsr=self._prefix_rsr(scored, rows)[is_candidate],
            prefix_tokens=np.minimum(self.limits[candidates], self.tokens[candidates, None]),
            keep=self.keep,
        )

    def read_beginnings(self, alive: BoolArray, stage: int, share: float) -> BoolArray:
        """Reads a stage's beginnings of the rows that are left, and says which of them go on."""
        rows = self._in_order(alive)
        scorer = PrefixScorer(self.scorer, self.limits[rows, stage])
        scored = self._read(rows, f"stage-{stage + 1}", scorer, scorer.whole_column)
        unclear = self.status[rows] == NONFINITE  # the whole row may have a ratio
        prefix_rsr = np.where(unclear, -np.inf, arrays.read_numbers(scored, self.columns.rsr))
        going = np.flatnonzero(self._may_be_kept(rows) | unclear)
        problems = self.codes[rows[going]]
        if stage == 0:
            self.sizes = np.bincount(problems, minlength=self.codes.max() + 1)
        left = lowest(prefix_rsr[going], problems, quota(self.sizes, share, self.keep))
        chosen = np.zeros_like(alive)
        chosen[rows[going[left]]] = True
        return chosen

    def read_to_end(self, chosen: BoolArray, name: str, scorer: RSRScorer) -> tuple[IntArray, Dataset]:
        """Reads rows to their end; gives their numbers, and the rows with their columns in this order."""
        rows = self._in_order(chosen)
        scored = self._read(rows, name, scorer, self.columns.num_tokens)
        self.is_done[rows] = True
        extra = [name for name in scorer.column_types if name not in self.scorer.column_types]
        self.done.append((rows, scored.remove_columns(extra)))
        return rows, scored

    def _in_order(self, chosen: BoolArray) -> IntArray:
        """The numbers of rows, the candidates of a problem side by side, since they share their prompt."""
        rows = np.flatnonzero(chosen)
        return rows[np.argsort(self.codes[rows], kind="stable")]

    def _read(self, rows: IntArray, name: str, scorer: RSRScorer, whole: str) -> Dataset:
        """Scores rows in a run folder; ``whole`` is the column that says how many tokens whole rows have."""
        scored = score_dataset(self.dataset.select(rows), scorer, self.folder / name)
        assert isinstance(scored, Dataset)
        status = arrays.read_categories(scored, self.columns.status)
        self.status[rows] = np.array([*status.values, None], dtype=object)[status.codes]
        read = arrays.read_numbers(scored, self.columns.num_tokens).astype(np.int64)
        self.tokens[rows] = arrays.read_numbers(scored, whole).astype(np.int64)
        self.tokens_read[rows] = read
        self.tokens_read_in_all += int(read.sum())
        return scored

    def _prefix_rsr(self, scored: Dataset, rows: IntArray) -> FloatArray:
        """The ratios of the beginnings of whole rows, shape ``(rows, stages)``; the lowest where there is none."""
        found, start = np.full((rows.size, len(LENGTHS)), -np.inf), 0
        clip = self.scorer.settings["rank_clip"]
        for batch in scored.with_format("arrow").iter(batch_size=arrays.ROWS_PER_BATCH):
            ranks, surprisals = (batch[name].combine_chunks() for name in list(self.columns.token_types)[1:])
            lengths = pc.fill_null(pc.list_value_length(ranks), 0).to_numpy()
            place = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            for stage, limits in enumerate(self.limits[rows[start : start + lengths.size]].T):
                among = place < np.repeat(limits, lengths)
                offsets = np.concatenate([[0], np.cumsum(np.minimum(limits, lengths))])
                of_ranks, of_surprisals = (values.flatten().to_numpy()[among] for values in (ranks, surprisals))
                ratios = trajectory_scores(of_ranks, of_surprisals, offsets, clip).rsr
                found[start : start + lengths.size, stage] = np.where(np.isfinite(ratios), ratios, -np.inf)
            start += lengths.size
        return found

    def _may_be_kept(self, rows: IntArray) -> BoolArray:
        allowed = (SCORED, TRUNCATED) if self.options.keep_truncated else (SCORED,)
        return np.isin(self.status[rows], allowed) & self._within_limits(rows)

    def _within_limits(self, rows: IntArray) -> BoolArray:
        low, high = self.options.min_tokens or 0, self.options.max_tokens or np.inf
        return (self.tokens[rows] >= low) & (self.tokens[rows] <= high)

    def replacements(self) -> BoolArray:
        """The other candidates of problems whose survivors turned out to have too few ratios."""
        everything = np.arange(self.codes.size)
        may_be_kept = self._may_be_kept(everything)
        found = np.bincount(self.codes[self.is_done & may_be_kept], minlength=self.codes.max(initial=0) + 1)
        return ~self.is_done & (may_be_kept | (self.status == NONFINITE)) & (found < self.keep)[self.codes]

    def not_kept(self) -> dict[str, BoolArray]:
        """Rows that were begun and that the options exclude."""
        begun = ~self.is_done & np.isin(self.status, (SCORED, TRUNCATED))
        truncated = begun & (self.status == TRUNCATED) & (not self.options.keep_truncated)
        outside = begun & ~truncated & ~self._within_limits(np.arange(self.codes.size))
        return {"truncated": truncated, "outside_token_limits": outside}

    def result(self, account: Mapping[str, Any]) -> Dataset:
        """All rows with their columns, in their order, and the account among the records."""
        types = {**self.scorer.column_types, self.columns.tokens_read: pa.int32()}
        features = add_features(self.dataset.features, types)
        found = self._joined() if len(self.dataset) else empty_dataset(features)
        found._info, found._split = self.dataset.info.copy(), self.dataset.split
        found._info.features = features
        settings = {"settings": self.scorer.settings, "output": self.scorer.output, "versions": package_versions()}
        scoring = {"step": SCORE, "student": student_name(self.scorer.source.name), **settings}
        return append_record(append_record(found, scoring), {"step": "prune", **account})

    def _joined(self) -> Dataset:
        left = np.flatnonzero(~self.is_done)
        parts = list(self.done)
        if left.size:
            unclear = np.isin(self.status[left], (SCORED, TRUNCATED, NONFINITE))
            outcomes = [ScoredRow(status) for status in np.where(unclear, PRUNED, self.status[left])]
            columns = Dataset(pa.table(self.scorer.to_columns(outcomes)))
            parts.append((left, concatenate_datasets([self.dataset.select(left), columns], axis=1)))
        order = np.argsort(np.concatenate([rows for rows, _ in parts]))
        joined = concatenate_datasets([scored for _, scored in parts]).select(order)
        read = Dataset(pa.table({self.columns.tokens_read: pa.array(self.tokens_read, pa.int32())}))
        return concatenate_datasets([joined, read], axis=1)


def _row_bytes(dataset: Dataset, scorer: RSRScorer) -> npt.NDArray[np.float64]:
    """Bytes of what is read of each row, which say how long it is before it is tokenized."""
    names, sizes = scorer.find_format(dataset.column_names).names, np.empty(len(dataset))
    for where, batch in arrays.batches(dataset, names, arrays.ROWS_PER_BATCH):
        sizes[where] = [batch.slice(i, 1).nbytes for i in range(batch.num_rows)]
    return sizes
