# SPDX-License-Identifier: Apache-2.0
"""What guards requests: breakers, deadlines, bounded waiting, hedged loads. A real front, scripted agents."""

from __future__ import annotations

import asyncio
from collections import deque
from pathlib import Path

import pytest

from serverlessllm.errors import EngineError, InvalidRequestError
from support.fake_agent import TEXT, FakeAgent, Plan
from support.front import MODEL, REVISION, Front, eventually, running_front

FAILS = EngineError("the engine is broken")


def agent(number: int, **fields: object) -> FakeAgent:
    """An agent of its own name."""
    return FakeAgent(name=f"agent-{number}", boot_id=f"boot-{number}", **fields)  # type: ignore[arg-type]


async def both_ready(front: Front) -> None:
    """Each agent has a replica, and the front knows."""
    for number, fake in enumerate(front.agents):
        fake.have_replica(MODEL, REVISION, number + 1)
    await eventually(lambda: len(front.orchestrator.agents.replicas_of(MODEL)) == len(front.agents))


async def breaker_of(front: Front, name: str) -> str:
    """What `/admin/agents` says of the agent's breaker."""
    views = (await front.http.get("/admin/agents")).json()["agents"]
    return next(str(view["breaker"]) for view in views if view["status"]["agent_id"] == name)


async def test_agent_that_answers_500_gets_no_more_requests_and_none_of_200_fails(tmp_path: Path) -> None:
    broken = agent(1, infer_plans=deque([Plan(refusal=FAILS)] * 10_000))
    async with running_front(tmp_path, [broken, agent(2)]) as front:
        await both_ready(front)
        replies = await asyncio.gather(*(front.chat() for _ in range(200)))
        assert [reply.status_code for reply in replies] == [200] * 200
        assert len(broken.infers) < 150
        assert await breaker_of(front, "agent-1") in ("open", "half_open")
        metrics = (await front.http.get("/metrics")).text
        assert 'sllm_breaker_openings_total{agent="agent-1"}' in metrics
        assert 'sllm_breaker_state{agent="agent-2"} 0.0' in metrics


async def test_agent_that_works_again_is_found_by_a_probe(tmp_path: Path) -> None:
    mended = agent(1, infer_plans=deque([Plan(refusal=FAILS)] * 3))
    async with running_front(tmp_path, [mended, agent(2)]) as front:
        await both_ready(front)
        await asyncio.gather(*(front.chat() for _ in range(20)))
        async with asyncio.timeout(60):
            while mended.infer_plans or await breaker_of(front, "agent-1") != "closed":
                assert (await front.chat()).status_code == 200


async def test_model_whose_only_replica_fails_wakes_on_another_agent(tmp_path: Path) -> None:
    broken = agent(1, infer_plans=deque([Plan(refusal=FAILS)] * 10_000))
    spare = agent(2)
    async with running_front(tmp_path, [broken, spare]) as front:
        broken.have_replica(MODEL, REVISION, 1)
        await eventually(lambda: front.orchestrator.agents.replicas_of(MODEL))
        assert (await front.chat()).status_code == 200
        assert [load.model for load in spare.loads] == [MODEL]


async def test_the_only_agent_is_asked_however_often_it_failed(tmp_path: Path) -> None:
    flaky = agent(1, infer_plans=deque([Plan(refusal=FAILS)] * 4))
    async with running_front(tmp_path, [flaky]) as front:
        assert (await front.chat()).status_code == 502
        assert (await front.chat()).status_code == 200


async def test_requests_that_are_at_fault_themselves_open_no_breaker(tmp_path: Path) -> None:
    refusal = InvalidRequestError("temperature: too hot", param="temperature")
    strict = agent(1, infer_plans=deque([Plan(refusal=refusal)] * 20))
    async with running_front(tmp_path, [strict, agent(2)]) as front:
        strict.have_replica(MODEL, REVISION, 1)
        await eventually(lambda: front.orchestrator.agents.replicas_of(MODEL))
        assert {(await front.chat()).status_code for _ in range(20)} == {400}
        assert await breaker_of(front, "agent-1") == "closed"


async def test_deadline_of_a_request_ends_it_with_504_and_cancels_it_at_the_agent(tmp_path: Path) -> None:
    slow = agent(1, infer_plans=deque([Plan(hold_head=asyncio.Event())]))
    async with running_front(tmp_path, [slow]) as front:
        reply = await front.chat(headers={"x-request-timeout": "0.5"})
        assert reply.status_code == 504
        assert reply.json()["error"]["code"] == "request_deadline_exceeded"
        assert reply.json()["error"]["param"] == "x-request-timeout"
        await eventually(lambda: slow.num_cancelled_infers == 1)
        assert 0 < slow.infers[0][0].deadline_ms <= 500
        assert await breaker_of(front, "agent-1") == "closed"


async def test_deadline_that_passes_in_mid_stream_ends_it_with_an_error_event(tmp_path: Path) -> None:
    slow = agent(1, infer_plans=deque([Plan(piece_bytes=400, hold_tail=asyncio.Event())]))
    async with running_front(tmp_path, [slow]) as front:
        body = front.chat_body(stream=True)
        headers = {"x-request-timeout": "1", "x-ttft-timeout": "0.9"}
        reply = await front.http.post("/v1/chat/completions", json=body, headers=headers)
        assert reply.status_code == 200
        assert b'"code":"request_deadline_exceeded"' in reply.content
        assert reply.content.endswith(b"data: [DONE]\n\n")


async def test_first_token_that_is_late_everywhere_is_a_504_that_says_so(tmp_path: Path) -> None:
    slow = agent(1, hold_load=asyncio.Event())
    async with running_front(tmp_path, [slow], hold_silently_s=5.0) as front:
        reply = await front.chat(headers={"x-ttft-timeout": "0.3"})
        assert (reply.status_code, reply.json()["error"]["param"]) == (504, "x-ttft-timeout")
        await eventually(lambda: slow.num_cancelled_loads == 1)


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "1e9", ""])
async def test_malformed_timeout_is_refused_by_name(tmp_path: Path, text: str) -> None:
    async with running_front(tmp_path, [agent(1)]) as front:
        reply = await front.chat(headers={"x-request-timeout": text})
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "x-request-timeout")


async def test_load_that_would_be_late_is_begun_elsewhere_and_the_loser_leaves_nothing(
    tmp_path: Path,
) -> None:
    agents = [agent(1, hold_load=asyncio.Event()), agent(2, hold_load=asyncio.Event())]
    async with running_front(tmp_path, agents) as front:
        call = asyncio.create_task(front.chat(headers={"x-ttft-timeout": "20"}))
        await eventually(lambda: any(fake.loads for fake in agents))
        stuck, quick = sorted(agents, key=lambda fake: -len(fake.loads))
        assert quick.hold_load is not None
        quick.hold_load.set()
        reply = await call
        assert reply.json()["choices"][0]["message"]["content"] == TEXT
        await eventually(lambda: stuck.num_cancelled_loads == 1 and stuck.unloads)
        assert not stuck.replicas and list(quick.replicas) == [MODEL]
        await eventually(lambda: [view.agent_id for view in front.orchestrator.agents.replicas_of(MODEL)])
        assert (await front.chat()).status_code == 200
        assert len(stuck.loads) == len(quick.loads) == 1
        assert 'sllm_hedges_total{won="second"} 1.0' in (await front.http.get("/metrics")).text


async def test_waiters_above_the_bound_are_told_when_to_come_again(tmp_path: Path) -> None:
    loading = agent(1, hold_load=asyncio.Event())
    async with running_front(tmp_path, [loading], max_held_requests=2) as front:
        calls = [asyncio.create_task(front.chat()) for _ in range(2)]
        await eventually(lambda: front.orchestrator.wakes.num_held(MODEL) == 2)
        reply = await front.chat()
        assert (reply.status_code, reply.json()["error"]["code"]) == (429, "queue_full")
        assert int(reply.headers["retry-after"]) >= 1
        assert loading.hold_load is not None
        loading.hold_load.set()
        assert [(await call).status_code for call in calls] == [200, 200]
