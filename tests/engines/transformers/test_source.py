"""Students from folders, the Hub and adapters: loaded as they are, or refused with a reason."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from conftest import conversation, make_model
from oracle import assert_scored_the_same, plain_scores
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast

from rsr_datasets import RSRScorer
from rsr_datasets.engines.transformers.source import TransformersStudent
from rsr_datasets.reading.rows import EncodedRow

VOCABULARY = 211
CPU = torch.device("cpu")
ROWS = {"messages": [conversation("Solve it.", "the answer is 42."), conversation("?", "the result is 239. " * 5)]}


@pytest.fixture
def folder(tmp_path: Path, student_folder: str) -> Path:
    """A student's folder that a test may break."""
    return Path(shutil.copytree(student_folder, tmp_path / "student"))


def change_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("path", ["nosuch.gguf", "./nosuch", "/nosuch/student", "models/of/mine", "~/nosuch"])
def test_a_path_that_leads_nowhere_is_not_asked_of_the_hub(path: str) -> None:
    with pytest.raises(ValueError, match=f"cannot load '{path}': there is no such file or folder here"):
        TransformersStudent(path).load(CPU, {})


class TestFolders:
    def test_a_missing_or_a_damaged_shard(self, tmp_path: Path) -> None:
        make_model("llama", VOCABULARY).save_pretrained(tmp_path, max_shard_size="20KB")
        TransformersStudent(tmp_path).load(CPU, {})
        shard = sorted(tmp_path.glob("*.safetensors"))[1]
        whole = shard.read_bytes()
        for left in (whole[: len(whole) // 2], whole[:4], b""):
            shard.write_bytes(left)
            with pytest.raises(ValueError, match=f"cannot load '{tmp_path}': "):
                TransformersStudent(tmp_path).load(CPU, {})
        shard.unlink()
        with pytest.raises(ValueError, match=f"cannot load .*{shard.name}"):
            TransformersStudent(tmp_path).load(CPU, {})

    def test_pickled_weights_are_loaded_if_they_are_tensors(self, folder: Path) -> None:
        expected = RSRScorer(folder)(ROWS)["rsr"]
        tensors = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        torch.save(tensors, folder / "pytorch_model.bin")
        assert RSRScorer(folder)(ROWS)["rsr"] == expected

    def test_pickled_code_does_not_run(self, folder: Path, tmp_path: Path) -> None:
        class Hostile:
            def __reduce__(self) -> tuple[Callable, tuple]:
                return os.mkdir, (str(tmp_path / "ran"),)

        tensors = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        torch.save(tensors | {"model.norm.weight": Hostile()}, folder / "pytorch_model.bin")
        with pytest.raises(ValueError, match="pickled weights are damaged or hold more than tensors") as error:
            TransformersStudent(folder).load(CPU, {})
        assert not (tmp_path / "ran").exists() and "weights_only" not in str(error.value)

    def test_code_of_a_repository_runs_only_when_trusted(self, folder: Path) -> None:
        (folder / "modeling_own.py").write_text(
            "from transformers import LlamaConfig, LlamaForCausalLM\n\n\n"
            "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n\n\n"
            "class OwnModel(LlamaForCausalLM):\n    config_class = OwnConfig\n"
        )
        expected = RSRScorer(folder)(ROWS)["rsr"]
        own = {"AutoConfig": "modeling_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnModel"}
        change_config(folder, model_type="own", architectures=["OwnModel"], auto_map=own)
        with pytest.raises(ValueError, match=f"{folder}'.* runs only with trust_remote_code=True"):
            RSRScorer(folder)(ROWS)
        trusted = RSRScorer(folder, trust_remote_code=True)
        assert trusted(ROWS)["rsr"] == expected
        assert type(trusted._session.engine.model).__name__ == "OwnModel"

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"hidden_size": "x"}, "'hidden_size' expected int, got str"),
            ({"vocab_size": -1}, "cannot load"),
            ({"hidden_act": "nonsense"}, "KeyError: 'nonsense'"),
            ({"model_type": "nonsense"}, "`nonsense`"),
            ({"rope_parameters": {"rope_type": "nonsense"}}, "KeyError: 'nonsense'"),
            ({"num_hidden_layers": 3}, "lack weights"),
            (
                {"vocab_size": 500},
                r"weight has the shape \(\d+, 32\) in its files, \(500, 32\) by its config; 1 others",
            ),
        ],
    )
    def test_a_config_that_is_wrong(self, folder: Path, changes: dict[str, Any], message: str) -> None:
        change_config(folder, **changes)
        with pytest.raises(ValueError, match=message) as error:
            RSRScorer(folder)(ROWS)
        assert str(folder) in str(error.value) and "\n" not in str(error.value)

    def test_a_config_that_is_no_json(self, folder: Path) -> None:
        for text in ("{", "[]", "", "\x00"):
            (folder / "config.json").write_text(text)
            with pytest.raises(ValueError, match=f"cannot load '{folder}'"):
                RSRScorer(folder)(ROWS)


class TestArguments:
    @pytest.mark.parametrize("where", ["in a subfolder", "on the Hub"])
    def test_arguments_that_say_where_files_are_reach_config_and_tokenizer(
        self, where: str, student_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if where == "in a subfolder":
            shutil.copytree(student_folder, tmp_path / "best")
            add_rsr = RSRScorer(tmp_path, model_kwargs={"subfolder": "best"})
            assert add_rsr(ROWS)["rsr"] == RSRScorer(student_folder)(ROWS)["rsr"]
            assert add_rsr.settings["student"] == RSRScorer(student_folder).settings["student"]
            with pytest.raises(ValueError, match="has no folder 'worst'"):
                TransformersStudent(tmp_path, model_kwargs={"subfolder": "worst"}).identity()
            return
        asked: list[tuple[object, object]] = []
        for auto_class in (transformers.AutoConfig, transformers.AutoTokenizer):
            kept = lambda *_, token, subfolder, **__: asked.append((token, subfolder))  # noqa: E731
            monkeypatch.setattr(auto_class, "from_pretrained", kept)
        source = TransformersStudent("me/mine", model_kwargs={"token": "hf_x", "subfolder": "best"})
        source.load_config(), source.load_tokenizer()
        assert asked == [("hf_x", "best")] * 2

    @pytest.mark.parametrize("device", ["nonsense", "cpu:x", "", "meta", 3.5, []])
    def test_a_device_that_is_none(self, device: Any, student_folder: str) -> None:
        with pytest.raises(ValueError, match=r"^device="):
            RSRScorer(student_folder, device=device)

    @pytest.mark.skipif(torch.accelerator.is_available(), reason="needs a machine without an accelerator")
    def test_a_device_that_is_not_there(self, student_folder: str) -> None:
        with pytest.raises(ValueError, match=r"^device='cuda:1': student .* cannot be put there"):
            RSRScorer(student_folder, device="cuda:1")(ROWS)

    @pytest.mark.parametrize("dtype", ["nonsense", "int8", "float8_e4m3fn", "Tensor", 16, None])
    def test_a_dtype_that_is_none(self, dtype: Any, student_folder: str) -> None:
        with pytest.raises(ValueError, match=r"^dtype="):
            RSRScorer(student_folder, dtype=dtype)

    @pytest.mark.parametrize("value", [object(), {1, 2}, b"x", np.float32(1), lambda: 1, {"deep": [object()]}])
    def test_keyword_arguments_that_no_file_can_hold(self, value: Any, student_folder: str) -> None:
        with pytest.raises(ValueError, match=r"^chat_template_kwargs="):
            RSRScorer(student_folder, chat_template_kwargs={"x": value})
        with pytest.raises(ValueError, match=r"^model_kwargs\['x'\]"):
            RSRScorer(student_folder, model_kwargs={"x": value})

    def test_model_kwargs_are_recorded_however_deep(self, student_folder: str) -> None:
        quantized = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16)
        kwargs = {"quantization_config": quantized, "x": {"dtypes": (torch.float16, None)}, "token": object()}
        recorded = RSRScorer(student_folder, model_kwargs=kwargs).settings["model_kwargs"]
        assert recorded["x"] == {"dtypes": ["torch.float16", None]} and "token" not in recorded
        assert recorded["quantization_config"]["load_in_4bit"] is True
        assert json.loads(json.dumps(recorded)) == recorded

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                {"model_kwargs": {"quantization_config": transformers.BitsAndBytesConfig(load_in_4bit=True)}},
                "bitsandbytes",
            ),
            ({"model_kwargs": {"nonsense": 1}}, "'nonsense'"),
            ({"model_kwargs": {"device_map": "nonsense"}}, "device_map"),
            ({"attn_implementation": "nonsense"}, 'attn_implementation="nonsense"'),
        ],
    )
    def test_what_transformers_cannot_take_is_said_in_its_words(
        self, arguments: dict[str, Any], message: str, student_folder: str
    ) -> None:
        with pytest.raises(ValueError, match=f"AutoModelForCausalLM cannot load '{student_folder}'.*{message}"):
            RSRScorer(student_folder, **arguments)(ROWS)

    @pytest.mark.parametrize("device_map", ["auto", "cpu", {"": "cpu"}])
    def test_a_device_map_on_the_cpu(self, device_map: Any, student_folder: str) -> None:
        placed = RSRScorer(student_folder, model_kwargs={"device_map": device_map})(ROWS)
        assert placed["rsr"] == RSRScorer(student_folder)(ROWS)["rsr"]


class TestIdentity:
    def test_a_home_folder_is_found_for_the_hash_and_for_the_load(
        self, tokenizer: PreTrainedTokenizerFast, student_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        tokenizer.save_pretrained(tmp_path / "mine")
        add_rsr = RSRScorer(student_folder, tokenizer="~/mine")
        assert add_rsr.settings == RSRScorer(student_folder, tokenizer=tmp_path / "mine").settings
        assert add_rsr(ROWS)["rsr_status"] == ["scored"] * 2

    def test_chat_templates_beside_the_main_one_count(self, folder: Path) -> None:
        identities = [TransformersStudent(folder).identity()]
        (folder / "additional_chat_templates").mkdir()
        for template in ("{{ 1 }}", "{{ 2 }}"):
            (folder / "additional_chat_templates" / "tool_use.jinja").write_text(template)
            identities.append(TransformersStudent(folder).identity())
        assert len({identity["content"] for identity in identities}) == 3


def save_adapter(folder: Path, base: Path, config: peft.PeftConfig) -> peft.PeftModel:
    """An adapter as training leaves it: weights of its own, the base by its path, no tokenizer."""
    torch.manual_seed(0)
    adapted = peft.get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(base), config).eval()
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    adapted.save_pretrained(folder)
    return adapted


LORA = peft.LoraConfig(target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
WHOLE_MODULES = peft.LoraConfig(
    target_modules=["q_proj"], modules_to_save=["lm_head", "embed_tokens"], task_type="CAUSAL_LM"
)


class TestAdapters:
    @pytest.mark.parametrize(
        "config",
        [
            LORA,
            WHOLE_MODULES,
            peft.LoraConfig(target_modules=["k_proj", "lm_head"], use_dora=True, task_type="CAUSAL_LM"),
            peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[], task_type="CAUSAL_LM"),
        ],
        ids=["lora", "whole modules", "dora", "ia3"],
    )
    def test_an_adapter_is_scored_with_its_base(self, config: peft.PeftConfig, folder: Path, tmp_path: Path) -> None:
        adapted = save_adapter(tmp_path / "adapter", folder, config)
        rows = [EncodedRow(np.arange(n) * 7 % VOCABULARY + 1, np.arange(1, n)) for n in (3, 40, 17)]
        student = TransformersStudent(tmp_path / "adapter").load(CPU, {})
        for row, own in zip(rows, student.score(rows), strict=True):
            assert_scored_the_same(own.ranks, own.surprisals, plain_scores(adapted, row))
        alone = TransformersStudent(folder).load(CPU, {}).score(rows)
        assert all(
            np.abs(a.surprisals - b.surprisals).max() > 1e-3 for a, b in zip(student.score(rows), alone, strict=True)
        )

    def test_the_tokenizer_is_the_bases_unless_there_is_one(self, folder: Path, tmp_path: Path, tokenizer) -> None:
        save_adapter(tmp_path / "adapter", folder, LORA)
        add_rsr = RSRScorer(tmp_path / "adapter")
        assert add_rsr(ROWS)["rsr_status"] == ["scored"] * 2
        own = transformers.AutoTokenizer.from_pretrained(folder)
        own.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
        own.save_pretrained(tmp_path / "adapter")
        assert TransformersStudent(tmp_path / "adapter").load_tokenizer().chat_template == own.chat_template

    def test_its_base_counts_for_its_identity(self, folder: Path, tmp_path: Path) -> None:
        save_adapter(tmp_path / "adapter", folder, LORA)
        before = RSRScorer(tmp_path / "adapter").settings
        make_model("llama", VOCABULARY, seed=1).save_pretrained(folder)
        after = RSRScorer(tmp_path / "adapter").settings
        assert before["student"]["content"] == after["student"]["content"] and before != after

    def test_without_peft_it_is_refused(self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        save_adapter(tmp_path / "adapter", folder, LORA)
        monkeypatch.setattr("rsr_datasets.engines.transformers.source.is_peft_available", lambda: False)
        with pytest.raises(ValueError, match="is a PEFT adapter, which needs the package peft: pip install peft"):
            TransformersStudent(tmp_path / "adapter").load(CPU, {})

    def test_a_prompt_is_no_adapter_of_layers(self, folder: Path, tmp_path: Path) -> None:
        save_adapter(
            tmp_path / "adapter", folder, peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
        )
        with pytest.raises(ValueError, match="adapter of type PROMPT_TUNING adds to what the model reads"):
            TransformersStudent(tmp_path / "adapter").load(CPU, {})

    @pytest.mark.parametrize(
        ("base", "message"),
        [
            (None, "names no base model"),
            ("adapter", "for an adapter"),
            ("nowhere", "AutoConfig cannot load 'nowhere'"),
        ],
    )
    def test_a_base_that_is_none(self, base: str | None, message: str, folder: Path, tmp_path: Path) -> None:
        save_adapter(tmp_path / "adapter", folder, LORA)
        file = tmp_path / "adapter" / "adapter_config.json"
        path = str(tmp_path / base) if base == "adapter" else base
        file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": path}))
        with pytest.raises(ValueError, match=message):
            TransformersStudent(tmp_path / "adapter").load(CPU, {})

    def test_a_damaged_adapter(self, folder: Path, tmp_path: Path) -> None:
        save_adapter(tmp_path / "adapter", folder, LORA)
        (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(b"")
        with pytest.raises(ValueError, match="peft cannot load the adapter"):
            TransformersStudent(tmp_path / "adapter").load(CPU, {})
        (tmp_path / "adapter" / "adapter_config.json").write_text("{")
        with pytest.raises(ValueError, match=r"adapter_config\.json cannot be read"):
            TransformersStudent(tmp_path / "adapter").load(CPU, {})

    def test_a_loaded_adapter_is_passed_as_the_model_that_holds_it(
        self, folder: Path, tmp_path: Path, tokenizer
    ) -> None:
        adapted = save_adapter(tmp_path / "adapter", folder, LORA)
        with pytest.raises(ValueError, match=r"found PeftModelForCausalLM; pass its get_base_model\(\)"):
            RSRScorer(adapted, tokenizer=tokenizer)
        loaded = RSRScorer(adapted.get_base_model(), tokenizer=tokenizer)
        assert loaded(ROWS)["rsr"] == pytest.approx(RSRScorer(tmp_path / "adapter")(ROWS)["rsr"], rel=1e-5)
