"""The classes of transformers that load a student, and the module of a loaded student that reads text."""

from typing import Any

import transformers
from transformers import PreTrainedModel


def auto_class(config: transformers.PreTrainedConfig, own_class: str | None = None) -> Any:
    """The auto class that loads a student: for images and text, if its weights (or ``own_class``) are of such a class."""
    seeing = transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.get(type(config), None)
    blind = transformers.MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    stored = [own_class] if own_class else config.architectures or []
    if seeing and (blind in (None, seeing) or seeing.__name__ in stored):
        return transformers.AutoModelForImageTextToText
    return transformers.AutoModelForCausalLM


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
