# SPDX-License-Identifier: Apache-2.0
"""The guards of requests over real processes: a hedged cold start, a node that hangs, a deadline."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from os import kill
from pathlib import Path

import httpx
import pytest

from serverlessllm.sdk.local_server import LocalServer
from serverlessllm.sdk.orchestrator import Client
from support.cluster import Cluster, add_model, until_alive
from support.model_dirs import write_simulated
from support.platform import PATIENCE_S, eventually


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Processes that share a SQLite file."""
    with Cluster(tmp_path, f"sqlite:{tmp_path / 'metadata.sqlite'}") as cluster:
        yield cluster


def call(front: LocalServer, model: str, **headers: str) -> httpx.Response:
    """A chat with these headers (`_` for `-`)."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(f"{front.url}/v1/chat/completions", json=body, headers=named, timeout=PATIENCE_S)


def statuses(front: LocalServer) -> dict[str, list[str]]:
    """Agent → states of its replicas, and of regions that are pinned."""
    with Client(front.url) as client:
        views = [view.status for view in client.agents() if view.status is not None]
    return {
        status.agent_id: [replica.state for replica in status.replicas]
        + ["pinned" for region in status.regions if region.is_pinned]
        for status in views
    }


def test_cold_start_that_would_be_late_is_made_elsewhere_and_the_loser_is_undone(
    cluster: Cluster, tmp_path: Path
) -> None:
    front = cluster.orchestrator()
    cluster.agent(engine_simulated_load_s="300", agent_load_timeout_s="600")
    (slow_id,) = until_alive(front, 1)
    add_model(front, "m", write_simulated(tmp_path / "m"))
    cluster.agent()
    until_alive(front, 2)
    for _ in range(8):  # until the slow one was picked first
        assert call(front, "m", x_ttft_timeout="20").status_code == 200
        eventually(lambda: statuses(front)[slow_id] == [])
        if "sllm_hedges_total" in (text := httpx.get(f"{front.url}/metrics").text) and 'won="second"' in text:
            break
        with Client(front.url) as client:
            client.stop_model("m", drop_bytes=True)
    else:
        pytest.fail("no cold start was hedged")
    quick_id = next(name for name in statuses(front) if name != slow_id)
    assert "ready" in statuses(front)[quick_id]
    assert call(front, "m").status_code == 200


def test_call_of_a_node_that_hangs_ends_at_its_deadline(cluster: Cluster, tmp_path: Path) -> None:
    front = cluster.orchestrator()
    agent = cluster.agent()
    until_alive(front, 1)
    add_model(front, "m", write_simulated(tmp_path / "m"))
    assert call(front, "m").status_code == 200
    kill(agent.pid, signal.SIGSTOP)
    try:
        reply = call(front, "m", x_request_timeout="1")
    finally:
        kill(agent.pid, signal.SIGCONT)
    assert (reply.status_code, reply.json()["error"]["code"]) == (504, "request_deadline_exceeded")
