# SPDX-License-Identifier: Apache-2.0
"""Our client of etcd's own JSON gateway (`/v3/…` on its client port, etcd 3.4 and newer).

Endpoints are tried in turn, accounts are authenticated when a token is asked for, every call is bounded. A call is
repeated only when it cannot have been carried out: nobody listened, or the token was refused. Bytes are base64 and
64-bit integers are texts in this encoding; `etcd.py` knows what the messages mean.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, Literal

import httpx

from serverlessllm.errors import MetadataUnavailableError, ServiceError
from serverlessllm.metadata.access import ServerAccess
from serverlessllm.metadata.location import StoreLocation
from serverlessllm.metadata.store import UnreadableStoreError

Message = dict[str, Any]
"""A JSON object of etcd's; its fields are in etcd's `rpc.proto`."""

UNAUTHENTICATED: Final = 16
_ACCOUNT_WORDS: Final = ("authentication failed", "permission denied", "user name is empty", "invalid user")
_KEEPALIVE: Final = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
]
"""A watch is silent for hours; a host that vanished is noticed after 11 s."""


class EtcdRefusedError(ServiceError):
    """etcd answered with an error; `reason` is its text."""

    code = "metadata_refused"
    http_status = 503

    def __init__(self, where: str, reason: str, grpc_code: int) -> None:
        super().__init__(f"metadata store ({where}): {reason}")
        self.reason = reason
        self.grpc_code = grpc_code


class EtcdGateway:
    """One cluster. For one event loop; end it with `close`."""

    def __init__(self, location: StoreLocation, access: ServerAccess) -> None:
        """Opens no connection yet. Raises ConfigError for certificates that cannot be used."""
        scheme = "https" if location.is_tls else "http"
        self._endpoints = [f"{scheme}://{endpoint}" for endpoint in location.endpoints]
        self._at = 0
        self._access = access
        self._token = ""
        self.where = str(location)
        self._closing = asyncio.Event()
        transport = httpx.AsyncHTTPTransport(
            verify=access.tls_context() if location.is_tls else True,
            trust_env=False,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=8),
            socket_options=_KEEPALIVE,
        )
        self._http = httpx.AsyncClient(transport=transport, timeout=access.call_timeout_s)

    async def close(self) -> None:
        """Close all connections; streams end, later calls raise MetadataUnavailableError."""
        self._closing.set()
        await self._http.aclose()

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._closing.is_set()

    async def call(self, path: str, body: Message) -> Message:
        """`POST path`. Raises: EtcdRefusedError; UnreadableStoreError (the account); MetadataUnavailableError."""
        response = await self._send(path, body)
        document = self._parse(response.content)
        if response.is_success:
            return document
        refusal = self._refusal(document)
        if refusal.grpc_code != UNAUTHENTICATED and "auth token" not in refusal.reason:
            raise refusal
        await self.authenticate()
        response = await self._send(path, body)
        document = self._parse(response.content)
        if not response.is_success:
            raise self._refusal(document)
        return document

    async def authenticate(self) -> None:
        """Get a token, if there is an account."""
        if not self._access.user:
            return
        self._token = ""
        account = {"name": self._access.user, "password": self._access.password}
        response = await self._send("/v3/auth/authenticate", account)
        document = self._parse(response.content)
        if not response.is_success:
            reason = self._refusal(document).reason
            raise UnreadableStoreError(
                f"metadata store ({self.where}) refuses us: {reason}; "
                "see SLLM_METADATA_USER and SLLM_METADATA_PASSWORD"
            )
        self._token = document["token"]

    @asynccontextmanager
    async def stream(self, path: str, body: Message) -> AsyncGenerator[AsyncGenerator[Message, None], None]:
        """`POST path`, answered by `result` objects for as long as both sides want.

        The first one must come within the bound of a call. Raises as `call`; when the connection is lost,
        MetadataUnavailableError.
        """
        request = self._request(path, body, read_timeout_s=None)
        try:
            async with asyncio.timeout(self._access.call_timeout_s):
                response = await self._http.send(request, stream=True)
        except (TimeoutError, httpx.TransportError, RuntimeError) as error:
            raise self._unavailable(error) from error
        messages = self._messages(response)
        try:
            yield messages
        finally:
            await messages.aclose()
            await response.aclose()

    async def _messages(self, response: httpx.Response) -> AsyncGenerator[Message, None]:
        lines = response.aiter_lines()
        closing = asyncio.ensure_future(self._closing.wait())
        timeout_s: float | None = self._access.call_timeout_s
        try:
            while True:
                line = await self._next_line(lines, closing, timeout_s)
                document = self._parse(line.encode())
                if "result" not in document:
                    raise self._refusal(document.get("error", document))
                timeout_s = None
                yield document["result"]
        finally:
            closing.cancel()

    async def _next_line(
        self, lines: AsyncIterator[str], closing: asyncio.Future[Literal[True]], timeout_s: float | None
    ) -> str:
        """Raises MetadataUnavailableError when the stream ends, `timeout_s` is over, or we are closed."""
        reading = asyncio.ensure_future(anext(lines, None))
        try:
            both: set[asyncio.Future[Any]] = {reading, closing}
            await asyncio.wait(both, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                raise self._unavailable(TimeoutError())
            line = reading.result()
        except (httpx.TransportError, httpx.StreamError) as error:
            raise self._unavailable(error) from error
        finally:
            if not reading.done():
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
        if line is None:
            raise MetadataUnavailableError(f"metadata store ({self.where}) ended the connection")
        return line

    async def _send(self, path: str, body: Message) -> httpx.Response:
        """The answer, whatever its status, from the first endpoint that listens."""
        last: Exception | None = None
        for _ in self._endpoints:
            try:
                async with asyncio.timeout(self._access.call_timeout_s):
                    return await self._http.send(self._request(path, body))
            except httpx.ConnectError as error:  # nothing was sent: another endpoint may be asked
                last = error
                self._next_endpoint()
            except (TimeoutError, httpx.TransportError, RuntimeError) as error:
                self._next_endpoint()
                raise self._unavailable(error) from error
        raise self._unavailable(last)

    def _request(self, path: str, body: Message, *, read_timeout_s: float | None = -1.0) -> httpx.Request:
        if self.is_closed:
            raise MetadataUnavailableError(f"metadata store ({self.where}) was closed")
        call_s = self._access.call_timeout_s
        read_s = call_s if read_timeout_s == -1.0 else read_timeout_s
        return self._http.build_request(
            "POST",
            self._endpoints[self._at] + path,
            content=json.dumps(body).encode(),
            headers={"Authorization": self._token} if self._token else {},
            timeout=httpx.Timeout(call_s, read=read_s),
        )

    def _next_endpoint(self) -> None:
        self._at = (self._at + 1) % len(self._endpoints)

    def _parse(self, data: bytes) -> Message:
        try:
            document = json.loads(data)
        except ValueError as error:
            raise MetadataUnavailableError(
                f"metadata store ({self.where}) does not speak etcd's v3 API: {data[:80]!r}"
            ) from error
        if not isinstance(document, dict):
            raise MetadataUnavailableError(f"metadata store ({self.where}) does not speak etcd's v3 API")
        return document

    def _refusal(self, document: Message) -> EtcdRefusedError:
        reason = str(document.get("message") or document.get("error") or document)[:300]
        code = document.get("code") or document.get("grpc_code") or 0
        if any(word in reason for word in _ACCOUNT_WORDS) and not self._access.user:
            raise UnreadableStoreError(
                f"metadata store ({self.where}) refuses us: {reason}; "
                "set SLLM_METADATA_USER and SLLM_METADATA_PASSWORD"
            )
        return EtcdRefusedError(self.where, reason, int(code))

    def _unavailable(self, error: Exception | None) -> MetadataUnavailableError:
        if self.is_closed:
            return MetadataUnavailableError(f"metadata store ({self.where}) was closed")
        if isinstance(error, TimeoutError | httpx.TimeoutException):
            return MetadataUnavailableError(
                f"metadata store ({self.where}) did not answer within {self._access.call_timeout_s:g} s"
            )
        return MetadataUnavailableError(f"metadata store ({self.where}): {error or type(error).__name__}")
