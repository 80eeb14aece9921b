"""Students whose class reads images too, on rows of text: every type that transformers lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from test_hostile_students import COMMON, DEFAULT, HYBRID, assert_equals_its_own_logits, encoded_rows
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from rsr_datasets.engines.transformers.engine import TransformersEngine
from rsr_datasets.engines.transformers.source import TransformersStudent

TOWERS: dict[str, Any] = {
    **dict.fromkeys(("image_size", "img_size", "input_size"), 32),
    **dict.fromkeys(("embed_dim", "hidden_dim", "width", "projection_dim", "out_hidden_size", "output_dim"), 32),
    **dict.fromkeys(("text_hidden_size", "mm_hidden_size", "encoder_hidden_size", "vision_output_dim"), 32),
    **dict.fromkeys(("depth", "num_layers", "encoder_layers", "decoder_layers", "num_hidden_layers"), 2),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "projector_hidden_size"), 48),
    "patch_size": 8,
}
ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
SMALL_TOWER = {"vq_config": {"base_channels": 32}}
OWN = dict.fromkeys((*COMMON, *TOWERS), DEFAULT)


def text(**changes: Any) -> dict[str, Any]:
    return {"text_config": changes}


CHANGES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("paddleocr_vl", "hunyuan_vl", "cosmos3_edge"), text(rope_parameters=ROPE)),
    **dict.fromkeys(("qwen2_5_omni_thinker", "qwen2_5_vl", "qwen2_vl"), text(rope_parameters=ROPE)),
    **dict.fromkeys(
        ("glm46v", "glm4v", "glm4v_moe", "glm_ocr", "glmga"),
        text(rope_parameters=ROPE | {"partial_rotary_factor": 1.0}),
    ),
    **dict.fromkeys(("minicpm_ocr", "minicpmv4_6", "minicpmv4_7", "qwen3_5", "qwen3_5_moe"), text(**HYBRID)),
    **dict.fromkeys(("gemma4", "gemma4_unified"), text(layer_types=DEFAULT, head_dim=DEFAULT)),
    "chameleon": SMALL_TOWER | {"vocabulary_map": {"<image>": 5}},
    "cohere_compass": text(rope_parameters={"full_attention": ROPE}),
    "deepseek_ocr2": text(mlp_layer_types=["dense", "sparse"]),
    "diffusion_gemma": text(
        layer_types=DEFAULT, head_dim=DEFAULT, num_experts=4, top_k_experts=2, moe_intermediate_size=16
    ),
    "emu3": SMALL_TOWER | {"vocabulary_map": {"<image>": 5}} | text(bos_token_id=1),
    "ernie4_5_vl_moe": text(rope_parameters=ROPE, moe_intermediate_size=[16, 16]),
    "florence2": {
        "vision_config": OWN
        | {name: [32] for name in ("embed_dim", "num_heads", "num_groups")}
        | {"depths": [1], "patch_size": [7], "patch_stride": [4], "patch_padding": [3], "patch_prenorm": [False]}
    },
    "glm5_next": text(num_key_value_heads=4, qk_rope_head_dim=0, **HYBRID),
    "granite4_vision": {
        "downsample_rate": "1/2",
        "deepstack_layer_map": [],
        "spatial_target_layers": [0, 1, 0, 1],
        "vision_config": {"hidden_size": 64},
    },
    "janus": SMALL_TOWER,
    "kimi_k25": text(head_dim=4),
    "lfm3_vl": text(layer_types=["conv", "full_attention"]),
    "llama4": {"vision_config": {"projector_output_dim": 32, "projector_input_dim": 32}},
    "mistral_large4": text(head_dim=DEFAULT, num_key_value_heads=4),
    "mllama": text(bos_token_id=1),
    "molmo2": {"vision_config": dict.fromkeys(TOWERS, DEFAULT), "adapter_config": dict.fromkeys(TOWERS, DEFAULT)},
    "muse_spark": {"audio_config": {"num_hidden_layers": 4, "hidden_sizes": [32] * 4, "depths": [1] * 4}},
    "nemotron_h_omni": {"vision_config": {"video_temporal_patch_size": 2}}
    | text(layers_block_type=DEFAULT, layer_types=DEFAULT, num_hidden_layers=DEFAULT),
    "qwen4_exp": text(
        indexer_n_heads=2,
        indexer_kv_heads=1,
        indexer_head_dim=8,
        indexer_budget=64,
        indexer_compress_ratio=4,
        **HYBRID,
    ),
}
ENCODER_DECODER = "is an encoder-decoder model"
WANTS_IMAGES = "its forward pass fails: .*pixel_values"
REFUSED: dict[str, str] = {
    **dict.fromkeys(("florence2", "pix2struct", "pp_formulanet", "t5gemma2", "udop"), ENCODER_DECODER),
    "vision-encoder-decoder": ENCODER_DECODER,
    **dict.fromkeys(("blip", "blip-2", "idefics", "instructblip", "instructblipvideo", "kosmos-2"), WANTS_IMAGES),
    "pi0": "is no causal language model with a decoder",
    "diffusion_gemma": "disagrees with the model's own logits",
    "paligemma": "is not causal",
}
NOT_BUILT: dict[str, str] = {
    **dict.fromkeys(("fast_vlm", "gemma3n", "perception_lm"), "its tower needs the package timm"),
    "dots3_note": "its configuration names layers up to the 42nd",
    "evolla": "it reads proteins, and transformers does not find its class by its configuration",
}


def knows(config: PreTrainedConfig, name: str) -> bool:
    """Whether all layers have one setting of this name."""
    try:
        return hasattr(config, name)
    except Exception:
        return False


def sized(known: PreTrainedConfig, changes: dict[str, Any]) -> dict[str, Any]:
    """Small sizes for all that a configuration and its parts know."""
    settings: dict[str, Any] = {}
    parts = {name: value for name, value in vars(known).items() if isinstance(value, PreTrainedConfig)}
    for name, part in parts.items():
        settings[name] = sized(part, changes.get(name, {}))
        if part.model_type:
            settings[name]["model_type"] = part.model_type
    common = COMMON if hasattr(known, "vocab_size") else COMMON | TOWERS
    for name, value in common.items():
        alias_of = known.attribute_map.get(name)
        if name not in {*changes, *parts} and alias_of not in common and knows(known, name):
            settings[name] = value
    rope = getattr(known, "rope_parameters", None) or {}
    if "mrope_section" in rope and "rope_parameters" not in changes:
        settings["rope_parameters"] = rope | {"mrope_section": [1, 1, 2]}
    settings |= {name: value for name, value in changes.items() if name not in parts}
    return {name: value for name, value in settings.items() if value is not DEFAULT}


def build(kind: str) -> PreTrainedModel:
    """A tiny random model of any type."""
    config_class = CONFIG_MAPPING[kind]
    torch.manual_seed(0)
    config = config_class(**sized(config_class(), CHANGES.get(kind, {})))
    model = transformers.AutoModelForImageTextToText.from_config(config).eval()
    assert model.num_parameters() < 20_000_000
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.1 if kind.startswith("gemma4") else 0.15)  # its layers multiply rounding
    return model


SLOW = ("glm5_next",)
KINDS = [
    pytest.param(kind, marks=[pytest.mark.slow] if kind in SLOW else [])
    for kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_text_equal_the_students_own_logits_or_the_student_is_refused(kind: str) -> None:
    if kind in NOT_BUILT:
        pytest.skip(f"{kind}: {NOT_BUILT[kind]}")
    model = build(kind)
    if kind in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[kind]):
            TransformersEngine(model)
        return
    assert_equals_its_own_logits(TransformersEngine(model), encoded_rows(3, 9, 17, 60, 33, 2))


@pytest.mark.parametrize("side", ["AutoModelForImageTextToText", "AutoModelForCausalLM"])
def test_an_adapter_is_put_into_the_side_that_it_was_trained_on(side: str, tmp_path: Path) -> None:
    build("qwen3_5").save_pretrained(tmp_path / "base")
    base = getattr(transformers, side).from_pretrained(tmp_path / "base").eval()
    adapted = peft.get_peft_model(base, peft.LoraConfig(target_modules=["gate_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    student = TransformersStudent(tmp_path / "adapter").load(torch.device("cpu"), {})
    assert type(student.model) is type(base)
    assert_equals_its_own_logits(student, encoded_rows(3, 9, 17), base)
