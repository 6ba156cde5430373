# SPDX-License-Identifier: Apache-2.0
"""HTTP connections to addresses that the URL policy has checked, and the road along redirects.

Knows requests and answers; not ranges, objects or retries. `http.client`, because reading a body through it
straight into the caller's memory costs half the CPU of any other client that we measured. Proxies of the
environment are not used: behind one, the address that was checked would not be the one that is asked.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urljoin

from serverlessllm.errors import ConfigError, ModelLoadError, UnreachableError
from serverlessllm.sources.body_socket import BodySocket
from serverlessllm.sources.url_policy import Target, UrlPolicy

MAX_REDIRECTS: Final = 5
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
USER_AGENT: Final = "serverlessllm"


def trusted_certificates(ca_file: Path | None = None) -> ssl.SSLContext:
    """Verify servers against the system's authorities and, beside them, those of `ca_file` (PEM).

    Raises: ConfigError when the file cannot be used.
    """
    context = ssl.create_default_context()
    if ca_file is not None:
        try:
            context.load_verify_locations(cafile=ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"sources.ca_file: cannot read certificates from {ca_file}: {error}", param="sources.ca_file"
            ) from error
    return context


@dataclass(frozen=True, slots=True)
class HttpAccess:
    """How we go out: the URL rules, whom we believe, and how long we wait.

    `stall_timeout_s`: a connection that brings no byte for so long is given up.
    """

    policy: UrlPolicy
    tls: ssl.SSLContext = field(default_factory=trusted_certificates)
    connect_timeout_s: float = 5.0
    stall_timeout_s: float = 20.0


class PinnedConnection(http.client.HTTPConnection):
    """A connection to a checked `Target`: to its addresses, never through a resolver. Used by one thread.

    `num_requests` counts what was sent over the present socket: a kept connection may have died meanwhile.
    """

    def __init__(self, target: Target, access: HttpAccess) -> None:
        super().__init__(target.host, target.port, timeout=access.stall_timeout_s)
        self.target = target
        self.num_requests = 0
        self._access = access
        self.is_interrupted = False

    def connect(self) -> None:
        """Connect to the first address that answers. Raises: OSError of the last one; ssl.SSLError."""
        failure: OSError = OSError("no address")
        for address in self.target.addresses:
            try:
                plain = socket.create_connection(
                    (address, self.target.port), timeout=self._access.connect_timeout_s
                )
                break
            except OSError as error:
                failure = error
        else:
            raise failure
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sock = self._ready(plain)
            self._check_not_interrupted()
        except OSError:
            plain.close()
            self.close()
            raise
        self.num_requests = 0

    def _check_not_interrupted(self) -> None:
        if self.is_interrupted:
            raise ConnectionAbortedError("interrupted")

    def _ready(self, plain: socket.socket) -> socket.socket:
        if self.target.scheme == "http":
            return BodySocket(plain, self._access.stall_timeout_s)
        secured = self._access.tls.wrap_socket(plain, server_hostname=self.target.host)
        secured.settimeout(self._access.stall_timeout_s)
        return secured

    def send_get(self, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        """GET the target, asking for the bytes as they are. Raises: OSError, HTTPException."""
        sent = {
            "Host": self.target.netloc,
            "User-Agent": USER_AGENT,
            "Accept-Encoding": "identity",
            **headers,
        }
        self._check_not_interrupted()
        self.request("GET", self.target.path, headers=sent)
        self.num_requests += 1
        return self.getresponse()

    def interrupt(self) -> None:
        """End a read that another thread is in; this connection is of no further use. Thread-safe."""
        self.is_interrupted = True
        sock = self.sock
        if sock is not None:
            # The plain socket's: an SSLSocket's own would take its state away from under the reader.
            with contextlib.suppress(OSError):  # it is closed already
                socket.socket.shutdown(sock, socket.SHUT_RDWR)


@dataclass(frozen=True, slots=True)
class Exchange:
    """An answer whose body is not read yet. `sent`: our own headers as its origin may see them."""

    connection: PinnedConnection
    response: http.client.HTTPResponse
    sent: Mapping[str, str]

    def close(self) -> None:
        """Give up the connection."""
        self.connection.close()


def failure(target: Target, name: str, error: Exception) -> UnreachableError | ModelLoadError:
    """What a broken exchange means: a bad certificate stays bad, all else may succeed later."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return ModelLoadError(
            f"{target.host} does not prove who it is: {error.verify_message}; "
            "name its authority in sources.ca_file",
            source="agent",
        )
    reason = str(error) or type(error).__name__
    return UnreachableError(f"{name}: {target.host} broke the connection: {reason}", source="agent")


def follow(url: str, access: HttpAccess, headers: Mapping[str, str], *, name: str) -> Exchange:
    """GET `url` and where it redirects to; the last answer, whatever its status.

    Every hop passes the policy. `Authorization` goes to the origin of `url` only. Raises: what the policy raises;
    ModelLoadError for too many redirects or a bad certificate; UnreachableError when a connection breaks.
    """
    target = first = access.policy.check(url)
    for _ in range(MAX_REDIRECTS + 1):
        connection = PinnedConnection(target, access)
        sent = _headers_for(target, first, headers)
        try:
            response = connection.send_get(sent)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise failure(target, name, error) from error
        location = response.getheader("Location")
        if response.status not in REDIRECTS or not location:
            return Exchange(connection, response, sent)
        connection.close()
        url = urljoin(url, location)
        target = access.policy.check(url, coming_from=target)
    raise ModelLoadError(f"{name}: more than {MAX_REDIRECTS} redirects", source="agent")


def _headers_for(target: Target, first: Target, headers: Mapping[str, str]) -> dict[str, str]:
    """`headers` as `target` may see them: credentials are for the origin that they were given for."""
    if target.origin == first.origin:
        return dict(headers)
    return {key: value for key, value in headers.items() if key.lower() != "authorization"}
