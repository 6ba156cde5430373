# SPDX-License-Identifier: Apache-2.0
"""The road of a request whose model is awake: relayed untouched, retried in silence, cancelled with its client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from serverlessllm.errors import (
    ContextLengthError,
    EngineError,
    QueueFullError,
    ReplicaGoneError,
    SllmError,
    WorkerLostError,
)
from support.fake_agent import TEXT, FakeAgent, Plan, recorded_stream
from support.front import MODEL, Front, eventually, running_front
from support.stream_grammar import parse_stream


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with running_front(tmp_path, [FakeAgent()], hold_silently_s=30) as front:
        yield front


async def test_stream_is_relayed_byte_for_byte_without_the_prompt_digest(front: Front) -> None:
    answer = await front.stream()
    sent = recorded_stream(answer.headers["x-request-id"])
    assert answer.raw == sent.partition(b"\n")[2]


async def test_body_reaches_the_agent_untouched(front: Front) -> None:
    body = b'{ "messages":[{"role":"user","content":"Hi"}],\n"model": "org/m" }'
    await front.http.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert front.agent.infers[0][1] == body


async def test_agent_is_told_who_asks_for_what(front: Front) -> None:
    await front.chat(headers={"x-request-id": "mine-1"})
    headers, _ = front.agent.infers[0]
    assert (headers.request_id, headers.model, headers.endpoint) == ("mine-1", MODEL, "chat")
    assert headers.attempt == front.agent.loads[0].attempt


async def test_own_request_id_is_echoed_and_explains_the_request(front: Front) -> None:
    reply = await front.chat(headers={"x-request-id": "mine-1"})
    detail = (await front.http.get("/admin/requests/mine-1")).json()
    assert reply.headers["x-request-id"] == reply.json()["id"] == "mine-1"
    assert detail["request"]["state"] == "done" and detail["request"]["completion_tokens"] == 5
    assert detail["decision"]["picked"] == "agent-1" and detail["decision"]["outcome"] == "ready"


@pytest.mark.parametrize("given", ["has space", "x" * 129, "ä".encode().decode("latin-1")])
async def test_malformed_request_id_is_replaced(front: Front, given: str) -> None:
    reply = await front.chat(headers={"x-request-id": given.encode("latin-1")})  # type: ignore[dict-item]  # raw bytes
    assert reply.headers["x-request-id"].startswith("chatcmpl-")


@pytest.mark.parametrize("is_stream", [True, False])
@pytest.mark.parametrize(
    "refusal", [ReplicaGoneError("gone"), WorkerLostError("died"), EngineError("odd"), SllmError("bug")]
)
async def test_failure_before_the_first_byte_is_retried_in_silence(
    front: Front, refusal: SllmError, is_stream: bool
) -> None:
    front.agent.infer_plans.append(Plan(refusal=refusal))
    reply = await front.chat(stream=is_stream)
    assert reply.status_code == 200
    assert len(front.agent.infers) == 2


async def test_replica_that_is_gone_is_woken_again(front: Front) -> None:
    await front.chat()
    front.agent.infer_plans.append(Plan(refusal=ReplicaGoneError("unbound")))
    assert (await front.chat()).status_code == 200
    attempts = [load.attempt for load in front.agent.loads]
    assert len(attempts) == 2 and attempts[1] > attempts[0]


async def test_replica_that_keeps_making_room_for_others_is_no_failure(tmp_path: Path) -> None:
    async with running_front(tmp_path, [FakeAgent()], max_retries=0) as front:
        front.agent.infer_plans.extend([Plan(refusal=ReplicaGoneError("unbound"))] * 6)
        assert (await front.chat()).status_code == 200
        assert len(front.agent.loads) == 7


async def test_failure_that_stays_is_502_naming_the_last_cause(tmp_path: Path) -> None:
    async with running_front(tmp_path, [FakeAgent()], max_retries=2) as front:
        front.agent.infer_plans.extend([Plan(refusal=EngineError("not a number"))] * 9)
        reply = await front.chat()
        assert len(front.agent.infers) == 3
    assert reply.status_code == 502 and reply.json()["error"]["code"] == "worker_lost"
    assert "not a number" in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    "refusal", [ContextLengthError("too long", param="messages"), QueueFullError("full", retry_after_s=3)]
)
async def test_agents_4xx_is_passed_on_as_it_is(front: Front, refusal: SllmError) -> None:
    front.agent.infer_plans.append(Plan(refusal=refusal))
    reply = await front.chat()
    assert reply.status_code == refusal.http_status
    assert reply.json() == refusal.as_openai()
    assert reply.headers.get("retry-after") == ("3" if refusal.http_status == 429 else None)
    assert len(front.agent.infers) == 1


async def test_death_before_the_first_byte_is_retried_in_silence(front: Front) -> None:
    front.agent.infer_plans.append(Plan(cut_at=0))
    assert parse_stream((await front.stream()).raw).text == TEXT
    assert len(front.agent.infers) == 2


async def test_death_of_a_whole_answer_midway_is_retried_in_silence(front: Front) -> None:
    front.agent.infer_plans.append(Plan(cut_at=40))
    assert (await front.chat()).json()["choices"][0]["message"]["content"] == TEXT


async def test_cut_at_every_byte_leaves_a_well_formed_client_stream(front: Front) -> None:
    await front.chat()
    for cut_at in range(len(recorded_stream("chatcmpl-" + "0" * 24))):
        front.agent.infer_plans.append(Plan(cut_at=cut_at, piece_bytes=97))
        parsed = parse_stream((await front.stream()).raw)
        front.agent.infer_plans.clear()
        if parsed.error is None:
            assert parsed.text == TEXT, cut_at
        else:
            assert parsed.error["code"] == "worker_lost" and TEXT.startswith(parsed.text), cut_at


@pytest.mark.parametrize("piece_bytes", [1, 7, 4096])
async def test_stream_in_pieces_of_any_size_arrives_whole(front: Front, piece_bytes: int) -> None:
    front.agent.infer_plans.append(Plan(piece_bytes=piece_bytes))
    parsed = parse_stream((await front.stream()).raw)
    assert (parsed.text, parsed.seqs) == (TEXT, sorted(set(parsed.seqs)))
    assert parsed.seqs[-1] == 5


async def test_upstream_connection_is_kept_for_the_next_request(front: Front) -> None:
    for _ in range(5):
        await front.stream()
        await front.chat()
    [link] = front.orchestrator.agents.alive()
    assert link.upstream.num_open == 1


async def test_agent_that_restarts_is_used_again(front: Front) -> None:
    await front.chat()
    port = front.agent.port
    await front.agent.stop()
    front.agent.replicas.clear()
    front.agent.boot_id = "boot-2"
    call = asyncio.create_task(front.chat())
    await front.agent.start(port)
    assert (await call).status_code == 200
    assert len(front.agent.loads) == 2


async def test_client_that_leaves_while_held_cancels_the_load(front: Front) -> None:
    front.agent.hold_load = asyncio.Event()
    call = asyncio.create_task(front.chat())
    await eventually(lambda: front.agent.loads)
    call.cancel()
    await eventually(lambda: front.agent.num_cancelled_loads == 1)
    assert front.orchestrator.wakes.num_held(MODEL) == 0


async def test_load_goes_on_while_one_waiter_is_left(front: Front) -> None:
    front.agent.hold_load = asyncio.Event()
    leaving, staying = asyncio.create_task(front.chat()), asyncio.create_task(front.chat())
    await eventually(lambda: front.orchestrator.wakes.num_held(MODEL) == 2)
    leaving.cancel()
    await eventually(lambda: front.orchestrator.wakes.num_held(MODEL) == 1)
    front.agent.hold_load.set()
    assert (await staying).status_code == 200
    assert front.agent.num_cancelled_loads == 0


@pytest.mark.parametrize("is_stream", [True, False])
async def test_client_that_leaves_during_prefill_cancels_upstream(front: Front, is_stream: bool) -> None:
    front.agent.infer_plans.append(Plan(hold_head=asyncio.Event()))
    call = asyncio.create_task(front.chat(stream=is_stream))
    await eventually(lambda: front.agent.infers)
    call.cancel()
    await eventually(lambda: front.agent.num_cancelled_infers == 1)


async def test_client_that_leaves_during_decode_cancels_upstream(front: Front) -> None:
    front.agent.infer_plans.append(Plan(piece_bytes=300, hold_tail=asyncio.Event()))
    body = front.chat_body(stream=True)
    async with front.http.stream("POST", "/v1/chat/completions", json=body) as response:
        await anext(response.aiter_bytes())
    await eventually(lambda: front.agent.num_cancelled_infers == 1)
    request_id = response.headers["x-request-id"]
    await eventually(lambda: front.orchestrator.ring.get(request_id).state == "cancelled")  # type: ignore[union-attr]  # it is there


async def test_metrics_count_what_was_served(front: Front) -> None:
    await front.stream()
    text = (await front.http.get("/metrics")).text
    assert 'sllm_requests_total{endpoint="chat",start="cold",status="200"} 1.0' in text
    assert 'sllm_generated_tokens_total{model="org/m"} 5.0' in text
    assert "sllm_streams 0.0" in text


async def test_recent_requests_are_listed_newest_first(front: Front) -> None:
    for name in ("first", "second"):
        await front.chat(headers={"x-request-id": name})
    listed = (await front.http.get("/admin/requests?limit=1")).json()["requests"]
    assert [item["request_id"] for item in listed] == ["second"]
    assert json.dumps(listed[0]["phases"]).startswith('{"queue":')
