# SPDX-License-Identifier: Apache-2.0
"""What every process of ours shares: it runs until SIGINT or SIGTERM, then gives everything back in reverse order."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import uvloop

from serverlessllm.app.data_dir import DataDir
from serverlessllm.config import Config
from serverlessllm.telemetry import logs

log = logging.getLogger(__name__)

GC_YOUNG, GC_MIDDLE, GC_OLD = 20_000, 10, 10

Ready = Callable[[str], None]
Start = Callable[[Config, DataDir, AsyncExitStack], Awaitable[str]]
"""Starts the parts, leaves their ends to the stack, returns the URL."""


def settle_garbage() -> None:
    """Let the collector look at what requests make, rarely, and never again at what the start made.

    With its defaults it walks all modules and the watched copies in the midst of requests, for nothing.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_YOUNG, GC_MIDDLE, GC_OLD)


async def serve(config: Config, start: Start, *, ready: Ready | None = None) -> None:
    """Own the data directory and run what `start` starts. `ready` is called with its URL."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, stopping.set)
    data_dir = DataDir(config.data_path)
    try:
        async with AsyncExitStack() as stack:
            url = await start(config, data_dir, stack)
            log.info("serving on %s", url)
            settle_garbage()
            if ready is not None:
                ready(url)
            await stopping.wait()
            log.info("stopping")
    finally:
        data_dir.close()


def run(config: Config, start: Start, *, ready: Ready | None = None) -> None:
    """`serve` on uvloop, with this process's logging set up."""
    logs.configure(config.log_level, config.log_format)
    uvloop.run(serve(config, start, ready=ready))
