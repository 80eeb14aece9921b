"""Real students small enough for a test: random weights in the shapes of real families, and SmolLM2."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from real_student import FOLDER, smollm2_folder

# Before huggingface_hub is imported: no test needs the network, or leaves anything in the user's caches.
_home = tempfile.TemporaryDirectory(prefix="rsr-datasets-tests-", ignore_cleanup_errors=True)
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HOME": _home.name}
os.environ.setdefault(FOLDER, _home.name)  # workers have that of the process that started them

# Before Triton is imported, whoever does: without a GPU its kernels run in its interpreter.
if not Path("/dev/nvidiactl").exists():
    os.environ["TRITON_INTERPRET"] = "1"

import datasets
import pytest
import torch
import transformers
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from rsr_datasets.engines.transformers.speedups import products

pytest_plugins = ["pytester", "report_pages"]

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

SHARED = ROOT.parent / "shared"

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TRAINING_TEXT = [
    "To solve the problem, let x be the number of strings. Then f(n) = 2 f(n-1) + 3, and so the answer is 42.",
    "Solve the following problem. Make sure to show your work before giving the final answer.",
    "system user assistant <think> We know that a + b = c </think> Therefore the result is 239.",
]

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
FAMILIES = {
    "llama": (transformers.LlamaConfig, SIZES),
    "qwen2": (transformers.Qwen2Config, SIZES | {"tie_word_embeddings": True}),
    "gemma3": (transformers.Gemma3TextConfig, SIZES | {"sliding_window": 8, "query_pre_attn_scalar": 8}),
    "gpt2": (
        transformers.GPT2Config,
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, "bos_token_id": 0, "eos_token_id": 0},
    ),
    "gemma2": (
        transformers.Gemma2Config,
        SIZES | {"final_logit_softcapping": 2.0, "attn_logit_softcapping": 5.0, "query_pre_attn_scalar": 8},
    ),
    "granite": (transformers.GraniteConfig, SIZES | {"logits_scaling": 7.0, "embedding_multiplier": 3.0}),
    "cohere": (transformers.CohereConfig, SIZES | {"logit_scale": 0.25}),
}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of about 400 entries with ChatML's special tokens and template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TRAINING_TEXT * 4, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", chat_template=CHATML)


def make_model(family: str, vocabulary: int, seed: int = 0, spread: float = 0.3, **changes: object) -> PreTrainedModel:
    """A tiny random model whose logits are spread out, so that ranks mean something.

    With weights of a spread of 0.3, single surprisals of its own in float32 are up to 2e-5 from those in float64; of
    0.15, up to 2e-6.
    """
    config_class, sizes = FAMILIES[family]
    torch.manual_seed(seed)
    config = config_class(**(sizes | {"vocab_size": vocabulary} | changes))
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=spread)
    return model


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture(scope="session")
def student_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> str:
    """A tiny random Llama in a folder, as a user's own student would be."""
    folder = tmp_path_factory.mktemp("student")
    make_model("llama", len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def conversation(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


@pytest.fixture
def rows() -> list[dict[str, object]]:
    """Seven rows of different lengths: five good ones, one without a response and one with a bad role."""
    answers = ["the answer is 42.", "f(n) = 2 f(n-1) + 3, and so on", "x", "", "Therefore\n\nthe result is 239. " * 9]
    good = [
        {"problem_id": f"p{i // 2}", "messages": conversation("Solve it.", text)} for i, text in enumerate(answers)
    ]
    bad = [{"role": "narrator", "content": "once upon a time"}, {"role": "assistant", "content": "hm"}]
    return [*good, {"problem_id": "p2", "messages": bad}, {"problem_id": "p3", "messages": conversation("?", "b = c")}]


@pytest.fixture
def dataset(rows: list[dict[str, object]], tmp_path: Path) -> Dataset:
    """The rows in a dataset on disk, which is what ``datasets`` caches maps of."""
    Dataset.from_list(rows).save_to_disk(tmp_path / "dataset")
    return datasets.load_from_disk(tmp_path / "dataset")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests that take longest too, as CI does")
    parser.addoption("--vllm", action="store_true", help="run the tests that ask a real vLLM, which must be installed")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reasons = {"slow": "takes long; runs with --slow", "vllm": "asks a real vLLM; runs with scripts/test_vllm.sh"}
    for item in items:
        for marker, reason in reasons.items():
            if item.get_closest_marker(marker) and not config.getoption(f"--{marker}"):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(params=["MKL", "oneDNN"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which library multiplies in float32, whatever the processor and however small a layer."""
    if request.param == "oneDNN" and not torch.backends.mkldnn.is_available():
        pytest.skip("torch was built without oneDNN")
    monkeypatch.setattr(products, "onednn_is_faster", lambda: request.param == "oneDNN")
    monkeypatch.setattr(products, "_LEAST_WEIGHTS", 1)
    return str(request.param)


@pytest.fixture(scope="session")
def smollm2() -> str:
    return smollm2_folder()


@pytest.fixture(scope="session", autouse=True)
def _own_caches(tmp_path_factory: pytest.TempPathFactory) -> None:
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
