"""Hashes of what decides a student's numbers: its files, its tensors, its tokenizer."""

import functools
import json
from pathlib import Path

import torch
import xxhash
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...utils.files import hash_file, hash_text, remembered

_MODEL_FILE_SUFFIXES = {".json", ".jinja", ".model", ".txt", ".tiktoken", ".py", ".safetensors", ".bin", ".gguf"}
_OF_TRAINING = ("optimizer", "scheduler", "rng_state", "trainer_state", "training_args", "all_results", "eval_results")
_READ_SIZE = 1 << 24
_REMEMBERED_HASH = "_rsr_datasets_hash"


def hash_model_files(path: Path) -> str:
    """Hashes the content of a folder's config, tokenizer and weight files, or of a single file."""
    files = [path]
    if path.is_dir():
        candidates = sorted([*path.iterdir(), *path.glob("additional_chat_templates/*")])
        kept = [file for file in candidates if file.suffix in _MODEL_FILE_SUFFIXES and file.is_file()]
        files = [file for file in kept if not file.name.startswith(_OF_TRAINING)]
    if any(file.suffix == ".safetensors" for file in files):
        files = [file for file in files if file.suffix != ".bin"]
    digest = xxhash.xxh3_128()
    for file in files:
        name = file.relative_to(path).as_posix() if path.is_dir() else ""
        digest.update(f"{name}:{_remembered_hash(file)}\n".encode())
    return digest.hexdigest()


def _remembered_hash(file: Path) -> str:
    """Hashes a file. The hash is remembered across processes by path, inode, size and modification time."""
    stat = file.stat()
    key = f"{file.resolve()}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}"
    return remembered("hashes", key, functools.partial(hash_file, file))


def hash_model(model: PreTrainedModel, fresh: bool) -> str:
    """Hashes a loaded model once, until a tensor changes; only ``fresh`` sees writes through ``.data``."""
    config = {k: v for k, v in model.config.to_dict().items() if k not in ("_name_or_path", "transformers_version")}
    described = json.dumps(config, sort_keys=True, default=str)
    tensors = sorted([*model.named_parameters(), *model.named_buffers()], key=lambda named: named[0])
    state = [described, *((name, t.data_ptr(), t._version) for name, t in tensors if not t.is_inference())]
    remembered = getattr(model, _REMEMBERED_HASH, None)
    if not fresh and remembered and len(state) == 1 + len(tensors) and remembered[0] == state:
        return str(remembered[1])
    digest = xxhash.xxh3_128(described.encode())
    for name, tensor in tensors:
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        flat = tensor.detach().reshape(-1)
        for block in flat.split(_READ_SIZE // max(1, tensor.element_size())):
            digest.update(block.cpu().contiguous().view(torch.uint8).numpy())
    setattr(model, _REMEMBERED_HASH, (state, digest.hexdigest()))
    return digest.hexdigest()


def hash_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hashes everything of a tokenizer that decides token ids: its state, chat template and special tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        state = tokenizer.get_vocab()
    else:  # every call may change padding and truncation
        state = {k: v for k, v in json.loads(backend.to_str()).items() if k not in ("padding", "truncation")}
    special_tokens = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    parts = (state, tokenizer.chat_template, special_tokens)
    return hash_text("\n".join(json.dumps(part, sort_keys=True) for part in parts))
