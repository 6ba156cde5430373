# SPDX-License-Identifier: Apache-2.0
"""One HTTP call of ours, built and read in one place for the synchronous and the asynchronous client.

A `Call` says what to send and what comes back; a `RequestBuilder` knows where and as whom. Sends nothing.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from typing import Final, Generic, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from serverlessllm import __version__
from serverlessllm.errors import ConfigError, SllmError, UnreachableError, WireError, from_openai
from serverlessllm.sdk.tls import certificate_error, client_context

T = TypeVar("T")

DEFAULT_URL: Final = "http://127.0.0.1:8343"
LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
_ERRNO: Final = re.compile(r"\[Errno -?\d+\] ")
TIMEOUT: Final = httpx.Timeout(30.0, connect=5.0)
DELETE_TIMEOUT: Final = httpx.Timeout(300.0, connect=5.0)
"""Some file systems take a second to delete 100 GB."""
MOVE_TIMEOUT: Final = httpx.Timeout(600.0, connect=5.0)
"""A move may bring a model up at its destination first."""
STREAM_TIMEOUT: Final = httpx.Timeout(30.0, connect=5.0, read=None)
"""A held request is silent for as long as its model needs; the server's own deadlines end it."""


D = TypeVar("D")


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A request and the type of its answer. `path` is quoted already; `result` None = no body expected."""

    method: str
    path: str
    result: type[T]
    body: msgspec.Struct | dict[str, object] | None = None
    params: dict[str, str] | None = None

    def read(self, response: httpx.Response) -> T:
        """The typed answer of a response whose body was read.

        Raises: the `SllmError` that the server sent; WireError when the answer is not ours.
        """
        raise_for_error(response)
        return self._decode(response.content or b"null", self.result, response)

    @staticmethod
    def _decode(content: bytes, kind: type[D], response: httpx.Response) -> D:
        try:
            return msgspec.json.decode(content, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise WireError(
                f"{response.request.url} answered in an unexpected form ({error}); is it a ServerlessLLM "
                f"server of version {__version__}?"
            ) from error


def segment(name: str) -> str:
    """A model name as part of a path: `/` stays, everything unsafe is quoted."""
    return quote(name, safe="/")


def raise_for_error(response: httpx.Response) -> None:
    """Raise the typed error of a response that is none of 2xx."""
    if response.is_success:
        return
    try:
        body = msgspec.json.decode(response.content)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        body = None
    if body is None:
        raise SllmError(
            f"{response.request.url} answered HTTP {response.status_code}; is it a ServerlessLLM server?"
        )
    error = from_openai(body, status=response.status_code)
    retry_after = response.headers.get("retry-after", "")
    if retry_after.isdigit():
        error.retry_after_s = float(retry_after)
    raise error


def unreachable(base_url: str, error: httpx.TransportError) -> UnreachableError:
    """What a caller is told when no answer came."""
    refused = certificate_error(error, base_url, "--ca or SLLM_CA")
    if refused is not None:
        return refused
    reason = _ERRNO.sub("", str(error)) or type(error).__name__
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        advice = "start the server with `sllm serve`, or name another with --url or SLLM_URL"
        return UnreachableError(f"cannot reach {base_url} ({reason}); {advice}", source="client")
    advice = "see whether the server still runs with `sllm doctor`"
    return UnreachableError(f"lost {base_url} ({reason}); {advice}", source="client")


class RequestBuilder:
    """Turns calls into HTTP requests to one server, with one key."""

    def __init__(
        self, base_url: str = DEFAULT_URL, api_key: str | None = None, ca: str | None = None
    ) -> None:
        """`ca`: a PEM file of authorities to check the server against, instead of the system's.

        Raises ConfigError when `base_url` is no http(s) URL, the key cannot be a header, or `ca` is no such file.
        """
        self.base_url = base_url.rstrip("/")
        try:
            url = httpx.URL(self.base_url)
        except httpx.InvalidURL as error:
            raise ConfigError(f"{base_url!r} is not a URL: {error}", param="url") from error
        if url.scheme not in ("http", "https") or not url.host:
            raise ConfigError(f"{base_url!r} is not a URL; write e.g. {DEFAULT_URL}", param="url")
        if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
            raise ConfigError("the API key has characters that no key of ours has", param="api_key")
        # Our own machine is never behind a proxy, and plain HTTP needs no CA bundle (20 ms to load).
        self.trust_env = url.host not in LOOPBACK
        self.verify: bool | ssl.SSLContext = url.scheme == "https"
        if self.verify and ca:
            self.verify = client_context(ca)
        self._headers = {"accept": "application/json", "user-agent": f"sllm/{__version__}"}
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"

    def build(self, call: Call[T], timeout: httpx.Timeout = TIMEOUT) -> httpx.Request:
        """The HTTP request of a call; a body is JSON."""
        headers = dict(self._headers)
        content: bytes | None = None
        if call.body is not None:
            headers["content-type"] = "application/json"
            content = msgspec.json.encode(call.body)
        return httpx.Request(
            call.method,
            f"{self.base_url}{call.path}",
            params=call.params,
            headers=headers,
            content=content,
            extensions={"timeout": timeout.as_dict()},
        )
