# SPDX-License-Identifier: Apache-2.0
"""Models come, are listed, sleep when idle, and go; what was recorded survives a restart."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from serverlessllm.metadata.keys import Keys
from serverlessllm.metadata.records import PlacementRecord, encode
from support.fake_agent import FakeAgent
from support.fake_ingest import FakeIngest
from support.front import MODEL, REVISION, Front, eventually, running_front

NEW = {"name": "org/new", "source": "/checkpoints/new"}


@pytest.fixture
async def ingest() -> AsyncIterator[FakeIngest]:
    ingest = FakeIngest()
    await ingest.start()
    yield ingest
    await ingest.stop()


@pytest.fixture
async def front(tmp_path: Path, ingest: FakeIngest) -> AsyncIterator[Front]:
    async with running_front(tmp_path, [FakeAgent()], ingest_url=ingest.url) as front:
        yield front


async def state_of(front: Front, name: str) -> dict[str, Any]:
    body: dict[str, Any] = (await front.http.get(f"/admin/models/{name}")).json()
    return body


async def until_state(front: Front, name: str, state: str) -> dict[str, Any]:
    await eventually(lambda: getattr(front.orchestrator.models.find(name), "state", None) == state)
    return await state_of(front, name)


async def test_added_model_registers_and_becomes_ready(front: Front, ingest: FakeIngest) -> None:
    added = await front.http.post("/admin/models", json=NEW)
    assert added.status_code == 201 and added.json()["state"] == "registering"
    ingest.move(done_bytes=40, total_bytes=100)
    await eventually(lambda: front.orchestrator.models.progress.get("org/new"))
    ingest.move(state="done", revision="f" * 32, nbytes=100)
    view = await until_state(front, "org/new", "ready")
    assert (view["revision"], view["nbytes"], view["tier"]) == ("f" * 32, 100, "nvme")


async def test_call_of_a_registering_model_is_held_until_it_is_ready(
    front: Front, ingest: FakeIngest
) -> None:
    await front.http.post("/admin/models", json=NEW)
    ingest.move(state="done", revision="f" * 32, nbytes=100)
    assert (await front.chat(model="org/new")).status_code == 200


async def test_failed_conversion_is_told_and_may_be_repeated(front: Front, ingest: FakeIngest) -> None:
    await front.http.post("/admin/models", json=NEW)
    ingest.move(state="failed", error={"message": "config.json is missing", "code": "invalid_checkpoint"})
    view = await until_state(front, "org/new", "failed")
    assert view["error"] == "config.json is missing"
    reply = await front.chat(model="org/new")
    assert reply.status_code == 404 and "config.json is missing" in reply.json()["error"]["message"]
    assert (await front.http.post("/admin/models", json=NEW)).status_code == 201


async def test_taken_name_is_409(front: Front) -> None:
    reply = await front.http.post("/admin/models", json={**NEW, "name": MODEL})
    assert reply.status_code == 409 and reply.json()["error"]["param"] == "name"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"name": "../up"}, "name"),
        ({"source": ""}, "source"),
        ({"source": "./relative/path"}, "source"),
        ({"source": "ftp://host/model"}, "source"),
        ({"engine": "magic"}, "engine"),
        ({"dtype": "int4"}, "dtype"),
        ({"keep_alive_s": -1}, "keep_alive_s"),
        ({"extra": 1}, "extra"),
    ],
)
async def test_bad_registration_is_400_naming_the_field(
    front: Front, fields: dict[str, Any], param: str
) -> None:
    reply = await front.http.post("/admin/models", json=NEW | fields)
    assert reply.status_code == 400 and reply.json()["error"]["param"] == param


async def test_ingest_service_that_is_away_is_503(tmp_path: Path) -> None:
    async with running_front(tmp_path, [FakeAgent()]) as front:
        assert (await front.http.post("/admin/models", json=NEW)).status_code == 503


async def test_registration_goes_on_after_a_restart_of_either_side(
    tmp_path: Path, ingest: FakeIngest
) -> None:
    async with running_front(tmp_path, [FakeAgent()], ingest_url=ingest.url) as front:
        await front.http.post("/admin/models", json=NEW)
    ingest.forget()
    async with running_front(tmp_path, [FakeAgent()], ingest_url=ingest.url) as front:
        await eventually(lambda: len(ingest.requests) == 2)
        ingest.move(state="done", revision="f" * 32, nbytes=100)
        await until_state(front, "org/new", "ready")


async def test_models_are_listed_for_openai_clients(front: Front) -> None:
    listed = (await front.http.get("/v1/models")).json()
    one = await front.http.get(f"/v1/models/{MODEL}")
    assert [model["id"] for model in listed["data"]] == [MODEL]
    assert one.json() == listed["data"][0]
    assert (await front.http.get("/v1/models/nobody")).status_code == 404


async def test_removed_model_is_unbound_and_gone(front: Front) -> None:
    await front.chat()
    reply = await front.http.delete(f"/admin/models/{MODEL}")
    assert reply.json() == {"deleted": MODEL}
    assert front.agent.replicas == {} and front.agent.unloads[0].drop_bytes
    assert (await front.chat()).status_code == 404


async def test_model_removed_while_it_registers_ends_its_job_unless_it_is_shared(
    front: Front, ingest: FakeIngest
) -> None:
    for name in ("org/new", "other"):
        await front.http.post("/admin/models", json={**NEW, "name": name})
    await front.http.delete("/admin/models/org/new")
    assert ingest.cancelled == ["job-1"]


async def test_stopped_model_is_unbound_and_wakes_again(front: Front) -> None:
    await front.chat()
    reply = await front.http.post(f"/admin/models/{MODEL}/stop", json={})
    assert reply.json() == {"num_unloaded": 1}
    assert (await front.chat()).status_code == 200
    assert len(front.agent.loads) == 2


async def test_idle_model_is_unbound_after_its_keep_alive(tmp_path: Path) -> None:
    models = {MODEL: {"keep_alive_s": 0.1}, "other": {"keep_alive_s": 1000.0}}
    async with running_front(tmp_path, [FakeAgent()], models=models) as front:
        await front.chat()
        await front.chat(model="other")
        await eventually(lambda: list(front.agent.replicas) == ["other"])
        assert [unload.only_idle for unload in front.agent.unloads] == [True]
        assert (await front.chat()).status_code == 200


async def test_ready_replica_of_a_living_agent_is_adopted_after_a_restart(tmp_path: Path) -> None:
    agent = FakeAgent()
    async with running_front(tmp_path, [agent]) as front:
        await front.chat()
    async with running_front(tmp_path, [agent]) as front:
        assert (await front.chat()).status_code == 200
    assert len(agent.loads) == 1


async def test_replica_of_an_unknown_model_is_unbound(tmp_path: Path) -> None:
    agent = FakeAgent()
    agent.have_replica("nobody", REVISION, 7)
    async with running_front(tmp_path, [agent]):
        await eventually(lambda: not agent.replicas)


async def test_stale_placement_of_a_living_agent_is_deleted(tmp_path: Path) -> None:
    async with running_front(tmp_path, [FakeAgent()]) as front:
        key = Keys.placement(MODEL, "0")
        record = PlacementRecord(
            model=MODEL, replica="0", node="agent-1", revision=REVISION, attempt=9, state="ready"
        )
        await front.store.put(key, encode(record))
    async with running_front(tmp_path, [FakeAgent()]) as front:
        while await front.store.get(key) is not None:
            await front.orchestrator.changes.wait(0.05)


async def test_events_carry_what_the_console_draws(front: Front) -> None:
    async with front.http.stream("GET", "/admin/events") as response:
        lines = response.aiter_lines()
        first = json.loads([await anext(lines) for _ in range(2)][1].removeprefix("data: "))
    assert [model["name"] for model in first["models"]] == [MODEL]
    assert first["agents"][0]["status"]["agent_id"] == "agent-1"


async def test_agents_are_listed(front: Front) -> None:
    [agent] = (await front.http.get("/admin/agents")).json()["agents"]
    assert agent["is_alive"] and agent["address"] == front.agent.url
    assert (await front.http.get("/admin/agents/agent-1")).status_code == 200
    assert (await front.http.get("/admin/agents/nobody")).status_code == 404
