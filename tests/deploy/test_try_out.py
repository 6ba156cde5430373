# SPDX-License-Identifier: Apache-2.0
"""The try-out of compose.yaml as processes of this machine: its commands, its settings, a real Redis and a real S3.

What docker would do (names, ports, volumes) is done here; the images are not part of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from benchmarks._harness.seaweed import Seaweed

from serverlessllm.sdk.local_server import LocalServer
from serverlessllm.sdk.orchestrator import Client
from support.helm_chart import REPOSITORY
from support.metadata_servers import RedisProcess, free_port
from support.model_dirs import write_simulated
from support.platform import PATIENCE_S, eventually

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(600)]

ADMIN_KEY = "sk-sllm-only-for-trying-out-on-this-machine-000000"
SMALL = {"SLLM_ARENA_BUDGET_BYTES": "64MiB", "SLLM_ARENA_HUGE_PAGES": "never", "SLLM_ENGINE_THREADS": "1"}


class TryOut:
    """The services of compose.yaml, by name, as processes."""

    def __init__(self, home: Path, redis: RedisProcess, s3: Seaweed, stack: ExitStack) -> None:
        self._home = home
        self._stack = stack
        self._s3 = s3
        self._services = yaml.safe_load((REPOSITORY / "deploy" / "docker" / "compose.yaml").read_text())[
            "services"
        ]
        self._places = {"redis://redis:6379": f"redis://127.0.0.1:{redis.port}"}

    def start(self, name: str) -> LocalServer:
        """One service with its own environment, names replaced by places on this machine."""
        service, port = self._services[name], free_port()
        self._places[f"http://{name}:{service['command'][-1]}"] = f"http://127.0.0.1:{port}"
        server = LocalServer(
            self._home / name, port=port, command=service["command"][0], env=self._environment(service)
        )
        self._stack.callback(server.stop)
        return server.start()

    def _environment(self, service: dict[str, Any]) -> dict[str, str]:
        found = {name: str(value) for name, value in service["environment"].items()}
        found = {name: self._places.get(value, value) for name, value in found.items()}
        found["SLLM_SECRET"] = "try-out-only-secret"
        if "SLLM_KEYS" in found:
            found["SLLM_KEYS"] = f"admin={ADMIN_KEY}"
        if "SLLM_AGENT_ADVERTISE" in found:
            found |= SMALL
        del found["AWS_ENDPOINT_URL_S3"]
        return {**found, **self._s3.environment}


@pytest.fixture
def try_out(tmp_path: Path) -> Iterator[TryOut]:
    with ExitStack() as stack:
        redis = RedisProcess(tmp_path / "redis")
        stack.callback(redis.kill)
        redis.start()
        (tmp_path / "s3").mkdir()
        yield TryOut(tmp_path, redis, stack.enter_context(Seaweed(tmp_path / "s3")), stack)


def has_alive(client: Client, num: int) -> bool:
    return sum(view.is_alive for view in client.agents()) == num


def test_three_nodes_serve_a_model_from_the_bucket_and_one_that_stops_is_not_missed(
    try_out: TryOut, tmp_path: Path
) -> None:
    try_out.start("ingest")
    front = try_out.start("orchestrator")
    nodes = [try_out.start(name) for name in ("node1", "node2", "node3")]
    with Client(front.url, api_key=ADMIN_KEY) as client:
        eventually(partial(has_alive, client, 3))
        client.add_model("m", str(write_simulated(tmp_path / "m")), engine="simulated", wait=True)
        for left in (3, 2):
            body = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
            headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
            answer = httpx.post(
                f"{front.url}/v1/chat/completions", json=body, headers=headers, timeout=PATIENCE_S
            )
            assert answer.json()["usage"]["completion_tokens"] == 4, answer.text
            [replica] = client.get_model("m").replicas
            urls = {view.status.agent_id: view.address for view in client.agents() if view.status}
            node = next(node for node in nodes if node.url == urls[replica.agent_id])
            assert node.stop() == 0
            eventually(partial(has_alive, client, left - 1))
