# SPDX-License-Identifier: Apache-2.0
"""Replicas beyond the first: added by the leader while a queue is long, removed when they are idle."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from serverlessllm.errors import SllmError
from serverlessllm.sdk.local_server import LocalServer
from serverlessllm.sdk.orchestrator import Client
from support.cluster import Cluster, chat, until_alive
from support.metadata_servers import RedisProcess
from support.model_dirs import write_simulated
from support.platform import eventually

BURST = 24
"""Twelve times what a replica of these agents computes at once."""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Empty; its agents compute two requests at once."""
    with ExitStack() as stack:
        redis = RedisProcess(tmp_path / "store")
        stack.callback(redis.kill)
        redis.start()
        yield stack.enter_context(Cluster(tmp_path, f"redis://127.0.0.1:{redis.port}"))


def add(front: LocalServer, tmp_path: Path, **settings: int) -> None:
    with Client(front.url) as client:
        client.add_model(
            "m",
            str(write_simulated(tmp_path / "m")),
            engine="simulated",
            options={"token_s": 0.02, "prefill_s": 0.02},
            wait=True,
            **settings,  # type: ignore[arg-type]  # bounds, which are numbers
        )


def homes(front: LocalServer) -> set[str]:
    """The agents that have the model ready."""
    with Client(front.url) as client:
        return {view.agent_id for view in client.get_model("m").replicas if view.status.state == "ready"}


def burst(front: LocalServer) -> list[httpx.Response]:
    with ThreadPoolExecutor(BURST) as pool:
        return list(pool.map(lambda _: chat(front, "m", max_tokens=40), range(BURST)))


def test_long_queue_gets_a_second_replica_which_goes_when_it_is_idle(
    cluster: Cluster, tmp_path: Path
) -> None:
    front = cluster.orchestrator()
    for _ in range(3):
        cluster.agent(engine_max_num_seqs="2")
    until_alive(front, 3)
    add(front, tmp_path, max_replicas=2)
    with ThreadPoolExecutor(1) as pool:
        answers = pool.submit(burst, front)
        eventually(lambda: len(homes(front)) == 2)
        assert {answer.status_code for answer in answers.result()} == {200}
    assert len(homes(front)) == 2  # max_replicas, not three
    eventually(lambda: len(homes(front)) == 1)
    assert chat(front, "m").status_code == 200


def test_min_replicas_are_awake_unasked_and_come_back_after_a_node_dies(
    cluster: Cluster, tmp_path: Path
) -> None:
    front = cluster.orchestrator()
    agents = [cluster.agent() for _ in range(3)]
    until_alive(front, 3)
    add(front, tmp_path, min_replicas=2)
    eventually(lambda: len(homes(front)) == 2)
    with Client(front.url) as client:
        addresses = {view.status.agent_id: view.address for view in client.agents() if view.status}
    doomed = next(agent for agent in agents if agent.url == addresses[min(homes(front))])
    doomed.kill()
    eventually(lambda: len(homes(front)) == 2)


def test_dead_leader_is_replaced_and_its_successor_scales(cluster: Cluster, tmp_path: Path) -> None:
    leader, other = cluster.orchestrator(), cluster.orchestrator()
    for _ in range(2):
        cluster.agent(engine_max_num_seqs="2")
    until_alive(other, 2)
    add(other, tmp_path)
    leader.kill()

    def is_scaled() -> bool:
        burst(other)
        return len(homes(other)) == 2

    eventually(is_scaled)


def test_bounds_that_make_no_sense_are_refused_by_name(cluster: Cluster, tmp_path: Path) -> None:
    front = cluster.orchestrator()
    for settings in ({"min_replicas": -1}, {"max_replicas": 0}, {"min_replicas": 3, "max_replicas": 2}):
        with pytest.raises(SllmError, match="_replicas"):
            add(front, tmp_path, **settings)
