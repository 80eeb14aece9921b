"""The way to the Hub: data through ``Dataset.push_to_hub``, then card and figure in one commit."""

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from datasets import Dataset, DatasetDict
from huggingface_hub import CommitOperationAdd, DatasetCardData, HfApi, errors, get_token

from ..scoring.scorer import RSRScorer
from .card import CuratedCard, build_card

logger = logging.getLogger(__name__)

_README = "README.md"
_MESSAGE = "Curated with rsr_datasets"
_PASSING = (408, 429, 500, 502, 503, 504, 409, 412)  # the last two: somebody else commits at this moment
_HTTP_CLIENTS = ("httpx", "httpx2", "hf_xet")  # modules whose errors come from the network

T = TypeVar("T")


class HubError(RuntimeError):
    """The Hub, or the way to it, did not do what was asked; the message is one sentence that says what to do."""


@dataclass(frozen=True)
class Published:
    """The result of a push.

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
    controls: Mapping[str, Dataset] | None = None,
) -> Published:
    """Pushes a curated dataset to the Hub, with a card that says how it was made.

    The data goes through ``Dataset.push_to_hub``; then card, figure and provenance records go in one commit. An
    existing card keeps its hand-written text outside our two comments and its hand-written header fields;
    ``size_categories`` is renewed. The card reads how the rows were scored from the records in the data;
    ``Dataset.map`` and plain Parquet do not keep records, and then ``scorer`` or ``provenance`` says it. A failure
    that may pass is tried again, and a push that failed can be repeated: nothing is sent twice.

    Args:
        dataset: Scored, and mostly selected, rows; not changed.
        repo_id: ``"namespace/name"``, or a name in the namespace of the token's owner.
        scorer: The scorer that gave the scores.
        provenance: Where it says how the rows were scored: a run folder of :func:`rsr_datasets.score_dataset`, the
            ``run.json`` or ``manifest.json`` in it, or a JSON file of records. Records themselves are taken too.
        private: Make a new repository private, or public. ``None`` is the Hub's own default: public, unless the
            organisation's settings say otherwise. An existing repository keeps its visibility.
        token: Access token with the right to write; ``None`` or ``True`` is the one of ``hf auth login`` or
            ``HF_TOKEN``.
        revision: Branch to push to, made if it is not there; ``None`` is ``main``.
        create_pr: Open a pull request, which holds data and card, in place of writing to ``main``.
        card: Fields of the card's YAML header, such as ``{"license": "mit", "language": ["en"], "source_datasets":
            ["me/traces"]}``; they win over those of an existing card.
        max_shard_size: The largest file of the data, such as ``"500MB"``, as in ``Dataset.push_to_hub``.
        embed_report: An HTML report to upload beside the card, which links to it.
        controls: Control arms by name, as :func:`control_subsets` gives them: each becomes a configuration of the
            repository, with its rows as the split ``train``. The selection is the configuration ``default``.

    Returns:
        Where it is.

    Raises:
        ValueError: Before anything is sent: the dataset has no rows, nothing says how the rows were scored,
            ``scorer`` or ``provenance`` contradicts the settings column, the Hub refuses the header, or arguments
            exclude each other.
        FileNotFoundError: Before anything is sent: a file is not there.
        TypeError: If ``dataset`` is neither a ``Dataset`` nor a ``DatasetDict``.
        HubError: If the Hub cannot be reached, refuses, or keeps failing; the message says what to do and how far
            the push got.
    """
    if create_pr and revision is not None:
        raise ValueError(f"create_pr=True and revision={revision!r}: a pull request is made against main; give one")
    token = token if isinstance(token, str) else None if token is False else get_token()
    api = HfApi(token=token, library_name="rsr_datasets")
    if not token:
        build_card(dataset, repo_id, scorer, provenance, card, embed_report, controls)
        raise HubError(
            "no access token: run `hf auth login`, set HF_TOKEN, or pass token= (make one with the right to write at "
            f"{api.endpoint}/settings/tokens)"
        )
    push = _Push(api, token, repo_id)
    made = build_card(dataset, push.repo_id, scorer, provenance, card, embed_report, controls, secrets=[token])
    push.prepare(made, private, revision, create_pr)
    return push.send(dataset, controls or {}, made, max_shard_size)


class _Push:
    """One push: the repository and revision it goes to, and how far it got."""

    def __init__(self, api: HfApi, token: str, repo_id: str) -> None:
        self.api, self.token, self.repo_id = api, token, repo_id
        self.so_far = "nothing was sent"
        if "/" not in repo_id:
            self.repo_id = f"{self._try(api.whoami)['name']}/{repo_id}"
        self.repo: dict[str, Any] = {"repo_id": self.repo_id, "repo_type": "dataset"}
        self.revision: str | None = None
        self.pull_request: int | None = None

    def prepare(self, made: CuratedCard, private: bool | None, revision: str | None, create_pr: bool) -> None:
        """Finds or makes the repository and the revision; the Hub checks the card before any data is sent."""
        api, repo = self.api, self.repo
        is_new = not self._try(lambda: api.repo_exists(**repo))
        merged = made.merged_into(None if is_new else self._try(lambda: self._readme(None)))
        try:
            self._try(merged.validate)
        except ValueError as error:
            raise ValueError(f"the Hub does not accept the card's header, correct it with card=: {error}") from None
        if is_new:
            url = self._try(lambda: api.create_repo(**repo, private=private, exist_ok=True))
            if url.repo_type != repo["repo_type"]:
                raise HubError(f"{self.repo_id} exists as a {url.repo_type}: choose another repo_id; {self.so_far}")
            self.so_far = f"the repository {self.repo_id} was made and has no data yet"
        if create_pr:
            self.pull_request = self._try(lambda: api.create_pull_request(**repo, title=_MESSAGE).num)
            self.revision = f"refs/pr/{self.pull_request}"
            self.so_far = f"pull request {self.pull_request} of {self.repo_id} was opened and has no data yet"
        elif revision is not None:
            self.revision = revision
            self._try(lambda: api.create_branch(**repo, branch=revision, exist_ok=True))

    def send(
        self,
        dataset: Dataset | DatasetDict,
        controls: Mapping[str, Dataset],
        made: CuratedCard,
        max_shard_size: int | str | None,
    ) -> Published:
        """Pushes the rows, those of each control arm, then card, figure and records in one commit."""
        to: dict[str, Any] = {"token": self.token, "revision": self.revision, "max_shard_size": max_shard_size}
        self._try(lambda: dataset.push_to_hub(self.repo_id, commit_message=f"{_MESSAGE}: data", **to))
        self.so_far = f"the data is in {self.repo_id}, but its card could not be written"
        for name, rows in controls.items():
            arm = {"config_name": name, "split": "train", "commit_message": f"{_MESSAGE}: arm {name}", **to}
            self._try(partial(rows.push_to_hub, self.repo_id, **arm))

        def commit() -> str:  # begins with what is there now: somebody else may have committed meanwhile
            head = self.api.repo_info(**self.repo, revision=self.revision).sha
            content = {**made.files, _README: str(made.merged_into(self._readme(head))).encode()}
            operations = [CommitOperationAdd(path, content[path]) for path in sorted(content)]
            to: dict[str, Any] = {"operations": operations, "revision": self.revision, "parent_commit": head}
            return str(self.api.create_commit(**self.repo, **to, commit_message=f"{_MESSAGE}: card").oid)

        oid = self._try(commit)
        url = f"{self.api.endpoint}/datasets/{self.repo_id}"
        if (number := self.pull_request) is None:
            return Published(self.repo_id, url, oid)
        self.so_far = f"data and card are in pull request {number} of {self.repo_id}, which is still a draft"
        self._try(lambda: self.api.change_discussion_status(**self.repo, discussion_num=number, new_status="open"))
        return Published(self.repo_id, url, oid, f"{url}/discussions/{number}")

    def _readme(self, revision: str | None) -> str | None:
        try:
            file = self.api.hf_hub_download(**self.repo, filename=_README, revision=revision)
        except errors.RemoteEntryNotFoundError:
            return None
        return Path(file).read_text(encoding="utf-8-sig")

    def _try(self, step: Callable[[], T], waits: Sequence[int] = (1, 2, 4)) -> T:
        """Does a step, and repeats it where the failure may pass; failures of Hub and network become ``HubError``.

        ``huggingface_hub`` itself repeats uploads and downloads, but not requests for repositories, cards and commits.
        """
        try:
            return step()
        except Exception as error:
            if (cause := _cause(error)) is None:
                raise
            if not waits or not _passes(cause):
                # The answer of a server or proxy may repeat the token that was sent.
                leaks = any(self.token in str(link) for link in _chain(error))
                message = f"{self._advice(cause)}; {self.so_far}".replace(self.token, "(token)")
                raise HubError(message) from (None if leaks else error)
            logger.warning("%s; trying again in %d s", _reason(cause).replace(self.token, "(token)"), waits[0])
        time.sleep(waits[0])
        return self._try(step, waits[1:])

    def _advice(self, cause: BaseException) -> str:
        endpoint, status = self.api.endpoint, _status(cause)
        if isinstance(cause, errors.OfflineModeIsEnabled):
            return "the Hub client is offline: unset HF_HUB_OFFLINE to push"
        if status is None and not isinstance(cause, json.JSONDecodeError):
            return f"cannot reach {endpoint} ({_reason(cause)}): check the network and push again"
        tokens = f"{endpoint}/settings/tokens"
        if status == 401:
            problem = f"the Hub does not accept the access token ({status}): make a new one with the right to write"
            return f"{problem} at {tokens}, then run `hf auth login` or pass token="
        if status == 403 or isinstance(cause, errors.RepositoryNotFoundError):
            problem = f"the access token has no right to write to {self.repo_id} ({status})"
            return f"{problem}: take a namespace of yours, or a token with the right to write there ({tokens})"
        if _passes(cause):
            return f"the Hub keeps failing ({_reason(cause)}): push again later, what arrived is not sent twice"
        return f"the Hub refused: {_reason(cause)}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        # A ValueError says itself what is wrong, whatever was being handled when it arose.
        is_own = link.__suppress_context__ or isinstance(link, ValueError)
        link = link.__cause__ or (None if is_own else link.__context__)


def _cause(error: BaseException) -> BaseException | None:
    """The first error of a chain that came from the Hub or the network."""
    known = (errors.HfHubHTTPError, json.JSONDecodeError, ConnectionError)
    links = _chain(error)
    return next((e for e in links if isinstance(e, known) or type(e).__module__.split(".")[0] in _HTTP_CLIENTS), None)


def _status(cause: BaseException) -> int | None:
    return getattr(getattr(cause, "response", None), "status_code", None)


def _passes(cause: BaseException) -> bool:
    status = _status(cause)
    return not isinstance(cause, errors.OfflineModeIsEnabled) if status is None else status in _PASSING


def _reason(cause: BaseException) -> str:
    if (status := _status(cause)) is not None:
        return " ".join(f"status {status} {getattr(cause, 'server_message', None) or ''}".split())
    return " ".join(f"{type(cause).__name__}: {cause}".split())
