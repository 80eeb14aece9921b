"""Loaded by vLLM's workers: ranks that count the entries strictly above a token (Eq. 2).

vLLM counts the entries at least as high, so that its ranks are greater in a tie; in bfloat16 ties are frequent.
"""

from typing import Any

import torch
from vllm.v1.sample.sampler import Sampler
from vllm.v1.worker.gpu.sample import prompt_logprob

_gather_logprobs, _compute_topk_scores = Sampler.gather_logprobs, prompt_logprob.compute_topk_scores


class StrictRanks:
    """For ``worker_extension_cls`` of ``vllm.LLM`` or ``vllm serve``, which import this module and so change vLLM."""


def _with_strict_ranks(found: Any, scores: torch.Tensor, ids: torch.Tensor) -> Any:
    ranks = 1 + (scores > scores.gather(-1, ids.long().unsqueeze(-1))).sum(-1)
    return found._replace(selected_token_ranks=ranks)


def _gather_with_strict_ranks(logprobs: torch.Tensor, num_logprobs: int, token_ids: torch.Tensor) -> Any:
    return _with_strict_ranks(_gather_logprobs(logprobs, num_logprobs, token_ids), logprobs, token_ids)


def _topk_with_strict_ranks(logits: torch.Tensor, num_logprobs: int, token_ids: torch.Tensor, **others: Any) -> Any:
    return _with_strict_ranks(_compute_topk_scores(logits, num_logprobs, token_ids, **others), logits, token_ids)


Sampler.gather_logprobs = staticmethod(_gather_with_strict_ranks)  # of vLLM's first model runner
prompt_logprob.compute_topk_scores = _topk_with_strict_ranks  # of its second one
