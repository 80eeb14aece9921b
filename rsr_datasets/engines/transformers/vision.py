"""Rows with images: the student's processor makes pixel values, and the student's whole base model reads them."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, PreTrainedModel

from ...reading.images import ImageSource
from ...reading.rows import EncodedRow
from ..base import BatchAccount
from .batches import pad_right, to_device
from .classes import decoder_name
from .decoder import largest
from .head import OutputHead
from .probes import refusing

_OF_TEXT = {"input_ids", "attention_mask"}
_PROBE_TEXT = "Say in a few words what is in the picture, and what is not; then count what is left of both."
_PROBE_SIZES = ((61, 44), (30, 97), (56, 56))
_PROBED_TOKENS = 8


class Vision:
    """Reads rows with images. ``ValueError`` refuses a student that fails the probe, which is run first.

    Every family has names of its own for pixel values and what goes with them: the processor gives them, the base
    model takes them. Numbers for each token come from the token ids.
    """

    def __init__(self, model: PreTrainedModel, head: OutputHead, processor: Any, described: str) -> None:
        self.model = model
        self.base: Any = model._modules[decoder_name(model) or ""]
        self.processor = processor
        self._lock = threading.Lock()  # tokenizers inside of processors refuse two threads
        self._mark: str | None = None  # stands for an image in the text that some processors ask for
        self._pixels: set[str] = set()
        self._token_types: str | None = None
        if getattr(model, "hf_device_map", None) is None:
            self.base.to(self.device)  # the parts that only images need were left where they were loaded
        with refusing(f"{described} cannot be scored on rows with images"):
            if not self._probe(head):
                raise ValueError("a batch of such rows disagrees with the model's own logits of each row alone")

    @property
    def device(self) -> torch.device:
        """Where token ids and pixel values go."""
        return self.model.get_input_embeddings().weight.device

    def read(self, rows: Sequence[EncodedRow]) -> tuple[torch.Tensor, BatchAccount]:
        """Hidden states of shape ``(scored tokens, hidden size)`` of rows side by side, each with images."""
        # Each row is padded with its last scored token, which stands for no image.
        padded = pad_right([row.input_ids for row in rows])[:, :-1]
        given = self._given(padded, [row.images for row in rows])
        hidden = self.base(**given, use_cache=False).last_hidden_state.flatten(0, 1)
        starts = np.arange(len(rows)) * padded.shape[1]
        places = np.concatenate([start + row.positions - 1 for start, row in zip(starts, rows, strict=True)])
        tokens = sum(row.read_ids.size for row in rows)
        picked = hidden[to_device(torch.from_numpy(places), hidden.device)]
        return picked, BatchAccount(tokens, tokens, padded.numel())

    def _given(self, input_ids: torch.Tensor, images: Sequence[Sequence[ImageSource]]) -> Any:
        """Arguments of the base model for rows of token ids, shape ``(rows, tokens)``, and the images of each row."""
        processed = self._processed([[image.open() for image in some] for some in images])
        given = {name: value for name, value in processed.items() if name in self._pixels}
        if self._token_types:
            given[self._token_types] = self._types_of(input_ids)
        return self._moved({"input_ids": input_ids, **given})

    def _processed(self, pictures: Sequence[Sequence[Any]]) -> Mapping[str, Any]:
        """The processor's values for the pictures of some rows, without the rows' own text."""
        marks = [self._mark * len(some) for some in pictures] if self._mark else None
        with self._lock:
            found: Mapping[str, Any] = self.processor(text=marks, images=pictures, padding=True, return_tensors="pt")
        return found

    def _types_of(self, input_ids: torch.Tensor) -> torch.Tensor:
        return torch.tensor(self.processor.create_mm_token_type_ids(input_ids.tolist()))

    def _moved(self, given: Mapping[str, Any]) -> Any:
        return BatchFeature(dict(given)).to(self.device, self.model.dtype)

    @torch.no_grad()
    def _probe(self, head: OutputHead) -> bool:
        """Whether rows with one and two images, side by side, have the model's own logits of each row alone."""
        from PIL import Image

        noise = np.random.default_rng(0)
        pictures = [Image.fromarray(noise.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in _PROBE_SIZES]
        try:
            self._processed([pictures])
        except Exception:  # processors raise any error
            self._mark = self.processor.image_token
        rows, expected = [], []
        for some in (pictures[:1], pictures[1:]):
            whole = self.processor(text=[self._text(len(some))], images=[some], return_tensors="pt")
            self._learn(whole, some)
            logits = self.model(**self._moved(whole), use_cache=False).logits[0, -_PROBED_TOKENS:]
            ids = whole["input_ids"][0].numpy()
            positions = np.arange(ids.size - _PROBED_TOKENS, ids.size) + 1
            sources = tuple(ImageSource("probe", picture) for picture in some)
            rows.append(EncodedRow(np.append(ids, ids[-1]), positions, images=sources))
            expected.append(logits.float())
        found = head.logits(self.read(rows)[0]).float()
        wanted = torch.cat(expected).to(found.device)
        steps = 32 if self.model.dtype == torch.float32 else 4
        tolerance = steps * torch.finfo(self.model.dtype).eps * max(1.0, largest(wanted))
        return torch.allclose(found, wanted, rtol=0, atol=tolerance)

    def _text(self, images: int) -> str:
        """A text with some images, by the processor's chat template where there is one."""
        content = [*[{"type": "image"}] * images, {"type": "text", "text": _PROBE_TEXT}]
        if getattr(self.processor, "chat_template", None):
            return str(self.processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False))
        return f"{self.processor.image_token * images}{_PROBE_TEXT}"

    def _learn(self, whole: Mapping[str, Any], pictures: Sequence[Any]) -> None:
        """Learns which values the processor makes of images alone, and which one it makes of token ids."""
        alone = self._processed([pictures])
        self._pixels = {name for name in alone.keys() & whole.keys() - _OF_TEXT if _same(alone[name], whole[name])}
        for name in whole.keys() - self._pixels - _OF_TEXT:
            if not _same(self._types_of(whole["input_ids"]), whole[name]):
                raise ValueError(f"its processor makes {name!r} of text and images together")
            self._token_types = name


def _same(first: Any, second: Any) -> bool:
    """Whether two tensors, or nested lists of tensors, are equal."""
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        return all(map(_same, first, second))
    return bool(first == second)
