"""The student before it is loaded: who it is, and how its config, tokenizer and weights are loaded."""

import contextlib
import copy
import json
import logging
import os
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeGuard

import huggingface_hub
import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file, is_peft_available
from transformers.utils.peft_utils import find_adapter_config_file

from ...utils.files import hash_text
from .classes import auto_classes, place, refuse_encoder_decoder
from .dtypes import slowdown
from .engine import TransformersEngine
from .head import LogitsDtype
from .identity import hash_model, hash_model_files, hash_tokenizer
from .probes import refusing

if TYPE_CHECKING:
    from transformers import ProcessorMixin as ProcessorMixin
else:
    ProcessorMixin = Any  # the class would import what reads images

logger = logging.getLogger(__name__)

_HUB_ARGUMENTS = ("token", "subfolder", "cache_dir", "local_files_only", "force_download", "proxies")
"""Keyword arguments of ``from_pretrained`` that say where files come from, for weights, config and tokenizer alike."""


@dataclass(frozen=True)
class TransformersStudent:
    """A :class:`rsr_datasets.engines.base.StudentSource`: the arguments of ``RSRScorer`` that concern the student."""

    student: str | os.PathLike[str] | PreTrainedModel
    revision: str | None = None
    tokenizer: str | os.PathLike[str] | PreTrainedTokenizerBase | ProcessorMixin | None = None
    dtype: str | torch.dtype = "auto"
    attn_implementation: str | None = None
    model_kwargs: Mapping[str, Any] = field(default_factory=dict)
    trust_remote_code: bool = False
    logits_dtype: LogitsDtype = "student"
    device: str | torch.device | None = None

    def __post_init__(self) -> None:
        if self.is_loaded and self._given_tokenizer is None:
            raise ValueError("a loaded student needs its loaded tokenizer too: pass tokenizer=")
        if not isinstance(self.student, str | os.PathLike | PreTrainedModel):
            adapted = hasattr(self.student, "peft_config")
            raise ValueError(
                f"student: expected a Hub id, a folder, a .gguf file or a loaded PreTrainedModel, found "
                f"{type(self.student).__name__}{'; pass its get_base_model(), which holds the adapter' * adapted}"
            )
        if self.logits_dtype not in ("student", "float32"):
            raise ValueError(f'logits_dtype={self.logits_dtype!r}: must be "student" or "float32"')
        dtype = self.given_dtype  # an unknown dtype is an error at once
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

    @cached_property
    def torch_dtype(self) -> torch.dtype | Literal["auto"]:
        """The dtype as transformers takes it: on a CPU that is slow in the student's own half precision, float32."""
        slow = self._slowdown
        return torch.float32 if self.given_dtype == "auto" and slow else self.given_dtype

    @cached_property
    def _slowdown(self) -> tuple[str, float] | None:
        """The half precision that was asked for, and how slow the CPU is that would compute in it."""
        device = torch.device(self.device) if self.device else default_device()
        if self.is_loaded or device.type != "cpu" or self.model_kwargs.keys() & {"device_map", "quantization_config"}:
            return None
        dtype: Any = self.given_dtype
        if dtype == "auto":
            with contextlib.suppress(ValueError):  # loading says why there is no config
                dtype = getattr(self.load_config(), "dtype", None)
        name = str(dtype).removeprefix("torch.")
        factor = slowdown(getattr(torch, name, None))
        return (name, factor) if factor else None

    @property
    def given_dtype(self) -> torch.dtype | Literal["auto"]:
        """The ``dtype`` argument, checked."""
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
        if isinstance(self.student, PreTrainedModel) or not (path := Path(self.student).expanduser()).exists():
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
        return _resolve_commit(self.name, self.revision, self.model_kwargs.get("token"))

    @cached_property
    def base(self) -> "TransformersStudent | None":
        """The base model of a student that is a PEFT adapter."""
        found = self._adapter
        if found is None or (self.local_path and (self.local_path / "config.json").exists()):
            return None  # transformers puts a whole model and the adapter beside it together
        if not found.get("base_model_name_or_path"):
            raise ValueError(f"student {self.name!r} is a PEFT adapter whose adapter_config.json names no base model")
        name, own = found["base_model_name_or_path"], {k: v for k, v in self.model_kwargs.items() if k != "subfolder"}
        base = replace(self, student=name, revision=found.get("revision"), tokenizer=None, model_kwargs=own)
        if base._adapter is not None:
            raise ValueError(f"student {self.name!r} is a PEFT adapter for an adapter, {name!r}: merge that one first")
        return base

    @cached_property
    def _adapter(self) -> dict[str, Any] | None:
        """The settings of the student's PEFT adapter."""
        unknown = self.commit is None if self.local_path is None else self.local_path.is_file()
        if self.is_loaded or unknown:  # loading says why neither the Hub nor the cache knows the student
            return None
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
        names = set(_HUB_ARGUMENTS) - ({"subfolder"} if self.local_path else set())
        return {name: value for name, value in self.model_kwargs.items() if name in names}

    @cached_property
    def _tokenizer_source(self) -> tuple[str, str | None]:
        """Where a tokenizer of its own comes from: a path, or a Hub id and its commit."""
        name = os.fspath(self.tokenizer)  # type: ignore[arg-type]
        path, token = Path(name).expanduser(), self.model_kwargs.get("token")
        return (str(path), None) if path.exists() else (name, _resolve_commit(name, None, token))

    @property
    def _given_tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The tokenizer that was passed in loaded, by itself or in a processor."""
        given: Any = self.tokenizer
        given = given.tokenizer if _is_processor(given) else given
        return given if isinstance(given, PreTrainedTokenizerBase) else None

    def identity(self, fresh: bool = False) -> dict[str, Any]:
        """The student by content of its files or tensors, or Hub id and commit; ``fresh`` hashes tensors anew."""
        identity: dict[str, Any]
        if isinstance(self.student, PreTrainedModel):
            identity = {"loaded": hash_model(self.student, fresh)}
        elif self.local_path:
            identity = {"content": hash_model_files(self.local_path)}
        else:
            identity = {"hub": self.name, "revision": self.commit}
        if self.base:
            identity["base"] = self.base.identity()
        if _is_processor(self.tokenizer):
            identity["processor"] = hash_text(self.tokenizer.to_json_string())
        if self._given_tokenizer is not None:
            identity["tokenizer"] = hash_tokenizer(self._given_tokenizer)
        elif self.tokenizer is not None:
            where, commit = self._tokenizer_source
            identity["tokenizer"] = hash_model_files(Path(where)) if Path(where).exists() else f"{where}@{commit}"
        return identity

    def load_config(self) -> transformers.PreTrainedConfig:
        """Loads the student's configuration; ``ValueError`` names the student where there is none."""
        if isinstance(self.student, PreTrainedModel):
            return self.student.config
        if self.base:
            return self.base.load_config()
        if self.local_path and self.local_path.suffix == ".gguf":
            return copy.deepcopy(_config_of_gguf(self.name, self.local_path, self.local_path.stat().st_mtime_ns))
        where, arguments = self._source()
        return _load(self.name, transformers.AutoConfig, where, arguments)

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """Loads the tokenizer; ``ValueError`` names the student where there is none."""
        return self._given_tokenizer or self._load_beside(transformers.AutoTokenizer, "tokenizer_config.json")

    @property
    def reads_images(self) -> bool:
        """Whether the student's class is one of images and text."""
        own_class = type(self.student).__name__ if self.is_loaded else None
        return auto_classes(self.load_config(), own_class)[0] is transformers.AutoModelForImageTextToText

    def load_processor(self) -> ProcessorMixin | None:
        """Loads what prepares images and text for the student; ``None`` for a student that reads text alone.

        ``ValueError`` names a student that reads images, and of which nobody gave the processor.
        """
        if _is_processor(self.tokenizer):
            return self.tokenizer
        if not self.reads_images:
            return None
        found = None
        if self._given_tokenizer is None:
            found = self._load_beside(transformers.AutoProcessor, "preprocessor_config.json", "processor_config.json")
        if not _is_processor(found):
            reason = "reads images, for which its processor is missing: pass tokenizer= the processor, or where it is"
            raise ValueError(f"student {self.name!r} {reason}")
        return found

    def _load_beside(self, kind: Any, *files: str) -> Any:
        """Loads a tokenizer or processor from where ``tokenizer`` says, else from beside the student or its base."""
        if self.tokenizer is not None:
            where, commit = self._tokenizer_source
            arguments = {name: value for name, value in self._hub_arguments.items() if name != "subfolder"}
            arguments |= {"trust_remote_code": self.trust_remote_code, "revision": commit or "main"}
            return _load(where, kind, where, arguments)
        where, arguments = self._source()
        if self.base and not any(_has_file(where, file, arguments) for file in files):
            return self.base._load_beside(kind, *files)
        loaded = _load(self.name, kind, where, arguments)
        if "gguf_file" in arguments:
            loaded.name_or_path = self.name  # transformers knows the folder alone
        return loaded

    def load(self, device: torch.device, options: dict[str, Any]) -> TransformersEngine:
        """Loads the student, onto the device without a ``device_map``; ``ValueError`` if it cannot be scored."""
        model = self.student if isinstance(self.student, PreTrainedModel) else self._load_model(device)
        engine = TransformersEngine(
            model, name=self.name, logits_dtype=self.logits_dtype, load_processor=self.load_processor, **options
        )
        options["tokens_per_batch"] = engine.tokens_per_batch
        return engine

    def _load_model(self, device: torch.device) -> PreTrainedModel:
        logger.info("Loading the student %s ...", self.name)
        if self._adapter is not None and not is_peft_available():
            reason = "is a PEFT adapter, which needs the package peft: pip install peft"
            raise ValueError(f"student {self.name!r} {reason}")
        if self.base:
            # An adapter may have been trained on the text side of a student that sees.
            kinds = auto_classes(self.base.load_config())
            loaded = (self._load_adapter(self.base._load_weights(device, kind)) for kind in kinds)
            if (adapted := next(filter(None, loaded), None)) is None:
                reason = f"its adapter lacks weights for layers of its base {self.base.name!r}, on which it acts"
                raise ValueError(f"student {self.name!r}: {reason}")
            return adapted
        return self._load_weights(device, auto_classes(self.load_config())[0])

    def _load_weights(self, device: torch.device, kind: Any) -> PreTrainedModel:
        refuse_encoder_decoder(self.load_config(), self.name)
        if self._slowdown:
            stored, factor = self._slowdown
            taken = f'float32 (dtype="{stored}" forces {stored})' if self.dtype == "auto" else f"{stored} all the same"
            message = "%s takes %.1f times as long as float32 on this processor: student %r is computed in %s"
            logger.warning(message, stored, factor, self.name, taken)
        where, arguments = self._source()
        attention = {"attn_implementation": self.attn_implementation} if self.attn_implementation is not None else {}
        own = {name: value for name, value in self.model_kwargs.items() if name not in _HUB_ARGUMENTS}
        arguments |= {"dtype": self.torch_dtype, **own, **attention}
        arguments |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
        if "gguf_file" in arguments and not own:  # which may change the configuration
            arguments["config"] = self.load_config()
        model, info = _load(self.name, kind, where, arguments)
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
                place(model, device)
        return model

    def _load_adapter(self, base: PreTrainedModel) -> PreTrainedModel | None:
        """Puts the adapter into its base model; ``None`` if the adapter has no weights for these layers."""
        import peft

        where, arguments = self._source()
        arguments.pop("trust_remote_code")
        with refusing(f"student {self.name!r}: peft cannot load the adapter"), warnings.catch_warnings():
            warnings.filterwarnings("error", ".*Found missing adapter keys")
            try:
                adapted = peft.PeftModel.from_pretrained(base, where, **arguments)
            except UserWarning:
                return None
        kind = adapted.peft_config["default"]
        if kind.is_prompt_learning or not isinstance(adapted.get_base_model(), PreTrainedModel):
            adapter = f"a PEFT adapter of type {str(kind.peft_type).rpartition('.')[2]} adds to what the model reads"
            reason = "only adapters of a model's own layers (LoRA and its kin) can be scored"
            raise ValueError(f"student {self.name!r}: {adapter}; {reason}")
        return adapted.get_base_model()

    def _source(self) -> tuple[str, dict[str, Any]]:
        """The first argument of ``from_pretrained`` and the keyword arguments that say where files come from."""
        arguments = {"trust_remote_code": self.trust_remote_code, **self._hub_arguments}
        if self.local_path is None:
            return self.name, arguments | {"revision": self.commit or "main"}
        if self.local_path.suffix == ".gguf":
            return str(self.local_path.parent), arguments | {"gguf_file": self.local_path.name}
        return str(self.local_path), arguments


def _resolve_commit(repo_id: str, revision: str | None, token: str | bool | None = None) -> str | None:
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


def _is_processor(given: object) -> TypeGuard[ProcessorMixin]:
    return hasattr(given, "image_processor")


def _has_file(where: str, file: str, arguments: Mapping[str, Any]) -> bool:
    asked = {name: value for name, value in arguments.items() if name != "trust_remote_code"}
    return cached_file(where, file, _raise_exceptions_for_missing_entries=False, **asked) is not None


@lru_cache(maxsize=1)
def _config_of_gguf(name: str, file: Path, _changed: int) -> transformers.PreTrainedConfig:
    """The configuration in a file, which transformers reads from the first byte to the last each time."""
    return _load(name, transformers.AutoConfig, str(file.parent), {"gguf_file": file.name})


def _load(name: str, auto_class: Any, where: str, arguments: dict[str, Any]) -> Any:
    is_path = where.startswith((".", "/", "~")) or where.count("/") > 1 or where.endswith(".gguf")
    with refusing(f"{auto_class.__name__} cannot load {name!r}"):
        if is_path and not Path(where).exists():
            raise ValueError("there is no such file or folder here, and no Hub id is written so")
        try:
            return auto_class.from_pretrained(where, **arguments)
        except pickle.UnpicklingError as error:  # its own advice is to run whatever the file holds
            reason = "its pickled weights are damaged or hold more than tensors, which is never loaded"
            raise ValueError(f"{reason}; convert them to safetensors") from error
        except ValueError as error:
            if arguments.get("trust_remote_code") or "trust_remote_code" not in str(error):
                raise
            reason = "it brings its own code, which runs only with trust_remote_code=True; read the code before"
            raise ValueError(reason) from error


def default_device(rank: int | None = None) -> torch.device:
    """The process's own accelerator, by its rank in ``map`` or else by ``LOCAL_RANK``; else the CPU."""
    if not torch.accelerator.is_available() or os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true":
        return torch.device("cpu")
    index = rank if rank is not None else int(os.environ.get("LOCAL_RANK", "0"))
    kind = torch.accelerator.current_accelerator()
    return torch.device(kind.type if kind else "cpu", index % torch.accelerator.device_count())
