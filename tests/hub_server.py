"""A model hub on this machine: what `huggingface_hub` asks of one, over HTTP, in memory."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

Files = dict[str, bytes]
HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")


def metadata_errors(card: str) -> list[str]:
    """What the hub says of a card's front matter, by the rules that users have met."""
    front = yaml.safe_load(card.split("---\n")[1])
    errors = []
    for key in ("base_model", "datasets"):
        given = front.get(key)
        for value in given if isinstance(given, list) else [given] if given else []:
            if not isinstance(value, str) or not HUB_ID.match(value):
                errors.append(f'"{key}" with value "{value}" is not valid. Use an id from the hub.')
    for key in ("library_name", "pipeline_tag", "license", "base_model_relation"):
        if key in front and not isinstance(front[key], str):
            errors.append(f'"{key}" must be a string')
    if not all(isinstance(tag, str) and tag for tag in front.get("tags", [])):
        errors.append('"tags" must be strings')
    for entry in front.get("model-index", []):
        for result in entry["results"]:
            if not all(
                isinstance(text, str) for text in (entry["name"], *result["dataset"].values())
            ):
                errors.append('"model-index" has a name that is no string')
            if not all(isinstance(m["value"], int | float) for m in result["metrics"]):
                errors.append('"model-index" has a value that is no number')
    return errors


class Hub:
    """Repositories, their commits and who asked for what.

    Attributes:
        commits: repository -> revision -> files; a branch or tag stands beside its commit.
        private: whether a repository was made private.
        asked: method and path of every request.
        endpoint: its address.
    """

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, Files]] = {}
        self.private: dict[str, bool] = {}
        self.asked: list[str] = []
        self.endpoint = ""

    def put(self, repo: str, folder: Path, *refs: str) -> str:
        """A folder as a commit, which these branches and tags name; returns its id."""
        return self.commit(repo, {p.name: p.read_bytes() for p in folder.iterdir()}, *refs)

    def commit(self, repo: str, files: Files, *refs: str) -> str:
        digest = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        own = self.commits.setdefault(repo, {})
        for ref in (digest, *refs):
            own[ref] = files
        return digest

    def id_of(self, repo: str, revision: str) -> str:
        files = self.commits[repo][revision]
        return next(r for r, f in self.commits[repo].items() if f is files and len(r) == 40)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def _handle(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b"".join(iter(self._chunk, b""))
        for pattern, answer in _ROUTES:
            if found := re.fullmatch(pattern, path):
                answer(self, body, *found.groups())
                return
        self.error(404, "EntryNotFound")

    do_GET = do_HEAD = do_POST = _handle

    def _chunk(self) -> bytes:
        size = int(self.rfile.readline(), 16)
        data = self.rfile.read(size)
        self.rfile.readline()
        return data

    def send(self, content: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def reply(self, value: Any, status: int = 200) -> None:
        self.send(json.dumps(value).encode(), status, Content_Type="application/json")

    def error(self, status: int, code: str) -> None:
        self.send(b"{}", status, X_Error_Code=code, X_Error_Message=code)

    def whoami(self, _: bytes) -> None:
        if self.headers.get("Authorization") != "Bearer hf_alice":
            self.reply({"error": "Invalid credentials"}, 401)
            return
        token = {"accessToken": {"displayName": "t", "role": "write"}}
        self.reply({"type": "user", "name": "alice", "orgs": [{"name": "acme"}], "auth": token})

    def validate(self, body: bytes) -> None:
        errors = metadata_errors(json.loads(body)["content"])
        found = [{"message": message} for message in errors]
        self.reply({"errors": found, "warnings": []}, 400 if errors else 200)

    def create(self, body: bytes) -> None:
        wanted = json.loads(body)
        repo = f"{wanted.get('organization') or 'alice'}/{wanted['name']}"
        known = repo in self.hub.commits
        if not known:
            self.hub.commit(repo, {}, "main")
            self.hub.private[repo] = wanted.get("visibility", "public") == "private" or bool(
                wanted.get("private")
            )
        self.reply({"url": f"{self.hub.endpoint}/{repo}"}, 409 if known else 200)

    def preupload(self, body: bytes, *_: str) -> None:
        files = json.loads(body)["files"]
        told = {"uploadMode": "regular", "shouldIgnore": False}
        self.reply({"files": [{"path": file["path"], **told} for file in files]})

    def take(self, body: bytes, repo: str, revision: str) -> None:
        lines = [json.loads(line) for line in body.splitlines() if line]
        new = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"])
            for line in lines
            if line["key"] == "file"
        }
        digest = self.hub.commit(repo, {**self.hub.commits[repo][revision], **new}, revision)
        url = f"{self.hub.endpoint}/{repo}/commit/{digest}"
        self.reply({"success": True, "commitOid": digest, "commitUrl": url})

    def _known(self, repo: str, revision: str) -> bool:
        if repo in self.hub.commits and revision in self.hub.commits[repo]:
            return True
        self.error(404, "RevisionNotFound" if repo in self.hub.commits else "RepoNotFound")
        return False

    def info(self, _: bytes, repo: str, revision: str | None = None) -> None:
        if self._known(repo, revision or "main"):
            files = self.hub.commits[repo][revision or "main"]
            siblings = [{"rfilename": name} for name in files]
            sha = self.hub.id_of(repo, revision or "main")
            self.reply({"id": repo, "modelId": repo, "sha": sha, "siblings": siblings, "tags": []})

    def tree(self, _: bytes, repo: str, revision: str) -> None:
        if self._known(repo, revision):
            files = self.hub.commits[repo][revision].items()
            blobs = {name: hashlib.sha1(content).hexdigest() for name, content in files}
            self.reply(
                [
                    {"type": "file", "path": name, "size": len(content), "oid": blobs[name]}
                    for name, content in files
                ]
            )

    def resolve(self, _: bytes, repo: str, revision: str, name: str) -> None:
        if not self._known(repo, revision):
            return
        content = self.hub.commits[repo][revision].get(name)
        sha = self.hub.id_of(repo, revision)
        if content is None:
            self.send(b"", 404, X_Error_Code="EntryNotFound", X_Repo_Commit=sha)
            return
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        self.send(content, ETag=etag, X_Repo_Commit=sha, Accept_Ranges="bytes")


_REPO = r"([\w.-]+/[\w.-]+)"
_ROUTES: list[tuple[str, Any]] = [
    (r"/api/whoami-v2", _Handler.whoami),
    (r"/api/validate-yaml", _Handler.validate),
    (r"/api/repos/create", _Handler.create),
    (rf"/api/models/{_REPO}/preupload/(.+)", _Handler.preupload),
    (rf"/api/models/{_REPO}/commit/(.+)", _Handler.take),
    (rf"/api/models/{_REPO}/tree/([^/]+)", _Handler.tree),
    (rf"/api/models/{_REPO}/revision/(.+)", _Handler.info),
    (rf"/api/models/{_REPO}", _Handler.info),
    (rf"/{_REPO}/resolve/([^/]+)/(.+)", _Handler.resolve),
]


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    """A hub on a free port of this machine while the block runs."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
