# SPDX-License-Identifier: Apache-2.0
"""Where this process sends its spans, and that the last of them are sent before it ends."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from serverlessllm.config import Config
from serverlessllm.telemetry.otlp import open_sink
from serverlessllm.telemetry.spans import SpanSink


def start(config: Config, stack: AsyncExitStack) -> SpanSink | None:
    """The sink that the settings name, closed by `stack`; None where they name none. Raises ConfigError."""
    sink = open_sink(config.telemetry)
    if sink is not None:

        async def close() -> None:
            await asyncio.to_thread(sink.close)

        stack.push_async_callback(close)
    return sink
