# SPDX-License-Identifier: Apache-2.0
"""A request for a sleeping model: held, woken once, told what goes on, answered; or a typed error in time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import openai
import pytest

from serverlessllm.errors import DiskFullError, EngineError, InsufficientMemoryError
from serverlessllm.wire.agent import LoadProgressStatus
from support.fake_agent import TEXT, FakeAgent
from support.front import MODEL, Front, eventually, put_model, running_front
from support.stream_grammar import parse_stream


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with running_front(tmp_path, [FakeAgent()]) as front:
        yield front


async def test_cold_request_wakes_the_model_and_is_answered(front: Front) -> None:
    reply = await front.chat()
    assert reply.status_code == 200
    assert reply.json()["choices"][0]["message"]["content"] == TEXT
    assert [load.model for load in front.agent.loads] == [MODEL]
    assert 'start;desc="cold"' in reply.headers["server-timing"]


async def test_hot_request_does_not_load_again(front: Front) -> None:
    await front.chat()
    reply = await front.chat()
    assert len(front.agent.loads) == 1
    assert 'start;desc="hot"' in reply.headers["server-timing"]


async def test_64_concurrent_requests_cause_one_load(front: Front) -> None:
    front.agent.hold_load = asyncio.Event()
    calls = [asyncio.create_task(front.chat()) for _ in range(64)]
    await eventually(lambda: front.orchestrator.wakes.num_held(MODEL) == 64)
    front.agent.hold_load.set()
    replies = await asyncio.gather(*calls)
    assert [reply.json()["choices"][0]["message"]["content"] for reply in replies] == [TEXT] * 64
    assert len(front.agent.loads) == 1


async def test_held_stream_is_told_the_progress(front: Front) -> None:
    front.agent.hold_load = asyncio.Event()
    raw = b""
    body = front.chat_body(stream=True)
    async with front.http.stream("POST", "/v1/chat/completions", json=body) as response:
        async for data in response.aiter_bytes():
            raw += data
            if b": loading 41% eta 0.8s\n" in raw:
                front.agent.hold_load.set()
    parsed = parse_stream(raw)
    timeline = json.loads(parsed.comments[-1].removeprefix("timeline "))
    assert parsed.text == TEXT
    assert timeline["start"] == "cold" and timeline["tier"] == "nvme"


async def test_openai_client_reads_a_held_stream(front: Front) -> None:
    front.agent.hold_load = asyncio.Event()
    async with openai.AsyncOpenAI(base_url=f"{front.server.url}/v1", api_key="none") as client:
        stream = await client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Hello"}],
            stream=True,
            timeout=30,
        )
        front.agent.hold_load.set()  # the stream is open already: its headers and comments came first
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == TEXT


async def test_stream_that_was_not_held_long_has_server_timing_and_no_comment(tmp_path: Path) -> None:
    async with running_front(tmp_path, [FakeAgent()], hold_silently_s=30) as front:
        answer = await front.stream()
    assert "prefill;dur=2.0" in answer.headers["server-timing"]
    assert answer.comments == []


async def test_more_waiters_than_allowed_get_429_with_retry_after(tmp_path: Path) -> None:
    async with running_front(tmp_path, [FakeAgent()], max_held_requests=1) as front:
        front.agent.hold_load = asyncio.Event()
        first = asyncio.create_task(front.chat())
        await eventually(lambda: front.orchestrator.wakes.num_held(MODEL) == 1)
        refused = await front.chat()
        front.agent.hold_load.set()
        assert (await first).status_code == 200
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) > 0


async def test_model_that_wakes_too_late_is_504(tmp_path: Path) -> None:
    async with running_front(tmp_path, [FakeAgent()], hold_timeout_s=0.2) as front:
        front.agent.hold_load = asyncio.Event()
        reply = await front.chat()
        await eventually(lambda: front.agent.num_cancelled_loads == 1)
    assert reply.status_code == 504
    assert reply.json()["error"]["code"] == "hold_deadline_exceeded"


async def test_held_stream_that_is_too_late_ends_with_an_error_event(tmp_path: Path) -> None:
    async with running_front(tmp_path, [FakeAgent()], hold_timeout_s=0.3) as front:
        front.agent.hold_load = asyncio.Event()
        parsed = parse_stream((await front.stream()).raw)
    assert parsed.error is not None and parsed.error["code"] == "hold_deadline_exceeded"


async def test_no_agent_for_the_hold_deadline_is_503(tmp_path: Path) -> None:
    async with running_front(tmp_path, [], addresses=["http://127.0.0.1:1"], hold_timeout_s=0.2) as front:
        reply = await front.chat()
    assert reply.status_code == 503
    assert reply.json()["error"]["code"] == "no_agent"


async def test_agent_that_joins_late_serves_the_held_request(tmp_path: Path) -> None:
    late = FakeAgent()
    await late.start()
    port = late.port
    await late.stop()
    async with running_front(tmp_path, [], addresses=[f"http://127.0.0.1:{port}"], wait=False) as front:
        call = asyncio.create_task(front.chat())
        await eventually(lambda: front.orchestrator.wakes.num_held(MODEL) == 1)
        await late.start(port)
        assert (await call).status_code == 200
        await late.stop()


async def test_failed_load_is_tried_on_another_agent(tmp_path: Path) -> None:
    busy = LoadProgressStatus("other", "f" * 32, "read", 0, 100, eta_s=9.0)
    broken, slower = FakeAgent("agent-1"), FakeAgent("agent-2", running_loads=[busy])
    broken.load_errors.append(EngineError("this node is broken"))
    async with running_front(tmp_path, [broken, slower]) as front:
        reply = await front.chat()
    assert reply.status_code == 200
    assert (len(broken.loads), len(slower.loads)) == (1, 1)


async def test_load_that_fails_everywhere_is_502_naming_the_cause(front: Front) -> None:
    front.agent.load_errors.append(EngineError("the weights are odd"))
    reply = await front.chat()
    assert reply.status_code == 502
    assert reply.json()["error"]["code"] == "model_load_failed"
    assert "the weights are odd" in reply.json()["error"]["message"]


async def test_request_after_a_failed_load_wakes_anew(front: Front) -> None:
    front.agent.load_errors.append(EngineError("once"))
    await front.chat()
    assert (await front.chat()).status_code == 200


async def test_model_larger_than_every_node_is_400(front: Front) -> None:
    await put_model(front.store, "huge", nbytes=1 << 40)
    await eventually(lambda: front.orchestrator.models.find("huge"))
    reply = await front.chat(model="huge")
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "insufficient_memory"
    assert front.agent.loads == []


async def test_agent_that_finds_the_model_too_large_makes_it_400(front: Front) -> None:
    front.agent.load_errors.append(InsufficientMemoryError("larger than the arena"))
    assert (await front.chat()).status_code == 400


async def test_full_agent_gives_room_by_draining_the_longest_serving_model(tmp_path: Path) -> None:
    agent = FakeAgent(max_replicas=2)
    async with running_front(tmp_path, [agent], models={"one": {}, "two": {}, "three": {}}) as front:
        agent.unload_answers.append(False)  # busy at first
        statuses = [(await front.chat(model=name)).status_code for name in ("one", "two", "three")]
    assert statuses == [200, 200, 200]
    assert set(agent.replicas) == {"two", "three"}
    assert {(unload.model, unload.only_idle) for unload in agent.unloads} == {("one", True)}


async def test_models_take_turns_on_an_agent_with_room_for_one(tmp_path: Path) -> None:
    models: dict[str, dict[str, object]] = {f"m{index}": {} for index in range(3)}
    async with running_front(tmp_path, [FakeAgent(max_replicas=1)], models=models) as front:
        calls = [front.chat(model=name) for name in models for _ in range(4)]
        replies = await asyncio.gather(*calls)
    assert {reply.status_code for reply in replies} == {200}


async def test_removed_model_fails_its_waiters_with_404(front: Front) -> None:
    front.agent.hold_load = asyncio.Event()
    call = asyncio.create_task(front.chat())
    await eventually(lambda: front.agent.loads)
    assert (await front.http.delete(f"/admin/models/{MODEL}")).status_code == 200
    assert (await call).status_code == 404
    await eventually(lambda: front.agent.num_cancelled_loads == 1)


async def test_full_disk_of_every_agent_is_told_at_once(front: Front) -> None:
    front.agent.load_errors.append(DiskFullError("12 bytes are missing"))
    reply = await front.chat()
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "disk_full")
    assert "12 bytes are missing" in reply.json()["error"]["message"]
    assert (await front.chat()).status_code == 200
