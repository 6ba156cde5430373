# SPDX-License-Identifier: Apache-2.0
"""A server that speaks the hub's protocol: commits, trees, files by redirect to a store that serves ranges."""

from __future__ import annotations

import json
import re
import ssl
import threading
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import unquote

from support.ranged_server import RangedServer

REPOSITORY = "org/model"
LFS_FROM_BYTES = 1000


class HubServer:
    """One repository. `commits` maps a commit to its files, `branches` a name to a commit; `token` gates it."""

    def __init__(
        self, files: dict[str, bytes], *, token: str | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self.commits: dict[str, dict[str, bytes]] = {}
        self.branches: dict[str, str] = {}
        self.token = token
        self.asked: list[str] = []
        self.store = RangedServer({}, tls=tls)
        self.push("main", files)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._scheme = "http" if tls is None else "https"
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def endpoint(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}"

    def push(self, branch: str, files: dict[str, bytes]) -> str:
        """A new commit on `branch`; returns it."""
        commit = sha1(repr(sorted(files.items())).encode()).hexdigest()  # as git names its commits
        self.commits[commit] = files
        self.branches[branch] = commit
        for name, data in files.items():
            self.store.objects[f"/{commit}/{name}"] = data
        return commit

    def __enter__(self) -> Self:
        self.store.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self.store.__exit__()


def _tree(files: dict[str, bytes]) -> list[dict[str, object]]:
    entries: list[dict[str, object]] = []
    for name, data in files.items():
        entry: dict[str, object] = {
            "type": "file",
            "path": name,
            "size": len(data),
            "oid": sha1(data).hexdigest(),  # as git names its blobs
        }
        if len(data) >= LFS_FROM_BYTES:
            entry["lfs"] = {"oid": sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        entries.append(entry)
    return entries


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

        def do_GET(self) -> None:
            path = unquote(self.path.partition("?")[0])
            hub.asked.append(path)
            if hub.token is not None and self.headers.get("Authorization") != f"Bearer {hub.token}":
                return self._answer(401, {"error": "gated"}, {"X-Error-Code": "GatedRepo"})
            if found := re.fullmatch(rf"/api/models/{REPOSITORY}(?:/revision/(.+))?", path):
                return self._about(found[1] or "main")
            if found := re.fullmatch(rf"/api/models/{REPOSITORY}/tree/([^/]+)", path):
                return self._answer(200, _tree(hub.commits[found[1]]))
            if found := re.fullmatch(rf"/{REPOSITORY}/resolve/([0-9a-f]{{40}})/(.+)", path):
                return self._answer(302, {}, {"Location": hub.store.url(f"/{found[1]}/{found[2]}")})
            return self._answer(404, {"error": "not found"}, {"X-Error-Code": "RepoNotFound"})

        def _about(self, revision: str) -> None:
            commit = hub.branches.get(revision, revision)
            if commit not in hub.commits:
                return self._answer(404, {"error": "no revision"}, {"X-Error-Code": "RevisionNotFound"})
            return self._answer(200, {"id": REPOSITORY, "sha": commit, "siblings": []})

        def _answer(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
                self.send_header(key, value)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(data)

    return Handler
