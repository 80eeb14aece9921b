"""Students of every family and in every state: scored as their own full logits say, or refused by name."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from conftest import SIZES, conversation, make_model
from oracle import assert_scored_the_same, plain_scores
from transformers import CONFIG_MAPPING, PreTrainedModel

from rsr_datasets import RSRScorer
from rsr_datasets.engines.base import BatchAccount
from rsr_datasets.engines.transformers.engine import TransformersEngine
from rsr_datasets.engines.transformers.source import TransformersStudent
from rsr_datasets.reading.rows import EncodedRow

VOCABULARY = 211
CPU = torch.device("cpu")
ROWS = {"messages": [conversation("Solve it.", "the answer is 42."), conversation("?", "the result is 239. " * 5)]}

COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim", "lru_width"), 32),
    **dict.fromkeys(("intermediate_size", "dff", "d_ff", "ffn_dim", "intermediate_size_mlp"), 48),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_key_value_heads"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 512),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "time_step_rank", "mamba_dt_rank"), 4),
    **dict.fromkeys(("head_dim", "v_head_dim", "state_size", "ssm_state_size", "mamba_d_state", "mamba_d_head"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "mamba_head_dim", "query_pre_attn_scalar"), 8),
    **dict.fromkeys(("sliding_window", "attention_window_size", "attention_chunk_size", "window_size"), 8),
    **dict.fromkeys(("chunk_size", "mamba_chunk_size", "linear_key_head_dim", "linear_value_head_dim"), 8),
    **dict.fromkeys(("n_group", "topk_group", "n_groups", "mamba_n_groups"), 1),
    "num_experts_per_tok": 2,
    "qk_head_dim": 8,
    "mamba_expand": 2,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": VOCABULARY,
    "laurel_rank": 8,
    "num_kv_shared_layers": 0,
    "layer_types": None,
    "mlp_layer_types": None,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
DEFAULT = object()  # the family's own value instead of the common one
HYBRID = {"layer_types": ["linear_attention", "full_attention"]}
STATES = {"layer_types": DEFAULT}
FAMILIES: dict[str, dict[str, Any]] = {
    # attention over all, with tied and untied heads, biases, soft caps and scales
    **{name: {} for name in ("apertus", "arcee", "biogpt", "bitnet", "ctrl", "doge", "diffllama", "ernie4_5")},
    **{name: {} for name in ("gemma", "glm", "glm4", "gpt2", "gpt_bigcode", "gpt_neox", "granite", "helium", "jais2")},
    **{name: {} for name in ("cohere", "llama", "nanochat", "nemotron", "olmo", "olmo2", "openai-gpt", "persimmon")},
    **{name: {} for name in ("opt", "phi", "qwen2", "qwen3", "seed_oss", "smollm3", "stablelm", "xglm", "exaone4")},
    "gptj": {"rotary_dim": 4},
    "codegen": {"rotary_dim": 4},
    "roberta": {"is_decoder": True},
    "llama-yarn": {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 4.0,
            "original_max_position_embeddings": 16,
        }
    },
    # ALiBi
    **{name: {} for name in ("bloom", "mpt")},
    "falcon": {"head_dim": DEFAULT, "alibi": True},
    # a window, or a chunk, of eight tokens in some layers
    **{name: {} for name in ("mistral", "phi3", "gemma2", "gemma3_text", "gemma3n_text", "cohere2", "olmo3")},
    **{name: {} for name in ("starcoder2", "vaultgemma", "ministral", "granite_swa")},
    "gemma4_text": {"layer_types": DEFAULT, "head_dim": DEFAULT},
    "llama4_text": {"layer_types": DEFAULT},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    # experts
    **{
        name: {}
        for name in ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "phimoe", "gpt_oss", "granitemoe", "jetmoe")
    },
    **{name: {} for name in ("deepseek_v2", "ernie4_5_moe", "minimax_m2", "afmoe", "flex_olmo", "hunyuan_v1_moe")},
    **{
        name: {} for name in ("glm4_moe", "cohere2_moe", "exaone_moe", "solar_open", "deepseek_v4", "granitemoeshared")
    },
    "deepseek_v3": {"head_dim": 4},
    "longcat_flash": {"head_dim": 4},
    # states instead of, or beside, attention
    "mamba": STATES,
    "mamba2": STATES | {"num_heads": 8},
    "falcon_mamba": STATES,
    "recurrent_gemma": STATES | {"num_hidden_layers": 3},
    "jamba": STATES | {"num_hidden_layers": 4, "attn_layer_offset": 1, "attn_layer_period": 2},
    "bamba": STATES | {"attn_layer_indices": [1]},
    "zamba": STATES | {"num_hidden_layers": 6, "attn_layer_period": 3, "attn_layer_offset": 1},
    "zamba2": STATES
    | {"head_dim": DEFAULT, "num_hidden_layers": 4, "layers_block_type": ["linear_attention", "hybrid"] * 2},
    "falcon_h1": STATES | {"mamba_d_ssm": 64},
    "nemotron_h": STATES | {"num_hidden_layers": DEFAULT},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "lfm2": {},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "rwkv": {},
    "minimax": HYBRID,
    "bailing_hybrid": HYBRID,
    "olmo_hybrid": HYBRID,
    "qwen3_next": HYBRID,
    "qwen3_5_text": HYBRID,
    "qwen3_5_moe_text": HYBRID,
}


# Random weights of 0.2 make these multiply rounding: in float32 their own logits are more than 1e-5 from those in
# float64, so that no two ways to compute them need agree to 1e-5.
ROUNDING_GROWS = ("gemma4_text", "zamba", "zamba2", "qwen3_5_text")


def build(family: str, spread: float | None = None, **changes: Any) -> PreTrainedModel:
    """A tiny random model of any family: sizes that its configuration knows, and weights that spread the logits."""
    if family not in CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} has no {family}")
    config_class = CONFIG_MAPPING[family]
    known = config_class()
    settings = dict(changes)
    for name, value in COMMON.items():
        alias_of = known.attribute_map.get(name)
        if name not in changes and alias_of not in COMMON and hasattr(known, name):
            settings[name] = value
    torch.manual_seed(0)
    config = config_class(**{name: value for name, value in settings.items() if value is not DEFAULT})
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    assert model.num_parameters() < 1_000_000
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=spread or (0.1 if family in ROUNDING_GROWS else 0.2))
    return model


def encoded_rows(*lengths: int, vocabulary: int = VOCABULARY) -> list[EncodedRow]:
    generator = np.random.default_rng(0)
    return [EncodedRow(generator.integers(1, vocabulary, n), np.arange(1, n)) for n in lengths]


def assert_equals_its_own_logits(student: TransformersEngine, rows: list[EncodedRow], model: Any = None) -> None:
    for row, found in zip(rows, student.score(rows), strict=True):
        assert_scored_the_same(found.ranks, found.surprisals, plain_scores(model or student.model, row))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_beside_longer_ones_equals_its_own_full_logits(family: str) -> None:
    model = build(family.removesuffix("-yarn"), **FAMILIES[family])
    assert_equals_its_own_logits(TransformersEngine(model), encoded_rows(3, 9, 17, 150, 33, 2, 90, 25))


def rows_that_begin_alike() -> list[EncodedRow]:
    rows = encoded_rows(9, 150, 33, 90)
    for row in rows[:]:
        for end in (row.input_ids.size // 2, row.input_ids.size - 2):
            ids = np.append(row.input_ids[:end], [(row.input_ids[end] + 1) % VOCABULARY, 3, 5])
            rows.append(EncodedRow(ids, np.arange(1, ids.size)))
    return rows


@pytest.mark.parametrize("by_row", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_that_begin_alike_equal_their_own_full_logits(family: str, by_row: bool) -> None:
    """As attention is computed on a CPU, and as on a GPU."""
    student = TransformersEngine(build(family.removesuffix("-yarn"), **FAMILIES[family]))
    student.decoder.attends_by_row = by_row
    assert_equals_its_own_logits(student, rows_that_begin_alike())


@pytest.mark.parametrize("by_row", [True, False])
@pytest.mark.parametrize("family", [*ROUNDING_GROWS, "llama", "gpt2", "gemma3_text", "deepseek_v3", "mamba2", "lfm2"])
def test_in_float64_only_the_rounding_of_the_result_is_left(family: str, by_row: bool) -> None:
    """However a student multiplies rounding: what is left in float64 is half a unit of a float32 surprisal."""
    student = TransformersEngine(build(family, spread=0.2, **FAMILIES[family]).double())
    student.decoder.attends_by_row = by_row
    rows = rows_that_begin_alike()
    for row, scored in zip(rows, student.score(rows), strict=True):
        expected = plain_scores(student.model, row)
        np.testing.assert_allclose(scored.surprisals, expected.surprisals, rtol=0, atol=1e-6)
        assert (np.abs(scored.ranks - expected.ranks) <= expected.near).all()


def test_the_text_side_of_a_model_that_also_sees() -> None:
    text = {name: COMMON[name] for name in SIZES} | {"vocab_size": VOCABULARY, "sliding_window": 8}
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    torch.manual_seed(0)
    config = transformers.Gemma3Config(text_config=text, vision_config=vision | {"image_size": 28, "patch_size": 14})
    model = transformers.AutoModelForCausalLM.from_config(config)
    assert type(model) is transformers.Gemma3ForConditionalGeneration
    assert_equals_its_own_logits(TransformersEngine(model), encoded_rows(3, 40, 17))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_tied_and_untied_heads_with_and_without_bias(tied: bool, bias: bool) -> None:
    model = make_model("llama", VOCABULARY, tie_word_embeddings=tied)
    if bias:
        model.lm_head.bias = torch.nn.Parameter(torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(1)))
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is tied
    for logits_dtype in ("student", "float32"):
        assert_equals_its_own_logits(TransformersEngine(model, logits_dtype=logits_dtype), encoded_rows(3, 40, 17))


def longrope(**changes: Any) -> PreTrainedModel:
    """Frequencies that turn for a whole batch once its longest row has more than 20 tokens, as in Phi-3-mini-128k."""
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [3.0] * 4}
    return build("phi3", original_max_position_embeddings=20, rope_parameters=rope, **changes)


def test_longrope_short_rows_do_not_take_the_long_rows_frequencies() -> None:
    student = TransformersEngine(longrope())
    rows = encoded_rows(3, 9, 40, 20, 33, 2, 60, 22)
    assert_equals_its_own_logits(student, rows)
    model = student.model
    beside = model(torch.from_numpy(np.stack([np.resize(rows[1].input_ids, 40), rows[2].input_ids]))).logits[0, :9]
    assert not torch.allclose(beside, model(torch.from_numpy(rows[1].input_ids)[None]).logits[0], atol=0.1)


def test_longrope_rows_on_both_sides_of_the_turn_share_nothing() -> None:
    student = TransformersEngine(longrope(sliding_window=None))
    assert student.decoder.can_pack
    ids = np.arange(60) * 7 % VOCABULARY
    rows = [EncodedRow(np.append(ids[:end], 5), np.arange(1, end + 1)) for end in (10, 15, 25, 40)]
    batches: list[BatchAccount] = []
    for row, found in zip(rows, student.score(rows, on_batch=batches.append), strict=True):
        assert_scored_the_same(found.ranks, found.surprisals, plain_scores(student.model, row))
    assert [(batch.tokens, batch.row_tokens) for batch in batches] == [(40, 65), (15, 25)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mamba2", "mixtral"])
def test_half_precision_on_the_cpu_is_right_to_its_rounding(family: str, dtype: torch.dtype) -> None:
    model = build(family, **FAMILIES[family]).to(dtype)
    rows = encoded_rows(12, 40, 25)
    for row, found in zip(rows, TransformersEngine(model).score(rows), strict=True):
        logits = model(torch.from_numpy(row.input_ids)[None]).logits[0, :-1].float()
        target = logits.gather(1, torch.from_numpy(row.input_ids[1:])[:, None])
        rounding = 16 * torch.finfo(dtype).eps * float(logits.abs().max())
        expected = torch.logsumexp(logits, dim=1) - target[:, 0]
        np.testing.assert_allclose(found.surprisals, expected.detach(), rtol=0, atol=rounding)
        plain = 1 + (logits > target).sum(dim=1).numpy()
        assert (np.abs(found.ranks - plain) <= ((logits - target).abs() <= rounding).sum(dim=1).numpy()).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["model.layers.0.mlp.up_proj.weight", "lm_head.weight", "model.norm.weight"])
def test_weights_that_are_no_numbers_give_no_scores(where: str, bad: float, tokenizer) -> None:
    model = make_model("llama", len(tokenizer))
    with torch.no_grad():
        model.get_parameter(where)[..., 0] = bad
    found = RSRScorer(model, tokenizer=tokenizer)(ROWS)
    assert found["rsr_status"] == ["nonfinite"] * 2 and found["rsr"] == [None, None]


@pytest.mark.parametrize("by_row", [True, False])
@pytest.mark.parametrize("prompt_tokens", [30, 250])
def test_one_bad_embedding_spoils_only_the_rows_that_hold_its_token(by_row: bool, prompt_tokens: int) -> None:
    model = make_model("llama", VOCABULARY)
    student = TransformersEngine(model)
    student.decoder.attends_by_row = by_row
    assert student.decoder.can_pack
    with torch.no_grad():
        model.model.embed_tokens.weight[7] = float("nan")
    prompt = np.arange(prompt_tokens) % 30 + 50
    answers = [[7, 9, 9, 9], [9, 8, 9], [9, 6, 9]]  # the longest row is read first, and the bad token ends the prompt
    alike = [EncodedRow(np.append(prompt, answer), np.arange(prompt_tokens, prompt_tokens + 3)) for answer in answers]
    for found, row in zip(student.score(alike)[1:], alike[1:], strict=True):
        assert_scored_the_same(found.ranks, found.surprisals, plain_scores(model, row))
    rows = [EncodedRow(np.arange(10, 30), np.arange(1, 20)), EncodedRow(np.arange(3, 20), np.arange(1, 17))]
    good, bad = TransformersEngine(model).score(rows)
    assert np.isfinite(good.surprisals).all() and np.isnan(bad.surprisals).any()


@pytest.mark.parametrize(("entries", "statuses"), [(-60, ["bad_row"] * 2), (64, ["scored"] * 2)])
def test_a_vocabulary_of_another_size_than_the_tokenizers(
    entries: int, statuses: list[str], tokenizer, caplog
) -> None:
    add_rsr = RSRScorer(make_model("llama", len(tokenizer) + entries), tokenizer=tokenizer)
    assert add_rsr(ROWS)["rsr_status"] == statuses
    assert ("is the tokenizer this student's?" in caplog.text) is (entries < 0)


def test_embeddings_without_a_logit_are_out_of_the_vocabulary() -> None:
    model = make_model("llama", VOCABULARY)
    model.model.embed_tokens = torch.nn.Embedding(VOCABULARY + 8, 32)  # an image token that is read, never written
    student = TransformersEngine(model)
    assert student.vocab_size == VOCABULARY
    assert_equals_its_own_logits(student, encoded_rows(9, 30))


class TestRefusedByName:
    def load(self, model: PreTrainedModel, folder: Path) -> None:
        model.save_pretrained(folder)
        TransformersStudent(folder).load(CPU, {})

    def test_encoder_decoders_from_a_folder_and_loaded(self, tmp_path: Path) -> None:
        sizes = {"vocab_size": VOCABULARY, "d_model": 32, "d_ff": 32, "num_layers": 1, "num_heads": 4, "d_kv": 8}
        model = transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes))
        with pytest.raises(ValueError, match="T5ForConditionalGeneration' is an encoder-decoder model"):
            TransformersEngine(model, name="T5ForConditionalGeneration")
        with pytest.raises(ValueError, match=f"{tmp_path}' is an encoder-decoder model"):
            self.load(model, tmp_path)

    def test_masked_models(self, tmp_path: Path) -> None:
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
        bert = transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=VOCABULARY, **sizes))
        with pytest.raises(ValueError, match=r"BertForMaskedLM.* is not causal"):
            TransformersEngine(bert)
        with pytest.raises(ValueError, match=f"{tmp_path}.* is not causal"):
            self.load(bert, tmp_path)
        config = transformers.DistilBertConfig(vocab_size=VOCABULARY, dim=32, n_layers=1, n_heads=4, hidden_dim=32)
        with pytest.raises(ValueError, match=r"cannot load .*DistilBertConfig"):
            self.load(transformers.DistilBertForMaskedLM(config), tmp_path)

    def test_a_model_without_a_language_head(self, tmp_path: Path) -> None:
        model = transformers.LlamaForSequenceClassification(transformers.LlamaConfig(**SIZES, vocab_size=VOCABULARY))
        with pytest.raises(ValueError, match=r"LlamaForSequenceClassification.* is no causal language model"):
            TransformersEngine(model)
        with pytest.raises(ValueError, match=r"lack weights, which would be random: lm_head\.weight"):
            self.load(model, tmp_path)

    def test_scores_that_would_depend_on_the_batch(self) -> None:
        class Decoder(transformers.LlamaModel):
            def forward(self, input_ids=None, **kwargs):
                output = super().forward(input_ids=input_ids, **kwargs)
                output.last_hidden_state = output.last_hidden_state * len(input_ids)
                return output

        model = make_model("llama", VOCABULARY)
        model.model.__class__ = Decoder
        with pytest.raises(ValueError, match="alone and the same row beside a longer one"):
            TransformersEngine(model)

    def test_a_forward_pass_that_fails(self) -> None:
        model = make_model("llama", VOCABULARY)
        model.model.layers[1].mlp = None
        with pytest.raises(ValueError, match=r"'mine' \(LlamaForCausalLM\): its forward pass fails: TypeError"):
            TransformersEngine(model, name="mine")


class TestLengthLimits:
    """Tables of positions end: whoever asks for more hears it before the first row, not from an index error."""

    @pytest.mark.parametrize(
        ("family", "changes", "positions"),
        [
            *((family, {}, 64) for family in ("gpt2", "opt", "biogpt", "ctrl", "gpt_bigcode", "mpt", "openai-gpt")),
            ("gptj", {"rotary_dim": 4}, 64),
            ("codegen", {"rotary_dim": 4}, 64),
            ("gpt_neo", {"attention_types": [[["global", "local"], 1]]}, 64),
            ("bert", {"is_decoder": True}, 64),
            ("roberta", {"is_decoder": True}, 63),
            ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, 64),
            *((family, {}, None) for family in ("llama", "xglm", "bloom", "gemma3n_text", "cohere", "falcon_mamba")),
        ],
    )
    def test_the_student_knows_where_its_positions_end(
        self, family: str, changes: dict[str, Any], positions: int | None
    ) -> None:
        sizes = dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 64)
        known = CONFIG_MAPPING[family]()
        sizes = {name: size for name, size in sizes.items() if hasattr(known, name)}
        layers = STATES if family == "falcon_mamba" else {}
        student = TransformersEngine(build(family, **changes, **sizes, **layers))
        assert student.max_positions == positions
        rows = encoded_rows(100 if positions is None else positions + 1, 30)
        assert all(np.isfinite(found.surprisals).all() for found in student.score(rows))

    @pytest.mark.parametrize(("max_length", "fine"), [(None, True), (64, True), (65, True), (66, False)])
    def test_a_longer_max_length_is_refused_before_the_first_row(
        self, max_length: int | None, fine: bool, tokenizer, caplog
    ) -> None:
        model = build("gpt2", n_positions=64, vocab_size=len(tokenizer))
        add_rsr = RSRScorer(model, tokenizer=tokenizer, max_length=max_length)
        rows = {"messages": [conversation("?", "the result is 239. " * 40), *ROWS["messages"]]}
        if fine:
            assert add_rsr(rows)["rsr_status"][0] == "truncated"
        else:
            with pytest.raises(ValueError, match=r"max_length=66: .* reads at most 64 tokens .*pass max_length=65"):
                add_rsr(ROWS)

    def test_positions_that_do_not_end_give_a_warning_only(self, tokenizer, caplog) -> None:
        model = make_model("llama", len(tokenizer), max_position_embeddings=64)
        rows = {"messages": [conversation("?", "the result is 239. " * 40)]}
        with caplog.at_level(logging.WARNING):
            assert RSRScorer(model, tokenizer=tokenizer, max_length=10_000)(rows)["rsr_status"] == ["scored"]
        assert "made for 64 positions" in caplog.text
