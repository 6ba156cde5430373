# SPDX-License-Identifier: Apache-2.0
"""A cluster of processes over Redis and etcd: agents come and go, orchestrators share work, the store fails."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from serverlessllm.sdk.local_server import LocalServer
from serverlessllm.sdk.orchestrator import Client
from support.cluster import Cluster, add_model, chat, until_alive
from support.metadata_servers import EtcdProcess, RedisProcess, ServerProcess
from support.model_dirs import write_simulated
from support.platform import eventually

Parts = tuple[Cluster, ServerProcess]


@pytest.fixture(params=["redis", "etcd"])
def parts(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Parts]:
    """An empty cluster and its metadata server."""
    kind = RedisProcess if request.param == "redis" else EtcdProcess
    with ExitStack() as stack:
        process = kind(tmp_path / "store")
        stack.callback(process.kill)
        process.start()
        yield stack.enter_context(Cluster(tmp_path, f"{request.param}://127.0.0.1:{process.port}")), process


def num_loads(front: LocalServer, model: str) -> int:
    """How many replicas of the model all agents have or bring up."""
    with Client(front.url) as client:
        agents = client.agents()
    statuses = [view.status for view in agents if view.status is not None]
    return sum(replica.model == model for status in statuses for replica in status.replicas)


def test_two_orchestrators_with_50_calls_each_load_a_sleeping_model_once(
    parts: Parts, tmp_path: Path
) -> None:
    cluster, _ = parts
    fronts = [cluster.orchestrator(), cluster.orchestrator()]
    for _ in range(2):
        cluster.agent()
    for front in fronts:
        until_alive(front, 2)
    add_model(fronts[0], "m", write_simulated(tmp_path / "m"), max_replicas=1, load_s=1.0)
    with ThreadPoolExecutor(100) as pool:
        replies = list(pool.map(lambda index: chat(fronts[index % 2], "m"), range(100)))
    assert [reply.status_code for reply in replies] == [200] * 100
    assert num_loads(fronts[0], "m") == 1
    with Client(fronts[1].url) as client:
        assert [replica.status.state for replica in client.get_model("m").replicas] == ["ready"]


@pytest.mark.parametrize("parts", ["redis"], indirect=True)
def test_agents_join_are_killed_and_come_back_with_what_they_had(parts: Parts, tmp_path: Path) -> None:
    cluster, _ = parts
    front = cluster.orchestrator()
    add_model(front, "m", write_simulated(tmp_path / "m"))
    first = cluster.agent()
    until_alive(front, 1)
    assert chat(front, "m").status_code == 200
    second = cluster.agent()
    until_alive(front, 2)
    first.kill()
    assert chat(front, "m").status_code == 200
    second.stop()
    until_alive(front, 0)
    first.start()
    until_alive(front, 1)
    with Client(front.url) as client:
        revision = client.get_model("m").revision
        status = eventually(lambda: next((v.status for v in client.agents() if v.is_alive), None))
    assert [region.revision for region in status.regions if region.is_complete] == [revision]
    assert chat(front, "m").status_code == 200


@pytest.mark.parametrize("parts", ["etcd"], indirect=True)
def test_drained_node_is_emptied_and_takes_nothing_until_it_is_undrained(
    parts: Parts, tmp_path: Path
) -> None:
    cluster, _ = parts
    front, other = cluster.orchestrator(), cluster.orchestrator()
    add_model(front, "m", write_simulated(tmp_path / "m"))
    cluster.agent()
    [node] = until_alive(front, 1)
    assert chat(front, "m").status_code == 200
    with Client(other.url) as client:
        eventually(lambda: [v for v in client.agents() if v.is_alive])
        assert client.drain_agent(node).is_drained
    eventually(lambda: num_loads(front, "m") == 0)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(chat, front, "m")
        with Client(front.url) as client:
            eventually(lambda: client.get_model("m").num_held == 1)
            client.drain_agent(node, drained=False)
        assert call.result().status_code == 200


def test_store_killed_under_requests_stops_no_answer_and_wakes_go_on_when_it_is_back(
    parts: Parts, tmp_path: Path
) -> None:
    cluster, store = parts
    front = cluster.orchestrator()
    add_model(front, "hot", write_simulated(tmp_path / "hot"), token_s=0.01)
    add_model(front, "asleep", write_simulated(tmp_path / "asleep", variant=1))
    cluster.agent()
    until_alive(front, 1)
    assert chat(front, "hot").status_code == 200
    with ThreadPoolExecutor(8) as pool:
        streams = [pool.submit(chat, front, "hot", max_tokens=100) for _ in range(4)]
        eventually(lambda: num_running(front, "hot") == 4)
        store.kill()
        waiting = pool.submit(chat, front, "asleep")
        assert [chat(front, "hot").status_code for _ in range(10)] == [200] * 10
        assert [stream.result().status_code for stream in streams] == [200] * 4
        assert not waiting.done()
        store.start()
        assert waiting.result().status_code == 200
    assert len(until_alive(front, 1)) == 1
    add_model(front, "new", write_simulated(tmp_path / "new", variant=2))
    assert chat(front, "new").status_code == 200


def num_running(front: LocalServer, model: str) -> int:
    """Requests that run in the model's replicas."""
    with Client(front.url) as client:
        return sum(replica.status.num_running for replica in client.get_model(model).replicas)
