# SPDX-License-Identifier: Apache-2.0
"""API keys that a deployment brings along: `SLLM_KEYS=admin=sk-sllm-…,node=sk-sllm-…` on an orchestrator.

A server that listens publicly needs a key before it starts, and `sllm key create` needs a server: here it begins.
Each start puts those that are missing; none is ever taken away, that is `sllm key revoke`'s.
"""

from __future__ import annotations

from typing import Final, get_args

from serverlessllm.clock import Clock
from serverlessllm.config import environment
from serverlessllm.errors import ConfigError
from serverlessllm.metadata.api_keys import KEY_PREFIX, key_record
from serverlessllm.metadata.keys import Keys
from serverlessllm.metadata.records import encode
from serverlessllm.metadata.store import MetadataStore
from serverlessllm.types import Role

VARIABLE: Final = "SLLM_KEYS"
MIN_RANDOM_CHARS: Final = 32


async def put_given_keys(store: MetadataStore, clock: Clock) -> None:
    """Put the keys of the environment that the store lacks. Raises ConfigError; MetadataUnavailableError."""
    for role, plaintext in parse_given_keys(environment(VARIABLE) or ""):
        record = key_record(plaintext, f"given-{role}", role, clock=clock)
        await store.compare_and_swap(Keys.api_key(record.hash), 0, encode(record))


def parse_given_keys(text: str) -> list[tuple[Role, str]]:
    """`ROLE=KEY[,ROLE=KEY…]`, an admin key among them. Raises ConfigError, which never shows a key."""
    found: list[tuple[Role, str]] = []
    for number, part in enumerate(filter(None, text.split(",")), start=1):
        name, _, plaintext = part.strip().partition("=")
        role = next((role for role in get_args(Role) if role == name), None)
        if role is None:
            raise ConfigError(f"{VARIABLE}: part {number} must begin with one of {_roles()} and `=`")
        if not plaintext.startswith(KEY_PREFIX) or len(plaintext) < len(KEY_PREFIX) + MIN_RANDOM_CHARS:
            raise ConfigError(
                f"{VARIABLE}: key {number} must be {KEY_PREFIX} and at least {MIN_RANDOM_CHARS} random characters"
            )
        found.append((role, plaintext))
    if found and all(role != "admin" for role, _ in found):
        raise ConfigError(f"{VARIABLE}: give an admin key too; without one nobody could make or revoke keys")
    return found


def _roles() -> str:
    return ", ".join(get_args(Role))
