# SPDX-License-Identifier: Apache-2.0
"""SIGTERM, as a supervisor sends it: live streams end whole, new requests go elsewhere, a second signal cuts."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from serverlessllm.sdk.local_server import LocalServer
from serverlessllm.sdk.orchestrator import Client
from support.cluster import Cluster, add_model, chat, until_alive
from support.metadata_servers import RedisProcess
from support.model_dirs import write_simulated
from support.platform import PATIENCE_S, Platform, eventually

NUM_STREAMS = 10
NUM_TOKENS = 300
"""At 50 ms each: longer than a busy machine takes to begin all streams, shorter than `LocalServer.stop` waits."""
SEATS = "16"
PATIENT = {"stop_grace_s": "60"}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with ExitStack() as stack:
        redis = RedisProcess(tmp_path / "store")
        stack.callback(redis.kill)
        redis.start()
        yield stack.enter_context(Cluster(tmp_path, f"redis://127.0.0.1:{redis.port}"))


def stream(url: str, model: str) -> tuple[int, str]:
    """One streamed call: how many ids came, and how it ended."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": NUM_TOKENS,
        "stream": True,
    }
    num_ids, last = 0, "nothing"
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=PATIENCE_S) as response:
        for line in response.iter_lines():
            if line.startswith("data: "):
                last = line.removeprefix("data: ")
                num_ids += 0 if last == "[DONE]" else _num_ids(json.loads(last))
    return num_ids, last


def _num_ids(event: dict[str, Any]) -> int:
    return sum(len(choice.get("token_ids") or ()) for choice in event.get("choices", ()))


def num_running(url: str, model: str) -> int:
    with Client(url) as client:
        return sum(replica.status.num_running for replica in client.get_model(model).replicas)


def start_streams(pool: ThreadPoolExecutor, url: str, model: str) -> list[Future[tuple[int, str]]]:
    """All of them live in the engine."""
    calls = [pool.submit(stream, url, model) for _ in range(NUM_STREAMS)]
    eventually(lambda: num_running(url, model) == NUM_STREAMS)
    return calls


def test_agent_with_10_live_streams_ends_them_whole_before_it_goes(cluster: Cluster, tmp_path: Path) -> None:
    front = cluster.orchestrator()
    agent = cluster.agent(engine_max_num_seqs=SEATS, **PATIENT)
    until_alive(front, 1)
    add_model(front, "m", write_simulated(tmp_path / "m"), token_s=0.05)
    with ThreadPoolExecutor(NUM_STREAMS) as pool:
        calls = start_streams(pool, front.url, "m")
        assert agent.stop() == 0
        assert [call.result() for call in calls] == [(NUM_TOKENS, "[DONE]")] * NUM_STREAMS
    until_alive(front, 0)


def test_call_during_an_agents_stop_is_answered_by_another(cluster: Cluster, tmp_path: Path) -> None:
    front = cluster.orchestrator()
    agent = cluster.agent(engine_max_num_seqs=SEATS, **PATIENT)
    until_alive(front, 1)
    add_model(front, "m", write_simulated(tmp_path / "m"), token_s=0.05)
    with ThreadPoolExecutor(NUM_STREAMS + 1) as pool:
        calls = start_streams(pool, front.url, "m")
        cluster.agent()
        until_alive(front, 2)
        stopped = pool.submit(agent.stop)
        eventually(lambda: is_drained(front))
        assert chat(front, "m").status_code == 200
        assert [call.result() for call in calls] == [(NUM_TOKENS, "[DONE]")] * NUM_STREAMS
        assert stopped.result() == 0


def test_agent_that_stops_hands_its_10_streams_to_another(cluster: Cluster, tmp_path: Path) -> None:
    front = cluster.orchestrator()
    agent = cluster.agent(engine_max_num_seqs=SEATS, stop_grace_s="3600")
    [leaving] = until_alive(front, 1)
    add_model(front, "m", write_simulated(tmp_path / "m"), token_s=0.08)
    with ThreadPoolExecutor(NUM_STREAMS) as pool:
        calls = start_streams(pool, front.url, "m")
        cluster.agent(engine_max_num_seqs=SEATS)
        until_alive(front, 2)
        assert agent.stop() == 0
        assert [call.result() for call in calls] == [(NUM_TOKENS, "[DONE]")] * NUM_STREAMS
    with Client(front.url) as client:
        ends = {view.agent_id for view in client.requests(NUM_STREAMS)}
    assert leaving not in ends


def is_drained(front: LocalServer) -> bool:
    with Client(front.url) as client:
        return any(view.is_drained for view in client.agents())


def test_platform_with_10_live_streams_refuses_new_calls_and_ends_those(tmp_path: Path) -> None:
    flags = {**PATIENT, "engine_max_num_seqs": SEATS}
    with Platform(tmp_path, **flags) as platform, ThreadPoolExecutor(NUM_STREAMS + 1) as pool:
        platform.add("m", write_simulated(tmp_path / "m"), options={"token_s": 0.05})
        calls = start_streams(pool, platform.url, "m")
        stopped = pool.submit(platform.server.stop)
        eventually(lambda: httpx.get(f"{platform.url}/readyz").status_code == 503)
        refused = platform.chat("m")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
        assert refused.headers["connection"] == "close"
        assert [call.result() for call in calls] == [(NUM_TOKENS, "[DONE]")] * NUM_STREAMS
        assert stopped.result() == 0


def test_second_signal_cuts_what_runs(tmp_path: Path) -> None:
    with Platform(tmp_path, stop_grace_s="3600") as platform, ThreadPoolExecutor(2) as pool:
        platform.add("m", write_simulated(tmp_path / "m"), options={"token_s": 60.0})
        call = pool.submit(platform.chat, "m")
        eventually(lambda: num_running(platform.url, "m") == 1)
        os.kill(platform.server.pid, signal.SIGTERM)
        eventually(lambda: httpx.get(f"{platform.url}/readyz").status_code == 503)
        assert platform.server.stop() == 0
        assert isinstance(call.exception(), httpx.HTTPError) or call.result().status_code >= 500
