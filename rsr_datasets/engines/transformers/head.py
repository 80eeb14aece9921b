"""The student's output head: hidden states to ranks, surprisals and entropies, a chunk of tokens at a time."""

import copy
import math
from typing import Any, Literal

import torch
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from .batches import default_chunk_bytes, to_device
from .reduction import Reduced, rank_and_surprisal

LogitsDtype = Literal["student", "float32"]


class OutputHead:
    """The model's own forward pass, with all that a family does to its logits, around given hidden states."""

    def __init__(self, model: PreTrainedModel, decoder_name: str, logits_dtype: LogitsDtype) -> None:
        self.module = _head_alone(model, decoder_name, logits_dtype)
        self.dtype = torch.float32 if logits_dtype == "float32" else None
        self._weight = model.get_output_embeddings().weight

    def chunk_tokens(self, vocab_size: int) -> int:
        """Tokens that go through the head at once, by the device's memory for logits."""
        device = self._weight.device
        # On a CPU the logits are all there is; elsewhere there are two float32 copies of them at worst.
        bytes_each = (self.dtype or self._weight.dtype).itemsize if device.type == "cpu" else 12
        return max(16, default_chunk_bytes(device) // (bytes_each * vocab_size))

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states of shape ``(tokens, hidden size)`` to logits of shape ``(tokens, vocabulary)``."""
        hidden = hidden if self.dtype is None else hidden.to(self.dtype)
        return self.module(inputs_embeds=hidden[None], use_cache=False).logits[0]

    def reduce(self, hidden: torch.Tensor, targets: torch.Tensor, chunk_tokens: int, entropies: bool) -> Reduced:
        """Reduces hidden states of shape ``(tokens, hidden size)`` and the tokens that follow, shape ``(tokens,)``."""
        targets = to_device(targets, hidden.device)
        # Results go into memory that is allocated first. Small blocks that outlive a chunk, between large blocks that
        # do not, would fragment the heap until it holds every chunk's logits.
        ranks = torch.empty_like(targets, dtype=torch.int32)
        surprisals = torch.empty_like(targets, dtype=torch.float32)
        found_entropies = torch.empty_like(surprisals) if entropies else None
        chunks = max(1, math.ceil(len(targets) / chunk_tokens))
        size = max(1, math.ceil(len(targets) / chunks))  # of equal chunks: products of few tokens are slow
        for start in range(0, len(targets), size):
            chunk = slice(start, start + size)
            logits = self.logits(hidden[chunk])
            found = rank_and_surprisal(logits, targets[chunk].to(logits.device), entropies)
            del logits  # or two chunks of logits would be held at once
            ranks[chunk], surprisals[chunk] = found[:2]
            if found_entropies is not None and found[2] is not None:
                found_entropies[chunk] = found[2]
        return ranks, surprisals, found_entropies


class _GivenHiddenStates(torch.nn.Module):
    """Stands in for the decoder and returns what it is given, in the decoder's own kind of output."""

    def __init__(self, decoder: torch.nn.Module, output_class: type[ModelOutput]) -> None:
        super().__init__()
        self.output_class = output_class
        self.__dict__["replaced"] = decoder  # no submodule: only its settings are read

    def __getattr__(self, name: str) -> Any:
        # OPT's head calls the decoder inside its base model; Falcon-H1's reads a multiplier from there.
        return self if name == "decoder" else getattr(self.__dict__["replaced"], name)

    def forward(self, *_: Any, inputs_embeds: torch.Tensor, **__: Any) -> ModelOutput:
        return self.output_class(last_hidden_state=inputs_embeds)


@torch.no_grad()
def _head_alone(model: PreTrainedModel, decoder_name: str, logits_dtype: LogitsDtype) -> torch.nn.Module:
    """A shallow copy of the model with a stand-in for the decoder; it shares the weights and adds none."""
    decoder = model._modules[decoder_name]
    first_token = torch.zeros((1, 1), dtype=torch.int64, device=model.get_input_embeddings().weight.device)
    output_class = type(decoder(input_ids=first_token, use_cache=False))
    head = copy.copy(model)
    for hooked in ("forward", "_old_forward", "_hf_hook"):  # accelerate's hooks would lead back to the whole model
        head.__dict__.pop(hooked, None)
    head.__dict__["_modules"] = {**model._modules, decoder_name: _GivenHiddenStates(decoder, output_class)}
    if logits_dtype == "float32":
        output = model.get_output_embeddings()
        for name, module in model._modules.items():
            if module is output and output.weight.dtype != torch.float32:
                head.__dict__["_modules"][name] = copy.deepcopy(output).float()
    return head
