"""A model hub on loopback, as huggingface_hub speaks to one over HTTP (no Xet), and ways to spoil it."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_TREE = re.compile(r"/api/(?:models|datasets)/([^/]+/[^/]+)/tree/([^/?]+)")
_MODEL = re.compile(r"/api/(?:models|datasets)/([^/]+/[^/]+)(?:/revision/([^/?]+))?(?:$|\?)")
_RESOLVE = re.compile(r"/(?:datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_PREUPLOAD = re.compile(r"/api/models/([^/]+/[^/]+)/preupload/([^/?]+)")
_COMMIT = re.compile(r"/api/models/([^/]+/[^/]+)/commit/([^/?]+)")
_CDN = re.compile(r"/cdn/([0-9a-f]{64})")


def sha256(data: bytes) -> str:
    """Return what a large file is named by."""
    return hashlib.sha256(data).hexdigest()


def git_sha1(data: bytes) -> str:
    """Return what git, and so the hub, names a small file by."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Repository:
    """Files by commit, commits by branch; ``gated`` repositories show their listing and keep their files."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    gated: bool = False

    def commit(self, folder: Path, branch: str = "main") -> str:
        """Take in a folder's files, and return the commit."""
        return self.put(
            {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}, branch
        )

    def put(self, files: dict[str, bytes], branch: str) -> str:
        """Take in files by name, and return the commit."""
        name = hashlib.sha1(b"".join(key.encode() + value for key, value in files.items())).hexdigest()
        self.commits[name] = files
        self.branches[branch] = name
        return name


@dataclass
class ModelHub:
    """Repositories by name, what was asked, and what goes wrong."""

    url: str = ""
    token: str = "hf_right"
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path, and the range that was asked for."""
    breaks: list[int] = field(default_factory=list)
    """After how many bytes each of the next downloads of weights breaks off."""
    spoilt: set[str] = field(default_factory=set)
    """Digests whose bytes are served with one changed."""
    status: int = 0
    """What every question is answered with, unless it is 0."""

    def repository(self, name: str) -> Repository:
        """Return a repository, made if it is new."""
        return self.repositories.setdefault(name, Repository())

    def downloads(self) -> list[str]:
        """Return the paths that bytes were asked of, in order."""
        return [path for method, path, _ in self.requests if method == "GET" and "/api/" not in path]


@contextmanager
def running_hub() -> Iterator[ModelHub]:
    """Serve a hub until the end of the block."""
    hub = ModelHub()

    class Handler(_Handler):
        served = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    served: ModelHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(self.path)
        self.served.requests.append((self.command, path, self.headers.get("Range", "")))
        if self.served.status:
            self._answer(self.served.status)
        elif match := _TREE.match(path):
            self._tree(*match.groups())
        elif match := _MODEL.match(path):
            self._model(*match.groups())
        elif match := _CDN.match(path):
            self._large(match[1])
        elif match := _RESOLVE.match(path):
            self._resolve(*match.groups())
        else:
            self._answer(404)

    def do_POST(self) -> None:
        path = unquote(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.served.requests.append((self.command, path, ""))
        if path == "/api/validate-yaml":  # of a model card
            self._json({"errors": [], "warnings": []})
        elif self.headers.get("Authorization") != f"Bearer {self.served.token}":
            self._answer(401)
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif _PREUPLOAD.match(path):
            # The public hub wants large files apart; what it calls regular comes within the commit.
            files = [
                {**each, "uploadMode": "regular", "shouldIgnore": False} for each in json.loads(body)["files"]
            ]
            self._json({"files": files})
        elif match := _COMMIT.match(path):
            self._commit(match[1], match[2], [json.loads(line) for line in body.splitlines()])
        else:
            self._answer(404)

    def _create(self, wanted: dict[str, str]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}" if wanted.get("organization") else wanted["name"]
        repository = self.served.repository(name)
        if not repository.branches:
            repository.commits["0" * 40] = {}
            repository.branches["main"] = "0" * 40
        self._json({"url": f"{self.served.url}/{name}", "name": name})

    def _commit(self, name: str, branch: str, lines: list[dict[str, Any]]) -> None:
        repository = self.served.repository(name)
        files = dict(repository.commits[repository.branches[branch]])
        for line in lines:
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        commit = repository.put(files, branch)
        url = f"{self.served.url}/{name}/commit/{commit}"
        self._json({"commitUrl": url, "commitOid": commit, "success": True})

    def _find(self, name: str, revision: str) -> tuple[Repository, str] | None:
        repository = self.served.repositories.get(name)
        if repository is None:
            self._answer(401)  # as the public hub answers who shows no token
            return None
        commit = repository.branches.get(revision, revision)
        if commit not in repository.commits:
            self._answer(404, {"X-Error-Code": "RevisionNotFound"})
            return None
        return repository, commit

    def _model(self, name: str, revision: str | None) -> None:
        if found := self._find(name, revision or "main"):
            self._json({"id": name, "modelId": name, "sha": found[1], "siblings": []})

    def _tree(self, name: str, revision: str) -> None:
        if found := self._find(name, revision):
            files = found[0].commits[found[1]]
            self._json([_listed(path, data) for path, data in files.items()])

    def _resolve(self, name: str, revision: str, path: str) -> None:
        found = self._find(name, revision)
        if found is None:
            return
        repository, commit = found
        if repository.gated and self.headers.get("Authorization") != f"Bearer {self.served.token}":
            self._answer(401, {"X-Error-Code": "GatedRepo"})
            return
        data = repository.commits[commit].get(path)
        if data is None:
            self._answer(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        elif _is_large(path):
            linked = {"X-Linked-Etag": f'"{sha256(data)}"', "X-Linked-Size": str(len(data))}
            # Another host, to the client: the public hub keeps large files elsewhere too.
            place = {"Location": f"{self.served.url.replace('127.0.0.1', 'localhost')}/cdn/{sha256(data)}"}
            self._answer(302, {"X-Repo-Commit": commit, **linked, **place})
        else:
            self._answer(200, {"X-Repo-Commit": commit, "ETag": f'"{git_sha1(data)}"'}, data)

    def _large(self, digest: str) -> None:
        data = next(
            data
            for repository in self.served.repositories.values()
            for files in repository.commits.values()
            for data in files.values()
            if sha256(data) == digest
        )
        if digest in self.served.spoilt:
            data = data[:-1] + bytes([data[-1] ^ 1])
        asked = _RANGE.match(self.headers.get("Range", ""))
        begin = int(asked[1]) if asked else 0
        end = min(int(asked[2]) + 1, len(data)) if asked and asked[2] else len(data)
        headers = {"Content-Range": f"bytes {begin}-{end - 1}/{len(data)}"} if asked else {}
        self._answer(206 if asked else 200, headers, data[begin:end], breaks=True)

    def _json(self, value: object) -> None:
        self._answer(200, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def _answer(
        self, status: int, headers: dict[str, str] | None = None, data: bytes = b"", *, breaks: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if breaks and self.served.breaks:
            data = data[: self.served.breaks.pop(0)]
            self.close_connection = True
        self.wfile.write(data)


def _is_large(path: str) -> bool:
    return path.endswith((".safetensors", ".bin", ".parquet"))


def _listed(path: str, data: bytes) -> dict[str, object]:
    listed: dict[str, object] = {"type": "file", "path": path, "size": len(data), "oid": git_sha1(data)}
    if _is_large(path):
        listed["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 134}
    return listed
