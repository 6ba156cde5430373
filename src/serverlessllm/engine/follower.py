# SPDX-License-Identifier: Apache-2.0
"""A rank other than 0: does what rank 0 says, in its order, and computes only beside it. Says nothing but `Attached`.

    message            does
    Attach             binds its part: Attached, or Failed
    Generate, Embed    queues it; rank 0 has checked it
    Cancel             forgets it
    Advance            one step; what comes out of it is rank 0's to tell

It ends when rank 0 hangs up. An error that rank 0 did not have means that the ranks differ: it escapes, the process
ends, and the group with it.
"""

from __future__ import annotations

import socket

from serverlessllm.engine.base import RankEngine
from serverlessllm.engine.binding import bind
from serverlessllm.engine.worker_connection import AgentConnection, AgentGoneError
from serverlessllm.errors import SllmError, WireError
from serverlessllm.wire.worker import Advance, Attach, Cancel, Embed, Failed, Generate, ToWorker


def follow(leader: socket.socket, engine: RankEngine) -> None:
    """Prime the engine and work for rank 0 until it hangs up. Raises whatever the engine lets escape."""
    engine.prime()
    connection = AgentConnection(leader)
    follower = Follower(connection, engine)
    try:
        while True:
            for message, descriptor in connection.receive(None):
                follower.obey(message, descriptor)
    except AgentGoneError:
        pass
    finally:
        connection.close()


class Follower:
    """One rank's work for rank 0."""

    def __init__(self, connection: AgentConnection, engine: RankEngine) -> None:
        self._connection = connection
        self._engine = engine
        self._region_fd: int | None = None  # never closed: its lock on the arena is the region's pin

    def obey(self, message: ToWorker, descriptor: int | None) -> None:
        """Carry out one message. Raises: WireError for one that is not for a rank."""
        match message:
            case Advance():
                self._engine.step()
                self._engine.take_failures()
                self._engine.take_embedded()
            case Generate():
                self._engine.add(message)
            case Embed():
                self._engine.embed(message)
            case Cancel():
                self._engine.cancel(message.request_id, message.choice)
            case Attach():
                self._attach(message, descriptor)
            case _:
                raise WireError(f"{type(message).__name__} sent to a rank", source="engine")

    def _attach(self, attach: Attach, descriptor: int | None) -> None:
        self._region_fd = descriptor
        try:
            self._connection.send(bind(self._engine, attach, descriptor))
        except SllmError as error:
            self._connection.send(Failed(error.message, error.code))
