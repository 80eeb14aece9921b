"""Who a student is: content hashes of model folders, loaded models and tokenizers, and commits on the Hub."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import huggingface_hub
import torch
import xxhash
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...utils.files import hash_file, hash_text, written_aside

_MODEL_FILE_SUFFIXES = {".json", ".jinja", ".model", ".txt", ".tiktoken", ".py", ".safetensors", ".bin", ".gguf"}
_TRAINING_FILES = (
    "optimizer",
    "scheduler",
    "rng_state",
    "trainer_state",
    "training_args",
    "all_results",
    "eval_results",
)
_READ_SIZE = 1 << 24
_REMEMBERED_HASH = "_rsr_datasets_hash"


def hash_model_files(path: Path) -> str:
    """Hashes the content of a folder's config, tokenizer and weight files, or of a single file."""
    candidates = [*path.iterdir(), *path.glob("additional_chat_templates/*")] if path.is_dir() else []
    files = [file for file in sorted(candidates) if _is_model_file(file)] if path.is_dir() else [path]
    if any(file.suffix == ".safetensors" for file in files):
        files = [file for file in files if file.suffix != ".bin"]
    digest = xxhash.xxh3_128()
    for file in files:
        name = file.relative_to(path).as_posix() if path.is_dir() else ""
        digest.update(f"{name}:{_remembered_hash(file)}\n".encode())
    return digest.hexdigest()


def _is_model_file(file: Path) -> bool:
    return file.suffix in _MODEL_FILE_SUFFIXES and file.is_file() and not file.name.startswith(_TRAINING_FILES)


def _remembered_hash(file: Path) -> str:
    """Hashes a file. The hash is remembered across processes by path, inode, size and modification time."""
    stat = file.stat()
    key = f"{file.resolve()}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}"
    note = Path(huggingface_hub.constants.HF_HOME) / "rsr_datasets" / "hashes" / hash_text(key)
    with contextlib.suppress(OSError):
        return note.read_text()
    content = hash_file(file)
    with contextlib.suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(note) as aside:
            aside.write_text(content)
    return content


def hash_model(model: PreTrainedModel, fresh: bool) -> str:
    """Hashes config, parameters and buffers of a loaded model, in blocks.

    The model remembers the hash until the config changes or a tensor is written to or replaced. Writes through
    ``.data`` do not change a tensor's version: only ``fresh``, which ignores a remembered hash, sees them.
    """
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


def resolve_commit(repo_id: str, revision: str | None, token: str | bool | None = None) -> str | None:
    """Finds the commit of a revision on the Hub, else in the cache; returns the revision where both do not know it."""
    if revision is not None and len(revision) == 40 and all(c in "0123456789abcdef" for c in revision):
        return revision
    with contextlib.suppress(Exception):  # offline, no such repository, no right to it: loading says which
        return huggingface_hub.HfApi(token=token).model_info(repo_id, revision=revision, timeout=10).sha
    with contextlib.suppress(Exception):
        cached = huggingface_hub.try_to_load_from_cache(repo_id, "config.json", revision=revision or "main")
        if isinstance(cached, str):
            return Path(cached).parent.name
    return revision
