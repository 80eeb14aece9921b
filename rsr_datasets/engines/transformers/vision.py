"""Rows with images and videos: the student's processor makes pixel values, and its whole base model reads these."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, PreTrainedModel

from ...reading.images import ImageSource
from ...reading.processing import arguments, read_video
from ...reading.rows import EncodedRow
from ...reading.videos import Media, VideoSource
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
    """Reads rows with images and videos. ``ValueError`` refuses a student that fails a probe.

    Rows with images are probed first, rows with videos, or with both, before the first of these that is read.

    Every family has names of its own for pixel values and what goes with them: the processor gives them, the base
    model takes them. Numbers for each token come from the token ids.
    """

    def __init__(self, model: PreTrainedModel, head: OutputHead, processor: Any, described: str) -> None:
        self.model = model
        self.base: Any = model._modules[decoder_name(model) or ""]
        self.processor = processor
        self._lock = threading.RLock()  # tokenizers inside of processors refuse two threads
        self._asks_text = False  # some processors make no values of images alone
        self._pixels: set[str] = set()
        self._token_types: str | None = None
        self._described, self._head = described, head
        self._probed = {frozenset({"image"})}
        if getattr(model, "hf_device_map", None) is None:
            self.base.to(self.device)  # the parts that only images need were left where they were loaded
        first, second, third = _noise(_PROBE_SIZES)
        try:
            self._processed([[second, third]])
        except Exception:  # processors raise any error
            self._asks_text = True
        self._refuse_unless([[first], [second, third]], "images")

    @property
    def device(self) -> torch.device:
        """Where token ids and pixel values go."""
        return self.model.get_input_embeddings().weight.device

    def read(self, rows: Sequence[EncodedRow]) -> tuple[torch.Tensor, BatchAccount]:
        """Hidden states of shape ``(scored tokens, hidden size)`` of rows side by side, all of the same kinds."""
        found = kinds(rows[0])
        with self._lock:
            if found not in self._probed:
                image, *frames = _noise(_PROBE_SIZES[:1] * 8)
                videos = VideoSource("probe", tuple(frames[:4])), VideoSource("probe", tuple(frames[4:]))
                images = [image] if "image" in found else []
                kind = "images and videos" if images else "videos"
                self._refuse_unless([[videos[0], *images], [*images, videos[1]]], kind)
                self._probed.add(found)
        return self._read(rows)

    def _read(self, rows: Sequence[EncodedRow]) -> tuple[torch.Tensor, BatchAccount]:
        # Each row is padded with its last scored token, which stands for no image.
        padded = pad_right([row.input_ids for row in rows])[:, :-1]
        given = self._given(padded, [row.images for row in rows])
        hidden = self.base(**given, use_cache=False).last_hidden_state.flatten(0, 1)
        starts = np.arange(len(rows)) * padded.shape[1]
        places = np.concatenate([start + row.positions - 1 for start, row in zip(starts, rows, strict=True)])
        tokens = sum(row.read_ids.size for row in rows)
        picked = hidden[to_device(torch.from_numpy(places), hidden.device)]
        return picked, BatchAccount(tokens, tokens, padded.numel())

    def _given(self, input_ids: torch.Tensor, images: Sequence[Sequence[Media]]) -> Any:
        """Arguments of the base model for rows of token ids, shape ``(rows, tokens)``, and the images of each row."""
        given = {name: value for name, value in self._processed(images).items() if name in self._pixels}
        if self._token_types:
            given[self._token_types] = self._types_of(input_ids)
        return self._moved({"input_ids": input_ids, **given})

    def _processed(self, images: Sequence[Sequence[Media]]) -> Mapping[str, Any]:
        """The processor's values for the images and videos of some rows, without the rows' own text."""
        marks = [self._marks(some) for some in images] if self._asks_text else None
        shown = self._shown(images)
        with self._lock:
            found: Mapping[str, Any] = self.processor(text=marks, **shown, padding=True, return_tensors="pt")
        return found

    def _shown(self, images: Sequence[Sequence[Media]]) -> dict[str, Any]:
        pictures = [[each.open() for each in some if isinstance(each, ImageSource)] for some in images]
        videos = [each for some in images for each in some if isinstance(each, VideoSource)]
        return arguments(pictures, [read_video(self.processor, video) for video in videos])

    def _types_of(self, input_ids: torch.Tensor) -> torch.Tensor:
        return torch.tensor(self.processor.create_mm_token_type_ids(input_ids.tolist()))

    def _moved(self, given: Mapping[str, Any]) -> Any:
        """Values on the device, pixels in the student's dtype; single numbers, such as seconds, stay as exact."""
        moved = BatchFeature(dict(given)).to(self.device)
        pixels = {name for name, value in moved.items() if not isinstance(value, torch.Tensor) or value.dim() > 1}
        moved.update(BatchFeature({name: moved[name] for name in pixels}).to(self.device, self.model.dtype))
        return moved

    def _refuse_unless(self, probes: Sequence[Sequence[Media]], kind: str) -> None:
        with refusing(f"{self._described} cannot be scored on rows with {kind}"):
            if not self._probe(probes):
                raise ValueError("a batch of such rows disagrees with the model's own logits of each row alone")

    @torch.no_grad()
    def _probe(self, probes: Sequence[Sequence[Media]]) -> bool:
        """Whether rows with some images, side by side, have the model's own logits of each row alone."""
        rows, expected = [], []
        for some in probes:
            whole = self.processor(text=[self._text(some)], **self._shown([some]), return_tensors="pt")
            self._learn(whole, some)
            logits = self.model(**self._moved(whole), use_cache=False).logits[0, -_PROBED_TOKENS:]
            ids = whole["input_ids"][0].numpy()
            positions = np.arange(ids.size - _PROBED_TOKENS, ids.size) + 1
            rows.append(EncodedRow(np.append(ids, ids[-1]), positions, images=tuple(some)))
            expected.append(logits.float())
        found = self._head.logits(self._read(rows)[0]).float()
        wanted = torch.cat(expected).to(found.device)
        steps = 32 if self.model.dtype == torch.float32 else 4
        tolerance = steps * torch.finfo(self.model.dtype).eps * max(1.0, largest(wanted))
        return torch.allclose(found, wanted, rtol=0, atol=tolerance)

    def _text(self, images: Sequence[Media]) -> str:
        """A text with some images, by the processor's chat template where there is one."""
        content = [*({"type": _kind(each)} for each in images), {"type": "text", "text": _PROBE_TEXT}]
        if getattr(self.processor, "chat_template", None):
            return str(self.processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False))
        return f"{self._marks(images)}{_PROBE_TEXT}"

    def _marks(self, images: Sequence[Media]) -> str:
        """The texts that stand for some images."""
        return "".join(getattr(self.processor, f"{_kind(each)}_token") for each in images)

    def _learn(self, whole: Mapping[str, Any], images: Sequence[Media]) -> None:
        """Learns which values the processor makes of images alone, and which one it makes of token ids."""
        alone = self._processed([images])
        self._pixels |= {name for name in alone.keys() & whole.keys() - _OF_TEXT if _same(alone[name], whole[name])}
        for name in whole.keys() - self._pixels - _OF_TEXT:
            if not _same(self._types_of(whole["input_ids"]), whole[name]):
                raise ValueError(f"its processor makes {name!r} of text and images together")
            self._token_types = name


def kinds(row: EncodedRow) -> frozenset[str]:
    """``"image"`` and ``"video"``, as a row has them: some processors take one of them at a time."""
    return frozenset(map(_kind, row.images))


def _kind(image: Media) -> str:
    return "video" if isinstance(image, VideoSource) else "image"


def _noise(sizes: Sequence[tuple[int, int]]) -> list[ImageSource]:
    """Images of noise."""
    from PIL import Image

    noise = np.random.default_rng(0)
    pictures = [Image.fromarray(noise.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]
    return [ImageSource("probe", picture) for picture in pictures]


def _same(first: Any, second: Any) -> bool:
    """Whether two tensors, or nested lists of tensors, are equal."""
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        return all(map(_same, first, second))
    return bool(first == second)
