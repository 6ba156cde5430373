# SPDX-License-Identifier: Apache-2.0
"""A cluster that is upgraded one by one: neighbouring versions work together, others are refused and shown."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest
from click.testing import CliRunner

from serverlessllm.cli.main import cli
from serverlessllm.sdk.orchestrator import Client
from serverlessllm.wire import WIRE_VERSION
from support import other_version
from support.cluster import Cluster, add_model, chat, until_alive
from support.fake_agent import FakeAgent
from support.front import MODEL, REVISION, eventually, running_front
from support.model_dirs import write_simulated
from support.platform import eventually as eventually_sync


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Processes that share a SQLite file."""
    with Cluster(tmp_path, f"sqlite:{tmp_path / 'metadata.sqlite'}") as cluster:
        yield cluster


def speaking(version: int) -> dict[str, str]:
    """The environment of a process of that version."""
    folder = str(next(iter(other_version.__path__)))
    return {
        "TEST_WIRE_VERSION": str(version),
        "PYTHONPATH": os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")]),
    }


@pytest.mark.parametrize("step", [-1, 1])
def test_agent_of_a_neighbouring_version_serves_models(cluster: Cluster, tmp_path: Path, step: int) -> None:
    front = cluster.orchestrator()
    cluster.agent(speaking(WIRE_VERSION + step))
    until_alive(front, 1)
    add_model(front, "m", write_simulated(tmp_path / "m"))
    assert chat(front, "m").status_code == 200


def test_agent_of_a_distant_version_is_not_used_and_node_list_says_why(cluster: Cluster) -> None:
    front = cluster.orchestrator()
    cluster.agent(speaking(WIRE_VERSION + 2))
    with Client(front.url) as client:
        eventually_sync(lambda: any(view.problem for view in client.agents()))
        assert not any(view.is_alive for view in client.agents())
    shown = CliRunner().invoke(cli, ["node", "list", "--url", front.url]).output
    assert "upgrade the older one" in shown


def test_agent_says_that_the_caller_is_too_far_away(cluster: Cluster) -> None:
    agent = cluster.agent()
    headers = {"x-sllm-secret": cluster.secret, "x-sllm-wire": str(WIRE_VERSION + 2)}
    reply = httpx.get(f"{agent.url}/status", headers=headers)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "wire_version")
    assert f"wire version {WIRE_VERSION + 2}, we {WIRE_VERSION}" in reply.json()["error"]["message"]


class Forecast(msgspec.Struct, tag="forecast"):
    """An event of a later version."""

    rain: float


async def test_event_of_a_kind_that_came_later_is_skipped(tmp_path: Path) -> None:
    agent = FakeAgent()
    async with running_front(tmp_path, [agent]) as front:
        agent.tell(Forecast(0.5))  # type: ignore[arg-type]
        agent.have_replica(MODEL, REVISION, 1)
        await eventually(lambda: front.orchestrator.agents.replicas_of(MODEL))
        assert [link.is_alive for link in front.orchestrator.agents.links] == [True]


async def test_snapshot_that_cannot_be_read_is_told_by_its_version(tmp_path: Path) -> None:
    agent = FakeAgent()

    class Status(msgspec.Struct):
        wire_version: int = WIRE_VERSION + 7

    agent.status = Status  # type: ignore[method-assign,assignment]
    async with running_front(tmp_path, [agent], wait=False) as front:
        link = front.orchestrator.agents.links[0]
        await eventually(lambda: link.problem)
        assert link.problem is not None and f"wire version {WIRE_VERSION + 7}" in link.problem
