# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus scrapes a real cluster under load: every panel has data, three alerts fire and end.

The rules run in a sixtieth of their time (`support/monitoring.py`).
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from serverlessllm.errors import SllmError
from serverlessllm.sdk.local_server import LocalServer
from serverlessllm.sdk.orchestrator import Client
from support.cluster import Cluster, add_model, chat, until_alive
from support.hub_objects import directory_files, hub_objects
from support.model_dirs import write_simulated
from support.monitoring import MONITORING, Alertmanager, Prometheus, Webhook
from support.platform import PATIENCE_S, eventually
from support.ranged_server import RangedServer

NUM_COLD = 6
DASHBOARDS = sorted(path.name for path in (MONITORING / "grafana").glob("*.json"))


@dataclass
class World:
    """What runs."""

    home: Path
    front: LocalServer
    agents: list[LocalServer]
    prometheus: Prometheus
    webhook: Webhook


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home = tmp_path_factory.mktemp("monitoring")
    objects: dict[str, bytes] = {}
    for number in range(NUM_COLD):
        source = write_simulated(home / f"cold{number}", nbytes=1 << 20, variant=number)
        objects |= hub_objects(f"org/cold{number}", directory_files(source))
    with ExitStack() as stack:
        hub = stack.enter_context(RangedServer(objects))
        env = {"HF_ENDPOINT": hub.url(""), "SLLM_INGEST_ALLOW_PRIVATE_URLS": "yes"}
        cluster = stack.enter_context(Cluster(home, f"sqlite:{home / 'metadata.sqlite'}", env))
        front, agents = cluster.orchestrator(), [cluster.agent(), cluster.agent()]
        until_alive(front, 2)
        webhook = stack.enter_context(Webhook())
        alertmanager = Alertmanager(home / "am", webhook.url)
        targets = {
            "sllm-orchestrator": [front.url.removeprefix("http://")],
            "sllm-agent": [agent.url.removeprefix("http://") for agent in agents],
        }
        prometheus = Prometheus(home / "prom", targets, alertmanager.port)
        for process in (alertmanager, prometheus):
            stack.callback(process.kill)
            process.start()
        add_model(front, "m", write_simulated(home / "m", nbytes=1 << 20), token_s=0.002)
        add_model(front, "long", write_simulated(home / "long", variant=8), token_s=0.01)
        yield World(home, front, agents, prometheus, webhook)


@pytest.fixture(scope="module")
def under_load(world: World) -> Iterator[World]:
    """Cold, warm and hot starts, streams and errors, again and again while the tests look."""
    ended = threading.Event()
    caller = threading.Thread(target=_call_again_and_again, args=(world, ended))
    caller.start()
    yield world
    ended.set()
    caller.join()


def _call_again_and_again(world: World, ended: threading.Event) -> None:
    front = world.front
    with Client(front.url) as client:
        for number in range(NUM_COLD):
            client.add_model(f"cold{number}", f"org/cold{number}", engine="simulated")
        turn = 0
        while not ended.wait(0.2):
            for stream in (True, False):  # its bytes stay in memory meanwhile
                _chat(front, "m", stream=stream)
                client.stop_model("m")
            _chat(front, "nobody")
            _chat(front, "long")
            _move(client, front, turn)
            if turn < NUM_COLD:
                _chat(front, f"cold{turn}")
                add_model(
                    front, f"warm{turn}", write_simulated(world.home / f"warm{turn}", variant=100 + turn)
                )
                _chat(front, f"warm{turn}")
            turn += 1


def _move(client: Client, front: LocalServer, turn: int) -> None:
    """A stream that goes to the other node."""
    body = {"model": "long", "messages": [{"role": "user", "content": f"Hello {turn}"}], "stream": True}
    body |= {"max_tokens": 60, "ignore_eos": True}
    url, name = f"{front.url}/v1/chat/completions", f"moving-{turn}"
    with httpx.stream("POST", url, json=body, headers={"x-request-id": name}, timeout=PATIENCE_S) as answer:
        lines = answer.iter_lines()
        next(lines)
        with contextlib.suppress(SllmError):
            client.move_request(answer.headers["x-request-id"])
        assert "data: [DONE]" in list(lines)


def _chat(front: LocalServer, model: str, *, stream: bool = False) -> None:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 8,
        "stream": stream,
    }
    httpx.post(f"{front.url}/v1/chat/completions", json=body, timeout=PATIENCE_S)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_query_of_every_panel_returns_data(under_load: World, name: str) -> None:
    dashboard = json.loads((MONITORING / "grafana" / name).read_text())
    unanswered = [
        target["expr"].replace("$__rate_interval", "5m").replace("$model", ".*")
        for panel in dashboard["panels"]
        for target in panel["targets"]
    ]
    assert unanswered and not any("$" in expr for expr in unanswered)

    def is_answered() -> bool:
        unanswered[:] = [expr for expr in unanswered if not under_load.prometheus.query(expr)]
        return not unanswered

    with contextlib.suppress(AssertionError):
        eventually(is_answered)
    assert unanswered == []


def test_lost_node_late_starts_and_a_wrong_shard_fire_at_the_webhook_and_end(world: World) -> None:
    front, told = world.front, world.webhook
    add_model(front, "late", write_simulated(world.home / "late"), load_s=1.0)
    add_model(front, "wrong", write_simulated(world.home / "wrong", nbytes=1 << 20, variant=9))
    _flip(front, "wrong")
    assert chat(front, "wrong").status_code == 200  # made anew from its source
    world.agents[1].kill()
    with Client(front.url) as client:

        def has_burned() -> bool:
            assert chat(front, "late").status_code == 200
            client.stop_model("late")
            return told.has("firing", "SllmColdStartSloBurn", severity="page", window="1h")

        eventually(has_burned)
    eventually(lambda: told.has("firing", "SllmHeartbeatLost"))
    eventually(lambda: told.has("firing", "SllmCorruptShard", tier="nvme"))
    world.agents[1].start()
    eventually(lambda: told.has("resolved", "SllmHeartbeatLost"))
    eventually(lambda: told.has("resolved", "SllmCorruptShard", tier="nvme"))
    eventually(lambda: told.has("resolved", "SllmColdStartSloBurn", severity="page", window="1h"))
    assert {receiver for receiver, _, labels in told.told if labels["severity"] == "page"} == {"on-call"}


def _flip(front: LocalServer, model: str) -> None:
    """One bit of the artifact on disk, before anybody has read it."""
    with Client(front.url) as client:
        revision = client.get_model(model).revision
    path = front.data_dir / "artifacts" / str(revision) / "model.bin"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
