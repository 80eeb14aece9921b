"""The student before it is loaded: who it is, and how its config, tokenizer and weights are loaded."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import huggingface_hub
import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file, is_peft_available
from transformers.utils.peft_utils import find_adapter_config_file

from .engine import TransformersEngine, refuse_encoder_decoder
from .errors import refusing
from .head import LogitsDtype
from .identity import hash_model, hash_model_files, hash_tokenizer, resolve_commit

_HUB_ARGUMENTS = ("token", "subfolder", "cache_dir", "local_files_only", "force_download", "proxies")
"""Keyword arguments of ``from_pretrained`` that say where files come from, for weights, config and tokenizer alike."""


@dataclass(frozen=True)
class TransformersStudent:
    """A :class:`rsr_datasets.engines.base.StudentSource`: the arguments of ``RSRScorer`` that concern the student."""

    student: str | os.PathLike[str] | PreTrainedModel
    revision: str | None = None
    tokenizer: str | os.PathLike[str] | PreTrainedTokenizerBase | None = None
    dtype: str | torch.dtype = "auto"
    attn_implementation: str | None = None
    model_kwargs: Mapping[str, Any] = field(default_factory=dict)
    trust_remote_code: bool = False
    logits_dtype: LogitsDtype = "student"

    def __post_init__(self) -> None:
        if isinstance(self.student, PreTrainedModel) and not isinstance(self.tokenizer, PreTrainedTokenizerBase):
            raise ValueError("a loaded student needs its loaded tokenizer too: pass tokenizer=")
        if not isinstance(self.student, str | os.PathLike | PreTrainedModel):
            adapted = hasattr(self.student, "peft_config")
            raise ValueError(
                f"student: expected a Hub id, a folder, a .gguf file or a loaded PreTrainedModel, found "
                f"{type(self.student).__name__}{'; pass its get_base_model(), which holds the adapter' * adapted}"
            )
        if self.logits_dtype not in ("student", "float32"):
            raise ValueError(f'logits_dtype={self.logits_dtype!r}: must be "student" or "float32"')
        dtype = self.torch_dtype  # an unknown dtype is an error at once
        if not isinstance(self.student, PreTrainedModel):
            return
        if dtype not in ("auto", loaded := self.student.dtype):
            raise ValueError(
                f"dtype={self.dtype!r}: the student is loaded already, in {loaded}; convert it with .to()"
            )
        for name in ("revision", "attn_implementation", "model_kwargs"):
            if getattr(self, name):
                raise ValueError(f"{name}={getattr(self, name)!r}: has no effect on a student that is loaded already")

    @property
    def is_loaded(self) -> bool:
        """Whether the student was passed in as a model."""
        return isinstance(self.student, PreTrainedModel)

    @property
    def name(self) -> str:
        """The student's name in messages."""
        if isinstance(self.student, PreTrainedModel):
            return self.student.config.name_or_path or type(self.student).__name__
        return os.fspath(self.student)

    @property
    def torch_dtype(self) -> torch.dtype | Literal["auto"]:
        """The ``dtype`` argument as transformers takes it."""
        if self.dtype == "auto":
            return "auto"
        found = getattr(torch, self.dtype, None) if isinstance(self.dtype, str) else self.dtype
        if not isinstance(found, torch.dtype) or not found.is_floating_point or found.itemsize < 2:
            raise ValueError(
                f'dtype={self.dtype!r}: must be "auto" or a floating dtype of at least 16 bits, e.g. "bfloat16"'
            )
        return found

    @cached_property
    def local_path(self) -> Path | None:
        """The student's folder or file on disk; ``None`` for a loaded student and one on the Hub."""
        path = None if isinstance(self.student, PreTrainedModel) else Path(self.student).expanduser()
        if path is None or not path.exists():
            return None
        subfolder = path / (self.model_kwargs.get("subfolder") or "")
        if not subfolder.exists():
            raise ValueError(f"student {self.name!r}: has no folder {subfolder.name!r}, which model_kwargs names")
        return subfolder

    @cached_property
    def commit(self) -> str | None:
        """The Hub commit of the student, or its revision where the commit cannot be found out."""
        if self.local_path or self.is_loaded:
            return None
        return resolve_commit(self.name, self.revision, self.model_kwargs.get("token"))

    @cached_property
    def base(self) -> TransformersStudent | None:
        """The base model of a student that is a PEFT adapter."""
        found = self._adapter
        if found is None or (self.local_path and (self.local_path / "config.json").exists()):
            return None  # transformers puts a whole model and the adapter beside it together
        if not found.get("base_model_name_or_path"):
            raise ValueError(f"student {self.name!r} is a PEFT adapter whose adapter_config.json names no base model")
        base = replace(
            self,
            student=found["base_model_name_or_path"],
            revision=found.get("revision"),
            tokenizer=None,
            model_kwargs={name: value for name, value in self.model_kwargs.items() if name != "subfolder"},
        )
        if base._adapter is not None:
            raise ValueError(
                f"student {self.name!r} is a PEFT adapter for an adapter, {base.name!r}: merge that one first"
            )
        return base

    @cached_property
    def _adapter(self) -> dict[str, Any] | None:
        """The settings of the student's PEFT adapter."""
        if self.is_loaded or (self.local_path and self.local_path.is_file()):
            return None
        if self.local_path is None and self.commit is None:
            return None  # neither the Hub nor the cache knows the student: loading says why
        arguments = self._hub_arguments | {"revision": self.commit}
        with refusing(f"student {self.name!r}: its adapter_config.json cannot be read"):
            where: Any = None
            if self.local_path is None and "subfolder" not in arguments:
                where = huggingface_hub.try_to_load_from_cache(self.name, "adapter_config.json", revision=self.commit)
            if where is None:
                where = find_adapter_config_file(str(self.local_path or self.name), **arguments)
            return dict(json.loads(Path(where).read_text())) if isinstance(where, str) else None

    @property
    def _hub_arguments(self) -> dict[str, Any]:
        """The ``model_kwargs`` that say where files come from; :attr:`local_path` holds the subfolder already."""
        given = {name: self.model_kwargs[name] for name in _HUB_ARGUMENTS if name in self.model_kwargs}
        if self.local_path is not None:
            given.pop("subfolder", None)
        return given

    @cached_property
    def _tokenizer_source(self) -> tuple[str, str | None]:
        """Where a tokenizer of its own comes from: a path, or a Hub id and its commit."""
        name = os.fspath(self.tokenizer)  # type: ignore[arg-type]
        path = Path(name).expanduser()
        return (
            (str(path), None) if path.exists() else (name, resolve_commit(name, None, self.model_kwargs.get("token")))
        )

    def identity(self, fresh: bool = False) -> dict[str, Any]:
        """Says which student this is, without loading it, as plain JSON.

        A folder or file counts by the bytes of its config, tokenizer and weight files, a loaded model by its config
        and tensors, a Hub id by its commit. A PEFT adapter includes its base model. ``fresh`` hashes the tensors of a
        loaded model even if nothing seems to have changed.
        """
        identity: dict[str, Any]
        if isinstance(self.student, PreTrainedModel):
            identity = {"loaded": hash_model(self.student, fresh)}
        elif self.local_path:
            identity = {"content": hash_model_files(self.local_path)}
        else:
            identity = {"hub": self.name, "revision": self.commit}
        if self.base:
            identity["base"] = self.base.identity()
        if isinstance(self.tokenizer, PreTrainedTokenizerBase):
            identity["tokenizer"] = hash_tokenizer(self.tokenizer)
        elif self.tokenizer is not None:
            source, commit = self._tokenizer_source
            path = Path(source)
            identity["tokenizer"] = hash_model_files(path) if path.exists() else f"{source}@{commit}"
        return identity

    def load_config(self) -> transformers.PreTrainedConfig:
        """Loads the student's configuration; ``ValueError`` names the student where there is none."""
        if isinstance(self.student, PreTrainedModel):
            return self.student.config
        if self.base:
            return self.base.load_config()
        where, arguments = self._source()
        return _load(self.name, transformers.AutoConfig, where, arguments)

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """Loads the tokenizer; ``ValueError`` names the student where there is none."""
        if isinstance(self.tokenizer, PreTrainedTokenizerBase):
            return self.tokenizer
        if self.tokenizer is not None:
            where, commit = self._tokenizer_source
            arguments = {name: value for name, value in self._hub_arguments.items() if name != "subfolder"}
            arguments |= {"trust_remote_code": self.trust_remote_code, "revision": commit or "main"}
            return _load(where, transformers.AutoTokenizer, where, arguments)
        where, arguments = self._source()
        if self.base and not _has_file(where, "tokenizer_config.json", arguments):
            return self.base.load_tokenizer()
        return _load(self.name, transformers.AutoTokenizer, where, arguments)

    def load(self, device: torch.device, options: dict[str, Any]) -> TransformersEngine:
        """Loads the student and checks its output head.

        Args:
            device: Where to put the student, unless ``model_kwargs`` holds a ``device_map``.
            options: ``tokens_per_batch`` and ``share_prefixes`` of :class:`TransformersEngine`, both optional; the
                chosen ``tokens_per_batch`` is written back.

        Raises:
            ValueError: If the student is no causal language model, cannot be loaded, or its head cannot be run alone.
        """
        model = self.student if isinstance(self.student, PreTrainedModel) else self._load_model(device)
        engine = TransformersEngine(model, name=self.name, logits_dtype=self.logits_dtype, **options)
        options["tokens_per_batch"] = engine.tokens_per_batch
        return engine

    def _load_model(self, device: torch.device) -> PreTrainedModel:
        if self._adapter is not None and not is_peft_available():
            raise ValueError(
                f"student {self.name!r} is a PEFT adapter, which needs the package peft: pip install peft"
            )
        if self.base:
            return self._load_adapter(self.base._load_model(device))
        refuse_encoder_decoder(self.load_config(), self.name)
        where, arguments = self._source()
        own = {name: value for name, value in self.model_kwargs.items() if name not in _HUB_ARGUMENTS}
        arguments |= {"dtype": self.torch_dtype, **own}
        if self.attn_implementation is not None:
            arguments["attn_implementation"] = self.attn_implementation
        arguments |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
        model, info = _load(self.name, transformers.AutoModelForCausalLM, where, arguments)
        if mismatched := sorted(info["mismatched_keys"]):
            name, in_files, in_config = mismatched[0]
            raise ValueError(
                f"student {self.name!r}: {name} has the shape {tuple(in_files)} in its files, {tuple(in_config)} by "
                f"its config; {len(mismatched) - 1} others differ too"
            )
        if missing := sorted(info["missing_keys"]):
            raise ValueError(
                f"student {self.name!r}: its files lack weights, which would be random: {missing[0]} and "
                f"{len(missing) - 1} others"
            )
        if getattr(model, "hf_device_map", None) is None:
            with refusing(f"device={str(device)!r}: student {self.name!r} cannot be put there"):
                model.to(device)
        return model

    def _load_adapter(self, base: PreTrainedModel) -> PreTrainedModel:
        """Puts the adapter into its base model."""
        import peft

        where, arguments = self._source()
        arguments.pop("trust_remote_code")
        with refusing(f"student {self.name!r}: peft cannot load the adapter"):
            adapted = peft.PeftModel.from_pretrained(base, where, **arguments)
        kind = adapted.peft_config["default"]
        kind_name = str(kind.peft_type).rpartition(".")[2]
        if kind.is_prompt_learning or not isinstance(adapted.get_base_model(), PreTrainedModel):
            raise ValueError(
                f"student {self.name!r}: a PEFT adapter of type {kind_name} adds to what the model reads; "
                "only adapters of a model's own layers (LoRA and its kin) can be scored"
            )
        return adapted.get_base_model()

    def _source(self) -> tuple[str, dict[str, Any]]:
        """The first argument of ``from_pretrained`` and the keyword arguments that say where files come from."""
        arguments = {"trust_remote_code": self.trust_remote_code, **self._hub_arguments}
        if self.local_path is None:
            return self.name, arguments | {"revision": self.commit or "main"}
        if self.local_path.suffix == ".gguf":
            return str(self.local_path.parent), arguments | {"gguf_file": self.local_path.name}
        return str(self.local_path), arguments


def _has_file(where: str, file: str, arguments: Mapping[str, Any]) -> bool:
    """Whether a folder or a Hub repository holds a file."""
    if Path(where).is_dir():
        return (Path(where) / file).is_file()
    asked = {name: value for name, value in arguments.items() if name != "trust_remote_code"}
    return cached_file(where, file, _raise_exceptions_for_missing_entries=False, **asked) is not None


def _load(name: str, auto_class: Any, where: str, arguments: dict[str, Any]) -> Any:
    with refusing(f"{auto_class.__name__} cannot load {name!r}"):
        try:
            return auto_class.from_pretrained(where, **arguments)
        except pickle.UnpicklingError as error:  # its own advice is to run whatever the file holds
            raise ValueError(
                "its pickled weights are damaged or hold more than tensors, which is never loaded; convert them to "
                "safetensors"
            ) from error
        except ValueError as error:
            if not arguments.get("trust_remote_code") and "trust_remote_code" in str(error):
                raise ValueError(
                    "it brings its own code, which runs only with trust_remote_code=True; read the code before"
                ) from error
            raise


def default_device(rank: int | None = None) -> torch.device:
    """The process's own accelerator, else the CPU.

    Args:
        rank: The rank that ``Dataset.map(with_rank=True)`` gave to this process; else ``LOCAL_RANK`` counts.
    """
    if not torch.accelerator.is_available():
        return torch.device("cpu")
    index = rank if rank is not None else int(os.environ.get("LOCAL_RANK", "0"))
    kind = torch.accelerator.current_accelerator()
    return torch.device(kind.type if kind else "cpu", index % torch.accelerator.device_count())
