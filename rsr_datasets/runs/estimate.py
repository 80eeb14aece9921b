"""What a run would cost, from a sample of its rows and the student's configuration, before any weights are loaded."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import transformers
from datasets import Dataset

from ..engines.transformers.budgets import default_chunk_bytes, default_tokens_per_batch
from ..engines.transformers.speedups.products import with_faster_products
from ..reading.rows import UnscorableRowError
from ..scoring.scorer import RSRScorer
from ..tables.arrays import read_rows
from .folder import plan_units

_SAMPLE_ROWS = 200
_PROBE_SIZE = 2048
_PROBE_SECONDS = 0.5
_SHARE_OF_RATE = 0.5


@dataclass(frozen=True)
class RunEstimate:
    """What scoring a data set would take.

    Attributes:
        rows: Rows of the data set.
        units: Checkpoints.
        tokens: Tokens that the student would read, from the tokens of a byte of text in the sample.
        statuses: How many of the sampled rows would have which status, as far as encoding them shows.
        parameters: Parameters of the student.
        memory_gib: Device memory of the weights, one batch and one chunk of logits, in GiB.
        hours: Hours on one process of this machine, at half of the rate that it reached on a matrix product now.
    """

    rows: int
    units: int
    tokens: int
    statuses: dict[str, int]
    parameters: int
    memory_gib: float
    hours: float

    def to_dict(self) -> dict[str, Any]:
        """The estimate as a JSON object."""
        return asdict(self)


def estimate_run(dataset: Dataset, scorer: RSRScorer, unit_rows: int) -> RunEstimate:
    """Estimates what :func:`rsr_datasets.score_dataset` would take on one process.

    Args:
        dataset: The rows; 200 of them, evenly spread, are encoded.
        scorer: The scorer; its tokenizer and configuration are loaded, its weights are not.
        unit_rows: Rows a unit.
    """
    row_format = scorer.find_format(dataset.column_names)
    units = plan_units(dataset, row_format, unit_rows)
    chosen = np.unique(np.linspace(0, max(len(dataset) - 1, 0), min(_SAMPLE_ROWS, len(dataset))).astype(int))
    sample = dataset.select(chosen).select_columns(row_format.names).with_format("arrow")
    table = sample[: len(chosen)]
    encoded = scorer.encode(read_rows(table, dataset.features), row_format, chosen.tolist()) if len(chosen) else []
    sampled = sum(row.input_ids.size - 1 for row in encoded if not isinstance(row, UnscorableRowError))
    statuses = Counter(row.status for row in encoded)
    tokens = round(sampled / table.nbytes * sum(unit.cost for unit in units)) if sampled else 0

    config = scorer.spec.load_config()
    text_config = config.get_text_config()
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=scorer.spec.trust_remote_code)
    parameters = sum(p.numel() for p in model.parameters())
    wanted = scorer.spec.torch_dtype
    dtype = wanted if isinstance(wanted, torch.dtype) else getattr(config, "dtype", None) or torch.float32
    batch = scorer.tokens_per_batch or default_tokens_per_batch(scorer.placement)
    # Of one layer at a time: the residual stream, attention's inputs and output, and the three parts of the MLP.
    width = 6 * text_config.hidden_size + 3 * getattr(text_config, "intermediate_size", 4 * text_config.hidden_size)
    memory = (parameters + batch * width) * dtype.itemsize + default_chunk_bytes(scorer.placement)
    seconds = 2 * parameters * tokens / (_SHARE_OF_RATE * _matrix_rate(scorer.placement, dtype))
    return RunEstimate(
        rows=len(dataset),
        units=len(units),
        tokens=tokens,
        statuses=dict(statuses.most_common()),
        parameters=parameters,
        memory_gib=round(memory / 2**30, 2),
        hours=round(seconds / 3600, 3),
    )


@torch.inference_mode()
def _matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of large matrix products, measured now as a student's layers do them."""
    product = with_faster_products(torch.nn.Linear(_PROBE_SIZE, _PROBE_SIZE, bias=False, device=device, dtype=dtype))
    matrix = torch.ones(_PROBE_SIZE, _PROBE_SIZE, device=device, dtype=dtype)
    float(product(matrix)[0, 0])
    products = 0
    started = time.perf_counter()
    while (elapsed := time.perf_counter() - started) < _PROBE_SECONDS:
        float(product(matrix)[0, 0])
        products += 1
    return 2 * _PROBE_SIZE**3 * products / elapsed
