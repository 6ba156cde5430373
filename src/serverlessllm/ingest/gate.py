# SPDX-License-Identifier: Apache-2.0
"""Who may call the ingest service: holders of the cluster secret, and of API keys for nodes and admins."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Final, Protocol

from serverlessllm.errors import AuthenticationError, PermissionDeniedError
from serverlessllm.types import Role
from serverlessllm.wire.ingest import SECRET_HEADER

ROLES: Final[frozenset[Role]] = frozenset({"node", "admin"})


class Keys(Protocol):
    """API keys, wherever they are kept."""

    async def role(self, plaintext: str) -> Role | None:
        """The key's role; None: unknown or revoked. Raises MetadataUnavailableError."""
        ...


class Gate:
    """`check` every request before anything else is done for it."""

    def __init__(self, secret: str, keys: Keys | None = None) -> None:
        """Raises ValueError for an empty secret, which would let everyone in."""
        if not secret:
            raise ValueError("the ingest service needs a cluster secret")
        self._secret = secret.encode()
        self._keys = keys

    async def check(self, headers: Mapping[str, str]) -> None:
        """Raises AuthenticationError, PermissionDeniedError; MetadataUnavailableError while keys cannot be read."""
        given = headers.get(SECRET_HEADER, "").encode("utf-8", "surrogateescape")
        if hmac.compare_digest(given, self._secret):
            return
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        if self._keys is None or scheme.lower() != "bearer" or not token.strip():
            raise AuthenticationError(f"{SECRET_HEADER}: missing or wrong", param=SECRET_HEADER)
        role = await self._keys.role(token.strip())
        if role is None:
            raise AuthenticationError("the API key is unknown or was revoked")
        if role not in ROLES:
            raise PermissionDeniedError(f"the key's role is {role}; this call needs node or admin")
