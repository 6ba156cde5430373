# SPDX-License-Identifier: Apache-2.0
"""The road of one request, phase by phase: queue → place → fetch → read → bind → prefill → first_token.

The phases of a request add up to its TTFT: `first_token` is what is left after the others
(detokenising, framing, the hops between processes). A phase that the road did not touch is 0. Knows no HTTP.

Where the engine computed beside the load, `fetch` or `read` is the time in which the request waited for bytes and
nothing was computed for it, `prefill` what was computed, also while bytes arrived; `load_ms` is the load's own
length, from its first byte to its last.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec

from serverlessllm.types import DEFAULT_TENANT, StartKind, Tier
from serverlessllm.wire.agent import InferTiming, LoadResult, StreamedLoad
from serverlessllm.wire.hop import Hop
from serverlessllm.wire.trace_context import TraceContext, current


class Timeline(msgspec.Struct, kw_only=True):
    """One request, as `/admin/requests/{id}` and the console show it.

    `arrived_s` is Unix time; all durations are milliseconds. A wait for a wake-up
    that is shared with others is spread over fetch, read and bind as the load's own phases were. `hops` are there
    where the stream broke or moved. `trace`: what its task worked for when it began.
    """

    request_id: str
    model: str
    endpoint: str
    arrived_s: float
    tenant: str = DEFAULT_TENANT
    start: StartKind = "hot"
    tier: Tier | None = None
    state: str = "held"
    status: int = 0
    error: str | None = None
    revision: str | None = None
    agent_id: str | None = None
    attempt: int = 0
    num_retries: int = 0
    queue_ms: float = 0.0
    place_ms: float = 0.0
    fetch_ms: float = 0.0
    read_ms: float = 0.0
    bind_ms: float = 0.0
    prefill_ms: float = 0.0
    first_token_ms: float = 0.0
    ttft_ms: float = 0.0
    e2e_ms: float = 0.0
    nbytes: int = 0
    gbps: float = 0.0
    possible_gbps: float = 0.0
    limiting: str = ""
    load_ms: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    is_stream: bool = False
    trace: TraceContext | None = msgspec.field(default_factory=current)
    hops: list[Hop] = []

    def note_cut(self) -> None:
        """The stream broke: from here on it is told where it runs."""
        if not self.hops:
            self.hops.append(Hop(self.agent_id or "", 0, "begun"))

    def note_wake(self, load: LoadResult, waited_ms: float) -> None:
        """The request waited `waited_ms` for `load`; it joined late if that is less than the load took.

        The wait is shared out backwards, bind first: who joined late saw the load's end.
        """
        self.start, self.tier = load.start, load.tier
        self.nbytes, self.gbps, self.possible_gbps = load.nbytes, load.gbps, load.possible_gbps
        self.limiting = load.limiting
        left = waited_ms
        for phase in ("bind_ms", "read_ms", "fetch_ms"):
            share = min(left, float(getattr(load, phase)))
            setattr(self, phase, share)
            left -= share
        self.queue_ms += left

    def note_first_token(self, timing: InferTiming, ttft_ms: float) -> None:
        """The first event arrived after `ttft_ms`; what no phase claims is `first_token`."""
        self.queue_ms += timing.queue_ms
        self.prefill_ms = timing.prefill_ms
        if timing.load is not None:
            self._note_streamed(timing.load, timing.stall_ms)
        self.prompt_tokens = timing.prompt_tokens
        self.cached_tokens = timing.cached_tokens
        self.ttft_ms = ttft_ms
        claimed = (
            self.queue_ms + self.place_ms + self.fetch_ms + self.read_ms + self.bind_ms + self.prefill_ms
        )
        self.first_token_ms = max(0.0, ttft_ms - claimed)

    def _note_streamed(self, load: StreamedLoad, stall_ms: float) -> None:
        """The request was computed beside `load`, and waited for it as long as `stall_ms`."""
        if self.start != "cold":  # else its bytes were fetched and converted first
            self.start, self.tier = load.start, load.tier
        self.nbytes, self.gbps, self.load_ms = load.nbytes, load.gbps, load.load_ms
        if load.tier == "remote":
            self.fetch_ms += stall_ms
        else:
            self.read_ms += stall_ms

    def phases(self) -> dict[str, float]:
        """Phase → milliseconds, in the order of the road."""
        return {
            "queue": round(self.queue_ms, 2),
            "place": round(self.place_ms, 2),
            "fetch": round(self.fetch_ms, 2),
            "read": round(self.read_ms, 2),
            "bind": round(self.bind_ms, 2),
            "prefill": round(self.prefill_ms, 2),
            "first_token": round(self.first_token_ms, 2),
        }

    def server_timing(self) -> str:
        """The value of a `Server-Timing` header (W3C Server Timing): one metric per phase, and the total."""
        return (
            f"queue;dur={self.queue_ms:.2f}, place;dur={self.place_ms:.2f}, fetch;dur={self.fetch_ms:.2f}, "
            f"read;dur={self.read_ms:.2f}, bind;dur={self.bind_ms:.2f}, prefill;dur={self.prefill_ms:.2f}, "
            f"first_token;dur={self.first_token_ms:.2f}, ttft;dur={self.ttft_ms:.2f}, "
            f'start;desc="{self.start}"'
        )

    def summary_json(self) -> str:
        """What the final SSE comment carries: the phases and what a reader needs to judge them."""
        fields: dict[str, object] = {"start": self.start, "tier": self.tier, **self.phases()}
        fields |= {"ttft": round(self.ttft_ms, 2), "gbps": round(self.gbps, 3), "nbytes": self.nbytes}
        if self.load_ms:
            fields["load"] = round(self.load_ms, 2)
        return msgspec.json.encode(fields).decode()


class TimelineRing:
    """The live requests and the last finished ones, by request id. Bounded: old finished ones fall out."""

    def __init__(self, max_finished: int, on_finish: Callable[[Timeline], None] | None = None) -> None:
        """`on_finish` is called with each one that ends, in the task that ended it."""
        self._max_finished = max_finished
        self._on_finish = on_finish
        self._by_id: dict[str, Timeline] = {}
        self._finished: deque[str] = deque()

    def start(self, timeline: Timeline) -> None:
        self._by_id[timeline.request_id] = timeline

    def finish(self, timeline: Timeline) -> None:
        """Mark as finished; it stays readable until `max_finished` others have finished."""
        if self._on_finish is not None:
            self._on_finish(timeline)
        self._finished.append(timeline.request_id)
        while len(self._finished) > self._max_finished:
            self._by_id.pop(self._finished.popleft(), None)

    @property
    def num_live(self) -> int:
        """Requests that have not finished."""
        return len(self._by_id) - len(self._finished)

    def get(self, request_id: str) -> Timeline | None:
        return self._by_id.get(request_id)

    def recent(self, limit: int) -> list[Timeline]:
        """The newest first, live ones included."""
        return list(self._by_id.values())[: -limit - 1 : -1]
