# SPDX-License-Identifier: Apache-2.0
"""One real worker, spoken to frame by frame: broken agents, slow agents, agents that leave."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from serverlessllm.engine.process import EXIT_CRASH
from serverlessllm.engine.worker_socket import LOG_NAME, connect_in
from serverlessllm.engine.zygote_process import ZygoteProcess
from serverlessllm.errors import EngineError
from serverlessllm.wire.worker import (
    Cancel,
    FrameSplitter,
    FromWorker,
    Hello,
    Tokens,
    ToWorker,
    decode_from_worker,
    encode_frame,
)
from serverlessllm.wire.zygote import Exited, Fork
from support.simulated_slots import attach, expected, request

MANY_TOKENS = 20_000


class Nursery:
    """A zygote of the simulated engine, and the exits that it reported."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.exits: asyncio.Queue[Exited] = asyncio.Queue()
        self.zygote: ZygoteProcess

    async def start(self) -> None:
        log_path = self._directory / "zygote.log"
        self.zygote = await ZygoteProcess.start("simulated", log_path, self.exits.put_nowait)

    async def worker(self) -> RawAgent:
        directory = self._directory / "w"
        directory.mkdir()
        await self.zygote.fork(Fork("w", str(directory), "float32", 1))
        return RawAgent(connect_in(directory), directory / LOG_NAME)


class RawAgent:
    """An agent that sends whatever the test says."""

    def __init__(self, connection: socket.socket, log_path: Path) -> None:
        self.connection = connection
        self.log_path = log_path
        self._splitter = FrameSplitter()
        self._bodies: list[bytes] = []

    async def send(self, *data: bytes | ToWorker) -> None:
        loop = asyncio.get_running_loop()
        for part in data:
            await loop.sock_sendall(self.connection, part if isinstance(part, bytes) else encode_frame(part))

    async def receive(self) -> FromWorker:
        while not self._bodies:
            data = await asyncio.get_running_loop().sock_recv(self.connection, 65536)
            if not data:
                raise EOFError
            self._bodies = self._splitter.feed(data)
        return decode_from_worker(self._bodies.pop(0))


@pytest.fixture
async def nursery(tmp_path: Path) -> AsyncIterator[Nursery]:
    nursery = Nursery(tmp_path)
    await nursery.start()
    yield nursery
    await nursery.zygote.stop()


@pytest.fixture
async def agent(nursery: Nursery) -> AsyncIterator[RawAgent]:
    agent = await nursery.worker()
    yield agent
    agent.connection.close()


async def test_worker_greets_with_its_version_and_pid(agent: RawAgent) -> None:
    hello = await agent.receive()
    assert isinstance(hello, Hello)
    assert (hello.wire_version, hello.engine, hello.dtype) == (1, "simulated", "float32")


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (struct.pack("<I", 1 << 31), "exceeds"),
        (struct.pack("<I", 4) + b"junk", "malformed message"),
        (encode_frame(Hello(1, 1, "x", "y", 0.0)), "malformed message"),
        (encode_frame(request(1)), "Generate sent to a worker that is without a model"),
        (encode_frame(Cancel("r")), "Cancel sent to a worker that is without a model"),
        (encode_frame(attach()) * 2, "Attach sent to a worker that is attached"),
    ],
)
async def test_frame_out_of_place_ends_the_worker_and_its_log_says_why(
    nursery: Nursery, agent: RawAgent, sent: bytes, reason: str
) -> None:
    await agent.send(sent)
    assert (await nursery.exits.get()).exit_code == EXIT_CRASH
    assert reason in agent.log_path.read_text()


async def test_frame_sent_byte_by_byte_is_understood(agent: RawAgent) -> None:
    await agent.send(
        *(bytes([byte]) for byte in encode_frame(attach()) + encode_frame(request(1, max_tokens=2)))
    )
    messages = [await agent.receive() for _ in range(4)]
    ids = [event.token_id for message in messages if isinstance(message, Tokens) for event in message.events]
    assert ids == expected(1, 2)


async def test_slow_reader_gets_every_id(agent: RawAgent) -> None:
    await agent.send(attach(), request(1, max_tokens=MANY_TOKENS))
    await agent.receive()
    await agent.receive()
    await agent.send(
        Cancel("unknown")
    )  # the worker is busy or blocked on us meanwhile, and must read it later
    ids: list[int] = []
    while len(ids) < MANY_TOKENS:
        message = await agent.receive()
        assert isinstance(message, Tokens)
        ids += [event.token_id for event in message.events]
    assert ids == expected(1, MANY_TOKENS)


@pytest.mark.parametrize("frames", [[], [attach()], [attach(), request(1, max_tokens=MANY_TOKENS)]])
async def test_agent_that_leaves_ends_the_worker_cleanly(
    nursery: Nursery, agent: RawAgent, frames: list[ToWorker]
) -> None:
    await agent.send(*frames)
    agent.connection.close()
    assert (await nursery.exits.get()).exit_code == 0


async def test_fork_into_a_missing_directory_fails_and_the_zygote_goes_on(
    nursery: Nursery, tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match="cannot listen in"):
        await nursery.zygote.fork(Fork("w", str(tmp_path / "missing"), "float32", 1))
    agent = await nursery.worker()
    with agent.connection:
        assert isinstance(await agent.receive(), Hello)
