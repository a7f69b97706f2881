"""A Hub on loopback: as much of its HTTP as `huggingface_hub` needs to create, upload, list and download models.

    with LoopbackHub() as hub:
        HfApi(endpoint=hub.url, token=WRITE_TOKEN).create_repo("writer/model")

Files are kept in memory. Weights go the way of large files (an LFS batch, then a PUT of each blob that is not there
yet), all others travel inside the commit. Faults are switched on by setting an attribute. Data sets can be read; they
are added without the client, as "datasets/user/name".
"""

import base64
import hashlib
import json
import re
import secrets
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

WRITE_TOKEN, READ_TOKEN, OTHER_TOKEN = (f"hf_{kind}" + "x" * 30 for kind in ("write", "read", "other"))

# By token: user, what the token may do.
USERS = {WRITE_TOKEN: ("writer", "write"), READ_TOKEN: ("writer", "read"), OTHER_TOKEN: ("other", "write")}

MODEL = r"(?:/api/models)?/(?P<repo>[\w.-]+/[\w.-]+?)"
DATASET = r"(?:/api)?/(?P<repo>datasets/[\w.-]+/[\w.-]+?)"


@dataclass(frozen=True)
class Blob:
    """A file's content; `is_large` if git holds only a pointer to it."""

    content: bytes
    is_large: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def oid(self) -> str:
        """The git object's name."""
        content = self.content
        if self.is_large:
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(content)}\n"
            content = pointer.encode()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repository:
    """Commits by their hash, each with all of its files, and branches."""

    private: bool
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: dict[str, Blob], message: str) -> str:
        sha = secrets.token_hex(20)
        self.commits[sha], self.branches[branch] = files, sha
        self.messages.append(message)
        return sha

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """What a reader sees."""
        return {path: blob.content for path, blob in self.commits[self.branches.get(revision, revision)].items()}


class LoopbackHub:
    """The server, in a thread of its own.

    Attributes:
        repositories: by "user/name".
        large_blobs: contents of large files by SHA-256, whether a commit refers to them or not.
        requests: (method, path) of every request, in order.
        cut_uploads_after: bytes of a large file after which the connection breaks; None: never.
        refuse_commits: HTTP status that every commit is answered with; None: none is refused.
        hold_uploads: while this event is not set, uploads of large files wait.
    """

    def __init__(self):
        self.repositories: dict[str, Repository] = {}
        self.large_blobs: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.cut_uploads_after: int | None = None
        self.refuse_commits: int | None = None
        self.hold_uploads = threading.Event()
        self.hold_uploads.set()
        self.lock = threading.RLock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> "LoopbackHub":
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.hold_uploads.set()
        self.server.shutdown()
        self.server.server_close()

    def add(self, repo_id: str, files: dict[str, bytes], private: bool = False) -> Repository:
        """A repository with a commit, made without the client."""
        repository = self.repositories[repo_id] = Repository(private)
        repository.commit("main", {path: Blob(content, False) for path, content in files.items()}, "initial")
        return repository

    def uploads(self) -> list[str]:
        """SHA-256 of each upload of a large file, begun or complete."""
        return [path.rpartition("/")[2] for method, path in self.requests if method == "PUT"]


class _Refused(Exception):
    def __init__(self, status: int, message: str, code: str | None = None):
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        """The tests read `requests` instead."""

    def do_GET(self) -> None:
        split = urlsplit(self.path)
        path = unquote(split.path)
        self.hub.requests.append((self.command, path))
        self.query = parse_qs(split.query)
        self.body_read = False
        try:
            for method, pattern, answer in ROUTES:
                match = re.fullmatch(pattern, path)
                if match and self.command in method.split():
                    return answer(self, **match.groupdict())
            raise _Refused(404, f"no such page: {path}")
        except _Refused as refused:
            if not self.body_read:
                self._body()
            headers = {"X-Error-Message": refused.message} | ({"X-Error-Code": refused.code} if refused.code else {})
            self._send({"error": refused.message}, status=refused.status, headers=headers)

    do_HEAD = do_POST = do_PUT = do_GET

    # What a request says

    def _body(self, limit: int | None = None) -> bytes | None:
        """The request's body; None if it is longer than `limit` bytes, of which no more are read."""
        self.body_read = True
        body = b""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
                if limit is not None and len(body) > limit:
                    return None
            self.rfile.readline()
            return body
        length = int(self.headers.get("Content-Length") or 0)
        if limit is not None and length > limit:
            self.rfile.read(limit)
            return None
        return self.rfile.read(length)

    def _json(self) -> dict[str, Any]:
        return json.loads(self._body() or b"{}")

    def _user(self) -> tuple[str, str] | None:
        header = self.headers.get("Authorization")
        if header is None:
            return None
        user = USERS.get(header.removeprefix("Bearer "))
        if user is None:
            raise _Refused(401, "Invalid credentials in Authorization header")
        return user

    def _repository(self, repo: str, write: bool = False) -> Repository:
        user, repository = self._user(), self.hub.repositories.get(repo)
        owner = repo.partition("/")[0]
        if repository is None or (repository.private and (user is None or user[0] != owner)):
            # As on the Hub, a stranger cannot tell a private repository from none.
            raise _Refused(401 if user is None else 404, "Repository not found", "RepoNotFound")
        if write and user != (owner, "write"):
            raise _Refused(403, f"You have no write access to {repo}")
        return repository

    def _files(self, repo: str, revision: str) -> tuple[str, dict[str, Blob]]:
        repository = self._repository(repo)
        sha = repository.branches.get(revision, revision)
        if sha not in repository.commits:
            raise _Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return sha, repository.commits[sha]

    # Answers

    def _send(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def who_am_i(self) -> None:
        user = self._user()
        if user is None:
            raise _Refused(401, "Invalid username or password.")
        token = {"accessToken": {"displayName": "test", "role": user[1]}}
        self._send({"type": "user", "name": user[0], "orgs": [], "auth": {"type": "access_token", **token}})

    def validate_card(self) -> None:
        self._json()
        self._send({"errors": [], "warnings": []})

    def create(self) -> None:
        request, user = self._json(), self._user()
        if user is None:
            raise _Refused(401, "Invalid username or password.")
        owner = request.get("organization") or user[0]
        repo, name = f"{owner}/{request['name']}", request["name"]
        if user != (owner, "write"):
            raise _Refused(403, f'You don\'t have the rights to create a model under the namespace "{owner}"')
        with self.hub.lock:
            url = {"url": f"{self.hub.url}/{repo}", "name": name}
            if repo in self.hub.repositories:
                return self._send({"error": "You already created this model repo", **url}, status=409)
            repository = self.hub.repositories[repo] = Repository(request.get("visibility") == "private")
            repository.commit("main", {".gitattributes": Blob(b"*.safetensors lfs\n", False)}, "initial commit")
        self._send(url)

    def check_rights(self, repo: str, write: str | None) -> None:
        self._repository(repo, write=write is not None)
        self._send({})

    def describe(self, repo: str, revision: str = "main") -> None:
        sha, files = self._files(repo, revision)
        private = self.hub.repositories[repo].private
        siblings = [{"rfilename": path} for path in files]
        about = {"private": private, "tags": [], "downloads": 0, "likes": 0, "siblings": siblings}
        self._send({"_id": "0", "id": repo, "modelId": repo, "sha": sha, **about})

    def list_branches(self, repo: str) -> None:
        branches = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha}
            for name, sha in self._repository(repo).branches.items()
        ]
        self._send({"branches": branches, "converts": [], "tags": []})

    def make_branch(self, repo: str, revision: str) -> None:
        repository, start = self._repository(repo, write=True), self._json().get("startingPoint") or "main"
        repository.branches[revision] = repository.branches.get(start, start)
        self._send({})

    def list_tree(self, repo: str, revision: str, folder: str | None = None) -> None:
        _, files = self._files(repo, revision)
        start, entries = f"{folder}/" if folder else "", {}
        recursive = self.query.get("recursive", ["false"])[0].lower() == "true"
        for path, blob in files.items():
            if not path.startswith(start):
                continue
            parts = path[len(start) :].split("/")
            for depth in range(1, len(parts)):
                parent = start + "/".join(parts[:depth])
                if recursive or depth == 1:
                    entries[parent] = {"type": "directory", "path": parent, "oid": "0" * 40, "size": 0}
            if recursive or len(parts) == 1:
                entries[path] = {"type": "file", "path": path, "oid": blob.oid, "size": len(blob.content)}
                if blob.is_large:
                    entries[path]["lfs"] = {"oid": blob.sha256, "size": len(blob.content), "pointerSize": 130}
        self._send(list(entries.values()))

    def resolve(self, repo: str, revision: str, path: str) -> None:
        sha, files = self._files(repo, revision)
        if path not in files:
            raise _Refused(404, f"Entry not found: {path}", "EntryNotFound")
        blob = files[path]
        headers = {"X-Repo-Commit": sha, "ETag": f'"{blob.oid}"', "Content-Type": "application/octet-stream"}
        if blob.is_large:
            headers |= {"X-Linked-ETag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.content))}
        content, status = blob.content, 200
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
            start, last = int(wanted[1]), min(int(wanted[2]), len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{last}/{len(content)}"
            content, status = content[start : last + 1], 206
        self._send(content, status=status, headers=headers)

    def preupload(self, repo: str, revision: str) -> None:
        files = self._repository(repo, write=True).commits[self.hub.repositories[repo].branches[revision]]
        answers = []
        for file in self._json()["files"]:
            path = file["path"]
            answer = {"path": path, "shouldIgnore": False}
            answer["uploadMode"] = "lfs" if path.endswith(".safetensors") else "regular"
            if path in files:
                answer["oid"] = files[path].oid
            answers.append(answer)
        self._send({"files": answers})

    def large_file_batch(self, repo: str) -> None:
        self._repository(repo, write=True)
        objects = []
        for wanted in self._json()["objects"]:
            answer = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.large_blobs:
                answer["actions"] = {"upload": {"href": f"{self.hub.url}/large-files/{wanted['oid']}"}}
            objects.append(answer)
        self._send({"transfer": "basic", "objects": objects})

    def upload_large_file(self, sha256: str) -> None:
        self.hub.hold_uploads.wait(timeout=60)
        content = self._body(limit=self.hub.cut_uploads_after)
        if content is None:
            self.close_connection = True
            self.connection.close()
            return
        if hashlib.sha256(content).hexdigest() != sha256:
            raise _Refused(400, "The content is not what its name says")
        self.hub.large_blobs[sha256] = content
        self._send({})

    def commit(self, repo: str, revision: str) -> None:
        repository = self._repository(repo, write=True)
        lines = [json.loads(line) for line in (self._body() or b"").splitlines()]
        if self.hub.refuse_commits is not None:
            raise _Refused(self.hub.refuse_commits, "The commit is refused")
        with self.hub.lock:
            files = dict(repository.commits[repository.branches[revision]])
            message = ""
            for line in lines:
                kind, value = line["key"], line["value"]
                if kind == "header":
                    message = value["summary"]
                elif kind == "file":
                    files[value["path"]] = Blob(base64.b64decode(value["content"]), False)
                elif kind == "lfsFile":
                    if value["oid"] not in self.hub.large_blobs:
                        raise _Refused(400, f"{value['path']}: its content was never uploaded")
                    files[value["path"]] = Blob(self.hub.large_blobs[value["oid"]], True)
                elif kind == "deletedFile":
                    del files[value["path"]]
                else:
                    raise _Refused(400, f"no operation {kind}")
            sha = repository.commit(revision, files, message)
        url = f"{self.hub.url}/{repo}/commit/{sha}"
        self._send({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})


ROUTES = [
    ("GET", "/api/whoami-v2", _Handler.who_am_i),
    ("POST", "/api/validate-yaml", _Handler.validate_card),
    ("POST", "/api/repos/create", _Handler.create),
    ("GET", rf"{MODEL}/auth-check(?P<write>/write)?", _Handler.check_rights),
    ("GET", rf"{MODEL}/refs", _Handler.list_branches),
    ("POST", rf"{MODEL}/branch/(?P<revision>.+)", _Handler.make_branch),
    ("GET", rf"{MODEL}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?", _Handler.list_tree),
    ("POST", rf"{MODEL}/preupload/(?P<revision>.+)", _Handler.preupload),
    ("POST", rf"{MODEL}/commit/(?P<revision>.+)", _Handler.commit),
    ("POST", rf"{MODEL}\.git/info/lfs/objects/batch", _Handler.large_file_batch),
    ("PUT", r"/large-files/(?P<sha256>\w+)", _Handler.upload_large_file),
    ("GET HEAD", rf"{MODEL}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler.resolve),
    ("GET", rf"{MODEL}/revision/(?P<revision>.+)", _Handler.describe),
    ("GET", r"/api/models/(?P<repo>[\w.-]+/[\w.-]+)", _Handler.describe),
    ("GET", rf"{DATASET}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?", _Handler.list_tree),
    ("GET HEAD", rf"{DATASET}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler.resolve),
    ("GET", rf"{DATASET}/revision/(?P<revision>.+)", _Handler.describe),
    ("GET", DATASET, _Handler.describe),
]
