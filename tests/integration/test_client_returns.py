# SPDX-License-Identifier: Apache-2.0
"""An orchestrator is killed under its clients; another one at the same address gives them the rest."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from serverlessllm.errors import AnswerGoneError
from serverlessllm.sdk.local_server import LocalServer
from serverlessllm.sdk.orchestrator import AsyncClient, Client
from serverlessllm.sdk.stream import Chunk, Done, Reconnecting, StreamItem
from support.cluster import Cluster, add_model, until_alive
from support.metadata_servers import RedisProcess, free_port
from support.model_dirs import write_simulated
from support.platform import PATIENCE_S

HELLO = [{"role": "user", "content": "Hello"}]
NUM = 120


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[LocalServer, LocalServer]]:
    """A front, its agent, and a model `m` that answers 50 tokens a second."""
    with ExitStack() as stack:
        store = RedisProcess(tmp_path / "store")
        stack.callback(store.kill)
        store.start()
        cluster = stack.enter_context(Cluster(tmp_path, f"redis://127.0.0.1:{store.port}"))
        front = cluster.orchestrator(port=str(free_port()))
        agent = cluster.agent()
        until_alive(front, 1)
        add_model(front, "m", write_simulated(tmp_path / "m"), token_s=0.02)
        with Client(front.url) as client:
            list(client.chat("m", HELLO, max_tokens=1))
        yield front, agent


@pytest.fixture
def front(servers: tuple[LocalServer, LocalServer]) -> LocalServer:
    return servers[0]


def restart(front: LocalServer) -> None:
    """`kill -9`, and another process on the same port."""
    front.kill()
    front.start()


def ids_of(items: list[StreamItem]) -> list[int]:
    return [token for item in items if isinstance(item, Chunk) for token in item.token_ids]


def test_client_gets_the_rest_from_the_next_front(front: LocalServer) -> None:
    with Client(front.url) as client:
        uncut = list(client.chat("m", HELLO, max_tokens=NUM, seed=3))
        items: list[StreamItem] = []
        for item in client.chat("m", HELLO, max_tokens=NUM, seed=3):
            items.append(item)
            if len(items) == 30:
                restart(front)
    assert ids_of(items) == ids_of(uncut)
    assert "".join(i.text for i in items if isinstance(i, Chunk)) == "".join(
        i.text for i in uncut if isinstance(i, Chunk)
    )
    assert any(isinstance(item, Reconnecting) for item in items) and isinstance(items[-1], Done)
    assert [i.usage for i in items if isinstance(i, Chunk) and i.usage] == [
        i.usage for i in uncut if isinstance(i, Chunk) and i.usage
    ]


async def test_asynchronous_client_does_too(front: LocalServer) -> None:
    items: list[StreamItem] = []
    async with AsyncClient(front.url) as client:
        async for item in client.chat("m", HELLO, max_tokens=NUM, seed=3):
            items.append(item)
            if len(items) == 30:
                restart(front)
    assert len(ids_of(items)) == NUM and isinstance(items[-1], Done)


def test_command_notes_that_it_came_back(front: LocalServer) -> None:
    command = [sys.executable, "-m", "serverlessllm.cli.main", "chat", "m", "Hello", "--url", front.url]
    command += ["--max-tokens", str(NUM), "--seed", "3"]
    whole = subprocess.run(command, capture_output=True, timeout=PATIENCE_S, check=True).stdout
    with subprocess.Popen(command, bufsize=0, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = process.stdout.read(20)
        restart(front)
        rest, notes = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert first + rest == whole
    assert b"asking for the rest (1 of " in notes


def test_agent_that_is_gone_too_is_told_clearly(servers: tuple[LocalServer, LocalServer]) -> None:
    front, agent = servers
    with Client(front.url) as client, pytest.raises(AnswerGoneError, match="without Last-Event-ID"):
        for number, _ in enumerate(client.chat("m", HELLO, max_tokens=NUM, seed=3)):
            if number == 30:
                agent.kill()
                restart(front)
