"""A student that vLLM runs in this process, on the GPUs that vLLM takes for it."""

import atexit
import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from ..reading.images import ImageSource
from ..reading.rows import EncodedRow, UnscorableRowError, tokens_read
from ..tables.columns import BAD_ROW
from ..utils.texts import shorten
from .base import OnBatch, TokenScores
from .prompt_logprobs import VllmSource, account_of, to_scores
from .transformers.probes import refusing

MOST_TOKENS = 8192  # that vLLM reads in a step
LOGITS_BYTES = 2 << 30
BYTES_OF_A_LOGIT = 10  # in the student's dtype, as a float32 log-probability, and once more on the way
TOKENS_PER_CALL = 1 << 18  # of rows that are handed over together; their results are Python objects
STRICT_RANKS = "rsr_datasets.engines.vllm_worker.StrictRanks"


@dataclass(frozen=True)
class VllmStudent(VllmSource):
    """A :class:`rsr_datasets.engines.base.StudentSource`; ``model_kwargs`` go to ``vllm.LLM`` and win over ours."""

    dtype: str | torch.dtype = "auto"
    max_length: int | None = None

    engine = "vllm"
    unread = MappingProxyType({"video": 'engine="vllm" reads images alone, engine="transformers" reads videos too'})

    def identity(self) -> dict[str, Any]:
        """The student's files, and the version of vLLM."""
        return self.files.identity() | {"engine": f"vllm-{_import_vllm().__version__}"}

    def load(self, device: torch.device, options: dict[str, Any]) -> "VllmEngine":
        """Loads the student onto the devices that vLLM takes; ``ValueError`` if vLLM cannot load or score it."""
        vllm = _import_vllm()
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 or (device.index or 0) > 0:
            advice = "start one process and give model_kwargs={'tensor_parallel_size': 4}, or use engine='server'"
            raise ValueError(f"engine='vllm' divides the GPUs itself: {advice}")
        if self.files.base:
            raise ValueError(f"student {self.name!r} is a PEFT adapter: merge it into its model for engine='vllm'")
        arguments = self._arguments(options.get("tokens_per_batch"), _makes_logits_at_once())
        with refusing(f"vLLM cannot load student {self.name!r}"):
            llm = vllm.LLM(**arguments)
            _end_waiting_for_the_dead(llm)
            _end_before_python_waits(llm)
            engine = VllmEngine(llm, self.name, self.vocab_size, self._image_token)
        options["tokens_per_batch"] = arguments["max_num_batched_tokens"]
        return engine

    @property
    def _image_token(self) -> int | None:
        """The token that vLLM takes for an image, where the student's processor says so."""
        try:
            processor = self.load_processor()
        except ValueError:  # the reason for rows with images, which are refused before
            return None
        return processor and processor.tokenizer.convert_tokens_to_ids(processor.image_token)

    def _arguments(self, tokens_per_batch: int | None, logits_at_once: bool = True) -> dict[str, Any]:
        """The arguments of ``vllm.LLM``, which does not reckon with logits when it takes memory for its cache."""
        config = self.load_config().get_text_config()
        dtype = self.torch_dtype if self.torch_dtype != "auto" else getattr(config, "dtype", None)
        trained, wanted = getattr(config, "max_position_embeddings", None), self.max_length
        # vLLM scores the last token of a prompt only if one more token could be written.
        longest = None if wanted is None else min(wanted + 1, trained or wanted + 1)
        fitting = LOGITS_BYTES // (BYTES_OF_A_LOGIT * self.vocab_size) if logits_at_once else MOST_TOKENS
        return {
            "model": str(self.files.local_path or self.name),
            "revision": self.files.commit,
            "trust_remote_code": self.trust_remote_code,
            "dtype": "auto" if dtype is None else str(dtype).removeprefix("torch."),
            "skip_tokenizer_init": not self.files.reads_images,  # with images vLLM's own processing asks for it
            "max_model_len": longest,
            # A cached prefix has made log-probabilities depend on what was asked before.
            "enable_prefix_caching": False,
            "enable_chunked_prefill": True,
            "max_num_batched_tokens": tokens_per_batch or max(256, min(fitting, MOST_TOKENS)),
            "worker_extension_cls": STRICT_RANKS,
            **self.model_kwargs,
        }


class VllmEngine:
    """A ``vllm.LLM``, an :class:`rsr_datasets.engines.base.Engine`.

    vLLM is given one ``image_token`` for each image, and expands it; the answer must have the tokens of the row.
    """

    provides: frozenset[str] = frozenset()

    def __init__(self, llm: Any, name: str, vocab_size: int, image_token: int | None = None) -> None:
        self.llm, self.name, self.vocab_size, self.image_token = llm, name, vocab_size, image_token
        # A prompt and the one token that is asked for must fit.
        self.max_positions = llm.model_config.max_model_len - 2

    def score(
        self, rows: Sequence[EncodedRow], *, entropies: bool = False, on_batch: OnBatch | None = None
    ) -> list[TokenScores | UnscorableRowError | None]:
        """Scores rows, a bounded number of tokens a call; ``ConnectionError`` if vLLM died, as for want of memory."""
        scored: list[TokenScores | UnscorableRowError | None] = []
        row_tokens = iter(tokens_read(rows))
        for part in _parts(rows):
            for row, answer in zip(part, self._ask(part), strict=True):
                scored.append(answer if isinstance(answer, UnscorableRowError) else _scores(row, answer))
                if on_batch:
                    on_batch(account_of(row, next(row_tokens)))
        return scored

    def _ask(self, rows: Sequence[EncodedRow]) -> list[Any]:
        """The answer to each row, or why vLLM refuses its images."""
        from vllm import SamplingParams
        from vllm.v1.engine.exceptions import EngineDeadError

        asked = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False, flat_logprobs=True)
        try:
            return list(self.llm.generate([self._prompt(row) for row in rows], asked, use_tqdm=False))
        except EngineDeadError as error:
            advice = "finished units stay; run again, with a lower tokens_per_batch if it lacked memory"
            raise ConnectionError(f"vLLM died, its log says why: student {self.name!r}: {advice}") from error
        except Exception as error:  # the processing of each family raises errors of its own
            if not any(row.images for row in rows):
                raise
            if len(rows) > 1:
                return [answer for row in rows for answer in self._ask([row])]
            return [UnscorableRowError(BAD_ROW, f"vLLM refused the images: {shorten(str(error), 160)}")]

    def _prompt(self, row: EncodedRow) -> dict[str, Any]:
        """The tokens of a row with one token for each image, and the images."""
        if not row.images:
            return {"prompt_token_ids": row.input_ids.tolist()}
        ids, at = [], 0
        for start, end in row.image_spans:
            ids += [*row.input_ids[at:start].tolist(), self.image_token]
            at = end
        shown = {"image": [image.open() for image in row.images if isinstance(image, ImageSource)]}
        return {"prompt_token_ids": [*ids, *row.input_ids[at:].tolist()], "multi_modal_data": shown}


def _scores(row: EncodedRow, answer: Any) -> TokenScores | UnscorableRowError:
    found = answer.prompt_logprobs  # flat, and nothing for the first token
    try:
        return to_scores(row, found.token_ids, found.logprobs, found.ranks)
    except ValueError as error:
        if not row.images:
            raise
        return UnscorableRowError(BAD_ROW, f"vLLM reads the images as other tokens: {error}")


def _parts(rows: Sequence[EncodedRow]) -> Iterator[list[EncodedRow]]:
    part: list[EncodedRow] = []
    tokens = 0
    for row in rows:
        part.append(row)
        tokens += row.input_ids.size
        if tokens >= TOKENS_PER_CALL:
            yield part
            part, tokens = [], 0
    if part:
        yield part


def _end_waiting_for_the_dead(llm: Any) -> None:
    """Tells vLLM that its own process has ended: if that was killed, vLLM waits for its answers for ever."""
    from vllm.v1.engine.exceptions import EngineDeadError

    def tell() -> None:
        reader.join()  # ends with the process
        client.outputs_queue.put(EngineDeadError())

    client = llm.llm_engine.engine_core
    reader: Any = getattr(client, "output_queue_thread", None)
    if reader is not None:
        threading.Thread(target=tell, daemon=True).start()


def _end_before_python_waits(llm: Any) -> None:
    """Ends vLLM's own process before Python, which ends, waits for all processes that it started.

    vLLM ends its process in a finalizer. Where another finalizer is older than ``multiprocessing``, Python runs both
    after the wait, and so never.
    """
    client = weakref.ref(llm.llm_engine.engine_core)

    def end() -> None:
        if (alive := client()) is not None:
            alive.shutdown()

    atexit.register(end)


def _makes_logits_at_once() -> bool:
    """Whether vLLM makes the logits of all tokens of a step at once.

    Its first model runner does, up to version 0.32: on CPUs, and where Triton is missing. Its second one, which
    version 0.32 takes elsewhere, makes those of 1,024 tokens at a time.
    """
    from vllm import envs
    from vllm.triton_utils import HAS_TRITON

    asked = envs.VLLM_USE_V2_MODEL_RUNNER
    return not (HAS_TRITON if asked is None else asked)


def _import_vllm() -> Any:
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # stdout is the caller's
    try:
        import vllm
    except ImportError as error:
        raise ImportError(f"engine='vllm' needs vLLM: pip install 'rsr_datasets[vllm]' ({error})") from error
    return vllm
