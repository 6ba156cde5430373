# SPDX-License-Identifier: Apache-2.0
"""What every process of ours shares: it runs until SIGINT or SIGTERM, then gives everything back in reverse order."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import uvloop

from serverlessllm.app.data_dir import DataDir
from serverlessllm.config import Config
from serverlessllm.telemetry import logs

log = logging.getLogger(__name__)

Ready = Callable[[str], None]
Start = Callable[[Config, DataDir, AsyncExitStack], Awaitable[str]]
"""Starts the parts, leaves their ends to the stack, returns the URL."""


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
