# SPDX-License-Identifier: Apache-2.0
"""An object behind http(s), read in ranges straight into the caller's memory.

Knows URLs, ranges and the object's identity; not what the bytes mean. One kept connection per reading thread. The
object's identity is pinned when it is opened: whatever changes later is an error, never a mixture.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from serverlessllm.errors import (
    CorruptDataError,
    ModelLoadError,
    PermissionDeniedError,
    SllmError,
    UnreachableError,
)
from serverlessllm.sources.http_answer import HttpIdentity, RangeAnswer, check_range, read_answer
from serverlessllm.sources.http_connection import (
    HttpAccess,
    PinnedConnection,
    failure,
    follow,
)
from serverlessllm.sources.url_policy import Target
from serverlessllm.types import Tier


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the object was found last, after all redirects; `headers` as that origin may see them."""

    target: Target
    headers: dict[str, str]
    identity: HttpIdentity
    has_ranges: bool


@dataclass(slots=True)
class _Body:
    """An answer of which bytes [at, end) of the object are still to be read."""

    connection: PinnedConnection
    response: http.client.HTTPResponse
    at: int
    end: int


def display_name(url: str) -> str:
    """`url` without query, fragment and credentials."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class HttpSource:
    """One object. `read_into` may be called from several threads at once; nothing is asked before it is needed.

    `url` may be a function that makes a fresh one: links that were signed for a while are renewed when the server
    begins to refuse them, as are redirects.
    """

    tier: Tier

    def __init__(
        self,
        url: str | Callable[[], str],
        access: HttpAccess,
        *,
        name: str | None = None,
        headers: Mapping[str, str] | None = None,
        tier: Tier = "remote",
    ) -> None:
        """`name` is needed with a function. `headers` go with every request, Authorization to the first origin."""
        self.name = name if name is not None else display_name(url if isinstance(url, str) else "")
        self.tier = tier
        self._url = url
        self._access = access
        self._headers = dict(headers or {})
        self._lock = threading.Lock()
        self._place: _Place | None = None
        # Of each reading thread:
        self._connections: dict[int, PinnedConnection] = {}
        self._bodies: dict[int, _Body] = {}
        self._announced: dict[int, range] = {}
        self._interrupted: set[int] = set()

    @property
    def url(self) -> str:
        """Where to begin to look for it; may be freshly signed, so never to be shown."""
        return self._url if isinstance(self._url, str) else self._url()

    @property
    def size(self) -> int:
        """Bytes in the object. Raises: as `read_into`; ModelLoadError where the server does not tell."""
        size_bytes = self._opened().identity.size_bytes
        if size_bytes is None:
            raise ModelLoadError(f"{self.name}: the server does not tell its size", source="agent")
        return size_bytes

    @property
    def identity(self) -> HttpIdentity:
        """ETag, date and size as they were when the object was opened."""
        return self._opened().identity

    @property
    def has_ranges(self) -> bool:
        """Whether the server gives parts of the object; if not, `read_into` cannot be used."""
        return self._opened().has_ranges

    def read_into(self, offset: int, view: memoryview) -> int:
        """Fill the writable byte `view` from `offset`; returns the bytes read, fewer only at the object's end.

        After an error the view holds any bytes. Raises: as `Source.read_into`.
        """
        place = self._opened()
        end = min(offset + len(view), self.size)
        if end <= offset:
            return 0
        if not place.has_ranges:
            raise ModelLoadError(f"{self.name} cannot be read in ranges: the server has none", source="agent")
        with view[: end - offset] as target:
            try:
                self._read_range(place, offset, target)
            except PermissionDeniedError:
                # A signed link or a redirect may have run out: find the object again, once.
                self._read_range(self._found_again(place), offset, target)
        return end - offset

    def announce(self, offset: int, nbytes: int) -> None:
        """See `ReadsAhead`: the next read at `offset` asks for all of it."""
        self._announced[threading.get_ident()] = range(offset, offset + nbytes)

    def interrupt(self, thread_id: int) -> None:
        """See `Interruptible`."""
        # First the mark, then the connection: the reading thread does the reverse, so one of both is seen.
        self._interrupted.add(thread_id)
        connection = self._connections.get(thread_id)
        if connection is not None:
            connection.interrupt()

    def allow(self, thread_id: int) -> None:
        """See `Interruptible`."""
        self._interrupted.discard(thread_id)

    def close(self) -> None:
        """Close the connections; no read may be in progress. Idempotent."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()
        self._bodies.clear()

    def __enter__(self) -> HttpSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _opened(self) -> _Place:
        if self._place is None:
            with self._lock:
                if self._place is None:
                    self._place = self._find()
        return self._place

    def _found_again(self, old: _Place) -> _Place:
        """A place newer than `old`; of threads that were refused together, one asks."""
        with self._lock:
            if self._place is None or self._place is old:
                found = self._find()
                if not old.identity.is_same(found.identity):
                    raise CorruptDataError(
                        f"{self.name} has changed since it was opened; begin again",
                        param=self.name,
                        source="agent",
                    )
                self._place = found
            return self._place

    def _find(self) -> _Place:
        """Ask for the first byte: GET, because signed links are for one method, and because it proves ranges."""
        headers = {**self._headers, "Range": "bytes=0-0"}
        exchange = follow(self.url, self._access, headers, name=self.name)
        try:
            answer = self._understood(exchange.response)
            headers = {key: value for key, value in exchange.sent.items() if key != "Range"}
            return _Place(exchange.connection.target, headers, answer.identity, answer.start is not None)
        finally:
            exchange.close()

    def _understood(self, response: http.client.HTTPResponse) -> RangeAnswer:
        headers = {key.lower(): value for key, value in response.getheaders()}
        return read_answer(response.status, headers, name=self.name)

    def _read_range(self, place: _Place, offset: int, view: memoryview) -> None:
        connection = self._connection(place.target)
        try:
            body = self._body(place, connection, offset, offset + len(view))
            self._receive(body.response, view)
            body.at += len(view)
            if body.at < body.end:
                self._bodies[threading.get_ident()] = body
            # Reads the end of a chunked body, so that the connection can be used again.
            elif not body.response.isclosed() and body.response.read(1):
                raise ModelLoadError(f"{self.name} sends more bytes than were asked for", source="agent")
        except (OSError, http.client.HTTPException) as error:
            self._drop(connection)
            raise failure(place.target, self.name, error) from error
        except SllmError:
            self._drop(connection)  # the rest of the body is still in it
            raise

    def _body(self, place: _Place, connection: PinnedConnection, start: int, end: int) -> _Body:
        """Where bytes [start, end) are read from next: the answer that this thread is in, or a new one."""
        thread_id = threading.get_ident()
        body = self._bodies.pop(thread_id, None)
        if body is not None and body.connection is connection:
            if body.at == start and end <= body.end:
                return body
            connection.close()  # it is full of bytes that nobody wants any more
        announced = self._announced.pop(thread_id, range(0))
        if start == announced.start:
            end = min(max(end, announced.stop), self.size)
        headers = {**place.headers, "Range": f"bytes={start}-{end - 1}"}
        if place.identity.condition is not None:
            headers["If-Range"] = place.identity.condition
        response = self._ask(connection, headers)
        check_range(self._understood(response), place.identity, start, end, name=self.name)
        return _Body(connection, response, start, end)

    def _ask(self, connection: PinnedConnection, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        """Send the request; a kept connection that the server has closed meanwhile is opened anew, once."""
        try:
            return connection.send_get(headers)
        except (ConnectionError, http.client.BadStatusLine):
            if connection.num_requests == 0 or connection.is_interrupted:
                raise
        connection.close()
        return connection.send_get(headers)

    def _receive(self, response: http.client.HTTPResponse, view: memoryview) -> None:
        done = 0
        while done < len(view):
            with view[done:] as rest:
                count = response.readinto(rest)
            if count == 0:
                raise UnreachableError(
                    f"{self.name}: the connection ended after {done} of {len(view)} bytes", source="agent"
                )
            done += count

    def _connection(self, target: Target) -> PinnedConnection:
        """This thread's connection to where the object is now."""
        thread_id = threading.get_ident()
        kept = self._connections.get(thread_id)
        if kept is not None and kept.target == target and not kept.is_interrupted:
            return kept
        if kept is not None:
            kept.close()
        fresh = PinnedConnection(target, self._access)
        self._connections[thread_id] = fresh
        if thread_id in self._interrupted:
            fresh.interrupt()
        return fresh

    def _drop(self, connection: PinnedConnection) -> None:
        connection.close()
        self._connections.pop(threading.get_ident(), None)
