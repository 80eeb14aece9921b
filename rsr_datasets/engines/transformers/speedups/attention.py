"""Attention in bfloat16 on AMD's processors, put together from matrix products.

torch's kernel for CPUs is no faster there in bfloat16 than in float32. oneDNN's products are, for rows that are long
enough and heads that share keys.
"""

from __future__ import annotations

import logging

import torch
from transformers import PreTrainedModel

from ..packed_attention import LEAST_KEYS, AttentionKernel
from .products import float32_product, onednn_is_faster

logger = logging.getLogger(__name__)

# Scores of one product, 4 MiB of float32: heads are computed together below this number.
_MOST_SCORES = 1 << 20
_PROBE_QUERIES = 16


def by_products(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """An attention kernel with scores in float32 and weights in the student's dtype, as in torch's."""
    count, size = query.shape[2:]
    scaling = size**-0.5 if scaling is None else scaling
    together = max(1, _MOST_SCORES // (count * key.shape[2]))
    keys = key[0].to(torch.float32, memory_format=torch.contiguous_format)
    found = []
    for asking, given, contents in zip(query[0].chunk(key.shape[1]), keys, value[0], strict=True):
        for heads in asking.split(together):
            scores = float32_product(heads.float() * scaling, given, None)
            scores[..., -count:] += mask[:, -count:]
            weights = scores.softmax(dim=-1).to(value.dtype)
            found.append(torch.nn.functional.linear(weights, contents.t()))
    return torch.cat(found).transpose(0, 1)[None]


def attention_by_products(model: PreTrainedModel) -> AttentionKernel | None:
    """The kernel for a student whose attention is faster with it, where it agrees with torch's on a probe."""
    config = model.config.get_text_config()
    heads, shared = (getattr(config, f"num_{name}_heads", None) or 0 for name in ("attention", "key_value"))
    if not heads > shared > 0 or model.device.type != "cpu" or model.dtype != torch.bfloat16 or not onednn_is_faster():
        return None
    try:
        return by_products if _agrees(heads, shared) else None
    except Exception as error:  # torch's inner operations may change from version to version
        logger.debug("attention is left to torch's kernel: %s", error)
        return None


@torch.no_grad()
def _agrees(heads: int, shared: int, size: int = 64) -> bool:
    """Whether the kernel gives on random numbers what torch's gives, but for rounding."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((heads, _PROBE_QUERIES), (shared, LEAST_KEYS), (shared, LEAST_KEYS))
    query, key, value = (torch.randn(1, *shape, size, generator=generator).bfloat16() for shape in shapes)
    mask = torch.full((_PROBE_QUERIES, LEAST_KEYS), -torch.inf, dtype=torch.bfloat16)
    mask = mask.triu(LEAST_KEYS - _PROBE_QUERIES + 1)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)
    tolerance = 8 * torch.finfo(torch.bfloat16).eps * float(expected.abs().max())
    found = by_products(query, key, value, mask, None)
    return torch.allclose(found.float(), expected.transpose(1, 2).float(), rtol=0, atol=tolerance)
