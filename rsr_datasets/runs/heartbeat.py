"""Signs of life between processes that share nothing but a folder: who works, how far, and who has died."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

BEAT_SECONDS = 3.0


class Heartbeat:
    """Writes a small file every few seconds while the block runs: a count of beats, and of tokens scored.

    Args:
        file: The file of this process; it is replaced as a whole, so that nobody reads half of it.
    """

    def __init__(self, file: Path) -> None:
        self.tokens = 0
        self._file = file
        self._beats = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._beat()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._beat()

    def _run(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            self._beat()

    def _beat(self) -> None:
        self._beats += 1
        aside = self._file.with_name(f"{self._file.name}.aside")
        with suppress(OSError):  # a disk that is full stops the scoring, with a message; not this thread
            aside.write_text(json.dumps({"beats": self._beats, "tokens": self.tokens}), encoding="utf-8")
            aside.replace(self._file)


class Watch:
    """Reads the heartbeats of processes.

    A process counts as dead once its file has not changed for ``patience`` seconds of this process's own clock, so
    that clocks of other machines, which differ, do not matter.

    Args:
        files: The file of each process.
        patience: Seconds.
    """

    def __init__(self, files: Iterable[Path], patience: float) -> None:
        self._files = list(files)
        self.patience = patience
        self._seen = {file: ({"beats": 0, "tokens": 0}, time.monotonic()) for file in self._files}

    def look(self) -> None:
        """Reads all files anew."""
        for file in self._files:
            with suppress(OSError, ValueError):  # not there yet, or a shared folder that lags behind
                beat = json.loads(file.read_text(encoding="utf-8"))
                if beat != self._seen[file][0]:
                    self._seen[file] = (beat, time.monotonic())

    @property
    def tokens(self) -> int:
        """Tokens that all processes have scored."""
        return sum(beat["tokens"] for beat, _ in self._seen.values())

    def silent(self) -> list[int]:
        """Which processes, by their place among the files, have given no sign for longer than the patience."""
        now = time.monotonic()
        return [i for i, file in enumerate(self._files) if now - self._seen[file][1] > self.patience]
