# SPDX-License-Identifier: Apache-2.0
"""One job's work as a child process: started, its lines read, ended with us.

A child has memory, crashes and signals of its own: what it does to them never reaches the service. Knows no job's
meaning: it passes on what the child says.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Final

from serverlessllm.errors import SllmError
from serverlessllm.ingest.work_order import WorkOrder
from serverlessllm.wire.ingest import FromChild, decode_child_line

_MAX_LINE_BYTES: Final = 1 << 20
_STDERR_TAIL_BYTES: Final = 4096
_TERMINATE_TIMEOUT_S: Final = 10.0


async def run_child(order: WorkOrder) -> AsyncGenerator[FromChild]:
    """Run `python -m serverlessllm.ingest.work`; yields its messages until it ends.

    Closing the iterator ends the child: it is asked first, so that it removes what is unfinished.
    Raises: WireError for a line that is none of ours; SllmError when it ended without its last message.
    """
    command = (sys.executable, "-m", "serverlessllm.ingest.work")
    process = await asyncio.create_subprocess_exec(
        *command, stdin=PIPE, stdout=PIPE, stderr=PIPE, limit=_MAX_LINE_BYTES
    )
    tail = asyncio.create_task(_read_tail(process.stderr))
    try:
        await _give(process, order.to_bytes())
        async for line in _reader(process.stdout):
            yield decode_child_line(line)
        code = await process.wait()
        if code not in (0, 1):
            last_words = (await tail).strip().splitlines()
            reason = last_words[-1] if last_words else "no message"
            raise SllmError(f"the job's process ended with exit code {code}: {reason}", source="ingest")
    finally:
        await _end(process)
        tail.cancel()


async def _give(process: Process, data: bytes) -> None:
    """Write the child's stdin and close it. One that has ended already is met when its output is read."""
    if process.stdin is None:
        raise SllmError("the job's process was started without pipes", source="ingest")
    with suppress(ConnectionError):
        process.stdin.write(data)
        await process.stdin.drain()
    process.stdin.close()


def _reader(stream: asyncio.StreamReader | None) -> asyncio.StreamReader:
    if stream is None:
        raise SllmError("the job's process was started without pipes", source="ingest")
    return stream


async def _read_tail(stream: asyncio.StreamReader | None) -> str:
    """Drain the stream, keeping its end."""
    tail = b""
    while piece := await _reader(stream).read(_STDERR_TAIL_BYTES):
        tail = (tail + piece)[-_STDERR_TAIL_BYTES:]
    return tail.decode("utf-8", "replace")


async def _end(process: Process) -> None:
    """Ask the child to end, by its pid; insist after a while."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _TERMINATE_TIMEOUT_S)
    except TimeoutError:
        process.kill()
        await process.wait()
