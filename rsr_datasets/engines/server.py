"""A student behind an OpenAI-compatible vLLM server: token ids go out, ranks and surprisals come back."""

import asyncio
import contextlib
import logging
import operator
import os
import re
import textwrap
import uuid
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import PurePath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import numpy as np
import torch

from ..reading.rows import EncodedRow, tokens_read
from .base import OnBatch, TokenScores
from .prompt_logprobs import VllmSource, account_of, to_scores

if TYPE_CHECKING:
    from openai import AsyncOpenAI

logger = logging.getLogger(__name__)

DEFAULT_URL = "http://localhost:8000/v1"
KEY_VARIABLE = "VLLM_API_KEY"
TOKENS_IN_FLIGHT = 65_536
PROBE_TOKENS = 512
TIE_TOKENS, TIES, TOP = 32, 5, 20  # a vLLM server gives at most 20 entries a token if it was not told otherwise
_ARGUMENTS = {"base_url", "api_key", "model", "timeout", "max_retries", "hf_token"}
_TOO_MUCH = re.compile(r"out of memory|OutOfMemory|maximum (model|context) length", re.IGNORECASE)

Given = TypeVar("Given")


class _TooMuchError(ValueError):
    """The server has no room for one request."""


class _Card(NamedTuple):
    """A model that the server serves."""

    id: str
    root: str
    max_model_len: int | None


@dataclass(frozen=True)
class _Server:
    """An address and how it is asked; only requests carry the key."""

    url: str
    key: str
    timeout: float
    max_retries: int

    def run(self, ask: Callable[["AsyncOpenAI"], Awaitable[Given]]) -> Given:
        """Runs requests in an event loop of their own, also where one is running already, as in a notebook."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(self._with_client(ask))
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, self._with_client(ask)).result()

    async def _with_client(self, ask: Callable[["AsyncOpenAI"], Awaitable[Given]]) -> Given:
        try:
            from openai import AsyncOpenAI
        except ImportError as error:
            raise ImportError(
                "engine='server' needs the package openai: pip install 'rsr_datasets[server]'"
            ) from error
        given: dict[str, Any] = {"timeout": self.timeout, "max_retries": self.max_retries}
        async with AsyncOpenAI(base_url=self.url, api_key=self.key or "none", **given) as client:
            return await ask(client)

    async def models(self, client: "AsyncOpenAI") -> list[_Card]:
        """The models that the server serves; a server that is not there is not waited for."""
        once_more = client.with_options(max_retries=min(2, self.max_retries))
        answer = await self._ask(once_more.get("/models", cast_to=object))
        cards = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(cards, list):
            raise ValueError(f"server {self.url}: its list of models is none: is it an OpenAI-compatible server?")
        known = [card for card in cards if isinstance(card, dict) and "id" in card]
        return [_Card(card["id"], card.get("root") or card["id"], card.get("max_model_len")) for card in known]

    async def version(self, client: "AsyncOpenAI") -> str:
        """The server's vLLM version, where its answers do not tell what it runs."""
        answer = await self._ask(client.get(f"{self.url.removesuffix('/v1')}/version", cast_to=object))
        return f"vllm-{answer['version']}" if isinstance(answer, dict) and "version" in answer else "unknown"

    async def complete(
        self, client: "AsyncOpenAI", model: str, ids: Sequence[int], entries: int = 0
    ) -> dict[str, Any]:
        """The answer to a prompt of token ids; another one's cached prefix is never taken."""
        body = {"model": model, "prompt": ids, "max_tokens": 1, "temperature": 0, "prompt_logprobs": entries}
        body |= {"cache_salt": uuid.uuid4().hex}
        answer = await self._ask(client.post("/completions", body=body, cast_to=object))
        if not isinstance(answer, dict) or not answer.get("choices"):
            raise ValueError(f"server {self.url}: its answer to a completion has no choices")
        return answer

    async def counts_ties(self, client: "AsyncOpenAI", model: str, entries: Sequence[Any]) -> bool:
        """Whether a rank counts the entries that tie with a token, too: asks for tokens that tie near the top.

        ``entries`` are the most probable ones after each of the tokens from 0 on.
        """
        found = []
        for i, entry in enumerate(entries):
            logprobs = sorted((said["logprob"] for said in (entry or {}).values()), reverse=True)
            # The last entry may tie with one that is not among them.
            for token, said in (entry or {}).items():
                above, among = (sum(test(p, said["logprob"]) for p in logprobs) for test in (operator.gt, operator.ge))
                if among > above + 1 and said["logprob"] > logprobs[-1]:
                    found.append(([*range(i), int(token)], above + 1, among))
                    break
        votes = 0
        for prompt, strict, loose in found[-TIES:]:
            answer = await self.complete(client, model, prompt)
            rank = next(iter(answer["choices"][0]["prompt_logprobs"][-1].values()))["rank"]
            votes += (rank == loose) - (rank == strict)
        return votes > 0

    async def _ask(self, request: Awaitable[Any]) -> Any:
        """The answer to a request that ``openai`` has sent, again and again where that may help."""
        import openai

        try:
            return await request
        except openai.APIStatusError as error:
            hidden = error.message.replace(self.key, "(key)") if self.key else error.message
            status, said = error.status_code, textwrap.shorten(hidden, 200, placeholder=" ...")
        except openai.APIConnectionError as error:
            missing = "answer in time" if isinstance(error, openai.APITimeoutError) else "connection"
            advice = "finished units stay; start it and run again"
            raise ConnectionError(f"server {self.url}: no {missing}, also when tried again: {advice}") from None
        except openai.APIError:
            raise ValueError(f"server {self.url}: its answer is no JSON: is it an OpenAI-compatible server?") from None
        if status in (401, 403):
            advice = f"give model_kwargs={{'api_key': 'KEY'}} or set {KEY_VARIABLE}"
            raise ValueError(f"server {self.url} refuses the key ({status}): {advice}")
        if status == 413 or _TOO_MUCH.search(said):
            raise _TooMuchError(said)
        if status == 429 or status >= 500:
            advice = "finished units stay; run again"
            raise ConnectionError(f"server {self.url}: {status}, also when tried again: {said}; {advice}")
        raise ValueError(f"server {self.url} refuses a request ({status}): {said}")


@dataclass(frozen=True)
class ServerStudent(VllmSource):
    """A :class:`rsr_datasets.engines.base.StudentSource` for a student that a vLLM server runs.

    ``model_kwargs`` say where: ``base_url``; ``api_key``, else the environment variable ``VLLM_API_KEY``; ``model``,
    the served name, where it is not the student's; ``timeout`` in seconds; ``max_retries`` of each request.

    A vLLM before 0.32, or one without Triton, makes the logits of all tokens of a step at once: if memory is short,
    start it with ``--max-num-batched-tokens 1024``.
    """

    engine = "server"
    unread = MappingProxyType(
        dict.fromkeys(("image", "video"), 'engine="server" reads text alone, engine="transformers" reads both')
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := sorted(set(self.model_kwargs) - _ARGUMENTS):
            raise ValueError(f"model_kwargs: engine='server' takes {sorted(_ARGUMENTS)}, not {unknown}")
        where = urlsplit(self._server.url)
        if where.scheme not in ("http", "https") or not where.hostname or "@" in where.netloc:
            raise ValueError(f"base_url: must be like {DEFAULT_URL!r}, without a user; api_key is the place of a key")

    @cached_property
    def _server(self) -> _Server:
        given = self.model_kwargs
        key = given.get("api_key") or os.environ.get(KEY_VARIABLE, "")
        url = str(given.get("base_url") or DEFAULT_URL).rstrip("/")
        timeout, max_retries = given.get("timeout", 600.0), given.get("max_retries", 20)
        if not isinstance(timeout, int | float) or timeout <= 0:
            raise ValueError(f"timeout={timeout!r} in model_kwargs: must be seconds for one request")
        if not isinstance(max_retries, int) or max_retries < 0:
            raise ValueError(f"max_retries={max_retries!r} in model_kwargs: must be a whole number, at least 0")
        return _Server(url, key, timeout, max_retries)

    def identity(self) -> dict[str, Any]:
        """The student's files here, and what the server says of itself: version, parallelism, configuration."""
        card, runs, ties = self._served
        other = {} if self._is_student(card) else {"served": PurePath(card.root).name}
        return self.files.identity() | {"engine": f"server {runs}"} | other | ({"ranks": "ties count"} if ties else {})

    def load(self, device: torch.device, options: dict[str, Any]) -> "ServerEngine":
        """Checks that the server scores this student's tokens; ``ValueError`` names what is wrong with it."""
        card, runs, ties = self._served
        if ties:
            advice = "start vllm serve with --worker-extension-cls rsr_datasets.engines.vllm_worker.StrictRanks"
            logger.warning("server %s: its ranks count ties, which makes RSR higher: %s", self._server.url, advice)
        engine = ServerEngine(self._server, self.name, card, runs, self.vocab_size)
        options["tokens_per_batch"] = options.get("tokens_per_batch") or engine.tokens_per_batch
        self._probe(engine)
        return engine

    @cached_property
    def _served(self) -> tuple[_Card, str, bool]:
        """The student among the served models, what runs it, and whether its ranks count ties."""
        ids = list(range(min(TIE_TOKENS, self.vocab_size)))

        async def ask(client: "AsyncOpenAI") -> tuple[_Card, str, bool]:
            card = self._find(await self._server.models(client))
            try:
                answer = await self._server.complete(client, card.id, ids, TOP)
            except ValueError:  # a server may be told to give fewer entries
                answer = await self._server.complete(client, card.id, ids)
            runs = answer.get("system_fingerprint") or await self._server.version(client)
            entries = answer["choices"][0].get("prompt_logprobs") or []
            return card, runs, await self._server.counts_ties(client, card.id, entries)

        return self._server.run(ask)

    def _find(self, cards: Sequence[_Card]) -> _Card:
        wanted = self.model_kwargs.get("model")
        found = [card for card in cards if (self._is_student(card) if wanted is None else card.id == wanted)]
        if found:
            return found[0]
        served = ", ".join(f"{card.id!r} (root {card.root!r})" for card in cards[:5]) or "nothing"
        looked = f"student {self.name!r}" if wanted is None else f"model_kwargs['model']={wanted!r}"
        advice = "if one of them is the student, name it, model_kwargs={'model': 'NAME'}"
        raise ValueError(f"server {self._server.url} does not serve {looked}, but {served:.200}: {advice}")

    def _is_student(self, card: _Card) -> bool:
        """Whether the server's model has the student's name: its Hub id, or the last part of its path."""
        folder = self.files.local_path
        if folder is None and not PurePath(card.root).is_absolute():
            return card.root == self.name
        return PurePath(card.root).name == PurePath(folder.resolve() if folder else self.name).name

    def _probe(self, engine: "ServerEngine") -> None:
        """Has ids from all over the vocabulary scored, and compares their texts."""
        size = min(PROBE_TOKENS, engine.vocab_size, (engine.max_positions or PROBE_TOKENS) + 1)
        ids = np.linspace(0, engine.vocab_size - 1, size).round().astype(np.int64)
        row = EncodedRow(ids, np.arange(1, size))
        refused = f"server {self._server.url} cannot score student {self.name!r}"
        try:
            *found, said = self._server.run(partial(engine.ask, row))
            to_scores(row, *found)
        except ValueError as error:
            raise ValueError(f"{refused}: {error}") from None
        tokenizer = self.load_tokenizer()
        texts = zip((tokenizer.decode([i]).strip() for i in ids[1:].tolist()), said, strict=True)
        known = [(own, text.strip()) for own, text in texts if own and text is not None and "\ufffd" not in own]
        different = [pair for pair in known if pair[0] != pair[1]]
        if len(different) > len(known) / 4:
            detail = f"{len(different)} of {len(known)} tokens have another text, such as {different[0]}"
            raise ValueError(f"{refused}: its vocabulary is another one: {detail:.120}")


class ServerEngine:
    """An :class:`rsr_datasets.engines.base.Engine` of requests, ``tokens_per_batch`` tokens of them at a time."""

    provides: frozenset[str] = frozenset()

    def __init__(self, server: _Server, name: str, card: _Card, runs: str, vocab_size: int) -> None:
        self.name, self.vocab_size = name, vocab_size
        # A prompt and the one token that is asked for must fit.
        self.max_positions = None if card.max_model_len is None else card.max_model_len - 2
        self.tokens_per_batch = TOKENS_IN_FLIGHT
        self._server, self._model, self._runs = server, card.id, runs

    def score(
        self, rows: Sequence[EncodedRow], *, entropies: bool = False, on_batch: OnBatch | None = None
    ) -> list[TokenScores | None]:
        """Scores rows; ``ConnectionError`` if the server does not answer any more, ``None`` for a row beyond it."""
        return self._server.run(partial(self._score_all, rows, on_batch))

    async def _score_all(
        self, rows: Sequence[EncodedRow], on_batch: OnBatch | None, client: "AsyncOpenAI"
    ) -> list[TokenScores | None]:
        scored: list[TokenScores | None] = [None] * len(rows)
        row_tokens = tokens_read(rows)
        in_flight: dict[asyncio.Task[None], int] = {}

        async def score(i: int) -> None:
            row = rows[i]
            with contextlib.suppress(_TooMuchError):
                scored[i] = to_scores(row, *(await self.ask(row, client))[:3])
            if on_batch:
                on_batch(account_of(row, row_tokens[i]))

        async def wait(most: int) -> None:
            while in_flight and sum(in_flight.values()) > most:
                done, _ = await asyncio.wait(in_flight, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    in_flight.pop(task)
                    task.result()

        for i, row in enumerate(rows):
            await wait(max(0, self.tokens_per_batch - row.input_ids.size))
            in_flight[asyncio.create_task(score(i))] = row.input_ids.size
        await wait(0)
        return scored

    async def ask(self, row: EncodedRow, client: "AsyncOpenAI") -> tuple[Sequence[Any], ...]:
        """Ids, log-probabilities, ranks and texts of all tokens of a row but the first."""
        answer = await self._server.complete(client, self._model, row.input_ids.tolist())
        runs = answer.get("system_fingerprint") or self._runs
        if runs != self._runs:
            raise ValueError(f"server {self._server.url} was {self._runs!r} and is {runs!r} now: scores would differ")
        entries, size = answer["choices"][0].get("prompt_logprobs"), row.input_ids.size
        if not isinstance(entries, list):
            raise ValueError("it answers without prompt_logprobs; a vLLM server gives them")
        if len(entries) != size:
            kind = "truncates" if len(entries) < size else "adds tokens, such as one for the beginning of a text"
            raise ValueError(f"it {kind}: {len(entries)} tokens came back for a prompt of {size}")
        firsts = [next(iter((entry or {"-1": {}}).items())) for entry in entries[1:]]
        if any(said.get("rank") is None or said.get("logprob") is None for _, said in firsts):
            raise ValueError("it answers without ranks or log-probabilities of prompt tokens; a vLLM server has them")
        values = [[said.get(name) for _, said in firsts] for name in ("logprob", "rank", "decoded_token")]
        return [int(token) for token, _ in firsts], *values
