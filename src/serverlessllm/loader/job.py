# SPDX-License-Identifier: Apache-2.0
"""One load that several callers wait for: it ends when the last of them leaves. Knows no arena, no bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

from serverlessllm.loader.incoming import Incoming, OnIncoming
from serverlessllm.loader.report import LoadProgress, LoadReport, OnLoadProgress


class LoadJob:
    """Wraps the coroutine that loads; `stop_reading` must make it finish soon, returning None."""

    def __init__(self) -> None:
        self.num_waiters = 0
        self.is_stopping = False
        self.stop_reading: Callable[[], None] = lambda: None
        self._listeners: list[OnLoadProgress] = []
        self._incoming: Incoming | None = None
        self._watchers: list[OnIncoming] = []
        self._task: asyncio.Task[LoadReport | None] | None = None

    def start(self, work: Coroutine[None, None, LoadReport | None], name: str) -> None:
        """Begin the work as a task of its own, so that no caller's cancellation reaches it directly."""
        self._task = asyncio.get_running_loop().create_task(work, name=name)

    @property
    def task(self) -> asyncio.Task[LoadReport | None]:
        """The running work. Raises RuntimeError before `start`."""
        if self._task is None:
            raise RuntimeError("the job was not started")
        return self._task

    def stop(self) -> None:
        """Ask the work to end without a result."""
        self.is_stopping = True
        self.stop_reading()

    async def ended(self) -> None:
        """Wait for the work's end, whatever it is."""
        await asyncio.wait({self.task})

    async def join(
        self, on_progress: OnLoadProgress | None, on_incoming: OnIncoming | None = None
    ) -> LoadReport | None:
        """Wait for the result; None when the load was stopped. Raises what the load raised.

        `on_incoming` is called once the region is allocated, at once where it is. When the caller is cancelled and
        was the last to wait, the load is stopped and its end awaited.
        """
        self.num_waiters += 1
        if on_progress is not None:
            self._listeners.append(on_progress)
        if on_incoming is not None:
            self._watchers.append(on_incoming)
            if self._incoming is not None:
                on_incoming(self._incoming)
        try:
            return await asyncio.shield(self.task)
        except asyncio.CancelledError:
            if self.num_waiters == 1 and not self.task.done():
                self.stop()
                await self.ended()
            raise
        finally:
            self.num_waiters -= 1
            if on_progress is not None:
                self._listeners.remove(on_progress)
            if on_incoming is not None:
                self._watchers.remove(on_incoming)

    def announce(self, incoming: Incoming) -> None:
        """The region is allocated: tell every caller that asked for it."""
        self._incoming = incoming
        for watcher in list(self._watchers):
            watcher(incoming)

    def tell_from_thread(self) -> OnLoadProgress:
        """A form of `tell` that threads may call; make it in the event loop."""
        loop = asyncio.get_running_loop()

        def tell(progress: LoadProgress) -> None:
            loop.call_soon_threadsafe(self.tell, progress)

        return tell

    def tell(self, progress: LoadProgress) -> None:
        """Pass progress on to every caller that listens."""
        if self._incoming is not None:
            self._incoming.num_ready = progress.num_ready_shards
        for listener in list(self._listeners):
            listener(progress)
