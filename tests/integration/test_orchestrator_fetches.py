# SPDX-License-Identifier: Apache-2.0
"""Models that lie elsewhere: their bytes come with the first call, once, for as long as somebody waits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from serverlessllm.errors import CorruptDataError
from support.fake_agent import TEXT, FakeAgent
from support.fake_ingest import FakeIngest
from support.front import MODEL, Front, eventually, running_front
from support.stream_grammar import parse_stream

HUB: dict[str, Any] = {"name": "org/new", "source": "hf://org/new"}
DONE: dict[str, Any] = {"state": "done", "revision": "f" * 32, "nbytes": 100, "resolved": "hf://org/new@abc"}


@pytest.fixture
async def ingest() -> AsyncIterator[FakeIngest]:
    ingest = FakeIngest()
    await ingest.start()
    yield ingest
    await ingest.stop()


@pytest.fixture
async def front(tmp_path: Path, ingest: FakeIngest) -> AsyncIterator[Front]:
    async with running_front(tmp_path, [FakeAgent()], ingest_url=ingest.url) as front:
        await front.http.post("/admin/models", json=HUB)
        yield front


async def view_of(front: Front, name: str = "org/new") -> dict[str, Any]:
    view: dict[str, Any] = (await front.http.get(f"/admin/models/{name}")).json()
    return view


def call(front: Front) -> asyncio.Task[Any]:
    return asyncio.create_task(front.chat(model="org/new"))


async def test_remote_source_is_registered_without_a_job(front: Front, ingest: FakeIngest) -> None:
    view = await view_of(front)
    assert (view["state"], view["tier"], view["revision"]) == ("remote", "remote", None)
    listed = (await front.http.get("/v1/models")).json()["data"]
    assert {model["id"] for model in listed} == {MODEL, "org/new"}
    assert ingest.requests == []


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({"source": "org/bare"}, "remote"),
        ({"source": "s3://bucket/prefix"}, "remote"),
        ({"source": "/local", "lazy": True}, "remote"),
        ({"source": "/local"}, "registering"),
        ({"source": "hf://org/eager", "lazy": False}, "registering"),
    ],
)
async def test_what_lies_elsewhere_waits_for_its_first_call(
    front: Front, fields: dict[str, Any], state: str
) -> None:
    added = await front.http.post("/admin/models", json={"name": "m", **fields})
    assert (added.status_code, added.json()["state"]) == (201, state)


async def test_first_call_brings_the_bytes_and_is_answered(front: Front, ingest: FakeIngest) -> None:
    first = call(front)
    await eventually(lambda: ingest.requests)
    ingest.move(**DONE, origins=["s3://b/p/" + "f" * 32])
    reply = await first
    assert reply.json()["choices"][0]["message"]["content"] == TEXT
    assert 'start;desc="cold"' in reply.headers["server-timing"]
    [request] = (await front.http.get("/admin/requests?limit=1")).json()["requests"]
    assert (request["start"], request["tier"]) == ("cold", "remote") and request["phases"]["fetch"] > 0
    assert front.agent.loads[0].origins == ["s3://b/p/" + "f" * 32]
    view = await view_of(front)
    assert (view["state"], view["revision"], view["resolved"]) == ("ready", "f" * 32, "hf://org/new@abc")


async def test_held_stream_is_told_of_fetching_and_converting(front: Front, ingest: FakeIngest) -> None:
    raw, told = b"", 0
    steps: list[dict[str, Any]] = [
        {"phase": "fetch", "done_bytes": 12, "total_bytes": 100, "eta_s": 30.2},
        {"phase": "convert", "done_bytes": 40, "total_bytes": 100, "eta_s": 3.0},
        DONE,
    ]
    texts = [b": fetching 12% eta 30s\n", b": converting 40% eta 3s\n"]
    body = front.chat_body(model="org/new", stream=True)
    async with front.http.stream("POST", "/v1/chat/completions", json=body) as response:
        async for data in response.aiter_bytes():
            raw += data
            if ingest.jobs and (told == 0 or (told < 3 and texts[told - 1] in raw)):
                ingest.move(**steps[told])
                told += 1
    parsed = parse_stream(raw)
    assert parsed.text == TEXT
    assert json.loads(parsed.comments[-1].removeprefix("timeline "))["tier"] == "remote"


async def test_concurrent_calls_share_one_job(front: Front, ingest: FakeIngest) -> None:
    calls = [call(front) for _ in range(32)]
    await eventually(lambda: front.orchestrator.wakes.num_held("org/new") == 32 and ingest.requests)
    ingest.move(**DONE)
    assert {reply.status_code for reply in await asyncio.gather(*calls)} == {200}
    assert len(ingest.requests) == 1 and len(front.agent.loads) == 1


async def test_caller_that_leaves_does_not_stop_a_shared_fetch(front: Front, ingest: FakeIngest) -> None:
    leaving, staying = call(front), call(front)
    await eventually(lambda: front.orchestrator.wakes.num_held("org/new") == 2 and ingest.requests)
    leaving.cancel()
    await eventually(lambda: front.orchestrator.wakes.num_held("org/new") == 1)
    ingest.move(**DONE)
    assert (await staying).status_code == 200
    assert ingest.cancelled == []


async def test_last_caller_that_leaves_stops_the_fetch_and_the_next_begins_anew(
    front: Front, ingest: FakeIngest
) -> None:
    only = call(front)
    await eventually(lambda: ingest.requests)
    only.cancel()
    await eventually(lambda: ingest.cancelled)
    assert (await view_of(front))["state"] == "remote"
    again = call(front)
    await eventually(lambda: len(ingest.requests) == 2)
    ingest.move(**DONE)
    assert (await again).status_code == 200


async def test_failed_fetch_is_told_and_tried_again_at_the_next_call(
    front: Front, ingest: FakeIngest
) -> None:
    first = call(front)
    await eventually(lambda: ingest.requests)
    ingest.move(state="failed", error={"message": "the hub is closed", "code": "unreachable"})
    reply = await first
    assert reply.status_code == 502
    assert "hf://org/new: the hub is closed" in reply.json()["error"]["message"]
    assert "the hub is closed" in (await view_of(front))["error"]
    again = call(front)
    await eventually(lambda: len(ingest.requests) == 2)
    ingest.move(**DONE)
    assert (await again).status_code == 200
    assert (await view_of(front))["error"] is None


async def test_full_disk_is_503(front: Front, ingest: FakeIngest) -> None:
    first = call(front)
    await eventually(lambda: ingest.requests)
    ingest.move(state="failed", error={"message": "no room on the disk", "code": "no_capacity"})
    reply = await first
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "no_capacity")


async def test_fetch_that_makes_progress_outlasts_the_hold_deadline(
    tmp_path: Path, ingest: FakeIngest
) -> None:
    async with running_front(tmp_path, [FakeAgent()], ingest_url=ingest.url, hold_timeout_s=1) as front:
        await front.http.post("/admin/models", json=HUB)
        first = call(front)
        await eventually(lambda: ingest.requests)
        for step in range(1, 31):  # three times the deadline
            ingest.move(phase="fetch", done_bytes=step, total_bytes=31)
            await asyncio.sleep(0.1)
        ingest.move(**DONE)
        assert (await first).status_code == 200


async def test_fetch_that_stalls_is_504_and_stopped(tmp_path: Path, ingest: FakeIngest) -> None:
    async with running_front(tmp_path, [FakeAgent()], ingest_url=ingest.url, hold_timeout_s=0.3) as front:
        await front.http.post("/admin/models", json=HUB)
        assert (await front.chat(model="org/new")).status_code == 504
        await eventually(lambda: ingest.cancelled)


async def test_pull_tells_views_until_the_bytes_are_here(front: Front, ingest: FakeIngest) -> None:
    views: list[dict[str, Any]] = []
    last = ""
    async with front.http.stream("POST", "/admin/models/org/new/pull", json={}) as response:
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                views.append(json.loads(line.removeprefix("data: ")))
                is_fetching = (views[-1]["progress"] or {}).get("phase") == "fetch"
                ingest.move(**(DONE if is_fetching else {"phase": "fetch", "done_bytes": 5}))
            last = line or last
    assert last == "data: [DONE]"
    assert (views[0]["state"], views[-1]["state"]) == ("remote", "ready")
    assert any(view["progress"] and view["progress"]["phase"] == "fetch" for view in views)
    assert front.agent.loads == []


async def test_pull_that_fails_ends_with_the_error(front: Front, ingest: FakeIngest) -> None:
    pull = asyncio.create_task(front.http.post("/admin/models/org/new/pull", json={}))
    await eventually(lambda: ingest.requests)
    ingest.move(state="failed", error={"message": "gated", "code": "permission_denied"})
    assert "gated" in (await pull).text
    assert (await front.http.post("/admin/models/nobody/pull", json={})).status_code == 404


async def test_pull_and_call_share_a_job_and_either_may_leave(front: Front, ingest: FakeIngest) -> None:
    pull = asyncio.create_task(front.http.post("/admin/models/org/new/pull", json={}))
    await eventually(lambda: ingest.requests)
    first = call(front)
    await eventually(lambda: front.orchestrator.wakes.num_held("org/new") == 1)
    pull.cancel()
    await asyncio.gather(pull, return_exceptions=True)
    ingest.move(**DONE)
    assert (await first).status_code == 200
    assert (len(ingest.requests), ingest.cancelled) == (1, [])


async def test_job_that_ended_while_nobody_looked_is_used(tmp_path: Path, ingest: FakeIngest) -> None:
    async with running_front(tmp_path, [FakeAgent()], ingest_url=ingest.url) as front:
        await front.http.post("/admin/models", json=HUB)
        first = call(front)
        await eventually(lambda: front.orchestrator.models.get("org/new").job_id)
    await asyncio.gather(first, return_exceptions=True)
    ingest.move(**DONE)  # a service that was away when it should have been cancelled
    async with running_front(tmp_path, [FakeAgent()], ingest_url=ingest.url) as front:
        assert (await front.chat(model="org/new")).status_code == 200
    assert len(ingest.requests) == 1


async def test_artifact_that_no_agent_can_read_is_brought_again(front: Front, ingest: FakeIngest) -> None:
    first = call(front)
    await eventually(lambda: ingest.requests)
    ingest.move(**DONE)
    assert (await first).status_code == 200
    await front.http.post("/admin/models/org/new/stop", json={})
    front.agent.load_errors.append(CorruptDataError("chunk 3 differs from its digest"))
    again = call(front)
    await eventually(lambda: len(ingest.requests) == 2)
    ingest.move(**DONE)
    assert (await again).status_code == 200
    assert ingest.requests[1].source == "hf://org/new@abc"  # what it meant then, not what it means now


async def test_artifact_that_stays_unreadable_is_an_error_not_a_loop(
    front: Front, ingest: FakeIngest
) -> None:
    front.agent.load_errors += [CorruptDataError("damaged")] * 2
    first = call(front)
    await eventually(lambda: len(ingest.requests) == 1)
    ingest.move(**DONE)
    await eventually(lambda: len(ingest.requests) == 2)
    ingest.move(**DONE)
    assert (await first).status_code == 502
    assert len(ingest.requests) == 2


async def test_removed_model_ends_its_fetch_and_its_waiters(front: Front, ingest: FakeIngest) -> None:
    first = call(front)
    await eventually(lambda: ingest.requests)
    assert (await front.http.delete("/admin/models/org/new")).status_code == 200
    assert (await first).status_code == 404
    await eventually(lambda: ingest.cancelled)
