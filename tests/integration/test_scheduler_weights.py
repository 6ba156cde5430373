# SPDX-License-Identifier: Apache-2.0
"""The score's weights over several orchestrators that share a Redis."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from serverlessllm.sdk.local_server import LocalServer
from serverlessllm.sdk.orchestrator import Client
from serverlessllm.wire.scheduler import ScoreWeights
from support.cluster import Cluster
from support.metadata_servers import RedisProcess
from support.platform import eventually

PATH = "/admin/scheduler/weights"


@pytest.fixture
def fronts(tmp_path: Path) -> Iterator[tuple[LocalServer, LocalServer]]:
    """Two orchestrators of one cluster."""
    with ExitStack() as stack:
        redis = RedisProcess(tmp_path / "store")
        stack.callback(redis.kill)
        redis.start()
        cluster = stack.enter_context(Cluster(tmp_path, f"redis://127.0.0.1:{redis.port}"))
        yield cluster.orchestrator(), cluster.orchestrator()


def test_weights_set_at_one_orchestrator_hold_at_the_other_and_after_a_restart(
    fronts: tuple[LocalServer, LocalServer],
) -> None:
    one, other = fronts
    wanted = ScoreWeights(w_queue=2.0, w_evict=0.0)
    with Client(one.url) as ours, Client(other.url) as theirs:
        assert ours.weights() == theirs.weights() == ScoreWeights()
        assert ours.set_weights(w_queue=2.0, w_evict=0.0) == wanted
        eventually(lambda: theirs.weights() == wanted)
        theirs.set_weights(w_load=3.0)
        eventually(lambda: ours.weights() == ScoreWeights(w_load=3.0))
    one.stop()
    one.start()
    with Client(one.url) as ours:
        assert ours.weights() == ScoreWeights(w_load=3.0)


def test_malformed_weights_change_nothing(fronts: tuple[LocalServer, LocalServer]) -> None:
    url = f"{fronts[0].url}{PATH}"
    for body in ('{"w_speed": 1}', '{"w_kv": -1}', '{"w_kv": 1e999}', "no json"):
        reply = httpx.put(url, content=body, headers={"content-type": "application/json"})
        assert reply.status_code == 400, body
    assert httpx.get(url).json() == {"w_queue": 1.0, "w_load": 1.0, "w_kv": 1.0, "w_evict": 1.0}
