"""The cost of a run, from a sample of its rows and the student's configuration, before any weights are loaded."""

import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from datasets import Dataset

from ..engines.transformers.batches import bytes_per_token, default_chunk_bytes, default_tokens_per_batch
from ..engines.transformers.classes import auto_classes, decoder_name, text_module
from ..engines.transformers.packing import packed_decoder
from ..engines.transformers.speedups import SPEEDUPS
from ..engines.transformers.speedups.side_by_side import side_by_side, usable_cores
from ..reading.rows import EncodedRow
from ..scoring.scorer import RSRScorer
from ..tables.arrays import read_rows
from .folder import RunFolder

_PROBE_SIZE = 2048
_PROBE_SECONDS = 0.5


def estimate_run(dataset: Dataset, scorer: RSRScorer, output_dir: Path, unit_rows: int) -> dict[str, Any]:
    """Estimates tokens, memory and hours of a run on one process here, from 200 encoded rows and no weights.

    Rows that an earlier run of the same folder has scored cost nothing. Memory and hours are ``None`` where another
    engine than transformers runs the student.
    """
    run = RunFolder(output_dir, dataset, scorer)
    row_format, device, units = run.row_format, scorer.placement, run.units_left(unit_rows)
    chosen = np.unique(np.linspace(0, max(len(dataset) - 1, 0), min(200, len(dataset))).astype(int))
    table = dataset.select(chosen).select_columns(row_format.names).with_format("arrow")[: len(chosen)]
    encoded = scorer.encode(read_rows(table, dataset.features), row_format, chosen.tolist()) if len(chosen) else []
    rows = [row for row in encoded if isinstance(row, EncodedRow)]
    sampled = sum(row.num_read for row in rows)
    tokens = round(sampled / table.nbytes * sum(unit.cost for unit in units)) if sampled else 0

    source: Any = scorer.source
    config = source.load_config()
    with torch.device("meta"):
        model = auto_classes(config)[0].from_config(config, trust_remote_code=source.trust_remote_code)
    parameters = sum(p.numel() for p in model.parameters())
    found = {
        "rows": sum(unit.end - unit.start for unit in units),
        "rows_done": len(dataset) - sum(unit.end - unit.start for unit in units),
        "units": len(units),
        "tokens": tokens,
        "statuses": dict(Counter(row.status for row in encoded).most_common()),
        "parameters": parameters,
        "memory_gib": None,
        "hours": None,
    }
    if getattr(source, "engine", "transformers") != "transformers":
        return found
    wanted = source.torch_dtype
    dtype = wanted if isinstance(wanted, torch.dtype) else getattr(config, "dtype", None) or torch.float32
    batch = scorer._options["tokens_per_batch"] or default_tokens_per_batch(device)
    memory = parameters * dtype.itemsize + batch * bytes_per_token(config, dtype) + default_chunk_bytes(device)
    one_by_one = sum(part.read_ids.size for row in rows for part in row.sequences)
    read = tokens if _shares_beginnings(model) or not sampled else tokens * one_by_one / sampled
    batches = round(read / max(len(units), 1) / batch)
    seconds = 2 * parameters * read / (0.5 * _matrix_rate(device, dtype, batches)) if tokens else 0.0
    return found | {"memory_gib": round(memory / 2**30, 2), "hours": round(seconds / 3600, 3)}


def _shares_beginnings(model: transformers.PreTrainedModel) -> bool:
    """Whether the student's attention is of the kind that reads what turns of a conversation begin with once."""
    try:
        packed_decoder(text_module(model.get_submodule(decoder_name(model) or "")))
    except Exception:  # model families may raise any error
        return False
    return True


def _matrix_rate(device: torch.device, dtype: torch.dtype, batches: int) -> float:
    """Floating-point operations a second of large matrix products, measured now as a unit's batches do them."""
    product: torch.nn.Module = torch.nn.Linear(_PROBE_SIZE, _PROBE_SIZE, bias=False, device=device, dtype=dtype)
    for faster in SPEEDUPS:
        product = faster(product, False)
    matrix = torch.ones(_PROBE_SIZE, _PROBE_SIZE, device=device, dtype=dtype)

    @torch.inference_mode()
    def count_products() -> int:
        products, started = 0, time.perf_counter()
        while time.perf_counter() - started < _PROBE_SECONDS:
            products += 1
            float(product(matrix)[0, 0])
        return products

    with torch.inference_mode():
        float(product(matrix)[0, 0])
    with side_by_side(device, batches) as (start, at_once):
        started = time.perf_counter()
        waits = [start(count_products) for _ in range(min(at_once, usable_cores()))]
        products = sum(wait() for wait in waits)
        return 2 * _PROBE_SIZE**3 * products / (time.perf_counter() - started)
