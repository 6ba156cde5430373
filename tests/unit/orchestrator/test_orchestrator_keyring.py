# SPDX-License-Identifier: Apache-2.0
"""API keys as the request path sees them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from serverlessllm.errors import ConflictError, NotFoundError
from serverlessllm.metadata.sqlite import SqliteStore
from serverlessllm.orchestrator.changes import Changes
from serverlessllm.orchestrator.keyring import Keyring
from support.hand_clock import HandClock


@pytest.fixture
async def keyring(tmp_path: Path) -> AsyncIterator[Keyring]:
    store = await SqliteStore.open(tmp_path / "metadata.sqlite")
    keyring = Keyring(store, Changes(), HandClock())
    await keyring.start()
    yield keyring
    await keyring.stop()
    await store.close()


async def test_created_key_is_found_by_its_text_only(keyring: Keyring) -> None:
    assert keyring.is_empty
    secret, record = await keyring.create("root", "admin")
    assert keyring.find(secret) == record
    assert keyring.find(secret + "x") is None
    assert not keyring.is_empty


async def test_revoked_key_is_not_found(keyring: Keyring) -> None:
    secret, record = await keyring.create("root", "admin")
    await keyring.revoke(record.id)
    assert keyring.find(secret) is None and keyring.is_empty


async def test_revoking_an_unknown_key_is_an_error(keyring: Keyring) -> None:
    with pytest.raises(NotFoundError):
        await keyring.revoke("key-0")


async def test_there_is_always_an_admin_key_among_keys(keyring: Keyring) -> None:
    with pytest.raises(ConflictError):
        await keyring.create("first", "infer")
    _, admin = await keyring.create("root", "admin")
    await keyring.create("app", "infer")
    with pytest.raises(ConflictError):
        await keyring.revoke(admin.id)


async def test_key_carries_its_tenant(keyring: Keyring) -> None:
    secret, _ = await keyring.create("root", "admin")
    other, _ = await keyring.create("app", "infer", "acme")
    found = [keyring.find(text) for text in (secret, other)]
    assert [record and record.tenant for record in found] == ["default", "acme"]
