# SPDX-License-Identifier: Apache-2.0
"""The cache salt of each tenant: what keeps one tenant's cached prompts from another's.

    salt = BLAKE3(tenant as UTF-8, key = BLAKE3("sllm-cache-salt-v1" ‖ cluster secret)), 32 hex digits

Derived rather than stored, so that all orchestrators of a cluster agree, a restart keeps the caches, and there is
nothing to lose. It is as secret as the cluster's secret: a tenant who knew another's salt could find out by timing
what the other has asked. Knows no keys and no HTTP.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from blake3 import blake3

_CONTEXT: Final = b"sllm-cache-salt-v1"
_SALT_CHARS: Final = 32


class CacheSalts:
    """For one cluster secret."""

    def __init__(self, secret: str) -> None:
        key = blake3(_CONTEXT + secret.encode()).digest()
        self.of = lru_cache(4096)(lambda tenant: _salt(key, tenant))


def _salt(key: bytes, tenant: str) -> str:
    return blake3(tenant.encode(), key=key).hexdigest()[:_SALT_CHARS]
