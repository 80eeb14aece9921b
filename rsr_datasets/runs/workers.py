"""Equal processes that share nothing but a folder: who does which job, who lives, how far all of them are."""

import fcntl
import itertools
import logging
import platform
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..utils.files import read_json, write_json

logger = logging.getLogger(__name__)

BEAT_SECONDS, POLL_SECONDS = 3.0, 0.5


class FolderInUseError(RuntimeError):
    """Another launch is at work in the run folder."""


class Workers:
    """One process among those of a launch. A job belongs to the process that creates its claim file first.

    A process is dead once it has left ``with`` or given no sign of life for ``heartbeat_timeout`` seconds by the
    reader's clock: its job goes to whoever creates the next claim file.
    """

    def __init__(self, run: Path, launch: str, process: int, count: int, heartbeat_timeout: float) -> None:
        self.tokens = 0  # scored so far, for the others to read
        self._folder, self._process, self._timeout = run / f"launch-{launch}", process, heartbeat_timeout
        self._alive = [self._folder / f"alive-{number}.json" for number in range(count)]
        self._seen: dict[Path, tuple[str, float]] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> "Workers":
        self._folder.mkdir(exist_ok=True)
        self._lock = (self._folder / "lock").open("a")
        with suppress(OSError):  # not every shared file system has locks
            fcntl.flock(self._lock, fcntl.LOCK_SH)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        self._lock.close()
        if len(self._alive) == 1:  # else others may still have to read it, and the next launch removes it
            shutil.rmtree(self._folder, ignore_errors=True)

    def once(self, job: str, do: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Gives what ``do`` returns in the one process that does the job; the others wait, or take over."""
        done = self._folder / f"{job}.json"
        while not done.exists():
            if self.claim(job):
                write_json(done, do())
            else:
                time.sleep(POLL_SECONDS)
        return read_json(done)

    def claim(self, job: str) -> bool:
        """Claims a job for this process; says whether that worked."""
        if file := self.free_claim(job):
            with suppress(FileExistsError), file.open("x") as stream:
                stream.write(str(self._process))
                if file.suffix != ".0":
                    logger.warning("%s: process %d takes over from a process that died", job, self._process)
                return True
        return False

    def free_claim(self, job: str) -> Path | None:
        """The file that claims the job when it is created; ``None`` while a living process has the job."""
        for attempt in itertools.count():
            file = self._folder / f"{job}.{attempt}"
            if not file.exists():
                return file
            owner = _read(file)  # empty if the owner died between creating and writing the file
            if not self._is_silent(self._alive[int(owner)] if owner else file):
                break
        return None

    def tokens_of_all(self) -> int:
        """Tokens that all processes of the launch have scored, as far as they have said."""
        others = [file for number, file in enumerate(self._alive) if number != self._process and file.exists()]
        return self.tokens + sum(read_json(file)["tokens"] for file in others)

    def refuse_other_launches(self) -> dict[str, Any]:
        """Raises FolderInUseError if another launch on the run folder lives; else removes what dead ones left."""
        run = self._folder.parent
        others = [folder for folder in run.glob("launch-*") if folder != self._folder]
        if any(map(_is_alive, others)):
            raise FolderInUseError(f"another launch is at work in {run}: wait for it, or stop it first")
        for folder in others:
            shutil.rmtree(folder, ignore_errors=True)
        return {}

    def _is_silent(self, file: Path) -> bool:
        content, now = _read(file), time.monotonic()
        if file not in self._seen or self._seen[file][0] != content:
            self._seen[file] = content, now
        return '"ended": true' in content or now - self._seen[file][1] > self._timeout

    def _beat(self) -> None:
        sign: dict[str, Any] = {"host": platform.node(), "beats": 0, "ended": False}
        while not sign["ended"]:
            sign |= {"beats": sign["beats"] + 1, "tokens": self.tokens, "ended": self._ended.is_set()}
            with suppress(OSError):  # a full disk stops the scoring, with a message; not this thread
                write_json(self._alive[self._process], sign)
            self._ended.wait(BEAT_SECONDS)


def _is_alive(launch: Path) -> bool:
    """Whether a process of the launch holds its lock, as on this machine, or gives a new sign of life elsewhere."""
    host = platform.node()
    try:
        with (launch / "lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        host = ""  # without locks, the signs of life of this machine count too
    files = list(launch.glob("alive-*.json"))
    before = {text for text in map(_read, files) if '"ended": true' not in text and f'"host": "{host}"' not in text}
    time.sleep(4 * BEAT_SECONDS if before else 0)
    return not before <= set(map(_read, files))


def _read(file: Path) -> str:
    with suppress(OSError):
        return file.read_text(encoding="utf-8")
    return ""
