"""Python processes that start at once: forks of a server that has imported what takes long."""

from __future__ import annotations

import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from multiprocessing import get_context
from pathlib import Path

from rsr_datasets.scoring import scorer

CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        *(f"rsr_datasets.{name}" for name in ("cli.commands", "curation.stages", "hub", "report", "runs.estimate")),
        "transformers.models.llama.modeling_llama",
    ]
)


class ForkedPython:
    """``python ARGUMENTS``; the Hub's address and the folder of its caches are those of the tests."""

    def __init__(self, *arguments: object, cwd: Path | None = None, **variables: str) -> None:
        self.args = [*map(str, arguments)]
        self._folder = tempfile.TemporaryDirectory()
        self._output = [Path(self._folder.name, stream) for stream in ("stdout", "stderr")]
        given = (self.args, cwd or Path.cwd(), os.environ | variables, self._output)
        self._process = CONTEXT.Process(target=_run, args=given)
        self._process.start()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """The exit code, negative for a signal; ``None`` while the process lives."""
        return self._process.exitcode

    def communicate(self, timeout: float = 240) -> tuple[str, str]:
        """Waits for the end; what was written to stdout and stderr."""
        self._process.join(timeout)
        if self.poll() is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self._output[0].read_text(), self._output[1].read_text()


def run_python(*arguments: object, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs ``python ARGUMENTS`` to its end."""
    process = ForkedPython(*arguments, cwd=cwd, **variables)
    out, err = process.communicate()
    return subprocess.CompletedProcess(process.args, process.poll() or 0, out, err)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def ranks(count: int) -> list[dict[str, str]]:
    """The variables by which a launcher tells each of ``count`` processes its number and where to find the others."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "ACCELERATE_USE_CPU": "true"}
    meeting |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    return [meeting | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)] if count > 1 else [{}]


def _run(arguments: list[str], cwd: Path, environment: dict[str, str], output: list[Path]) -> None:
    for number, file in enumerate(output, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.environ.clear()
    os.environ |= environment
    os.chdir(cwd)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    scorer._PROCESS_OF_IMPORT = os.getpid()  # torch has not run in the server
    first, *rest = arguments
    sys.argv = rest if first in ("-m", "-c") else arguments
    if first == "-m":
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        exec(rest[0], {"__name__": "__main__"})
    else:
        runpy.run_path(first, run_name="__main__")
