"""A Hub small enough for tests: it speaks what huggingface_hub and datasets ask of the real one, over real HTTP.

Repositories are commits of files in memory. Large files go through the LFS protocol to a storage on another host
name, as on the real Hub, where an access token is an error. ``Hub.fail`` and ``Hub.drop`` make requests go wrong.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import socket
import struct
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LFS_SUFFIXES = (".parquet", ".arrow", ".png", ".bin")
KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}
LICENSES = ("mit", "apache-2.0", "cc-by-4.0", "odc-by", "other", "unknown")
HEADER = re.compile(r"^(\s*---(?:\r\n|\r|\n))([\S\s]*?)((?:\r\n|\r|\n)---[ \t]*(\r\n|\n|$))")


@dataclass(frozen=True)
class Blob:
    """A file's content; of a large one, how Git LFS knows it."""

    content: bytes
    is_lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def git_oid(self) -> str:
        stored = self.pointer if self.is_lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()

    @property
    def pointer(self) -> bytes:
        lines = (
            "version https://git-lfs.github.com/spec/v1",
            f"oid sha256:{self.sha256}",
            f"size {len(self.content)}",
        )
        return "\n".join(lines).encode() + b"\n"

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_lfs else self.git_oid


Files = dict[str, Blob]


@dataclass
class Repo:
    """A repository: commits, and branches and pull requests that point to them."""

    kind: str
    id: str
    private: bool
    commits: dict[str, tuple[str, Files]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    pull_requests: dict[int, dict[str, Any]] = field(default_factory=dict)

    def commit(self, ref: str, message: str, files: Files) -> str:
        content = json.dumps([len(self.commits), message, {path: blob.etag for path, blob in sorted(files.items())}])
        sha = hashlib.sha1(content.encode()).hexdigest()
        self.commits[sha] = (message, files)
        self.refs[ref] = sha
        return sha

    def find(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.refs.get(revision)

    def files(self, revision: str = "main") -> Files:
        sha = self.find(revision)
        assert sha is not None, revision
        return self.commits[sha][1]

    def messages(self) -> list[str]:
        return [message for message, _ in self.commits.values()]


@dataclass
class Fault:
    """Faults of the next requests that match, after those that are let through."""

    method: str
    path: re.Pattern[str]
    times: int
    skip: int = 0
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""
    after_bytes: int = 0


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str, code: str | None = None, **body: Any) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.body = {"error": message} | body


class Hub:
    """The server and all that it holds.

    Args:
        users: Token to the namespaces that it may write to, the owner's own name first.
        one_name_one_kind: Refuse a name that another kind of repository has.
    """

    def __init__(self, users: dict[str, list[str]], one_name_one_kind: bool = False) -> None:
        self.users = users
        self.one_name_one_kind = one_name_one_kind
        self.repos: dict[tuple[str, str], Repo] = {}
        self.lfs: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.leaks: list[str] = []
        self.validations = 0
        self.lock = threading.RLock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.storage = f"http://localhost:{self.port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> Hub:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def reset(self) -> None:
        with self.lock:
            self.one_name_one_kind = False
            for held in (self.repos, self.lfs, self.faults, self.requests, self.leaks):
                held.clear()

    def fail(self, method: str, path: str, status: int, times: int = 2, after: int = 0, body: str = "") -> None:
        """Answers matching requests, those after the first ones, with an error and the wish to be asked at once."""
        self.faults.append(Fault(method, re.compile(path), times, after, status, {"Retry-After": "0"}, body))

    def drop(self, method: str, path: str, after_bytes: int, times: int = 1) -> None:
        """Reads so many bytes of the next matching requests' bodies and then breaks the connection."""
        self.faults.append(Fault(method, re.compile(path), times, after_bytes=after_bytes))

    def create(self, kind: str, repo_id: str, private: bool = False, files: dict[str, bytes] | None = None) -> Repo:
        repo = self.repos[kind, repo_id] = Repo(kind, repo_id, private)
        made = {".gitattributes": b"*.parquet filter=lfs\n"} | (files or {})
        repo.commit("main", "initial commit", {path: Blob(c, path.endswith(LFS_SUFFIXES)) for path, c in made.items()})
        return repo

    def dataset(self, repo_id: str) -> Repo:
        return self.repos["dataset", repo_id]

    def requested(self, method: str, path: str) -> int:
        return sum(m == method and re.search(path, p) is not None for m, p in self.requests)

    def stored(self) -> bytes:
        """Everything that was ever sent and kept, in one."""
        files = [
            blob.content
            for repo in self.repos.values()
            for _, files in repo.commits.values()
            for blob in files.values()
        ]
        return b"\n".join([*files, *self.lfs.values()])


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        self.query = parse_qs(parts.query)
        path = parts.path
        with self.hub.lock:
            self.hub.requests.append((self.command, path))
            fault = next((f for f in self.hub.faults if f.method == self.command and f.path.search(path)), None)
            if fault and fault.skip:
                fault.skip -= 1
                fault = None
            elif fault:
                fault.times -= 1
                if fault.times <= 0:
                    self.hub.faults.remove(fault)
        if fault and fault.status is None:
            self._break_off(fault.after_bytes)
            return
        self.body = self._read_body()
        if fault:
            assert fault.status is not None
            kind = "text/html" if fault.body.startswith("<") else "text/plain"
            self._answer(fault.status, fault.body.encode(), {"Content-Type": kind, **fault.headers})
            return
        try:
            with self.hub.lock:
                self._route(path)
        except Refusal as refusal:
            self._json(refusal.body, refusal.status, refusal.headers)

    def _break_off(self, after_bytes: int) -> None:
        while after_bytes > 0 and (read := self.rfile.read1(min(after_bytes, 65536))):
            after_bytes -= len(read)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.close()

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._answer(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _route(self, path: str) -> None:
        if path.startswith("/storage/"):
            return self._storage(path.removeprefix("/storage/"))
        if path == "/api/whoami-v2":
            name, *organisations = self._namespaces(needed=True)
            return self._json({"type": "user", "name": name, "orgs": [{"name": org} for org in organisations]})
        if path == "/api/validate-yaml":
            return self._validate()
        if path == "/api/repos/create":
            return self._create()
        name = r"(?P<id>[^/]+/[^/]+)"
        if match := re.fullmatch(rf"/(?:(?P<kind>models|datasets|spaces)/)?{name}/resolve/(?P<rest>.+)", path):
            return self._resolve(match["kind"] or "models", match["id"], match["rest"])
        if match := re.fullmatch(rf"/(?:(?P<kind>datasets|spaces)/)?{name}\.git/info/lfs/objects/batch", path):
            return self._lfs_batch(match["kind"] or "models", match["id"])
        if match := re.fullmatch(rf"/api/(?P<kind>models|datasets|spaces)/{name}(?:/(?P<rest>.*))?", path):
            return self._repo_api(match["kind"], match["id"], match["rest"] or "")
        raise Refusal(404, f"no route {self.command} {path}", "EntryNotFound")

    def _namespaces(self, needed: bool = False) -> list[str]:
        authorization = self.headers.get("Authorization", "")
        token = authorization.removeprefix("Bearer ")
        if not authorization:
            if needed:
                raise Refusal(401, "Invalid username or password.")
            return []
        if token not in self.hub.users:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return self.hub.users[token]

    def _repo(self, kind: str, repo_id: str, write: bool = False) -> Repo:
        namespaces = self._namespaces(needed=write)
        repo = self.hub.repos.get((KINDS[kind], repo_id))
        is_own = repo_id.split("/")[0] in namespaces
        if repo is None or (repo.private and not is_own):
            raise Refusal(404 if namespaces else 401, "Repository not found", "RepoNotFound")
        if write and not is_own:
            raise Refusal(403, "You don't have the rights to do this in this namespace")
        return repo

    @staticmethod
    def _sha(repo: Repo, revision: str) -> str:
        sha = repo.find(unquote(revision))
        if sha is None:
            raise Refusal(404, f"Invalid rev id: {unquote(revision)}", "RevisionNotFound")
        return sha

    def _create(self) -> None:
        wanted = json.loads(self.body)
        namespaces = self._namespaces(needed=True)
        namespace = wanted.get("organization") or namespaces[0]
        kind, repo_id = wanted.get("type", "model"), f"{namespace}/{wanted['name']}"
        if namespace not in namespaces:
            raise Refusal(403, f"You don't have the rights to create a {kind} under the namespace {namespace!r}")
        kinds = [k for k, known in self.hub.repos if known == repo_id]
        taken = kind if kind in kinds else kinds[0] if kinds and self.hub.one_name_one_kind else None
        prefix = "" if (taken or kind) == "model" else f"{taken or kind}s/"
        url = f"{self.hub.endpoint}/{prefix}{repo_id}"
        if taken:
            raise Refusal(409, f"You already created this {taken} repo", url=url, name=repo_id)
        self.hub.create(kind, repo_id, wanted.get("visibility") == "private")
        self._json({"url": url, "name": repo_id})

    def _validate(self) -> None:
        self.hub.validations += 1
        wanted = json.loads(self.body)
        match = HEADER.search(wanted["content"])
        errors: list[str] = []
        try:
            header = yaml.safe_load(match[2]) if match else {}
        except yaml.YAMLError as error:
            header, errors = {}, [f"invalid YAML: {error}"]
        if not isinstance(header, dict):
            header, errors = {}, ["the metadata is no mapping"]
        if header.get("license") is not None and header["license"] not in LICENSES:
            errors.append(f'"license" must be one of {list(LICENSES)}')
        for name in ("tags", "task_categories", "size_categories", "source_datasets"):
            value = header.get(name, [])
            if not isinstance(value, list | str) or not all(isinstance(item, str) for item in value):
                errors.append(f'"{name}" must be text or a list of texts')
        body = {"errors": [{"message": error} for error in errors], "warnings": []}
        self._json(body, 400 if errors else 200)

    def _repo_api(self, kind: str, repo_id: str, rest: str) -> None:
        action, _, argument = rest.partition("/")
        if self.command == "GET" and action in ("", "revision"):
            repo = self._repo(kind, repo_id)
            return self._json(self._info(repo, self._sha(repo, argument or "main")))
        if self.command == "GET" and action == "tree":
            return self._tree(self._repo(kind, repo_id), argument)
        if self.command == "POST" and action == "paths-info":
            return self._paths_info(self._repo(kind, repo_id), argument)
        if self.command == "POST" and action == "branch":
            return self._branch(self._repo(kind, repo_id, write=True), unquote(argument))
        if self.command == "POST" and action == "preupload":
            return self._preupload(kind, repo_id, argument)
        if self.command == "POST" and action == "commit":
            return self._commit(kind, repo_id, argument)
        if self.command == "POST" and action == "lfs-verify":
            self._namespaces(needed=True)
            wanted = json.loads(self.body)
            if len(self.hub.lfs.get(wanted["oid"], b"")) != wanted["size"]:
                raise Refusal(404, "the object did not arrive")
            return self._json({})
        if action == "discussions":
            return self._discussions(self._repo(kind, repo_id), argument)
        raise Refusal(404, f"no route {self.command} {rest}", "EntryNotFound")

    def _may_write(self, kind: str, repo_id: str, revision: str) -> Repo:
        """To a pull request its author may write; to anything else those with rights in the namespace."""
        repo = self._repo(kind, repo_id)
        match = re.fullmatch(r"refs/pr/(\d+)", revision)
        if match and repo.pull_requests[int(match[1])]["author"] in self._namespaces(needed=True):
            return repo
        return self._repo(kind, repo_id, write=True)

    def _info(self, repo: Repo, sha: str) -> dict[str, Any]:
        files = repo.commits[sha][1]
        info: dict[str, Any] = {"id": repo.id, "sha": sha, "private": repo.private, "gated": False, "disabled": False}
        info["siblings"] = [
            {"rfilename": path, "size": len(blob.content), "blobId": blob.git_oid} for path, blob in files.items()
        ]
        return info

    @staticmethod
    def _entry(path: str, blob: Blob) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(blob.content), "oid": blob.git_oid}
        if blob.is_lfs:
            entry["lfs"] = {"oid": blob.sha256, "size": len(blob.content), "pointerSize": len(blob.pointer)}
        return entry

    def _tree(self, repo: Repo, argument: str) -> None:
        revision, _, folder = argument.partition("/")
        files = repo.files(self._sha(repo, revision))
        prefix = f"{unquote(folder)}/" if folder else ""
        inside = {path: blob for path, blob in files.items() if path.startswith(prefix)}
        if not inside:
            raise Refusal(404, f"{unquote(folder)} does not exist", "EntryNotFound")
        recursive = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        folders = {parent for path in inside for parent in _parents(path) if parent.startswith(prefix)}
        paths = sorted([*inside, *folders])
        if not recursive:
            paths = [path for path in paths if "/" not in path.removeprefix(prefix)]
        self._json([self._entry(p, inside[p]) if p in inside else _folder(p) for p in paths])

    def _paths_info(self, repo: Repo, revision: str) -> None:
        files = repo.files(self._sha(repo, revision))
        folders = {parent for path in files for parent in _parents(path)}
        wanted = parse_qs(self.body.decode()).get("paths", [])
        found = [self._entry(path, files[path]) for path in wanted if path in files]
        self._json(found + [_folder(path) for path in wanted if path in folders])

    def _branch(self, repo: Repo, name: str) -> None:
        if name.startswith("refs/"):
            raise Refusal(400, f"Invalid reference for a branch: {name}")
        if name in repo.refs:
            raise Refusal(409, f"Reference already exists: {name}")
        start = json.loads(self.body or b"{}").get("startingPoint", "main")
        repo.refs[name] = self._sha(repo, start)
        self._json({})

    def _discussions(self, repo: Repo, argument: str) -> None:
        author = self._namespaces(needed=True)[0]
        number, _, action = argument.partition("/")
        if self.command == "POST" and not number:
            num = len(repo.pull_requests) + 1
            title = json.loads(self.body)["title"]
            repo.pull_requests[num] = {"author": author, "title": title, "status": "draft"}
            repo.refs[f"refs/pr/{num}"] = repo.refs["main"]
            return self._json({"num": num, "pullRequest": True})
        known = repo.pull_requests.get(int(number))
        if known is None:
            raise Refusal(404, "no such discussion", "EntryNotFound")
        when = "2026-01-01T00:00:00.000Z"
        if action == "status":
            known["status"] = json.loads(self.body)["status"]
            event = {"id": "e1", "type": "status-change", "createdAt": when, "author": {"name": author}}
            return self._json({"newStatus": event | {"data": {"status": known["status"]}}})
        details = {"num": int(number), "title": known["title"], "status": known["status"], "isPullRequest": True}
        details |= {
            "createdAt": when,
            "author": {"name": known["author"]},
            "events": [],
            "repo": {"name": repo.id, "type": repo.kind},
        }
        changes = {"base": "refs/heads/main", "mergeCommitId": None}
        self._json(details | {"changes": changes, "filesWithConflicts": [], "diffUrl": ""})

    def _preupload(self, kind: str, repo_id: str, revision: str) -> None:
        repo = self._may_write(kind, repo_id, unquote(revision))
        files = repo.files(self._sha(repo, revision))
        answers = []
        for file in json.loads(self.body)["files"]:
            path = file["path"]
            mode = "lfs" if path.endswith(LFS_SUFFIXES) or file["size"] > 10 * 2**20 else "regular"
            oid = files[path].etag if path in files else None
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._json({"files": answers})

    def _lfs_batch(self, kind: str, repo_id: str) -> None:
        wanted = json.loads(self.body)
        self._may_write(kind, repo_id, wanted.get("ref", {}).get("name", "main"))
        objects = []
        for item in wanted["objects"]:
            answer = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.hub.lfs:
                upload = {"href": f"{self.hub.storage}/storage/{item['oid']}"}
                verify = {"href": f"{self.hub.endpoint}/api/{kind}/{repo_id}/lfs-verify"}
                answer["actions"] = {"upload": upload, "verify": verify}
            objects.append(answer)
        self._json({"transfer": "basic", "objects": objects})

    def _storage(self, oid: str) -> None:
        if self.headers.get("Authorization"):
            self.hub.leaks.append(self.path)
            raise Refusal(400, "the storage takes no access token")
        if self.command == "PUT":
            if hashlib.sha256(self.body).hexdigest() != oid:
                raise Refusal(400, "the content has another hash")
            self.hub.lfs[oid] = self.body
            return self._answer(200, b"", {})
        if oid not in self.hub.lfs:
            raise Refusal(404, "no such object", "EntryNotFound")
        self._content(self.hub.lfs[oid], {"ETag": f'"{oid}"'})

    def _commit(self, kind: str, repo_id: str, revision: str) -> None:
        ref = unquote(revision)
        repo = self._may_write(kind, repo_id, ref)
        lines = [json.loads(line) for line in self.body.splitlines()]
        assert self.query.get("create_pr") is None, "pull requests are opened beforehand"
        header = lines[0]["value"]
        parent = self._sha(repo, revision)
        if header.get("parentCommit") not in (None, parent):
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        files = dict(repo.files(parent))
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]), is_lfs=False)
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.lfs:
                    raise Refusal(400, f"{value['path']} was not uploaded")
                files[value["path"]] = Blob(self.hub.lfs[value["oid"]], is_lfs=True)
            elif line["key"] == "deletedFile":
                if value["path"] not in files:
                    raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
                del files[value["path"]]
            else:
                raise Refusal(400, f"unknown operation {line['key']}")
        sha = repo.commit(ref, header["summary"], files)
        self._json(
            {"success": True, "commitOid": sha, "commitUrl": f"{self.hub.endpoint}/datasets/{repo_id}/commit/{sha}"}
        )

    def _resolve(self, kind: str, repo_id: str, rest: str) -> None:
        repo = self._repo(kind, repo_id)
        revision, _, path = rest.partition("/")
        sha = self._sha(repo, revision)
        blob = repo.files(sha).get(unquote(path))
        if blob is None:
            raise Refusal(404, "Entry not found", "EntryNotFound")
        headers = {"X-Repo-Commit": sha, "ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}
        if not blob.is_lfs:
            return self._content(blob.content, headers)
        linked = {"X-Linked-ETag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.content))}
        location = f"{self.hub.storage}/storage/{blob.sha256}"
        return self._answer(302, b"", headers | linked | {"Location": location})

    def _content(self, content: bytes, headers: dict[str, str]) -> None:
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(match[1]), int(match[2] or len(content) - 1)
            part = content[start : end + 1]
            span = f"bytes {start}-{start + len(part) - 1}/{len(content)}"
            return self._answer(206, part, headers | {"Content-Range": span})
        return self._answer(200, content, headers)


def _parents(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[: i + 1]) for i in range(len(parts))]


def _folder(path: str) -> dict[str, Any]:
    return {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(path.encode()).hexdigest()}
