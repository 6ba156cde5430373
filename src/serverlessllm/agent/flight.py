# SPDX-License-Identifier: Apache-2.0
"""One piece of work that several callers wait for. Knows not what the work is."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Generic, TypeVar

from serverlessllm.errors import ReplicaGoneError

T = TypeVar("T")


class Flight(Generic[T]):
    """Starts `work` at once. When the last of those who joined leaves before the end, it is cancelled."""

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        self._task = asyncio.create_task(work)
        self._num_waiting = 0
        self.is_stopped = False

    async def join(self) -> T:
        """Wait for the result, or raise the work's error; ReplicaGoneError when it was stopped by others."""
        self._num_waiting += 1
        try:
            await asyncio.wait({self._task})
        except asyncio.CancelledError:
            if self._num_waiting == 1:
                self.stop()
            raise
        finally:
            self._num_waiting -= 1
        if self._task.cancelled():
            raise ReplicaGoneError("the load was stopped; place the request again", source="agent")
        return self._task.result()

    def stop(self) -> None:
        """Cancel the work; who waits gets ReplicaGoneError."""
        self.is_stopped = True
        # Not before its first step: a coroutine that never began could not clean up.
        asyncio.get_running_loop().call_soon(self._task.cancel)
        self._task.add_done_callback(_retrieve)

    async def stopped(self) -> None:
        """Stop, and wait until the work has cleaned up."""
        self.stop()
        await asyncio.wait({self._task})


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Nobody may be left to see the error: without this, asyncio would complain that it was never retrieved."""
    if not task.cancelled():
        task.exception()
