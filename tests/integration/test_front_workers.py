# SPDX-License-Identifier: Apache-2.0
"""Several workers of one front on one port, as processes: what is asked of one of them is answered for all."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

from serverlessllm.errors import ServiceError
from serverlessllm.sdk.local_server import LocalServer
from serverlessllm.sdk.orchestrator import Client
from support.cluster import Cluster, add_model, chat, until_alive
from support.model_dirs import write_simulated
from support.platform import eventually

NUM_WORKERS = 3


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Processes that share a SQLite file."""
    with Cluster(tmp_path, f"sqlite:{tmp_path / 'metadata.sqlite'}") as cluster:
        yield cluster


def start(cluster: Cluster, model: Path) -> LocalServer:
    """A front of several workers, all of which know a ready model."""
    front = cluster.orchestrator(orchestrator_num_workers=str(NUM_WORKERS))
    cluster.agent()
    until_alive(front, 1)
    add_model(front, "m", write_simulated(model))
    eventually(lambda: [chat(front, "m").status_code for _ in range(20)] == [200] * 20)
    return front


def finished(front: LocalServer) -> float:
    """How many requests were answered with 200, by `/metrics`."""
    text = httpx.get(f"{front.url}/metrics").text
    return sum(float(value) for value in re.findall(r'sllm_requests_total\{.*status="200".*\} (\S+)', text))


def workers(front: LocalServer) -> list[psutil.Process]:
    """The workers' processes."""
    return list(psutil.Process(front.pid).children())


def test_counters_add_up_and_each_request_is_found_whichever_worker_is_asked(
    cluster: Cluster, tmp_path: Path
) -> None:
    front = start(cluster, tmp_path / "m")
    assert len(workers(front)) == NUM_WORKERS
    before = finished(front)
    ids = [chat(front, "m").headers["x-request-id"] for _ in range(40)]
    assert [finished(front) - before for _ in range(6)] == [40.0] * 6
    with Client(front.url) as client:
        listed = {view.request_id for view in client.requests(1000)}
    assert set(ids) <= listed
    found = [httpx.get(f"{front.url}/admin/requests/{request_id}") for request_id in ids]
    assert [reply.json()["request"]["request_id"] for reply in found] == ids
    assert httpx.get(f"{front.url}/admin/requests/unknown").status_code == 404


def test_worker_that_is_killed_is_replaced_and_the_port_goes_on_answering(
    cluster: Cluster, tmp_path: Path
) -> None:
    front = start(cluster, tmp_path / "m")
    known = {process.pid for process in workers(front)}
    for victim in workers(front):
        victim.kill()
        eventually(lambda: len(workers(front)) == NUM_WORKERS)

    def answers() -> bool:
        with suppress(httpx.TransportError):
            return chat(front, "m").status_code == 200
        return False

    eventually(lambda: all(answers() for _ in range(20)))
    assert not known & {process.pid for process in workers(front)}


def test_workers_end_when_their_parent_is_killed_and_when_it_is_asked_to(
    cluster: Cluster, tmp_path: Path
) -> None:
    front = start(cluster, tmp_path / "m")
    orphans = workers(front)
    front.kill()
    eventually(lambda: not any(process.is_running() for process in orphans))
    front.start()
    children = workers(front)
    assert len(children) == NUM_WORKERS
    assert front.stop() == 0
    assert not any(process.is_running() for process in children)


def test_port_of_somebody_else_is_not_shared_with_him(cluster: Cluster) -> None:
    front = cluster.orchestrator()
    port = front.url.rpartition(":")[2]
    with pytest.raises(ServiceError, match=f"cannot listen on 127.0.0.1:{port}"):
        cluster.orchestrator(orchestrator_num_workers="2", orchestrator_port=port)
