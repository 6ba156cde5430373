# SPDX-License-Identifier: Apache-2.0
"""The asynchronous client against a running platform; the blocking one is used by every other test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import aclosing

import pytest

from serverlessllm.errors import ConflictError, ModelNotFoundError, UnreachableError
from serverlessllm.sdk.orchestrator import AsyncClient
from serverlessllm.sdk.stream import Chunk, Done
from support.model_dirs import write_simulated
from support.platform import Platform, eventually

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    home = tmp_path_factory.mktemp("async")
    with Platform(home, engine_simulated_token_s="0.01") as running:
        running.add("sim", write_simulated(home / "sim"))
        yield running


async def test_models_are_added_seen_and_removed(platform: Platform) -> None:
    source = str(write_simulated(platform.home / "other", variant=3))
    phases: list[str] = []
    async with AsyncClient(platform.url) as client:
        added = await client.add_model(
            "other",
            source,
            engine="simulated",
            wait=True,
            on_progress=lambda view: phases.append(view.state),
        )
        assert (added.state, [view.name for view in await client.models()]) == ("ready", ["other", "sim"])
        with pytest.raises(ConflictError):
            await client.add_model("other", source, engine="simulated")
        await client.remove_model("other")
        with pytest.raises(ModelNotFoundError):
            await client.get_model("other")
    assert set(phases) <= {"registering"}


async def test_chat_streams_every_id_and_its_request_is_explained(platform: Platform) -> None:
    async with AsyncClient(platform.url) as client:
        items = [item async for item in client.chat("sim", HELLO, max_tokens=6, seed=1)]
        ids = [token for item in items if isinstance(item, Chunk) for token in item.token_ids]
        assert len(ids) == 6 and isinstance(items[-1], Done)
        newest = (await client.requests(1))[0]
        assert (await client.request(newest.request_id)).request.completion_tokens == 6
        assert (await client.agents())[0].is_alive
        assert await client.stop_model("sim") == 1


async def test_closing_the_iterator_cancels_the_request(platform: Platform) -> None:
    async with AsyncClient(platform.url) as client:
        async with aclosing(client.chat("sim", HELLO, max_tokens=4000)) as items:
            async for item in items:
                if isinstance(item, Chunk):
                    break
        with platform.client() as blocking:
            eventually(lambda: blocking.requests(1)[0].state == "cancelled")


async def test_keys_are_created_listed_and_revoked(platform: Platform) -> None:
    async with AsyncClient(platform.url) as client:
        created = await client.create_key("me", "admin")
    async with AsyncClient(platform.url, api_key=created.secret) as client:
        assert [key.name for key in await client.list_keys()] == ["me"]
        await client.revoke_key(created.key.id)


async def test_nobody_at_the_address_is_typed() -> None:
    async with AsyncClient("http://127.0.0.1:1") as client:
        with pytest.raises(UnreachableError):
            await client.models()
        with pytest.raises(UnreachableError):
            await anext(client.chat("sim", HELLO))
