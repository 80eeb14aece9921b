"""Ways to read faster, or in less memory, each taken only where a probe agrees.

To remove a speed-up, delete its file, its test and its line here.
"""

from collections.abc import Callable

import torch
from transformers import PreTrainedModel

from ..packed_attention import AttentionKernel
from .attention import attention_by_products
from .long_rows import in_parts
from .products import with_faster_products

AT_LOAD: tuple[Callable[[torch.nn.Module], torch.nn.Module], ...] = (with_faster_products,)
"""Take the decoder or the output head; return the module to use instead, or the same where nothing changes."""

FOR_LONG_ROWS: tuple[Callable[[torch.nn.Module, int], torch.nn.Module], ...] = (in_parts,)
"""Take the decoder and the number of tokens that makes a row a long one; return the decoder for such rows."""

ATTENTION: tuple[Callable[[PreTrainedModel], AttentionKernel | None], ...] = (attention_by_products,)
"""Take the student; return a kernel that is faster than torch's there and agrees with it, or nothing."""
