# SPDX-License-Identifier: Apache-2.0
"""Blocking work of loads, awaited from the event loop. Knows no load."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_T = TypeVar("_T")


class LoaderThreads:
    """`num_threads` pieces of work at once; more wait."""

    def __init__(self, num_threads: int) -> None:
        self._executor = ThreadPoolExecutor(num_threads, thread_name_prefix="loader")

    async def run(self, work: Callable[[], _T], *, on_cancel: Callable[[], None] = lambda: None) -> _T:
        """The work's result. When the caller is cancelled, `on_cancel` must make the work end, which is awaited."""
        future = asyncio.get_running_loop().run_in_executor(self._executor, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            on_cancel()
            await asyncio.wait({future})
            raise

    def close(self) -> None:
        """End the threads, once their work has ended."""
        self._executor.shutdown()
