# SPDX-License-Identifier: Apache-2.0
"""Clients of an orchestrator: `Client` blocks, `AsyncClient` awaits; both send the calls of `calls.py`.

Every method raises the typed error that the server sent, UnreachableError when no answer came, WireError when
the answer is not ours. Closing a chat's iterator cancels the request on the server; one whose connection breaks comes
back for the rest of its answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Final, Self, TypeVar, Unpack

import httpx

from serverlessllm.errors import ModelLoadError, SllmError
from serverlessllm.sdk import calls
from serverlessllm.sdk.chat_stream import ChatStream
from serverlessllm.sdk.pull_events import PullEvents
from serverlessllm.sdk.request import (
    DEFAULT_URL,
    DELETE_TIMEOUT,
    MOVE_TIMEOUT,
    STREAM_TIMEOUT,
    TIMEOUT,
    Call,
    RequestBuilder,
    raise_for_error,
    unreachable,
)
from serverlessllm.sdk.start_summary import StartSummary
from serverlessllm.sdk.stream import StreamItem, TimelineComment
from serverlessllm.types import DEFAULT_TENANT, Role
from serverlessllm.wire.admin import (
    AgentView,
    KeyCreated,
    KeyView,
    ModelView,
    PlacementDecision,
    RequestDetail,
    RequestView,
)
from serverlessllm.wire.disk import CleanDisk, CleanedView, DiskView
from serverlessllm.wire.migrate import Mode
from serverlessllm.wire.moves import Evacuated, MoveView
from serverlessllm.wire.scheduler import ScoreWeights

T = TypeVar("T")
Message = Mapping[str, object]
POLL_S: Final = 0.2


def ended_registration(view: ModelView) -> bool:
    """Whether the model may be called. Raises ModelLoadError when its registration failed."""
    if view.state == "failed":
        raise ModelLoadError(f"{view.name} could not be registered: {view.error}", source="ingest")
    return view.state in ("ready", "remote")


def _headers_summary(response: httpx.Response) -> list[StreamItem]:
    """What `Server-Timing` says, when the headers left together with the first token."""
    summary = StartSummary.from_server_timing(response.headers.get("server-timing", ""))
    return [TimelineComment(summary)] if summary is not None else []


class Client:
    """A blocking client; use it in a `with`, or `close` it."""

    def __init__(
        self, base_url: str = DEFAULT_URL, *, api_key: str | None = None, ca: str | None = None
    ) -> None:
        """`ca`: a PEM file of authorities to trust. Connects at the first call.

        Raises ConfigError for a malformed URL, key or `ca`.
        """
        self._builder = RequestBuilder(base_url, api_key, ca)
        self._http = httpx.Client(trust_env=self._builder.trust_env, verify=self._builder.verify)

    def models(self) -> list[ModelView]:
        """Every registered model, by name."""
        return self._send(calls.list_models()).models

    def get_model(self, name: str) -> ModelView:
        """Raises ModelNotFoundError."""
        return self._send(calls.get_model(name))

    def add_model(
        self,
        name: str,
        source: str,
        *,
        wait: bool = False,
        on_progress: Callable[[ModelView], None] | None = None,
        **settings: Unpack[calls.ModelSettings],
    ) -> ModelView:
        """Register a model from `source`: a path on the server, `hf://org/name`, `s3://…`, an http(s) URL.

        `wait` returns once it may be called, telling `on_progress` meanwhile; a lazy one may be called at once.

        Raises: ConflictError when the name is taken; with `wait` ModelLoadError when its source failed.
        """
        view = self._send(calls.add_model(name, source, settings))
        while wait and not ended_registration(view):
            if on_progress is not None:
                on_progress(view)
            time.sleep(POLL_S)
            view = self.get_model(name)
        return view

    def pull_model(self, name: str, *, on_progress: Callable[[ModelView], None] | None = None) -> ModelView:
        """Bring the bytes of a remote model to the server, and wait; of one that has them, returns at once.

        Interrupted, the fetch stops unless others wait for it, and goes on from there next time. Raises:
        ModelNotFoundError; ModelLoadError when its source cannot be had; CapacityError.
        """
        request = self._builder.build(calls.pull_model(name), STREAM_TIMEOUT)
        events = PullEvents()
        view: ModelView | None = None
        try:
            response = self._http.send(request, stream=True)
            try:
                if not response.is_success:
                    response.read()
                raise_for_error(response)
                for line in response.iter_lines():
                    view = events.feed(line) or view
                    if view is not None and on_progress is not None:
                        on_progress(view)
            finally:
                response.close()
        except httpx.TransportError as error:
            raise unreachable(self._builder.base_url, error) from error
        events.end()
        return view or self.get_model(name)

    def remove_model(self, name: str) -> None:
        """Unregister it and delete its bytes. Raises ModelNotFoundError."""
        self._send(calls.remove_model(name))

    def stop_model(self, name: str, *, drop_bytes: bool = False) -> int:
        """Unbind its replicas, and free its memory if `drop_bytes`; how many replicas there were."""
        return self._send(calls.stop_model(name, drop_bytes)).num_unloaded

    def agents(self) -> list[AgentView]:
        """Every agent that the orchestrator follows."""
        return self._send(calls.list_agents()).agents

    def disks(self) -> DiskView:
        """What lies on the nodes' disks."""
        return self._send(calls.view_disks())

    def clean_disks(self, wish: CleanDisk) -> CleanedView:
        """Remove what nobody needs. Raises ConflictError while a model is fetched whose artifact might be meant."""
        return self._send(calls.clean_disks(wish), DELETE_TIMEOUT)

    def drain_agent(self, agent_id: str, *, drained: bool = True) -> AgentView:
        """Let an agent take nothing new, or (False) again. Raises NotFoundError."""
        return self._send(calls.drain_agent(agent_id, drained))

    def evacuate_agent(self, agent_id: str, *, mode: Mode = "auto") -> Evacuated:
        """Drain an agent, and move the streams that run there to others. Raises NotFoundError."""
        return self._send(calls.evacuate_agent(agent_id, mode), MOVE_TIMEOUT)

    def move_request(self, request_id: str, to: str = "", *, mode: Mode = "auto") -> MoveView:
        """Move a running stream to another agent; empty: the cheapest. Raises: NotFoundError, ConflictError,
        MigrationRefusedError.
        """
        return self._send(calls.move_request(request_id, to, mode), MOVE_TIMEOUT)

    def decisions(self, limit: int = 100) -> list[PlacementDecision]:
        """Recent placement decisions, the newest last."""
        return self._send(calls.list_decisions(limit))

    def weights(self) -> ScoreWeights:
        """How much each term of a placement's score counts."""
        return self._send(calls.get_weights())

    def set_weights(self, **factors: float) -> ScoreWeights:
        """Let these count, 1 where left out. Raises InvalidRequestError; ConflictError when another was faster."""
        return self._send(calls.set_weights(ScoreWeights(**factors)))

    def requests(self, limit: int = 50) -> list[RequestView]:
        """Live and recent requests, the newest first."""
        return self._send(calls.list_requests(limit)).requests

    def request(self, request_id: str) -> RequestDetail:
        """One request's road and the decision that placed it. Raises NotFoundError."""
        return self._send(calls.get_request(request_id))

    def create_key(self, name: str, role: Role = "infer", tenant: str = DEFAULT_TENANT) -> KeyCreated:
        """A new API key; its secret is shown this once."""
        return self._send(calls.create_key(name, role, tenant))

    def list_keys(self) -> list[KeyView]:
        """Every key, without its secret."""
        return self._send(calls.list_keys()).keys

    def revoke_key(self, key_id: str) -> None:
        """Raises NotFoundError."""
        self._send(calls.revoke_key(key_id))

    def chat(self, model: str, messages: Sequence[Message], **parameters: object) -> Generator[StreamItem]:
        """Stream an answer. `parameters` are OpenAI's (temperature, max_tokens, seed, …); None = not sent.

        Errors before the headers are raised at the first `next`; later ones are `Error` items.
        """
        stream = ChatStream(self._builder, calls.chat(model, messages, parameters))
        while not stream.is_done:
            try:
                yield from self._connection(stream)
                cut = stream.cut_error()
            except httpx.TransportError as error:
                cut = unreachable(self._builder.base_url, error)
            except SllmError as error:
                cut = error
            if cut is not None and not stream.is_done:
                item = stream.broken(cut)
                yield item
                time.sleep(item.pause_s)

    def _connection(self, stream: ChatStream) -> Generator[StreamItem]:
        """What one connection brings. Raises: TransportError, the error that the server sent."""
        response = self._http.send(stream.request(), stream=True)
        try:
            if not response.is_success:
                response.read()
            raise_for_error(response)
            stream.answered()
            yield from _headers_summary(response)
            for data in response.iter_bytes():
                yield from stream.feed(data)
        finally:
            response.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _send(self, call: Call[T], timeout: httpx.Timeout = TIMEOUT) -> T:
        try:
            return call.read(self._http.send(self._builder.build(call, timeout)))
        except httpx.TransportError as error:
            raise unreachable(self._builder.base_url, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient:
    """The same for an event loop; use it in an `async with`, or `aclose` it. See `Client` for each method."""

    def __init__(
        self, base_url: str = DEFAULT_URL, *, api_key: str | None = None, ca: str | None = None
    ) -> None:
        self._builder = RequestBuilder(base_url, api_key, ca)
        self._http = httpx.AsyncClient(trust_env=self._builder.trust_env, verify=self._builder.verify)

    async def models(self) -> list[ModelView]:
        return (await self._send(calls.list_models())).models

    async def get_model(self, name: str) -> ModelView:
        return await self._send(calls.get_model(name))

    async def add_model(
        self,
        name: str,
        source: str,
        *,
        wait: bool = False,
        on_progress: Callable[[ModelView], None] | None = None,
        **settings: Unpack[calls.ModelSettings],
    ) -> ModelView:
        view = await self._send(calls.add_model(name, source, settings))
        while wait and not ended_registration(view):
            if on_progress is not None:
                on_progress(view)
            await asyncio.sleep(POLL_S)
            view = await self.get_model(name)
        return view

    async def pull_model(
        self, name: str, *, on_progress: Callable[[ModelView], None] | None = None
    ) -> ModelView:
        request = self._builder.build(calls.pull_model(name), STREAM_TIMEOUT)
        events = PullEvents()
        view: ModelView | None = None
        try:
            response = await self._http.send(request, stream=True)
            try:
                if not response.is_success:
                    await response.aread()
                raise_for_error(response)
                async for line in response.aiter_lines():
                    view = events.feed(line) or view
                    if view is not None and on_progress is not None:
                        on_progress(view)
            finally:
                await response.aclose()
        except httpx.TransportError as error:
            raise unreachable(self._builder.base_url, error) from error
        events.end()
        return view or await self.get_model(name)

    async def remove_model(self, name: str) -> None:
        await self._send(calls.remove_model(name))

    async def stop_model(self, name: str, *, drop_bytes: bool = False) -> int:
        return (await self._send(calls.stop_model(name, drop_bytes))).num_unloaded

    async def agents(self) -> list[AgentView]:
        return (await self._send(calls.list_agents())).agents

    async def disks(self) -> DiskView:
        return await self._send(calls.view_disks())

    async def clean_disks(self, wish: CleanDisk) -> CleanedView:
        return await self._send(calls.clean_disks(wish), DELETE_TIMEOUT)

    async def drain_agent(self, agent_id: str, *, drained: bool = True) -> AgentView:
        return await self._send(calls.drain_agent(agent_id, drained))

    async def evacuate_agent(self, agent_id: str, *, mode: Mode = "auto") -> Evacuated:
        """See `Client.evacuate_agent`."""
        return await self._send(calls.evacuate_agent(agent_id, mode), MOVE_TIMEOUT)

    async def move_request(self, request_id: str, to: str = "", *, mode: Mode = "auto") -> MoveView:
        """See `Client.move_request`."""
        return await self._send(calls.move_request(request_id, to, mode), MOVE_TIMEOUT)

    async def decisions(self, limit: int = 100) -> list[PlacementDecision]:
        return await self._send(calls.list_decisions(limit))

    async def weights(self) -> ScoreWeights:
        return await self._send(calls.get_weights())

    async def set_weights(self, **factors: float) -> ScoreWeights:
        return await self._send(calls.set_weights(ScoreWeights(**factors)))

    async def requests(self, limit: int = 50) -> list[RequestView]:
        return (await self._send(calls.list_requests(limit))).requests

    async def request(self, request_id: str) -> RequestDetail:
        return await self._send(calls.get_request(request_id))

    async def create_key(self, name: str, role: Role = "infer", tenant: str = DEFAULT_TENANT) -> KeyCreated:
        return await self._send(calls.create_key(name, role, tenant))

    async def list_keys(self) -> list[KeyView]:
        return (await self._send(calls.list_keys())).keys

    async def revoke_key(self, key_id: str) -> None:
        await self._send(calls.revoke_key(key_id))

    async def chat(
        self, model: str, messages: Sequence[Message], **parameters: object
    ) -> AsyncGenerator[StreamItem]:
        stream = ChatStream(self._builder, calls.chat(model, messages, parameters))
        while not stream.is_done:
            try:
                async with aclosing(self._connection(stream)) as items:
                    async for item in items:
                        yield item
                cut = stream.cut_error()
            except httpx.TransportError as error:
                cut = unreachable(self._builder.base_url, error)
            except SllmError as error:
                cut = error
            if cut is not None and not stream.is_done:
                reconnecting = stream.broken(cut)
                yield reconnecting
                await asyncio.sleep(reconnecting.pause_s)

    async def _connection(self, stream: ChatStream) -> AsyncGenerator[StreamItem]:
        response = await self._http.send(stream.request(), stream=True)
        try:
            if not response.is_success:
                await response.aread()
            raise_for_error(response)
            stream.answered()
            for item in _headers_summary(response):
                yield item
            async for data in response.aiter_bytes():
                for item in stream.feed(data):
                    yield item
        finally:
            await response.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _send(self, call: Call[T], timeout: httpx.Timeout = TIMEOUT) -> T:
        try:
            return call.read(await self._http.send(self._builder.build(call, timeout)))
        except httpx.TransportError as error:
            raise unreachable(self._builder.base_url, error) from error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
