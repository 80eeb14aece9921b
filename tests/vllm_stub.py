"""A server that answers as vLLM's does, over real HTTP, with the numbers of a tiny student of transformers.

``faults`` are how the next completions go wrong; ``change`` alters each answer of a completion.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from transformers import AutoModelForCausalLM, AutoTokenizer

from rsr_datasets.engines.transformers.engine import TransformersEngine
from rsr_datasets.reading.rows import EncodedRow

KEY = "sesame-7gT5"
FINGERPRINT = "vllm-0.32.0-7d8537cc"
DROP, HANG = "drop", "hang"


@dataclass
class Stub:
    """A served student."""

    folder: str
    max_model_len: int | None = 512
    fingerprint: str | None = FINGERPRINT
    faults: deque[int | str | tuple[int, str]] = field(default_factory=deque)
    change: Callable[[dict[str, Any], list[int]], object] = lambda answer, prompt: None
    prompts: list[list[int]] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0
    seconds: float = 0.0
    url: str = ""

    def __post_init__(self) -> None:
        self.engine = TransformersEngine(AutoModelForCausalLM.from_pretrained(self.folder))
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder)
        self.lock = threading.Lock()
        self.computing = threading.Lock()
        self.cards = [{"id": "student", "root": self.folder, "max_model_len": self.max_model_len}]

    @property
    def kwargs(self) -> dict[str, Any]:
        """The scorer's model_kwargs."""
        return {"base_url": self.url, "api_key": KEY, "timeout": 5.0, "max_retries": 3}

    def scored_prompts(self) -> list[list[int]]:
        """Prompts that were answered, but for those of the check at load."""
        return [prompt for prompt in self.prompts if prompt[:2] != [0, 1]]

    def complete(self, prompt: list[int]) -> dict[str, Any]:
        row = EncodedRow(np.array(prompt), np.arange(1, len(prompt)))
        with self.computing:
            (scores,) = self.engine.score([row])
        entries: list[Any] = [None]
        for token, surprisal, rank in zip(prompt[1:], scores.surprisals, scores.ranks, strict=True):
            text = self.tokenizer.decode([token])
            entries.append({str(token): {"logprob": -float(surprisal), "rank": int(rank), "decoded_token": text}})
        answer = {"model": "student", "choices": [{"index": 0, "text": "x", "prompt_logprobs": entries}]}
        answer["system_fingerprint"] = self.fingerprint
        self.change(answer, prompt)
        return answer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    stub: Stub

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/version":
            self._send(200, {"version": "0.10.1"})
        elif self._allowed():
            self._send(200, {"object": "list", "data": self.stub.cards})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        stub, prompt = self.stub, body["prompt"]
        if not self._allowed():
            return
        assert body["max_tokens"] == 1 and body["prompt_logprobs"] in (0, 20)
        with stub.lock:
            fault = stub.faults.popleft() if stub.faults else None
            stub.in_flight += len(prompt)
            stub.most_in_flight = max(stub.most_in_flight, stub.in_flight)
        try:
            time.sleep(stub.seconds)
            if fault is None:
                answer = stub.complete(prompt)
                status, content = answer.pop("status", 200), answer.pop("error", answer)
                if status == 200:
                    stub.prompts.append(prompt)
                self._send(status, content)
            elif fault == DROP:
                self.close_connection = True
                self.connection.close()
            elif fault == HANG:
                time.sleep(1.0)
                self.close_connection = True
            else:
                status, text = fault if isinstance(fault, tuple) else (fault, "busy")
                self._send(status, {"error": {"message": text, "code": status}})
        finally:
            with stub.lock:
                stub.in_flight -= len(prompt)

    def _allowed(self) -> bool:
        if allowed := self.headers.get("Authorization") == f"Bearer {KEY}":
            return allowed
        self._send(401, {"error": f"Unauthorized: {self.headers.get('Authorization')}"})
        return False

    def _send(self, status: int, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": len(body)}.items():
            self.send_header(name, str(value))
        if status in (429, 500, 503):
            self.send_header("retry-after-ms", "1")
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving(stub: Stub, port: int = 0) -> Iterator[Stub]:
    """Serves the stub on a port, which stays the same when it is given."""
    handler = type("Handler", (_Handler,), {"stub": stub})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    stub.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
