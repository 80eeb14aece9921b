"""The student's decoder: token ids to hidden states, of rows side by side or in one sequence."""

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
import transformers
from transformers import PreTrainedModel

from ...reading.rows import EncodedRow
from ..base import BatchAccount
from .batches import Ids, pad_right, to_device
from .packing import Pack, packed_decoder, read_pack

logger = logging.getLogger(__name__)

PROBE_LENGTH = 24
_MOST_OF_A_TOKEN = 0.1
_MOST_SPARE_POSITIONS = 8


class Decoder:
    """A student's decoder, of which ``module`` may be a copy with faster layers, and the ways to read rows with it."""

    def __init__(self, model: PreTrainedModel, module: torch.nn.Module) -> None:
        self.model = model
        self.module = module
        self.vocab_size = int(model.get_input_embeddings().weight.shape[0])
        self.max_positions = _position_limit(model, module)
        # Beyond these lengths the longest row of a batch changes the rotary frequencies of all its rows.
        kinds = _rotary_kinds(model.config.get_text_config())
        self.turning_lengths = sorted({length for kind, length in kinds if kind == "longrope"})
        # Attention row by row in a sequence costs nothing on a CPU, and leaves a GPU waiting.
        self.attends_by_row = self.device.type == "cpu"

    @property
    def device(self) -> torch.device:
        """Where the token ids go."""
        return self.model.get_input_embeddings().weight.device

    @property
    def pack_size(self) -> int | None:
        """The ``hidden_size`` of a :class:`.packing.Pack`."""
        return None if self.attends_by_row else int(self.model.get_input_embeddings().weight.shape[1])

    @cached_property
    def can_pack(self) -> bool:
        """Whether rows in one sequence have the hidden states that each row has by itself."""
        return self._can_pack(of_conversations=False)

    @cached_property
    def can_branch(self) -> bool:
        """Whether turns of conversations in one sequence have the hidden states that each turn has by itself."""
        return self.can_pack and self._can_pack(of_conversations=True)

    def read(
        self, rows: Sequence[EncodedRow], least_shared: float | None, of_conversations: bool = False
    ) -> tuple[torch.Tensor, BatchAccount]:
        """Hidden states of shape ``(scored tokens, hidden size)``; rows are padded without ``least_shared``."""
        ids = [row.read_ids for row in rows]
        if least_shared is None:
            padded = pad_right(ids)
            module = self._packed if self.can_pack and not self.attends_by_row else self.module
            hidden = self.hidden(padded, module).flatten(0, 1)
            starts = np.arange(len(rows)) * padded.shape[1]
            places = np.concatenate([start + row.positions - 1 for start, row in zip(starts, rows, strict=True)])
            tokens, padded_tokens = sum(each.size for each in ids), padded.numel()
        else:
            pack = self._pack(ids, least_shared, of_conversations)
            hidden = read_pack(self._packed, pack)
            places = np.concatenate([path[row.positions - 1] for path, row in zip(pack.paths, rows, strict=True)])
            tokens = padded_tokens = pack.input_ids.numel()
        picked = hidden[to_device(torch.from_numpy(places), hidden.device)]
        return picked, BatchAccount(sum(each.size for each in ids), tokens, padded_tokens)

    def hidden(self, input_ids: torch.Tensor, module: torch.nn.Module | None = None) -> torch.Tensor:
        """Token ids of shape ``(rows, tokens)`` to hidden states of shape ``(rows, tokens, hidden size)``."""
        module = module or self.module
        return module(input_ids=to_device(input_ids, self.device), use_cache=False).last_hidden_state

    @torch.no_grad()
    def agrees(self, read: Callable[[torch.Tensor], list[tuple[torch.Tensor, torch.Tensor]]]) -> bool:
        """Says whether two computations, which ``read`` gives in pairs, agree on a probe but for rounding."""
        generator = torch.Generator().manual_seed(0)
        length = min(PROBE_LENGTH, self.max_positions or PROBE_LENGTH)
        pairs = read(torch.randint(0, self.vocab_size, (3, length), generator=generator))
        scale = max(1.0, *(largest(expected) for _, expected in pairs))
        tolerance = 32 * torch.finfo(self.model.dtype).eps * scale
        for found, expected in ((found.float(), expected.float()) for found, expected in pairs):
            far = (found - expected).norm(dim=-1) > _MOST_OF_A_TOKEN * expected.norm(dim=-1)
            if far.any() or not torch.allclose(found, expected, rtol=0, atol=tolerance):
                return False
        return True

    def _pack(self, ids: Sequence[Ids], least_shared: float, of_conversations: bool) -> Pack:
        return Pack(ids, least_shared, self.device, self.model.dtype, self.pack_size, of_conversations)

    def _can_pack(self, of_conversations: bool) -> bool:
        try:
            return self.agrees(functools.partial(self._packed_and_whole, of_conversations))
        except Exception as error:  # the attention of model families may raise any error
            what = "turns" if of_conversations else "rows"
            logger.debug("student %r: its %s are not packed: %s", self.model.config.name_or_path, what, error)
            return False

    @cached_property
    def _packed(self) -> torch.nn.Module:
        return packed_decoder(self.module)

    def _packed_and_whole(self, of_conversations: bool, rows: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        length = rows.shape[1]
        rows[1, : length * 5 // 6] = rows[0, : length * 5 // 6]
        pack = self._pack(list(rows.numpy()), least_shared=0.0, of_conversations=of_conversations)
        found = read_pack(self._packed, pack)
        config: Any = self.module.config
        layers = config.get_text_config().num_hidden_layers
        if pack.attended != layers:
            raise ValueError(f"{pack.attended} of {layers} layers use attention as they are told to")
        whole = self.hidden(rows)
        beside = self.hidden(rows, self._packed)
        return [(found[path], row) for path, row in zip(pack.paths, whole, strict=True)] + [(beside, whole)]


def largest(numbers: torch.Tensor) -> float:
    """The largest finite magnitude."""
    return float(numbers.float().abs().nan_to_num(0, 0, 0).max())


def _position_limit(model: PreTrainedModel, decoder: torch.nn.Module) -> int | None:
    """Most tokens of a row: tables of positions have an end, and rotary embeddings that the longest row rescales."""
    config = model.config.get_text_config()
    if isinstance(limit := getattr(config, "max_seq_len", None), int):
        return limit  # MPT cuts its ALiBi biases out of a square of this side
    made_for = getattr(config, "max_position_embeddings", None)
    if not isinstance(made_for, int):
        return None
    limits = [made_for] if any("dynamic" in kind for kind, _ in _rotary_kinds(config)) else []
    limits += [made_for for buffer in decoder.buffers() if buffer.dim() > 1 and made_for in buffer.shape]
    words = model.get_input_embeddings()
    for table in decoder.modules():
        if isinstance(table, torch.nn.Embedding) and table is not words:
            spare = table.num_embeddings - made_for
            if 0 <= spare <= _MOST_SPARE_POSITIONS:
                unused = 0 if table.padding_idx is None else table.padding_idx + 1  # RoBERTa counts from there
                limits.append(made_for + min(0, spare - unused))
    return min(limits, default=None)


def _rotary_kinds(config: transformers.PreTrainedConfig) -> list[tuple[str, Any]]:
    """The kind of each rotary embedding, and the length that it began with."""
    found = getattr(config, "rope_parameters", None) or {}
    settings = [found, *(value for value in found.values() if isinstance(value, Mapping))]
    return [(str(s["rope_type"]), s.get("original_max_position_embeddings")) for s in settings if s.get("rope_type")]
