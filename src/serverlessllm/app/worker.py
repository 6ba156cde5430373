# SPDX-License-Identifier: Apache-2.0
"""One of several workers of a front, in the process that `worker_parent.py` forked for it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import msgspec
import uvloop

from serverlessllm.app.http_server import address_url, listen
from serverlessllm.app.process import settle_garbage
from serverlessllm.config import Config
from serverlessllm.errors import SllmError
from serverlessllm.orchestrator.siblings import Siblings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """What a worker gets from its parent. `alive_fd` is readable (at its end) once the parent is gone.

    `run_dir` is where the workers find one another.
    """

    config: Config
    secret: str
    index: int
    num_workers: int
    ingest: socket.socket | None
    alive_fd: int
    run_dir: Path


def run(place: Place, tell_fd: int) -> NoReturn:
    """Serve until SIGTERM or the parent's end, then end this process.

    `tell_fd` gets the URL once requests are answered, or the error that prevents it.
    """
    status = 1
    try:
        uvloop.run(_serve(place, tell_fd))
        status = 0
    except SllmError as error:
        with suppress(OSError):
            os.write(tell_fd, msgspec.json.encode(error.as_openai()))
        log.error("worker %d: %s", place.index, error.message)
    except BaseException:
        log.exception("worker %d failed", place.index)
    finally:
        os._exit(status)  # what the parent had open and buffered is not ours to finish


async def _serve(place: Place, tell_fd: int) -> None:
    from serverlessllm.app.orchestrator import start_front, start_ingest

    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, stopping.set)
    loop.add_reader(place.alive_fd, stopping.set)
    config = place.config
    async with AsyncExitStack() as stack:
        front = config.orchestrator
        sock = listen(front.host, front.port, key="orchestrator.port", shares_port=True)
        stack.callback(sock.close)
        if place.index == 0:
            ingest_url = await start_ingest(config, place.secret, stack, place.ingest)
        else:
            ingest_url = _ingest_url(place)
        siblings = Siblings(place.run_dir, place.index, place.num_workers)
        url = await start_front(config, place.secret, stack, sock, ingest_url, siblings)
        settle_garbage()
        os.write(tell_fd, url.encode())
        os.close(tell_fd)
        await stopping.wait()
        loop.remove_reader(place.alive_fd)


def _ingest_url(place: Place) -> str:
    """Where worker 0 serves ingestion, or where the settings say it is."""
    if place.ingest is None:
        return place.config.orchestrator.ingest_url
    return address_url(place.ingest, is_tls=bool(place.config.tls.cert))
