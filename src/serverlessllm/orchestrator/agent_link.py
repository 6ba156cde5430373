# SPDX-License-Identifier: Apache-2.0
"""Our end of one agent: its clients, its state, and whether it is alive.

    state    → entered by                                     means
    alive    → a snapshot or any later event                  takes loads and requests
    dead     → a failed connection, or SILENCE_S of silence   everything in flight to it is failed

Knows nothing of models or placement: what an event means to others is told through `AgentObserver`.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Final, Protocol

from serverlessllm.clock import Clock
from serverlessllm.config import TlsConfig
from serverlessllm.errors import CertificateError, WireError, WireVersionError
from serverlessllm.orchestrator.agent_state import AgentState
from serverlessllm.orchestrator.breaker import Breaker
from serverlessllm.orchestrator.event_feed import EventFeed
from serverlessllm.orchestrator.upstream import Upstream
from serverlessllm.sdk.agent import SILENCE_S, AgentClient
from serverlessllm.sdk.tls import ClientTls
from serverlessllm.wire import is_compatible, refusal
from serverlessllm.wire.events import AgentEvent, Snapshot

log = logging.getLogger(__name__)

FIRST_BACKOFF_S: Final = 0.05
MAX_BACKOFF_S: Final = 2.0


class AgentObserver(Protocol):
    """Who wants to know. Called in the event loop, must not block."""

    def agent_changed(self, link: AgentLink, event: AgentEvent) -> None:
        """`event` was applied to `link.state`; the link is alive."""

    def agent_lost(self, link: AgentLink) -> None:
        """The agent is dead: its replicas cannot be reached."""


class AgentLink:
    """One agent, by its address. `run` follows its event stream until cancelled."""

    def __init__(
        self,
        address: str,
        secret: str,
        clock: Clock,
        observer: AgentObserver,
        tls: ClientTls | None = None,
    ) -> None:
        tls = tls or ClientTls(TlsConfig())
        self.address = address
        self.client = AgentClient(address, secret, tls)
        self.upstream = Upstream(address, tls)
        self._feed = EventFeed(address, secret, tls.context(address))
        self.state = AgentState()
        self.is_alive = False
        self.lost = asyncio.Event()
        self.is_drained = False
        self.is_leaving = False
        self.problem: str | None = None
        self.num_failures = 0
        self.breaker = Breaker(clock)
        self._clock = clock
        self._observer = observer
        self._heard_s = clock.monotonic_s()
        self._boot_id = ""
        self._seq: int | None = None

    @property
    def agent_id(self) -> str:
        """The agent's own name; its address until it told us."""
        base = self.state.base
        return self.address if base is None else base.agent_id

    @property
    def silent_s(self) -> float:
        """Seconds since the last event."""
        return self._clock.monotonic_s() - self._heard_s

    async def run(self) -> None:
        """Follow the event stream; reconnect with backoff, the first time at once."""
        backoff_s = 0.0
        while True:
            before_s = self._heard_s
            error = await self._feed.follow(self._seq, self._take_safely)
            if self._heard_s != before_s:
                backoff_s = 0.0
            log.debug("agent %s: %s", self.address, error.message)
            if isinstance(error, CertificateError | WireVersionError) and self.problem != error.message:
                self.problem = error.message
                log.error("agent %s", error.message)
            if backoff_s or self.silent_s >= SILENCE_S:
                self.give_up(error.message)
            await asyncio.sleep(backoff_s * random.uniform(0.5, 1.0))
            backoff_s = min(MAX_BACKOFF_S, max(FIRST_BACKOFF_S, 2 * backoff_s))

    def _take_safely(self, seq: int, event: AgentEvent) -> None:
        """Raises WireError for an event that trips us up: the stream begins anew."""
        try:
            self._take(seq, event)
        except Exception as error:
            log.exception("agent %s: an event was not understood", self.address)
            self.give_up("its events are not understood")
            raise WireError(f"agent {self.address}: an event was not understood", source="agent") from error

    def _take(self, seq: int, event: AgentEvent) -> None:
        if isinstance(event, Snapshot):
            if not is_compatible(event.status.wire_version):
                self._refuse(event.status.wire_version)
                return
            self.problem = None
            if self._boot_id and event.status.boot_id != self._boot_id:
                self.give_up("it restarted")
                self.breaker.reset()
            self._boot_id = event.status.boot_id
        elif not self._boot_id:
            return
        self._seq = seq
        self._heard_s = self._clock.monotonic_s()
        self.state.apply(event)
        if not self.is_alive:
            self.is_alive = True
            self.lost = asyncio.Event()
            log.info("agent %s (%s) is alive", self.agent_id, self.address)
        self._observer.agent_changed(self, event)

    def _refuse(self, version: int) -> None:
        self.problem = refusal(version)
        log.error("agent %s: %s", self.address, self.problem)
        self.give_up(self.problem)

    def give_up(self, reason: str) -> None:
        """Dead until its next snapshot: nothing of what it had can be relied on."""
        self._seq = None
        if not self.is_alive:
            return
        log.warning("agent %s (%s) is lost: %s", self.agent_id, self.address, reason)
        self.is_alive = False
        self._boot_id = ""
        self.lost.set()
        self.upstream.abort()
        self._observer.agent_lost(self)

    async def aclose(self) -> None:
        """Close all connections."""
        self.upstream.abort()
        await self.client.aclose()
