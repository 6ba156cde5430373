# SPDX-License-Identifier: Apache-2.0
"""API keys: minted once, shown once, stored as a hash.

A key carries 256 random bits, so a plain hash is enough: there is nothing to guess, and salt or stretching would
only slow every request. Looking a key up by its hash compares no secret byte by byte, so its timing tells nothing.
Knows no store and no HTTP.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Final

from serverlessllm.clock import Clock, SystemClock
from serverlessllm.metadata.records import KeyRecord
from serverlessllm.types import DEFAULT_TENANT, Role, mint_id

KEY_PREFIX: Final = "sk-sllm-"
"""Lets secret scanners find a leaked key."""
NUM_RANDOM_BYTES: Final = 32
NUM_SHOWN_CHARS: Final = 6


def mint_key(
    name: str, role: Role, *, tenant: str = DEFAULT_TENANT, clock: Clock | None = None
) -> tuple[str, KeyRecord]:
    """A new key: its text, which is kept nowhere, and the record to store under `Keys.api_key(record.hash)`."""
    plaintext = KEY_PREFIX + secrets.token_urlsafe(NUM_RANDOM_BYTES)
    return plaintext, key_record(plaintext, name, role, tenant=tenant, clock=clock)


def key_record(
    plaintext: str, name: str, role: Role, *, tenant: str = DEFAULT_TENANT, clock: Clock | None = None
) -> KeyRecord:
    """What to store of a key whose text is known: its hash and its beginning."""
    return KeyRecord(
        id=mint_id("key"),
        name=name,
        role=role,
        hash=hash_key(plaintext),
        shown_prefix=plaintext[: len(KEY_PREFIX) + NUM_SHOWN_CHARS],
        created_at_s=(clock or SystemClock()).wall_s(),
        tenant=tenant,
    )


def hash_key(plaintext: str) -> str:
    """SHA-256 of the key's text, 64 hex digits. Takes any text: what is no key of ours simply is not found."""
    return hashlib.sha256(plaintext.encode("utf-8", "surrogatepass")).hexdigest()
