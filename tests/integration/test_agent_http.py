# SPDX-License-Identifier: Apache-2.0
"""The agent's HTTP surface: the secret, unknown paths, error shapes, metrics, the stream of events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.node_profile import IoProfile, NodeProfile
from serverlessllm.wire.agent import SECRET_HEADER
from serverlessllm.wire.events import (
    AgentEvent,
    Heartbeat,
    LoadEnded,
    LoadProgressed,
    RegionChanged,
    ReplicaChanged,
    Snapshot,
)
from support.running_agent import SECRET, AgentClient, running_agent
from support.simulated_artifact import write_simulated_artifact

PATIENCE_S = 30.0


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[AgentClient]:
    async with running_agent(tmp_path) as client:
        yield client


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return write_simulated_artifact(tmp_path / "artifacts")


async def events_until(
    node: AgentClient, holds: Callable[[AgentEvent], bool], from_seq: int | None = None
) -> list[tuple[int, AgentEvent]]:
    """Follow `/events` until one event `holds`; all seen until then, with their SEQ."""
    query = "" if from_seq is None else f"?from={from_seq}"
    seen: list[tuple[int, AgentEvent]] = []
    async with (
        asyncio.timeout(PATIENCE_S),
        node.session.get(f"{node.url}/events{query}", headers={SECRET_HEADER: SECRET}) as response,
    ):
        seq = -1
        async for line in response.content:
            if line.startswith(b"id: "):
                seq = int(line[4:])
            elif line.startswith(b"data: "):
                event: AgentEvent = msgspec.json.decode(line[6:], type=AgentEvent)
                seen.append((seq, event))
                if holds(event):
                    return seen
    return seen


@pytest.mark.parametrize("path", ["/load", "/unload", "/infer", "/events", "/status"])
@pytest.mark.parametrize("secret", ["wrong", "é", None])
async def test_call_without_the_secret_is_401(node: AgentClient, path: str, secret: str | None) -> None:
    method = "GET" if path in ("/events", "/status") else "POST"
    headers = {} if secret is None else {SECRET_HEADER: secret}
    async with node.session.request(method, node.url + path, headers=headers) as response:
        assert response.status == 401
        assert (await response.json())["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize("path", ["/snapshot", "/restore", "/shards/a/1", "/nothing", "/v1/models"])
async def test_reserved_and_unknown_paths_are_404(node: AgentClient, path: str) -> None:
    reply = await node.post(path, {})
    assert (reply.status, reply.code) == (404, "not_found")


async def test_wrong_method_is_405(node: AgentClient) -> None:
    reply = await node.post("/status", {})
    assert (reply.status, reply.code) == (405, "method_not_allowed")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b'{"model": 1}'])
async def test_malformed_body_is_400(node: AgentClient, data: bytes) -> None:
    async with node.session.post(f"{node.url}/load", data=data, headers={SECRET_HEADER: SECRET}) as response:
        assert response.status == 400
        assert (await response.json())["error"]["type"] == "invalid_request_error"


async def test_body_beyond_bound_is_413(tmp_path: Path) -> None:
    async with running_agent(tmp_path, orchestrator={"max_body_bytes": 2048}) as node:
        reply = await node.post("/load", {"model": "m" * 4096})
        assert (reply.status, reply.code) == (413, "payload_too_large")


async def test_infer_without_headers_names_the_missing_one(node: AgentClient) -> None:
    reply = await node.post("/infer", {})
    assert reply.status == 400
    assert "x-sllm-endpoint" in reply.body["error"]["message"]


async def test_healthz_and_metrics_need_no_secret(node: AgentClient, artifact: Artifact) -> None:
    await node.loaded(artifact)
    await node.infer(artifact)
    async with node.session.get(f"{node.url}/healthz") as response:
        assert (response.status, await response.json()) == (200, {"status": "ok"})
    async with node.session.get(f"{node.url}/metrics") as response:
        text = await response.text()
    assert 'sllm_replicas{state="ready"} 1.0' in text
    assert 'sllm_load_seconds_count{tier="nvme"} 1.0' in text
    assert 'sllm_engine_tokens_total{model="m"} 8.0' in text
    assert 'sllm_queue_length{model="m"} 0.0' in text
    assert 'sllm_slots{engine="simulated",state="bound"} 1.0' in text


async def test_events_tell_a_whole_load_in_sequence(node: AgentClient, artifact: Artifact) -> None:
    seen = await events_until(node, lambda event: isinstance(event, Snapshot))
    await node.loaded(artifact)
    seen += await events_until(node, lambda event: isinstance(event, LoadEnded), seen[-1][0])
    seqs = [seq for seq, _ in seen]
    assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))
    states = [event.replica.state for _, event in seen if isinstance(event, ReplicaChanged)]
    assert list(dict.fromkeys(states)) == ["loading", "binding", "ready"]
    phases = [event.load.phase for _, event in seen if isinstance(event, LoadProgressed)]
    assert list(dict.fromkeys(phases)) == ["queue", "read", "bind"]
    ended = seen[-1][1]
    assert isinstance(ended, LoadEnded) and ended.result is not None
    assert 0 < ended.result.gbps <= ended.result.possible_gbps
    assert ended.result.limiting in ("nvme", "memory", "verify")


async def test_node_that_was_measured_tells_what_is_possible_before_its_first_load(
    tmp_path: Path, artifact: Artifact
) -> None:
    profile = IoProfile(4, 8 << 20, True, bytes_per_s=1e12, measured_at_s=1.0)
    NodeProfile(tmp_path).put_io(profile)
    async with running_agent(tmp_path) as node:
        nvme = next(band for band in (await node.status()).bandwidths if band.tier == "nvme")
        assert (nvme.num_samples, nvme.possible_bytes_per_s) == (0, 1e12)
        assert (await node.loaded(artifact)).possible_gbps == 1000.0


async def test_events_resume_after_the_last_seq_seen(node: AgentClient, artifact: Artifact) -> None:
    await node.loaded(artifact)
    before = await events_until(node, lambda event: isinstance(event, Snapshot))
    last_seq = before[-1][0]
    await node.unload(artifact)
    after = await events_until(
        node, lambda event: isinstance(event, RegionChanged) and not event.region.is_pinned, last_seq
    )
    assert not any(isinstance(event, Snapshot) for _, event in after)
    assert after[0][0] == last_seq + 1
    states = [event.replica.state for _, event in after if isinstance(event, ReplicaChanged)]
    assert states[-1] == "gone"


@pytest.mark.parametrize("from_seq", [0, 1 << 62])
async def test_events_from_unknown_seq_begin_with_snapshot(node: AgentClient, from_seq: int) -> None:
    seen = await events_until(node, lambda event: True, from_seq)
    assert isinstance(seen[0][1], Snapshot)
    assert seen[0][1].status.boot_id == node.agent.boot_id


async def test_events_from_nonsense_is_400(node: AgentClient) -> None:
    async with node.session.get(f"{node.url}/events?from=x", headers={SECRET_HEADER: SECRET}) as response:
        body: dict[str, Any] = await response.json()
    assert (response.status, body["error"]["param"]) == (400, "from")


async def test_quiet_node_sends_heartbeats(node: AgentClient) -> None:
    seen = await events_until(node, lambda event: isinstance(event, Heartbeat))
    assert seen[-1][1] == Heartbeat(node.agent.boot_id)


async def test_stop_ends_event_streams(tmp_path: Path) -> None:
    async with running_agent(tmp_path) as node:
        following = asyncio.create_task(events_until(node, lambda event: False))
        await node.until(lambda status: True)
        await node.agent.stop()
        try:
            await following
        except aiohttp.ClientError:
            pytest.fail("the stream was cut, not ended")
