"""The way to the Hub: data through ``Dataset.push_to_hub``, then its card and figure in one commit."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from datasets import Dataset, DatasetDict
from huggingface_hub import CommitOperationAdd, DatasetCard, DatasetCardData, HfApi, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ..scoring.scorer import RSRScorer
from .card import CuratedCard, build_card

logger = logging.getLogger(__name__)

_REPO_TYPE = "dataset"
_README = "README.md"
_MESSAGE = "Curated with rsr_datasets"
_TRIES = 4
_MAX_WAIT_SECONDS = 300.0
# The last two say that somebody else commits at this moment.
_PASSING = (408, 429, 500, 502, 503, 504, 409, 412)

# The base of all errors of the HTTP client, whichever one this version of huggingface_hub uses.
_HTTPError = next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")

T = TypeVar("T")


class HubError(RuntimeError):
    """The Hub, or the way to it, did not do what was asked; the message is one sentence that says what to do."""


@dataclass(frozen=True)
class Published:
    """What was published.

    Attributes:
        repo_id: The repository, with its namespace.
        url: Its page.
        commit: The commit that has data and card.
        pull_request: The pull request's page, with ``create_pr``.
    """

    repo_id: str
    url: str
    commit: str
    pull_request: str | None = None

    def __str__(self) -> str:
        return self.pull_request or self.url


def push_curated(
    dataset: Dataset | DatasetDict,
    repo_id: str,
    scorer: RSRScorer | None = None,
    provenance: Any = None,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    card: Mapping[str, Any] | DatasetCardData | None = None,
    max_shard_size: int | str | None = None,
    embed_report: str | Path | None = None,
) -> Published:
    """Pushes a curated data set to the Hub, with a card that says how it was made.

    First the data goes through ``Dataset.push_to_hub``; then card, figure and provenance records go in one commit.
    Of a repository that is there already, the card's hand-written text outside the section between our two comments
    stays, and so do hand-written fields of its header; ``size_categories`` is renewed. How the rows were scored is
    read from the records that travel with the data; ``Dataset.map`` and plain Parquet do not keep them, and then
    ``scorer`` or ``provenance`` says it. What fails for a moment is tried again; a push that failed can be repeated:
    what is there already is not sent twice.

    Args:
        dataset: Scored, and mostly selected, rows; not changed.
        repo_id: ``"namespace/name"``, or a name in the namespace of the token's owner.
        scorer: The scorer that gave the scores.
        provenance: A provenance record, a list of them, a JSON file of these, or a run folder of
            :func:`rsr_datasets.score_dataset` or the ``run.json`` or ``manifest.json`` in it.
        private: Whether a new repository is private. ``None`` is the Hub's own default: public, unless the
            organisation's settings say otherwise. A repository that exists keeps its visibility.
        token: Access token with the right to write; ``None`` or ``True`` is the one of ``hf auth login`` or
            ``HF_TOKEN``.
        revision: Branch to push to, made if it is not there; ``None`` is ``main``.
        create_pr: Open a pull request, which holds data and card, in place of writing to ``main``.
        card: Fields of the card's YAML header, such as ``{"license": "mit", "language": ["en"], "source_datasets":
            ["me/traces"]}``; they win over those of an existing card.
        max_shard_size: As in ``Dataset.push_to_hub``.
        embed_report: An HTML report to upload beside the card, which links to it.

    Returns:
        Where it is.

    Raises:
        ValueError: Before anything is sent: if the data set has no rows, nothing says how the rows were scored, what
            is given contradicts their settings column, the header is not valid, or arguments exclude each other.
        FileNotFoundError: If a file is not there, likewise.
        TypeError: If ``dataset`` is neither a ``Dataset`` nor a ``DatasetDict``.
        HubError: If the Hub cannot be reached, refuses, or keeps failing; it says what to do and how far the push
            got.
    """
    if create_pr and revision is not None:
        raise ValueError(f"create_pr=True and revision={revision!r}: a pull request is made against main; give one")
    token = token if isinstance(token, str) else None if token is False else get_token()
    api = HfApi(token=token, library_name="rsr_datasets")
    if not token:
        build_card(dataset, repo_id, scorer, provenance, card, embed_report)
        raise HubError(
            "no access token: run `hf auth login`, set HF_TOKEN, or pass token= (make one with the right to write at "
            f"{api.endpoint}/settings/tokens)"
        )
    push = _Push(api, token, repo_id)
    made = build_card(dataset, push.full_id(), scorer, provenance, card, embed_report, secrets=[token])
    push.prepare(made, private, revision, create_pr)
    push.send_data(dataset, max_shard_size)
    return push.send_card(made)


class _Push:
    """One push: the repository and revision it goes to, and how far it got."""

    def __init__(self, api: HfApi, token: str, repo_id: str) -> None:
        self.api = api
        self.token = token
        self.repo_id = repo_id
        self.revision: str | None = None
        self.pull_request: int | None = None
        self.so_far = "nothing was sent"

    def full_id(self) -> str:
        """The repository with its namespace, the token's owner where none was given."""
        if "/" not in self.repo_id:
            self.repo_id = f"{self._try(self.api.whoami)['name']}/{self.repo_id}"
        return self.repo_id

    def prepare(self, made: CuratedCard, private: bool | None, revision: str | None, create_pr: bool) -> None:
        """Finds or makes the repository and the revision, and has the Hub check the card before any data is sent."""
        is_new = not self._try(lambda: self.api.repo_exists(self.repo_id, repo_type=_REPO_TYPE))
        existing = None if is_new else self._readme(self._head(None))
        self._try(lambda: _validate(made.merged_into(existing)))
        if is_new:
            url = self._try(
                lambda: self.api.create_repo(self.repo_id, repo_type=_REPO_TYPE, private=private, exist_ok=True)
            )
            if url.repo_type != _REPO_TYPE:
                raise HubError(f"{self.repo_id} exists as a {url.repo_type}: choose another repo_id; {self.so_far}")
            self.so_far = f"the repository {self.repo_id} was made and has no data yet"
        if create_pr:
            opened = self._try(
                lambda: self.api.create_pull_request(self.repo_id, title=_MESSAGE, repo_type=_REPO_TYPE)
            )
            self.pull_request = opened.num
            self.revision = f"refs/pr/{opened.num}"
            self.so_far = f"pull request {opened.num} of {self.repo_id} was opened and has no data yet"
        elif revision is not None:
            self.revision = revision
            self._try(
                lambda: self.api.create_branch(self.repo_id, branch=revision, repo_type=_REPO_TYPE, exist_ok=True)
            )

    def send_data(self, dataset: Dataset | DatasetDict, max_shard_size: int | str | None) -> None:
        """Pushes the rows."""
        self._try(
            lambda: dataset.push_to_hub(
                self.repo_id,
                commit_message=f"{_MESSAGE}: data",
                token=self.token,
                revision=self.revision,
                max_shard_size=max_shard_size,
            )
        )
        self.so_far = f"the data is in {self.repo_id}, but its card could not be written"

    def send_card(self, made: CuratedCard) -> Published:
        """Commits card, figure and records; begins again where somebody else commits meanwhile."""

        def commit() -> str:
            head = self._head(self.revision)
            content = {**made.files, _README: str(made.merged_into(self._readme(head))).encode()}
            done = self.api.create_commit(
                self.repo_id,
                [CommitOperationAdd(path, content[path]) for path in sorted(content)],
                commit_message=f"{_MESSAGE}: card",
                repo_type=_REPO_TYPE,
                revision=self.revision,
                parent_commit=head,
            )
            return str(done.oid)

        oid = self._try(commit)
        url = f"{self.api.endpoint}/datasets/{self.repo_id}"
        if self.pull_request is None:
            return Published(self.repo_id, url, oid)
        number = self.pull_request
        self.so_far = f"data and card are in pull request {number} of {self.repo_id}, which is still a draft"
        self._try(lambda: self.api.change_discussion_status(self.repo_id, number, "open", repo_type=_REPO_TYPE))
        return Published(self.repo_id, url, oid, f"{url}/discussions/{number}")

    def _head(self, revision: str | None) -> str:
        return str(self._try(lambda: self.api.repo_info(self.repo_id, repo_type=_REPO_TYPE, revision=revision).sha))

    def _readme(self, commit: str) -> str | None:
        def download() -> str | None:
            try:
                file = self.api.hf_hub_download(self.repo_id, _README, repo_type=_REPO_TYPE, revision=commit)
            except RemoteEntryNotFoundError:
                return None
            return Path(file).read_text(encoding="utf-8-sig")

        return self._try(download)

    def _try(self, step: Callable[[], T]) -> T:
        """Does a step, again where it fails in a way that passes, and says one clear sentence where it does not.

        Raises:
            HubError: For everything that comes from the Hub or the network.
        """
        wait = 1.0
        for left in reversed(range(_TRIES)):
            try:
                return step()
            except HubError:
                raise
            except Exception as error:
                cause = _cause(error)
                if cause is None:
                    raise
                if left and _passes(cause):
                    seconds = _asked_wait(cause, wait)
                    logger.warning("%s; trying again in %g s", self._hide(_reason(cause)), seconds)
                    time.sleep(seconds)
                    wait *= 2
                    continue
                message = self._hide(f"{self._advice(cause)}; {self.so_far}")
                # What a server or proxy says may repeat what it was sent.
                leaks = any(self.token in str(link) for link in _chain(error))
                raise HubError(message) from (None if leaks else error)
        raise AssertionError("unreachable")

    def _advice(self, cause: BaseException) -> str:
        endpoint = self.api.endpoint
        if isinstance(cause, OfflineModeIsEnabled):
            return "the Hub client is offline: unset HF_HUB_OFFLINE to push"
        status = _status(cause)
        if status is None and not isinstance(cause, json.JSONDecodeError):
            return f"cannot reach {endpoint} ({_reason(cause)}): check the network and push again"
        if isinstance(cause, RevisionNotFoundError):
            return f"{self.repo_id} has no revision {self.revision!r}: push to a branch that can be made"
        if status == 401:
            return (
                f"the Hub does not accept the access token ({status}): make a new one with the right to write at "
                f"{endpoint}/settings/tokens, then run `hf auth login` or pass token="
            )
        if status == 403 or isinstance(cause, RepositoryNotFoundError):
            return (
                f"the access token has no right to write to {self.repo_id} ({status}): take a namespace of yours, or "
                f"a token with the right to write there ({endpoint}/settings/tokens)"
            )
        if status is None or status in _PASSING:
            return f"the Hub keeps failing ({_reason(cause)}): push again later, what arrived is not sent twice"
        return f"the Hub refused: {_reason(cause)}"

    def _hide(self, message: str) -> str:
        return message.replace(self.token, "(token)")


def _validate(card: DatasetCard) -> None:
    """Has the Hub check a header.

    Raises:
        ValueError: If it is not valid.
    """
    try:
        card.validate()
    except ValueError as error:
        raise ValueError(f"the Hub does not accept the card's header, correct it with card=: {error}") from None


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        # A ValueError says itself what is wrong, whatever was being handled when it arose.
        is_own = link.__suppress_context__ or isinstance(link, ValueError)
        link = link.__cause__ or (None if is_own else link.__context__)


def _cause(error: BaseException) -> BaseException | None:
    """The first error of a chain that came from the Hub or the network."""
    for link in _chain(error):
        from_network = isinstance(link, _HTTPError | json.JSONDecodeError | OfflineModeIsEnabled | ConnectionError)
        if from_network or type(link).__module__.startswith("hf_xet"):
            return link
    return None


def _status(cause: BaseException) -> int | None:
    response = getattr(cause, "response", None)
    return None if response is None else response.status_code


def _passes(cause: BaseException) -> bool:
    status = _status(cause)
    if status is not None:
        return status in _PASSING
    return not isinstance(cause, OfflineModeIsEnabled)


def _asked_wait(cause: BaseException, otherwise: float) -> float:
    """Seconds to wait: what the server asks for, within reason."""
    response = getattr(cause, "response", None)
    asked = "" if response is None else response.headers.get("Retry-After", "").strip()
    return min(float(asked), _MAX_WAIT_SECONDS) if asked.isdigit() else otherwise


def _reason(cause: BaseException) -> str:
    status = _status(cause)
    said = getattr(cause, "server_message", None) or ""
    if status is not None:
        return " ".join(f"status {status} {said}".split())
    return " ".join(f"{type(cause).__name__}: {cause}".split())
