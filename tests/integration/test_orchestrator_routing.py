# SPDX-License-Identifier: Apache-2.0
"""A request whose model has two ready replicas goes where its prompt is, and says why; salts are per tenant."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from serverlessllm.errors import EngineError
from serverlessllm.orchestrator.cache_salts import CacheSalts
from serverlessllm.wire import messages, openai
from serverlessllm.wire.events import KvChanged
from serverlessllm.wire.prompt_chunks import canonical_text, chunk_names
from support.fake_agent import SECRET, FakeAgent, Plan
from support.front import MODEL, REVISION, Front, eventually, running_front

LONG = "Tell me what you know of the sea. " * 100


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with running_front(tmp_path, [FakeAgent("agent-1"), FakeAgent("agent-2")]) as running:
        for agent in running.agents:
            agent.have_replica(MODEL, REVISION, 1)
        await eventually(lambda: len(running.orchestrator.agents.replicas_of(MODEL)) == 2)
        yield running


def names(text: str, tenant: str = "default") -> list[int]:
    question = messages.Message(role="user", content=text)
    request = openai.ChatRequest(model=MODEL, messages=[question])
    return chunk_names(canonical_text(request), CacheSalts(SECRET).of(tenant))


async def tell(front: Front, number: int, chunks: list[int]) -> None:
    """Agent `number` has these chunks, and the front has heard of it."""
    front.agents[number].tell(KvChanged(MODEL, REVISION, chunks, []))
    states = [link.state for link in front.orchestrator.agents.links]
    await eventually(lambda: states[number].kv.get((MODEL, REVISION)) == set(chunks))


async def ask(front: Front, text: str, key: str = "") -> Any:
    headers = {"authorization": f"Bearer {key}"} if key else None
    response = await front.chat(headers, messages=[{"role": "user", "content": text}])
    assert response.status_code == 200, response.text
    return response.json()


async def test_prompts_go_to_the_agent_that_has_them_and_the_record_says_so(front: Front) -> None:
    other = LONG.replace("sea", "moon")
    await tell(front, 0, names(other))
    await tell(front, 1, names(LONG))
    for text in (LONG, other, LONG):
        answer = await ask(front, text)
    assert [len(agent.infers) for agent in front.agents] == [1, 2]
    detail = (await front.http.get(f"/admin/requests/{answer['id']}")).json()
    assert detail["route"]["picked"] == "agent-2"
    terms_s = {each["agent_id"]: each["terms_s"] for each in detail["route"]["candidates"]}
    assert terms_s["agent-2"]["kv"] < terms_s["agent-1"]["kv"]


async def test_withdrawn_prompts_draw_no_requests(front: Front) -> None:
    await tell(front, 0, names(LONG))
    front.agents[0].tell(KvChanged(MODEL, REVISION, [], names(LONG)))
    await tell(front, 1, names(LONG)[:1])
    await ask(front, LONG)
    assert [len(agent.infers) for agent in front.agents] == [0, 1]


async def test_agent_that_has_the_prompt_but_fails_is_passed_over_in_silence(front: Front) -> None:
    await tell(front, 0, names(LONG))
    front.agents[0].infer_plans.append(Plan(refusal=EngineError("out of order", source="engine")))
    await ask(front, LONG)
    assert [len(agent.infers) for agent in front.agents] == [1, 1]


async def test_agents_get_a_salt_per_tenant_that_does_not_name_it(front: Front) -> None:
    keyring = front.orchestrator.keyring
    root, _ = await keyring.create("root", "admin")
    acme, _ = await keyring.create("app", "infer", "acme")
    for key in (root, acme, acme):
        await ask(front, "Hello", key)
    headers = [head for agent in front.agents for head, _ in agent.infers]
    salts = {(head.tenant, head.cache_salt) for head in headers}
    assert {tenant for tenant, _ in salts} == {"default", "acme"}
    assert len({salt for _, salt in salts}) == 2
    assert not {"default", "acme"} & {salt for _, salt in salts}
