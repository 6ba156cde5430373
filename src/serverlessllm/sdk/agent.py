# SPDX-License-Identifier: Apache-2.0
"""Client of an agent's control path: `/load`, `/unload`, `/status`, `/disk`, `/migrate` and `/events`.

Every error is an `SllmError`: what the agent sent, or UnreachableError. `/infer` is not here: the hot path has a
client of its own in `orchestrator/upstream.py`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final, TypeVar

import httpx
import msgspec

from serverlessllm.config import TlsConfig
from serverlessllm.errors import UnreachableError, WireError, WireVersionError
from serverlessllm.sdk.request import DELETE_TIMEOUT, raise_for_error
from serverlessllm.sdk.tls import ClientTls, certificate_error
from serverlessllm.wire import WIRE_VERSION, is_compatible, refusal
from serverlessllm.wire.agent import (
    SECRET_HEADER,
    WIRE_HEADER,
    AgentStatus,
    LoadRequest,
    LoadResult,
    UnloadRequest,
    UnloadResult,
)
from serverlessllm.wire.disk import CleanNode, DiskCleaned, DiskStatus
from serverlessllm.wire.events import HEARTBEAT_S, KNOWN_TAGS, AgentEvent
from serverlessllm.wire.migrate import MigrateRequest, MigrateResult, RunList
from serverlessllm.wire.trace_context import TRACEPARENT, current_header

T = TypeVar("T")

TIMEOUT: Final = httpx.Timeout(30.0, connect=5.0)
LOAD_TIMEOUT: Final = httpx.Timeout(30.0, connect=5.0, read=None)
"""The agent bounds a load itself (`agent.load_timeout_s`); its death closes the connection."""
SILENCE_S: Final = 5 * HEARTBEAT_S
"""An event stream that is silent for so long belongs to a dead agent."""
EVENTS_TIMEOUT: Final = httpx.Timeout(5.0, read=SILENCE_S)
MAX_EVENT_BYTES: Final = 16 << 20

_events: Final[msgspec.json.Decoder[AgentEvent]] = msgspec.json.Decoder(AgentEvent)


class _Version(msgspec.Struct, frozen=True):
    wire_version: int = -1


class _Outline(msgspec.Struct):
    """As much of an event as any version has."""

    type: str = ""
    status: _Version = _Version()


_outlines: Final = msgspec.json.Decoder(_Outline)


class AgentClient:
    """One agent at `address` (`http[s]://host:port`). Close it with `aclose`."""

    def __init__(self, address: str, secret: str, tls: ClientTls | None = None) -> None:
        self.address = address
        self._http = httpx.AsyncClient(
            base_url=address,
            headers={SECRET_HEADER: secret, WIRE_HEADER: str(WIRE_VERSION)},
            timeout=TIMEOUT,
            trust_env=False,
            verify=(tls or ClientTls(TlsConfig())).context(address) or False,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=8),
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def load(self, request: LoadRequest) -> LoadResult:
        """Returns when the replica is ready. Cancelling cancels the load if nobody else waits for it."""
        return await self._post("/load", request, LoadResult, LOAD_TIMEOUT)

    async def unload(self, request: UnloadRequest) -> UnloadResult:
        """Unbind a replica; unless `only_idle`, what it runs is finished first."""
        timeout = TIMEOUT if request.only_idle else LOAD_TIMEOUT
        return await self._post("/unload", request, UnloadResult, timeout)

    async def status(self) -> AgentStatus:
        """The agent's whole state."""
        return await self._get("/status", AgentStatus)

    async def disk(self) -> DiskStatus:
        """What lies on the node's disk."""
        return await self._get("/disk", DiskStatus)

    async def clean_disk(self, request: CleanNode) -> DiskCleaned:
        """Remove what nobody needs."""
        return await self._post("/disk/clean", request, DiskCleaned, DELETE_TIMEOUT)

    async def runs(self) -> RunList:
        """The streams that run there."""
        return await self._get("/infer", RunList)

    async def migrate(self, request: MigrateRequest) -> MigrateResult:
        """Move a stream away from there; returns when it is settled."""
        return await self._post("/migrate", request, MigrateResult, LOAD_TIMEOUT)

    async def events(self, from_seq: int | None = None) -> AsyncGenerator[tuple[int, AgentEvent], None]:
        """(seq, event), from a snapshot or from what came after `from_seq`; see `wire/events.py`.

        Raises UnreachableError when the stream ends or is silent for SILENCE_S.
        """
        params = {} if from_seq is None else {"from": str(from_seq)}
        try:
            async with self._http.stream("GET", "/events", params=params, timeout=EVENTS_TIMEOUT) as response:
                if not response.is_success:
                    await response.aread()
                    raise_for_error(response)
                splitter = EventSplitter()
                async for data in response.aiter_raw():
                    for event in splitter.feed(data):
                        yield event
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        raise UnreachableError(f"agent {self.address} ended its event stream", source="agent")

    async def _get(self, path: str, kind: type[T]) -> T:
        try:
            response = await self._http.get(path)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        return _decode(response, kind)

    async def _post(self, path: str, body: msgspec.Struct, kind: type[T], timeout: httpx.Timeout) -> T:
        try:
            response = await self._http.post(
                path,
                content=msgspec.json.encode(body),
                headers={"content-type": "application/json", **_trace_header()},
                timeout=timeout,
            )
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        return _decode(response, kind)

    def _unreachable(self, error: httpx.TransportError) -> UnreachableError:
        refused = certificate_error(error, self.address)
        if refused is not None:
            return refused
        reason = str(error) or type(error).__name__
        return UnreachableError(f"agent {self.address} cannot be reached: {reason}", source="agent")


def _trace_header() -> dict[str, str]:
    """On whose behalf we call, if that is known."""
    header = current_header()
    return {TRACEPARENT: header} if header else {}


class EventSplitter:
    """Bytes of an event stream → (seq, event). Comments are skipped."""

    def __init__(self) -> None:
        self._tail = b""

    def feed(self, data: bytes) -> list[tuple[int, AgentEvent]]:
        """Raises WireError for what is no event of ours."""
        *blocks, self._tail = (self._tail + data).split(b"\n\n")
        if len(self._tail) > MAX_EVENT_BYTES:
            raise WireError(f"an agent's event exceeds {MAX_EVENT_BYTES} bytes", source="agent")
        return [event for block in blocks if (event := _parse(block)) is not None]


def _parse(block: bytes) -> tuple[int, AgentEvent] | None:
    seq, payload = 0, b""
    for line in block.split(b"\n"):
        if line.startswith(b"id: ") and line[4:].isdigit():
            seq = int(line[4:])
        elif line.startswith(b"data: "):
            payload = line[6:]
    if not payload:
        return None
    try:
        return seq, _events.decode(payload)
    except msgspec.MsgspecError as error:
        if _is_newer(payload):
            return None
        raise WireError(f"an agent's event is malformed: {error}", source="agent") from error


def _is_newer(payload: bytes) -> bool:
    """Whether its kind came after us. Raises WireVersionError for a snapshot of a version that we do not read."""
    try:
        outline = _outlines.decode(payload)
    except msgspec.MsgspecError:
        return False
    version = outline.status.wire_version
    if version >= 0 and not is_compatible(version):
        raise WireVersionError(refusal(version), source="agent")
    return bool(outline.type) and outline.type not in KNOWN_TAGS


def _decode(response: httpx.Response, kind: type[T]) -> T:
    raise_for_error(response)
    try:
        return msgspec.json.decode(response.content, type=kind)
    except msgspec.MsgspecError as error:
        raise WireError(f"{response.request.url.path}: malformed answer: {error}", source="agent") from error
