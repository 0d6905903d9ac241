"""A Hugging Face hub on loopback: enough of its protocol for huggingface_hub to list, download and push files.

    with HubServer({"models": {"owner/name": {revision: folder}}, "datasets": {...}}) as server:
        environment = {"HF_ENDPOINT": server.url, "NO_PROXY": "127.0.0.1"}

`server.requests` logs (method, path), `server.pushed` has what was pushed to model repositories. `gated` names
repositories that answer 403 without a token. `refusal` (status, words) is the answer to everything; of the files that
`cut` names half is sent, as if it were all.
"""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit

from hub_writes import Pushed

Repositories = dict[str, dict[str, dict[str, Path]]]

API = re.compile(r"/api/(?P<kind>models|datasets)/(?P<repo>.+?)/(?P<what>revision|tree)/(?P<revision>[^/]+)")
INFO = re.compile(r"/api/(?P<kind>models|datasets)/(?P<repo>[^/]+/[^/]+)")
RESOLVE = re.compile(r"/(?P<kind>datasets/)?(?P<repo>.+?)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")


class HubServer:
    """Serves folders as repositories at their revisions; stops when the `with` block ends."""

    def __init__(
        self,
        repositories: Repositories,
        gated: tuple[str, ...] = (),
        refusal: tuple[int, str] | None = None,
        cut: tuple[str, ...] = (),
    ) -> None:
        self.repositories = repositories
        self.gated = gated
        self.refusal = refusal
        self.cut = cut
        self.requests: list[tuple[str, str]] = []
        self.pushed = Pushed()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.hub = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """The value for HF_ENDPOINT."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def downloaded(self) -> set[str]:
        """The repository paths of the files whose content was asked for."""
        matches = [RESOLVE.fullmatch(path) for method, path in self.requests if method == "GET"]
        return {match["file"] for match in matches if match}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        hub, path, body = self.server.hub, unquote(urlsplit(self.path).path), self._body()
        hub.requests.append((self.command, path))
        self._send_json(*hub.pushed.post(hub.url, path, body))

    def do_PUT(self) -> None:
        hub, path, body = self.server.hub, unquote(urlsplit(self.path).path), self._body()
        hub.requests.append((self.command, path))
        self._send_json(*hub.pushed.put(path, body))

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def log_message(self, format: str, *arguments: object) -> None:
        pass  # `requests` is the log

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.hub.requests.append((self.command, path))
        if refusal := self.server.hub.refusal:
            self._send_error(refusal[0], "", refusal[1])
        elif match := API.fullmatch(path):
            folder = self._folder(match["kind"], match["repo"], match["revision"])
            if folder is not None and match["what"] == "tree":
                self._send_json(200, _tree(folder))
            elif folder is not None:
                files = [{"rfilename": entry["path"]} for entry in _tree(folder)]
                info = {"id": match["repo"], "sha": match["revision"], "private": False, "tags": []}
                self._send_json(200, {**info, "downloads": 0, "likes": 0, "siblings": files})
        elif match := INFO.fullmatch(path):
            newest = list(self.server.hub.repositories.get(match["kind"], {}).get(match["repo"], {}))[-1:]
            if self._folder(match["kind"], match["repo"], *newest or [""]) is not None:
                self._send_json(200, {"id": match["repo"], "sha": newest[0], "private": False, "tags": []})
        elif match := RESOLVE.fullmatch(path):
            kind = "datasets" if match["kind"] else "models"
            folder = self._folder(kind, match["repo"], match["revision"])
            if folder is not None:
                self._send_file(folder, match["file"], match["revision"])
        else:
            self._send_error(404, "", "no such page")

    def _folder(self, kind: str, repo: str, revision: str) -> Path | None:
        """The folder served, or None once an error was sent."""
        hub = self.server.hub
        revisions = hub.repositories.get(kind, {}).get(repo)
        if revisions is None:
            return self._send_error(404, "RepoNotFound", "Repository not found")
        if repo in hub.gated and "Authorization" not in self.headers:
            return self._send_error(403, "GatedRepo", f"Access to {repo} is restricted")
        if revision not in revisions:
            return self._send_error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return revisions[revision]

    def _send_error(self, status: int, code: str, message: str) -> None:
        self._send_json(status, {"error": message}, {"X-Error-Code": code, "X-Error-Message": message})

    def _send_json(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self._send(status, body, {"Content-Type": "application/json", **(headers or {})})

    def _send_file(self, folder: Path, name: str, revision: str) -> None:
        file = folder / name
        commit = {"X-Repo-Commit": revision}
        if ".." in name.split("/") or not file.is_file():
            headers = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found", **commit}
            return self._send_json(404, {"error": "Entry not found"}, headers)
        body = file.read_bytes()
        large = _lfs(name, body)
        etag = f'"{large["oid"] if large else _git_oid(body)}"'
        if name in self.server.hub.cut:
            body = body[: len(body) // 2]
        headers = {**commit, "ETag": etag, "X-Linked-ETag": etag, "X-Linked-Size": str(len(body))}
        headers |= {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(asked[1]), int(asked[2] or len(body) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
            return self._send(206, body[first : last + 1], headers)
        return self._send(200, body, headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _tree(folder: Path) -> list[dict[str, object]]:
    entries = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name, body = path.relative_to(folder).as_posix(), path.read_bytes()
        large = _lfs(name, body)
        entry = {"type": "file", "path": name, "size": len(body), "oid": _git_oid(b"pointer" if large else body)}
        entries.append(entry | ({"lfs": large} if large else {}))
    return entries


def _git_oid(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body, usedforsecurity=False).hexdigest()


def _lfs(name: str, body: bytes) -> dict[str, object] | None:
    """What the hub tells of a large file, as weights and Parquet are; Git holds a pointer to it."""
    if not name.endswith((".safetensors", ".parquet")):
        return None
    return {"oid": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 134}
