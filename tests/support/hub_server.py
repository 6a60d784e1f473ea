"""A small Hugging Face Hub on loopback for tests: create, upload (git-LFS), commit, list, download; faults on demand.

It serves models, and data sets as far as ``datasets.load_dataset`` reads them, with the part of the protocol that
``huggingface_hub`` uses when Xet is switched off (``HF_HUB_DISABLE_XET=1``)::

    with HubServer() as hub:
        environment = {**os.environ, **hub.environment(cache)}   # HF_ENDPOINT, HF_TOKEN, HF_HOME ...
        hub.break_connection("PUT", r"/lfs/", after_bytes=1000, times=1)

Everything is held in memory; data sets are the repositories whose name begins with ``datasets/``. ``WRITE_TOKEN`` may
write to the namespace ``tester``, ``READ_TOKEN`` may only read.
"""

import base64
import contextlib
import hashlib
import json
import re
import socket
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import transformers.utils.hub
from huggingface_hub import constants, hf_api
from huggingface_hub.utils import _http

WRITE_TOKEN = "hf_tester_may_write"
READ_TOKEN = "hf_tester_may_only_read"
LFS_SUFFIXES = (".safetensors", ".bin", ".pth", ".png", ".jpg", ".parquet")


@contextlib.contextmanager
def hub_of_this_process(monkeypatch, endpoint: str, home: Path) -> Iterator[None]:
    """Make this process ask the Hub at ``endpoint``, with a cache and no stored token below ``home``.

    Both libraries keep what they made for the Hub before: huggingface_hub its session and a client, transformers one
    with the endpoint that was set at its first request, in whichever test that was.
    """
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "no-token"))
    monkeypatch.setattr(hf_api.api, "endpoint", endpoint)  # that of the functions, which transformers 5.5 calls
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    _http.close_session()
    yield
    _http.close_session()


class HttpAnswer(Exception):
    """An answer other than 200, raised from wherever it becomes clear."""

    def __init__(self, status: int, message: str, code: str | None = None):
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


@dataclass(frozen=True)
class StoredFile:
    content: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def git_oid(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    @property
    def oid(self) -> str:
        """What the client compares with its own file to skip what has not changed."""
        return self.sha256 if self.lfs else self.git_oid


@dataclass
class Repository:
    name: str
    private: bool = False
    commits: dict[str, dict[str, StoredFile]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        self.commit("main", {})

    def commit(self, branch: str, files: dict[str, StoredFile]) -> str:
        listing = json.dumps([self.branches.get(branch), *sorted((path, file.oid) for path, file in files.items())])
        sha = hashlib.sha1(listing.encode()).hexdigest()
        self.commits[sha] = dict(files)
        self.branches[branch] = sha
        return sha

    def resolve(self, revision: str) -> str:
        sha = self.branches.get(revision, revision)
        if sha not in self.commits:
            raise HttpAnswer(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return sha


@dataclass
class Fault:
    method: str
    path: re.Pattern
    times: int
    status: int | None = None
    message: str = ""
    after_bytes: int | None = None


class HubServer(contextlib.AbstractContextManager):
    """The server; ``repositories`` and ``requests`` (method, path) are there for tests to look at."""

    def __init__(self):
        self.repositories: dict[str, Repository] = {}
        self.lfs_objects: dict[str, bytes] = {}
        self.collections: dict[str, dict[str, str | None]] = {}
        """Notes of the items by their name, for each collection's slug."""
        self.requests: list[tuple[str, str]] = []
        self._faults: list[Fault] = []
        self._lock = threading.RLock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *exc_info) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self, home: str | Path, token: str | None = WRITE_TOKEN) -> dict[str, str]:
        """Environment variables that make a process use this server and caches of its own below ``home``."""
        variables = {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1",
        }
        return variables if token is None else {**variables, "HF_TOKEN": token}

    def break_connection(self, method: str, path: str, *, after_bytes: int, times: int = 1) -> None:
        """Close the connection after ``after_bytes`` of the body, for the next ``times`` matching requests."""
        self._faults.append(Fault(method, re.compile(path), times, after_bytes=after_bytes))

    def answer_with(self, status: int, method: str, path: str, *, message: str = "injected", times: int = 1) -> None:
        """Answer the next ``times`` matching requests with this HTTP status."""
        self._faults.append(Fault(method, re.compile(path), times, status=status, message=message))

    def heal(self) -> None:
        """Forget all faults."""
        self._faults.clear()

    def next_fault(self, method: str, path: str) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                if fault.times > 0 and fault.method == method and fault.path.search(path):
                    fault.times -= 1
                    return fault
        return None

    def count(self, method: str, path: str) -> int:
        """How many requests with this method and a path that matches have arrived."""
        return sum(m == method and re.search(path, p) is not None for m, p in self.requests)

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """The files of a revision."""
        repository = self.repositories[repo_id]
        return {path: file.content for path, file in repository.commits[repository.resolve(revision)].items()}

    def publish(self, name: str, files: Mapping[str, bytes]) -> None:
        """Make a public repository with these files: ``"nvidia/mit-b0"``, or
        ``"datasets/segments/sidewalk-semantic"``.
        """
        stored = {path: StoredFile(content, lfs=path.endswith(LFS_SUFFIXES)) for path, content in files.items()}
        repository = Repository(name)
        repository.commit("main", stored)
        self.repositories[name] = repository

    # --- what the endpoints do ---

    def create_repository(self, request: dict) -> dict:
        namespace = request.get("organization") or "tester"
        if namespace != "tester":
            raise HttpAnswer(403, f'You don\'t have the rights to create a model under the namespace "{namespace}"')
        repo_id = f"{namespace}/{request['name']}"
        url = f"{self.endpoint}/{repo_id}"
        if repo_id in self.repositories:
            raise HttpAnswer(409, json.dumps({"error": "You already created this model repo", "url": url}))
        self.repositories[repo_id] = Repository(repo_id, private=request.get("visibility") == "private")
        return {"url": url, "name": repo_id, "id": repo_id}

    def repository(self, repo_id: str, *, token: str | None, write: bool) -> Repository:
        repository = self.repositories.get(repo_id)
        if repository is None or (repository.private and token is None):
            raise HttpAnswer(404 if token else 401, "Repository not found", "RepoNotFound")
        if write and token is None:
            raise HttpAnswer(401, "Invalid username or password.")
        if write and token != WRITE_TOKEN:
            raise HttpAnswer(403, "Forbidden: pass a token with write access")
        return repository

    def preupload(self, repository: Repository, revision: str, request: dict) -> dict:
        present = repository.commits[repository.resolve(revision)]
        files = []
        for entry in request["files"]:
            path = entry["path"]
            files.append(
                {
                    "path": path,
                    "uploadMode": "lfs" if path.endswith(LFS_SUFFIXES) else "regular",
                    "shouldIgnore": False,
                    "oid": present[path].oid if path in present else None,
                }
            )
        return {"files": files}

    def lfs_batch(self, request: dict) -> dict:
        objects = []
        for entry in request["objects"]:
            entry = {"oid": entry["oid"], "size": entry["size"]}
            if entry["oid"] not in self.lfs_objects:
                href = f"{self.endpoint}/lfs/{entry['oid']}"
                entry["actions"] = {"upload": {"href": href, "header": {}}, "verify": {"href": f"{href}/verify"}}
            objects.append(entry)
        return {"transfer": "basic", "objects": objects}

    def store_lfs(self, oid: str, content: bytes) -> None:
        if hashlib.sha256(content).hexdigest() != oid:
            raise HttpAnswer(400, "the content does not have the announced SHA-256")
        self.lfs_objects[oid] = content

    def verify_lfs(self, oid: str, request: dict) -> dict:
        if len(self.lfs_objects.get(oid, b"")) != request["size"]:
            raise HttpAnswer(404, "the object has not arrived")
        return {}

    def commit(self, repository: Repository, branch: str, body: bytes) -> dict:
        with self._lock:  # a training pushes from several threads
            return self._commit(repository, branch, body)

    def _commit(self, repository: Repository, branch: str, body: bytes) -> dict:
        files = dict(repository.commits[repository.resolve(branch)])
        for line in body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            match operation["key"]:
                case "header":
                    pass
                case "file":
                    files[value["path"]] = StoredFile(base64.b64decode(value["content"]), lfs=False)
                case "lfsFile":
                    if value["oid"] not in self.lfs_objects:
                        raise HttpAnswer(400, f"the LFS object of {value['path']} has not been uploaded")
                    files[value["path"]] = StoredFile(self.lfs_objects[value["oid"]], lfs=True)
                case "deletedFile":
                    files.pop(value["path"])
                case other:
                    raise HttpAnswer(400, f"operation {other} is not known")
        sha = repository.commit(branch, files)
        return {"commitUrl": f"{self.endpoint}/{repository.name}/commit/{sha}", "commitOid": sha, "success": True}

    def create_branch(self, repository: Repository, branch: str) -> dict:
        if branch in repository.branches:
            raise HttpAnswer(409, "Reference already exists")
        repository.branches[branch] = repository.branches["main"]
        return {}

    def information(self, repository: Repository, revision: str) -> dict:
        sha = repository.resolve(revision)
        siblings = [{"rfilename": path} for path in sorted(repository.commits[sha])]
        name = repository.name.removeprefix("datasets/")
        return {
            "_id": name,
            "id": name,
            "modelId": name,
            "sha": sha,
            "private": repository.private,
            "siblings": siblings,
            "tags": [],
        }

    def tree(self, repository: Repository, revision: str, folder: str, *, recursive: bool) -> list[dict]:
        files = repository.commits[repository.resolve(revision)]
        prefix = f"{folder.rstrip('/')}/" if folder else ""
        folders = {
            "/".join(parts[:depth])
            for path in files
            for parts in [path.split("/")]
            for depth in range(1, len(parts))
            if path.startswith(prefix)
        }
        if folder and folder.rstrip("/") not in folders:
            raise HttpAnswer(404, f"{folder} does not exist on {revision}", "EntryNotFound")
        entries = [
            {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0}
            for path in folders
        ]
        entries += [_entry(path, file) for path, file in files.items()]
        inside = [entry for entry in entries if entry["path"].startswith(prefix)]
        if not recursive:
            inside = [entry for entry in inside if "/" not in entry["path"].removeprefix(prefix)]
        return sorted(inside, key=lambda entry: entry["path"])

    def create_collection(self, request: dict) -> dict:
        slug = f"{request['namespace']}/{re.sub('[^a-z0-9]+', '-', request['title'].lower())}-0123456789abcdef01234567"
        if slug in self.collections:
            raise HttpAnswer(409, json.dumps({"error": "This collection exists", "slug": slug}))
        self.collections[slug] = {}
        return self.collection(slug)

    def add_to_collection(self, slug: str, request: dict) -> dict:
        if slug not in self.collections:
            raise HttpAnswer(404, "Collection not found")
        if request["item"]["id"] in self.collections[slug]:
            raise HttpAnswer(409, "Item already in the collection")
        self.collections[slug][request["item"]["id"]] = request.get("note")
        return self.collection(slug)

    def collection(self, slug: str) -> dict:
        if slug not in self.collections:
            raise HttpAnswer(404, "Collection not found")
        facts = {"title": slug, "owner": {"name": "tester"}, "position": 0, "private": False, "theme": "blue"}
        return facts | {"slug": slug, "items": [], "lastUpdated": "2026-01-01T00:00:00.000Z", "upvotes": 0}

    def paths_info(self, repository: Repository, revision: str, paths: list[str]) -> list[dict]:
        files = repository.commits[repository.resolve(revision)]
        return [_entry(path, files[path]) for path in paths if path in files]


def _entry(path: str, file: StoredFile) -> dict:
    entry = {"type": "file", "path": path, "oid": file.git_oid, "size": len(file.content)}
    if file.lfs:
        entry["lfs"] = {"oid": file.sha256, "size": len(file.content), "pointerSize": 134}
    return entry


class _Handler(BaseHTTPRequestHandler):
    """HTTP around one `HubServer` (the class attribute ``hub``)."""

    protocol_version = "HTTP/1.1"
    hub: HubServer

    def log_message(self, *arguments) -> None:
        pass

    def do_GET(self) -> None:  # noqa: N802 - the names that http.server calls
        self._handle()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def _handle(self) -> None:
        path = urllib.parse.urlsplit(self.path).path
        self.hub.requests.append((self.command, path))
        fault = self.hub.next_fault(self.command, path)
        try:
            if fault is not None and fault.after_bytes is not None:
                self.rfile.read(fault.after_bytes)
                self.close_connection = True
                with contextlib.suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)
                return
            body = self._read_body()
            if fault is not None:
                raise HttpAnswer(fault.status, fault.message)
            self._route(path, body)
        except HttpAnswer as answer:
            self._send_error(answer)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _token(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        if token not in (None, WRITE_TOKEN, READ_TOKEN):
            raise HttpAnswer(401, "Invalid credentials in Authorization header")
        return token

    def _query(self) -> dict[str, str]:
        return {
            name.lower(): value.lower()
            for name, value in urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query)
        }

    def _route(self, path: str, body: bytes) -> None:
        hub, unquote = self.hub, urllib.parse.unquote
        if self.command == "PUT" and (match := re.fullmatch(r"/lfs/([0-9a-f]{64})", path)):
            hub.store_lfs(match[1], body)
            return self._send_json({})
        token = self._token()
        if self.command == "POST" and path == "/api/repos/create":
            if token != WRITE_TOKEN:
                raise HttpAnswer(403 if token else 401, "Invalid username or password.")
            return self._send_json(hub.create_repository(json.loads(body)))
        if match := re.fullmatch(r"/api/collections(?:/([^/]+/[^/]+))?(/items)?", path):
            return self._collections(match[1], json.loads(body or b"null"), token)
        if self.command == "POST" and path == "/api/validate-yaml":
            return self._send_json({"errors": [], "warnings": []})
        if self.command == "POST" and (match := re.fullmatch(r"/lfs/([0-9a-f]{64})/verify", path)):
            return self._send_json(hub.verify_lfs(match[1], json.loads(body)))
        if match := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            hub.repository(match[1], token=token, write=True)
            return self._send_json(hub.lfs_batch(json.loads(body)))
        if match := re.fullmatch(r"/api/(models/|datasets/)([^/]+/[^/]+)(?:/(\w[\w-]*)/([^/]+)(?:/(.*))?)?", path):
            action, revision, rest = match[3], unquote(match[4] or "main"), unquote(match[5] or "")
            write = action in ("preupload", "commit", "branch")
            name = match[1].removeprefix("models/") + match[2]
            repository = hub.repository(name, token=token, write=write)
            answers = {
                ("GET", None): lambda: hub.information(repository, revision),
                ("GET", "revision"): lambda: hub.information(repository, revision),
                ("GET", "tree"): lambda: hub.tree(
                    repository, revision, rest, recursive=self._query().get("recursive") == "true"
                ),
                ("POST", "paths-info"): lambda: hub.paths_info(
                    repository, revision, urllib.parse.parse_qs(body.decode())["paths"]
                ),
                ("POST", "preupload"): lambda: hub.preupload(repository, revision, json.loads(body)),
                ("POST", "commit"): lambda: hub.commit(repository, revision, body),
                ("POST", "branch"): lambda: hub.create_branch(repository, revision),
            }
            if (self.command, action) in answers:
                return self._send_json(answers[self.command, action]())
        if match := re.fullmatch(r"/((?:datasets/)?[^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            repository = hub.repository(match[1], token=token, write=False)
            return self._send_file(repository, unquote(match[2]), unquote(match[3]))
        raise HttpAnswer(404, f"this test server has no {self.command} {path}")

    def _collections(self, slug: str | None, request: dict | None, token: str | None) -> None:
        if self.command == "GET":
            return self._send_json(self.hub.collection(slug))
        if token != WRITE_TOKEN:
            raise HttpAnswer(403 if token else 401, "Invalid username or password.")
        if slug is None:
            return self._send_json(self.hub.create_collection(request))
        return self._send_json(self.hub.add_to_collection(slug, request))

    def _send_json(self, answer: dict | list) -> None:
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _send_error(self, answer: HttpAnswer) -> None:
        message = answer.message if answer.message.startswith("{") else json.dumps({"error": answer.message})
        headers = {"Content-Type": "application/json"}
        if not answer.message.startswith("{"):
            headers["X-Error-Message"] = answer.message
        if answer.code:
            headers["X-Error-Code"] = answer.code
        self._send(answer.status, message.encode(), headers)

    def _send_file(self, repository: Repository, revision: str, path: str) -> None:
        sha = repository.resolve(revision)
        headers = {"X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        file = repository.commits[sha].get(path)
        if file is None:
            headers |= {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            return self._send(404, b"Entry not found", headers)
        headers["ETag"] = f'"{file.oid}"'
        content, status = file.content, 200
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, last = int(match[1]), int(match[2] or len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{min(last, len(content) - 1)}/{len(content)}"
            content, status = content[start : last + 1], 206
        return self._send(status, content, headers)

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
