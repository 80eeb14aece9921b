"""Refusals at load: of heads and students that would give wrong scores, and of every error of a model family."""

import contextlib
import textwrap
from collections.abc import Iterator

import torch

from .batches import pad_right
from .decoder import PROBE_LENGTH, Decoder, largest
from .head import OutputHead


@contextlib.contextmanager
def refusing(failure: str) -> Iterator[None]:
    """Turns every error of a model family, of any class, into a ``ValueError`` of one line that says the failure."""
    try:
        yield
    except Exception as error:
        plain = isinstance(error, OSError | ValueError | RuntimeError) and str(error).strip()
        reason = str(error) if plain else f"{type(error).__name__}: {error}"
        raise ValueError(f"{failure}: {textwrap.shorten(reason, 400, placeholder=' ...')}") from error


@torch.no_grad()
def check(decoder: Decoder, head: OutputHead, described: str) -> int:
    """Checks the head alone against the model's logits, and that no later token or other row changes a hidden state.

    Returns the number of logits: ids below this one can be read and scored. Errors begin with ``described``.
    """
    generator = torch.Generator().manual_seed(0)
    length = min([PROBE_LENGTH, decoder.max_positions or PROBE_LENGTH, *decoder.turning_lengths])
    probe, others = torch.randint(0, decoder.vocab_size, (2, 1, length), generator=generator)
    short = probe[:, : length // 2]
    with refusing(f"{described}: its forward pass fails"):
        expected = decoder.model(input_ids=probe.to(decoder.device), use_cache=False).logits[0].float()
        hidden = decoder.hidden(probe)[0]
        alone = decoder.hidden(short)[0].float()
        beside_others = decoder.hidden(pad_right([short[0].numpy(), others[0].numpy()]))[0, : length // 2].float()
    with refusing(f"{described}: its output head cannot be run on its own"):
        found = head.logits(hidden).float()
    # Two computations of the same numbers differ by rounding in the student's dtype; float32 takes more steps.
    epsilon = torch.finfo(decoder.model.dtype).eps
    steps = 32 if decoder.model.dtype == torch.float32 else 4
    tolerance = steps * epsilon * max(1.0, largest(expected))
    if expected.shape != found.shape or not torch.allclose(
        expected.to(found.device), found, rtol=0, atol=tolerance, equal_nan=True
    ):
        raise ValueError(
            f"{described}: its output head run on its own disagrees with the model's own logits; scores would be "
            "wrong, so it is refused"
        )
    vocab_size = min(decoder.vocab_size, expected.shape[-1])
    probe[0, -1] = (probe[0, -1] + 1) % vocab_size
    changed = decoder.hidden(probe)[0, :-1].float()
    tolerance = 32 * epsilon * max(1.0, largest(hidden))
    # Attention spreads a NaN even with a weight of zero. A token that a NaN reaches has no score that could be wrong.
    numbers = changed.isfinite() & hidden[:-1].isfinite()
    if not torch.allclose(changed[numbers], hidden[:-1][numbers].float(), rtol=0, atol=tolerance):
        raise ValueError(f"{described} is not causal: a token sees what comes after it")
    # Other shapes round otherwise. In half precision rounding sends single tokens to another expert; a student whose
    # hidden states depend on the batch changes all tokens.
    same = torch.isclose(beside_others, alone, rtol=0, atol=tolerance, equal_nan=True).all(dim=-1)
    if same.sum() < len(same) / 2:
        raise ValueError(
            f"{described}: a row alone and the same row beside a longer one give different hidden states; its "
            "scores would depend on the batch, so it is refused"
        )
    return vocab_size
