"""The classes of transformers that load a student, and the module of a loaded student that reads text."""

from typing import Any

import torch
import transformers
from transformers import PreTrainedModel


def auto_classes(config: transformers.PreTrainedConfig, own_class: str | None = None) -> list[Any]:
    """The auto classes that load a student, the one of its stored or own class first; another loads its text side."""
    seeing = transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.get(type(config), None)
    blind = transformers.MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    stored = [own_class] if own_class else config.architectures or []
    found: list[Any] = []
    if seeing and (blind in (None, seeing) or seeing.__name__ in stored):
        found.append(transformers.AutoModelForImageTextToText)
    if not found or blind not in (None, seeing):
        found.append(transformers.AutoModelForCausalLM)
    return found


def refuse_encoder_decoder(config: transformers.PreTrainedConfig, name: str) -> None:
    """Raises ``ValueError`` for an encoder-decoder model."""
    if config.is_encoder_decoder or config.get_text_config().is_encoder_decoder:
        raise ValueError(f"student {name!r} is an encoder-decoder model; a causal language model is needed")


def decoder_name(model: PreTrainedModel) -> str | None:
    """The name of the student's own module that is, or holds, the decoder."""
    if model.base_model_prefix in model._modules:
        return model.base_model_prefix
    embeddings = model.get_input_embeddings()
    named = model._modules.items()
    return next((name for name, module in named if module is not None and embeddings in module.modules()), None)


def causal_model(model: PreTrainedModel) -> tuple[PreTrainedModel, str | None]:
    """The model that has decoder and head, a student or a part of the student, and its name of the decoder."""
    name = decoder_name(model)
    inner = model._modules.get(name or "")
    if isinstance(inner, PreTrainedModel) and inner.get_output_embeddings() is not None:
        return inner, decoder_name(inner)
    return model, name


def text_module(base: torch.nn.Module) -> torch.nn.Module:
    """The part of a student's base model that reads text: all of it, in students that read text alone."""
    config: Any = getattr(base, "config", None)
    blind = config is None or config.get_text_config(decoder=True) is config
    return base if blind else base.get_decoder()  # type: ignore[operator]


@torch.no_grad()
def place(model: PreTrainedModel, device: torch.device) -> None:
    """Puts a student onto a device, but for the parts of its base model that only images need."""
    base = model._modules.get(decoder_name(model) or "")
    if base is None or (text := text_module(base)) is base:
        model.to(device)
        return
    needed = {text, model.get_input_embeddings()}
    parts = base._modules
    try:
        base._modules = {name: part for name, part in parts.items() if part and needed & {*part.modules()}}
        model.to(device)
    finally:
        base._modules = parts
    try:
        model(input_ids=torch.zeros((1, 1), dtype=torch.int64, device=device), use_cache=False)
    except Exception:  # text needs more of the base model than the part that reads text
        model.to(device)
