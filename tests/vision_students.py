"""Tiny random students that see, of four families, with processors of these families over SmolLM2's tokenizer."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
import trl
from conftest import SIZES
from PIL import Image
from real_student import smollm2_folder
from transformers import BatchFeature, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.video_utils import make_batched_metadata

SEEING = ("qwen2_5_vl", "idefics3", "gemma3", "llava")
"""The families of students here."""

_TEMPLATES = {"llava": "llava_next"}
_TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
_SQUARE = {"height": 16, "width": 16}


class _VideosByPil(Qwen2VLImageProcessorPil):
    """Frames as patches, as the family's processor of videos gives these, which needs the package torchvision."""

    def __call__(self, videos: Any, video_metadata: Any = None, return_tensors: Any = None, **_: Any) -> Any:
        patches, grids = [], []
        for video in videos:
            frames = [*video, *([video[-1]] if len(video) % 2 else [])]
            made = [Qwen2VLImageProcessorPil.__call__(self, Image.fromarray(np.asarray(each))) for each in frames]
            grids.append([len(frames) // 2, *made[0]["image_grid_thw"][0][1:]])
            for first, second in zip(made[::2], made[1::2], strict=True):
                both = [np.asarray(each["pixel_values"]).reshape(-1, 3, 2, 4, 4) for each in (first, second)]
                pair = np.stack([both[0][:, :, 0], both[1][:, :, 1]], axis=2)
                patches.append(pair.reshape(len(pair), -1))
        data = {"pixel_values_videos": np.concatenate(patches), "video_grid_thw": np.array(grids)}
        found = BatchFeature(data, tensor_type="pt")
        found["video_metadata"] = make_batched_metadata(videos, video_metadata)
        return found

    def sample_frames(self, metadata: Any, **_: Any) -> Any:
        return np.arange(0, metadata.total_num_frames, 2)


class _Processor(transformers.Qwen2_5_VLProcessor):
    def check_argument_for_proper_class(self, argument_name: str, argument: object) -> None:
        pass


@functools.cache
def _smollm2_tokenizer() -> PreTrainedTokenizerBase:
    return transformers.AutoTokenizer.from_pretrained(smollm2_folder())


def _tokenizer(family: str, names: dict[str, str], others: Sequence[str] = ()) -> PreTrainedTokenizerBase:
    """SmolLM2's tokenizer with a family's special tokens and chat template; ``names`` are its attributes too."""
    found: Any = type(_smollm2_tokenizer())(
        tokenizer_object=_smollm2_tokenizer().backend_tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=names,
    )
    found.add_tokens([transformers.AddedToken(text, special=True, normalized=False) for text in others])
    folder = Path(trl.__file__).parent / "chat_templates"
    found.chat_template = (folder / f"{_TEMPLATES.get(family, family)}.jinja").read_text(encoding="utf-8")
    return found


def make_processor(family: str) -> Any:
    """A processor that makes few tokens of small images, as the family's own class makes them."""
    if family == "qwen2_5_vl":
        marks = ["<|vision_start|>", "<|vision_end|>"]
        tokenizer = _tokenizer(family, {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}, marks)
        pixels = {"shortest_edge": 16 * 16, "longest_edge": 48 * 48}
        sizes = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2, "size": pixels}
        images, videos = Qwen2VLImageProcessorPil(**sizes), _VideosByPil(**sizes)
        return _Processor(images, tokenizer, videos, chat_template=tokenizer.chat_template)
    if family == "idefics3":
        tiles = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
        marks = ["<fake_token_around_image>", "<global-img>", "<end_of_utterance>", "<|begin_of_text|>", *tiles]
        tokenizer = _tokenizer(family, {"image_token": "<image>"}, marks)
        images = Idefics3ImageProcessorPil(size={"longest_edge": 32}, max_image_size={"longest_edge": 16})
        return transformers.Idefics3Processor(
            images, tokenizer, image_seq_len=4, chat_template=tokenizer.chat_template
        )
    if family == "gemma3":
        names = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
        tokenizer = _tokenizer(family, names, ["<start_of_turn>", "<end_of_turn>"])
        images = Gemma3ImageProcessorPil(size=_SQUARE)
        return transformers.Gemma3Processor(
            images, tokenizer, image_seq_length=4, chat_template=tokenizer.chat_template
        )
    tokenizer = _tokenizer(family, {"image_token": "<image>"})
    return transformers.LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=_SQUARE),
        tokenizer,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    )


def make_seeing_student(
    family: str, processor: Any, seed: int = 0, spread: float = 0.1, **sizes: Any
) -> PreTrainedModel:
    """A tiny random model of the family, in float32, whose logits are spread out; see ``conftest.make_model``."""
    tokenizer = processor.tokenizer

    def number(token: str) -> int:
        return int(tokenizer.convert_tokens_to_ids(token))

    text = SIZES | {
        "vocab_size": len(tokenizer),
        "eos_token_id": 2,
        "pad_token_id": 0,
        "max_position_embeddings": 2048,
        **sizes,
    }
    config: Any
    if family == "qwen2_5_vl":
        tower = _TOWER | {"patch_size": 4, "window_size": 16, "fullatt_block_indexes": [1], "out_hidden_size": 32}
        del text["head_dim"]
        rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
        config = transformers.Qwen2_5_VLConfig(
            text_config=text | {"rope_parameters": rope},
            vision_config=tower,
            image_token_id=number("<|image_pad|>"),
            video_token_id=number("<|video_pad|>"),
            vision_start_token_id=number("<|vision_start|>"),
            vision_end_token_id=number("<|vision_end|>"),
        )
    elif family == "idefics3":
        config = transformers.Idefics3Config(
            text_config=text | {"model_type": "llama"},
            vision_config=_TOWER | {"image_size": 16, "patch_size": 4},
            image_token_id=number("<image>"),
            scale_factor=2,
        )
    elif family == "gemma3":
        config = transformers.Gemma3Config(
            text_config=text | {"sliding_window": 64, "query_pre_attn_scalar": 8},
            vision_config=_TOWER | {"model_type": "siglip_vision_model", "image_size": 16, "patch_size": 4},
            mm_tokens_per_image=4,
            image_token_index=number("<image_soft_token>"),
            boi_token_index=number("<start_of_image>"),
            eoi_token_index=number("<end_of_image>"),
        )
    else:
        config = transformers.LlavaConfig(
            text_config=text | {"model_type": "llama"},
            vision_config=_TOWER | {"model_type": "clip_vision_model", "image_size": 16, "patch_size": 4},
            image_token_index=number("<image>"),
            image_seq_length=16,
        )
    torch.manual_seed(seed)
    model = transformers.AutoModelForImageTextToText.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=spread)
    return model


def make_frames(seed: int, count: int, width: int = 40, height: int = 30) -> list[Image.Image]:
    """Frames of a video of random colours."""
    return [make_picture(1000 * seed + i, width, height) for i in range(count)]


def make_picture(seed: int, width: int = 40, height: int = 30) -> Image.Image:
    """A picture of random colours."""
    colours = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(colours)
