# SPDX-License-Identifier: Apache-2.0
"""Who may call what: Host and Origin, API keys and their roles, media types, and the bound of bodies.

Host and Origin are checked so that a web page cannot reach a server on the reader's own machine, neither by
rebinding a DNS name to it nor by posting across sites. Ports do not count. Knows no route's meaning.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from serverlessllm.config import OrchestratorConfig
from serverlessllm.errors import (
    AuthenticationError,
    ConfigError,
    PayloadTooLargeError,
    PermissionDeniedError,
    UnsupportedMediaTypeError,
)
from serverlessllm.orchestrator.keyring import Keyring
from serverlessllm.types import DEFAULT_TENANT, Role

LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
TENANT: Final = web.RequestKey("tenant", str)
"""Where an admitted request carries its tenant."""
PROBES: Final = frozenset({"/healthz", "/readyz"})
"""Answered for any Host: a cluster's probes call by address, and they tell nothing."""
_ROLES: Final[tuple[tuple[str, frozenset[Role]], ...]] = (
    ("/v1/", frozenset({"infer", "admin"})),
    ("/admin/", frozenset({"admin"})),
    ("/metrics", frozenset({"infer", "admin", "node"})),
)
"""Path prefix → roles that may call it. Other paths are the same for everyone and need no key."""


def is_loopback(host: str) -> bool:
    """Whether listening on `host` is reachable from this machine only."""
    return host in LOOPBACK_NAMES or host.startswith("127.")


@lru_cache(1024)
def host_name(netloc: str) -> str:
    """`name:port`, `[v6]:port` or a bare name → the name, lower-case; "" when malformed."""
    try:
        return (urlsplit(f"//{netloc}").hostname or "").rstrip(".")
    except ValueError:
        return ""


class Admission:
    """`check` every request before anything else is done for it."""

    def __init__(self, config: OrchestratorConfig, keyring: Keyring) -> None:
        self._config = config
        self._keyring = keyring
        self._hosts = LOOPBACK_NAMES | {
            host_name(name) or name.lower() for name in (config.host, *config.allowed_hosts)
        }

    def check_start(self) -> None:
        """Raises ConfigError when we would listen publicly without keys."""
        if is_loopback(self._config.host) or not self._keyring.is_empty or self._config.insecure:
            return
        raise ConfigError(
            f"orchestrator.host {self._config.host} is reachable from outside and no API key exists; listen on "
            "127.0.0.1, create an admin key with `sllm key create`, or allow it with --insecure",
            param="orchestrator.host",
        )

    def check(self, request: web.Request) -> str:
        """Returns the caller's tenant.

        Raises: PermissionDeniedError, AuthenticationError, UnsupportedMediaTypeError, PayloadTooLargeError.
        """
        resource = request.match_info.route.resource
        path = "" if resource is None else resource.canonical  # what is dispatched, not what was written
        if path in PROBES:
            return DEFAULT_TENANT
        self._check_host(request)
        tenant = self._check_key(request, path)
        if resource is not None and request.method == hdrs.METH_POST:
            if request.content_type != "application/json":
                raise UnsupportedMediaTypeError(
                    "content-type: must be application/json", param="content-type"
                )
            if (request.content_length or 0) > self._config.max_body_bytes:
                raise too_large(self._config.max_body_bytes)
        return tenant

    def _check_host(self, request: web.Request) -> None:
        headers = request.headers
        host = headers.get(hdrs.HOST, "")
        if host_name(host) not in self._hosts:
            raise PermissionDeniedError(
                f"host {host[:100]!r} is not ours; if it should be, add it to orchestrator.allowed_hosts",
                param="host",
            )
        origin = headers.get(hdrs.ORIGIN)
        if origin is None:
            return
        netloc = origin.partition("://")[2]
        if netloc != host and host_name(netloc) not in self._config.allowed_hosts:
            raise PermissionDeniedError(
                f"origin {origin[:100]!r} may not call this server; if it should, add its host to "
                "orchestrator.allowed_hosts",
                param="origin",
            )

    def _check_key(self, request: web.Request, path: str) -> str:
        roles = next((roles for prefix, roles in _ROLES if path.startswith(prefix)), None)
        if roles is None or self._keyring.is_empty:
            return DEFAULT_TENANT
        scheme, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise AuthenticationError("no API key: send `Authorization: Bearer <key>`")
        record = self._keyring.find(token.strip())
        if record is None:
            raise AuthenticationError("the API key is unknown or was revoked")
        if record.role not in roles:
            raise PermissionDeniedError(
                f"the key's role is {record.role}; this call needs {' or '.join(sorted(roles))}"
            )
        return record.tenant


def too_large(max_bytes: int) -> PayloadTooLargeError:
    """The error for a body above the bound."""
    return PayloadTooLargeError(
        f"body: larger than {max_bytes} bytes (orchestrator.max_body_bytes)", param="body"
    )


async def read_body(request: web.Request) -> bytes:
    """The whole body. Raises PayloadTooLargeError above the application's `client_max_size`."""
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise too_large(request.client_max_size) from error
