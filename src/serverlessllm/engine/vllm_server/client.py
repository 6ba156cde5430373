# SPDX-License-Identifier: Apache-2.0
"""HTTP to one server over its unix socket, in a thread with an event loop of its own.

The worker's one thread starts and cancels requests and takes what has come; it never waits for the server. What comes
is announced on `ready_fd`. Knows no processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, Final, TypeVar

import aiohttp
import msgspec

from serverlessllm.engine.vllm_server.translate import Answer, Chunk, request_body
from serverlessllm.errors import ContextLengthError, EngineError, InvalidRequestError, SllmError
from serverlessllm.wire.worker import Failed, Generate, TokenEvent

MAX_LINE_BYTES: Final = 1 << 22
_decode_chunk: Final = msgspec.json.Decoder(Chunk).decode


class ServerGoneError(Exception):
    """The server ended, or broke its connection: what ran there is lost, and so is this worker."""


Key = tuple[str, int]
T = TypeVar("T")


class ServerClient:
    """Many streams at once. Its methods are for the thread that made it."""

    def __init__(self, socket_path: str) -> None:
        self._socket_path = socket_path
        self.ready_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._arrived: deque[TokenEvent | Failed] = deque()
        self._streams: dict[Key, asyncio.Task[None]] = {}
        self._loss = ""
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="vllm-http", daemon=True).start()
        self._session = self._run(self._open()).result()

    @property
    def has_arrived(self) -> bool:
        """Whether `take` would give something."""
        return bool(self._arrived or self._loss)

    def get(self, path: str, timeout_s: float) -> bytes:
        """The body of a GET. Raises EngineError unless it is 200 in time."""
        return self._run(self._call("GET", path, None, timeout_s)).result()

    def post(self, path: str, body: object, timeout_s: float) -> bytes:
        """The body of a POST's answer. Raises EngineError unless it is 200 in time."""
        return self._run(self._call("POST", path, body, timeout_s)).result()

    def start(self, request: Generate) -> None:
        """Begin a stream of ids."""
        self._loop.call_soon_threadsafe(self._start, request)

    def cancel(self, request_id: str, choice: int | None) -> None:
        """Close the streams of a request: vLLM aborts what nobody reads."""
        self._loop.call_soon_threadsafe(self._cancel, request_id, choice)

    def watch(self, pid: int) -> None:
        """From now on, the end of process `pid` is the server's."""
        pidfd = os.pidfd_open(pid)
        self._loop.call_soon_threadsafe(self._loop.add_reader, pidfd, self._lose, f"process {pid} ended")

    def take(self) -> list[TokenEvent | Failed]:
        """What has come since the last time. Raises ServerGoneError when nothing more will."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.ready_fd)
        if self._loss:
            raise ServerGoneError(f"the vLLM server is gone: {self._loss}")
        arrived = []
        while self._arrived:
            arrived.append(self._arrived.popleft())
        return arrived

    def close(self) -> None:
        """End every stream and the thread."""
        self._run(self._close()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _run(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _open(self) -> aiohttp.ClientSession:
        connector = aiohttp.UnixConnector(self._socket_path, limit=0)
        return aiohttp.ClientSession(
            "http://vllm", connector=connector, timeout=aiohttp.ClientTimeout(), read_bufsize=MAX_LINE_BYTES
        )

    async def _close(self) -> None:
        for task in self._streams.values():
            task.cancel()
        await self._session.close()

    async def _call(self, method: str, path: str, body: object, timeout_s: float) -> bytes:
        try:
            timeout = aiohttp.ClientTimeout(total=timeout_s)
            async with self._session.request(method, path, json=body, timeout=timeout) as response:
                content = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise EngineError(f"vLLM does not answer {path}: {error!r}") from error
        if response.status != 200:
            raise EngineError(f"vLLM answers {path} with {response.status}: {content[:500]!r}")
        return content

    def _start(self, request: Generate) -> None:
        key = (request.request_id, request.choice)
        task = self._loop.create_task(self._stream(request))
        self._streams[key] = task
        task.add_done_callback(lambda _: self._streams.pop(key, None))

    def _cancel(self, request_id: str, choice: int | None) -> None:
        for key, task in list(self._streams.items()):
            if key[0] == request_id and choice in (None, key[1]):
                task.cancel()

    def _announce(self, *items: TokenEvent | Failed) -> None:
        self._arrived.extend(items)
        os.eventfd_write(self.ready_fd, 1)

    def _lose(self, reason: str) -> None:
        self._loss = self._loss or reason
        os.eventfd_write(self.ready_fd, 1)

    async def _stream(self, request: Generate) -> None:
        try:
            await self._relay(request)
        except SllmError as error:
            self._announce(Failed(error.message, error.code, request.request_id))
        except (aiohttp.ClientError, OSError) as error:
            self._lose(repr(error))
        except (msgspec.MsgspecError, ValueError) as error:
            self._announce(Failed(f"vLLM sent what we do not read: {error}", request_id=request.request_id))

    async def _relay(self, request: Generate) -> None:
        started_s = time.perf_counter()
        answer, usage = Answer(request), None
        headers = {"content-type": "application/json"}
        if request.traceparent:
            headers["traceparent"] = request.traceparent
        async with self._session.post(
            "/inference/v1/generate", data=request_body(request), headers=headers
        ) as response:
            if response.status != 200:
                raise _refusal(response.status, await response.read())
            async for line in response.content:
                if not line.startswith(b"data: {"):
                    continue
                chunk = _decode_chunk(line[6:])
                usage = chunk.usage or usage
                events = answer.push(chunk, (time.perf_counter() - started_s) * 1e3)
                if events:
                    self._announce(*events)
        self._announce(answer.end(usage))


def _refusal(status: int, body: bytes) -> SllmError:
    """What vLLM did not take. It checks what the agent checked before, so this is rare."""
    text = body.decode(errors="replace")[:500]
    if status == 400 and ("context length" in text or "max_model_len" in text or "maximum" in text):
        return ContextLengthError(f"vLLM refuses the request: {text}", param="max_tokens")
    if 400 <= status < 500:
        return InvalidRequestError(f"vLLM refuses the request: {text}")
    return EngineError(f"vLLM answers with {status}: {text}")
