# SPDX-License-Identifier: Apache-2.0
"""A web server in threads that serves ranges of objects in memory, and misbehaves on demand."""

from __future__ import annotations

import contextlib
import re
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, Self

FaultKind = Literal[
    "truncate", "wrong_range", "whole", "error_500", "stall", "corrupt", "new_etag", "gzip", "long"
]
BLOCK_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class RangeRequest:
    """One GET with a range: `number` counts them from 0, without the probes for the first byte."""

    number: int
    path: str
    start: int
    end: int
    headers: dict[str, str]


Fault = Callable[[RangeRequest], FaultKind | None]


def no_fault(request: RangeRequest) -> FaultKind | None:
    """Serve everything as it should be."""
    return None


@dataclass(slots=True)
class Served:
    """What the server did, guarded by its lock."""

    requests: list[RangeRequest] = field(default_factory=list)
    probes: list[RangeRequest] = field(default_factory=list)
    gets: list[str] = field(default_factory=list)
    nbytes: int = 0


class RangedServer:
    """Serves `objects` (path → bytes) and `redirects` (path → URL); `bytes_per_s` holds for all connections."""

    def __init__(
        self,
        objects: dict[str, bytes],
        *,
        fault: Fault = no_fault,
        bytes_per_s: float | None = None,
        has_ranges: bool = True,
        tells_size: bool = True,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.objects = objects
        self.redirects: dict[str, str] = {}
        self.forbidden: set[str] = set()
        self.fault = fault
        self.bytes_per_s = bytes_per_s
        self.has_ranges = has_ranges
        self.tells_size = tells_size
        self.served = Served()
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self._free_at_s = 0.0
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._scheme = "http" if tls is None else "https"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def url(self, path: str, *, host: str = "127.0.0.1") -> str:
        """Where the object is."""
        return f"{self._scheme}://{host}:{self._server.server_address[1]}{path}"

    def etag(self, path: str) -> str:
        """A strong tag of the object's bytes."""
        return f'"{sha256(self.objects[path]).hexdigest()[:16]}"'

    def pace(self, nbytes: int) -> None:
        """Wait until the throttle lets `nbytes` through."""
        if self.bytes_per_s is None:
            return
        with self.lock:
            now_s = time.monotonic()
            self._free_at_s = max(self._free_at_s, now_s) + nbytes / self.bytes_per_s
            wait_s = self._free_at_s - now_s
        self.closing.wait(wait_s)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that leave are part of the tests."""


def _handler(server: RangedServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path in server.redirects:
                self._headers_only(302, {"Location": server.redirects[path]})
            elif path in server.forbidden:
                self._headers_only(403, {})
            elif path not in server.objects:
                self._headers_only(404, {})
            else:
                self._object(path)

        def _headers_only(self, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": "0"}.items():
                self.send_header(key, value)
            self.end_headers()

        def _object(self, path: str) -> None:
            data = server.objects[path]
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if asked is None or not server.has_ranges:
                with server.lock:
                    server.served.gets.append(path)
                return self._send(200, data, {"ETag": server.etag(path)})
            start, end = int(asked[1]), min(int(asked[2]) + 1, len(data))
            if start >= len(data):
                return self._headers_only(416, {"Content-Range": f"bytes */{len(data)}"})
            headers = {key.lower(): value for key, value in self.headers.items()}
            is_probe = self.headers["Range"] == "bytes=0-0"
            with server.lock:
                made = server.served.probes if is_probe else server.served.requests
                request = RangeRequest(len(made), path, start, end, headers)
                made.append(request)
            self._answer(request, data, None if is_probe else server.fault(request))

        def _answer(self, request: RangeRequest, data: bytes, fault: FaultKind | None) -> None:
            start, end = request.start, request.end
            body = data[start:end]
            tag = server.etag(request.path) if fault != "new_etag" else '"another"'
            headers = {"ETag": tag, "Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}
            if fault == "error_500":
                return self._headers_only(500, {})
            if fault == "stall":
                server.closing.wait()
                return None
            if fault == "whole" or request.headers.get("if-range", tag) != tag:
                return self._send(200, data, {"ETag": tag})
            if fault == "wrong_range":
                headers["Content-Range"] = f"bytes {start + 1}-{end}/{len(data)}"
            if fault == "corrupt":
                body = body[:-1] + bytes([body[-1] ^ 1])
            if fault == "gzip":
                headers["Content-Encoding"] = "gzip"
            if fault == "truncate":
                return self._send(206, body[: len(body) // 2], headers, promised=len(body))
            return self._send(206, body + (b"!" if fault == "long" else b""), headers)

        def _send(
            self, status: int, body: bytes, headers: dict[str, str], promised: int | None = None
        ) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            if server.tells_size:
                self.send_header("Content-Length", str(len(body) if promised is None else promised))
            else:
                self.send_header("Connection", "close")
                self.close_connection = True
            self.end_headers()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                for at in range(0, len(body), BLOCK_BYTES):
                    block = body[at : at + BLOCK_BYTES]
                    server.pace(len(block))
                    self.wfile.write(block)
                    with server.lock:
                        server.served.nbytes += len(block)
            if promised is not None:
                self.close_connection = True

    return Handler
