"""Tokens as text: what each token of a trajectory adds to it."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

# A character is at most four tokens of one byte; a longer run that decodes to nothing is not UTF-8 at all.
_LONGEST_RUN = 64


def split_text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """Decodes tokens one by one, so that the parts put together are the text.

    Args:
        tokenizer: The student's tokenizer.
        ids: Ids of the tokens.

    Returns:
        The text that each token adds. Where several tokens spell one character, as byte-level tokenizers do, the last
        of them has it and the others have none.

    Raises:
        ValueError: If an id is not one of the tokenizer's.
    """
    ids = list(ids)
    for token_id in ids:
        if not 0 <= token_id < len(tokenizer):
            raise ValueError(
                f"tokenizer: token id {token_id} is not one of the {len(tokenizer)} of {tokenizer.name_or_path!r}; "
                "give the student's own tokenizer"
            )

    def decode(first: int, end: int) -> str:
        text = tokenizer.decode(ids[first:end], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return str(text)

    parts: list[str] = []
    # Decoding starts one part back, since some decoders drop the space before what they take for the first word.
    first = done = 0
    known = ""
    for end in range(1, len(ids) + 1):
        text = decode(first, end)
        if text.endswith(_REPLACEMENT) and end < len(ids) and end - done < _LONGEST_RUN:
            parts.append("")
            continue
        parts.append(text[len(known) :])
        first, done = done, end
        known = decode(first, done)
    return parts
