# SPDX-License-Identifier: Apache-2.0
"""Which replicas answer for a model now: the one table that the hot path reads.

Written by load results (at once) and by the agents' events. A delta that tells of an attempt which we dropped
ourselves is old news for DOUBT_S and is ignored; what the agent still has after that is believed, as is a snapshot.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from serverlessllm.clock import Clock
from serverlessllm.orchestrator.agent_link import AgentLink
from serverlessllm.wire.agent import ReplicaStatus
from serverlessllm.wire.events import AgentEvent, ReplicaChanged, Snapshot

DOUBT_S: Final = 2.0
"""For so long after a replica was dropped, news of it may be older than the drop."""


class Replica:
    """A ready replica. `used_s` (monotonic) is when our last request ended.

    `num_inflight` counts our own requests, `num_remote` those that the agent told of last (ours among them);
    `num_failures` those that failed since one was answered. `num_seats` are computed together, each for
    `request_s`, as the agent saw it; 0: not told yet.

    A draining replica takes no new requests. `is_loading`: it takes them while its bytes still arrive.
    """

    __slots__ = (
        "attempt",
        "is_draining",
        "is_loading",
        "link",
        "model",
        "num_failures",
        "num_inflight",
        "num_remote",
        "num_seats",
        "ready_s",
        "request_s",
        "revision",
        "used_s",
    )

    def __init__(self, link: AgentLink, model: str, revision: str, attempt: int, now_s: float) -> None:
        self.link = link
        self.model = model
        self.revision = revision
        self.attempt = attempt
        self.num_failures = 0
        self.num_inflight = 0
        self.num_remote = 0
        self.num_seats = 0
        self.request_s = 0.0
        self.ready_s = now_s
        self.used_s = now_s
        self.is_draining = False
        self.is_loading = False

    @property
    def num_requests(self) -> int:
        """There now, as far as we know: all orchestrators' where the agent has told, our own at once."""
        return max(self.num_inflight, self.num_remote)


class _Drop(NamedTuple):
    """Up to which attempt we dropped a model's replicas on an agent, and when (monotonic)."""

    attempt: int
    at_s: float


class ReplicaTable:
    """Model → its ready replicas, one per agent."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ready: dict[str, dict[str, Replica]] = {}
        self._dropped: dict[tuple[str, str], _Drop] = {}

    def get(self, model: str, revision: str | None) -> Replica | None:
        """The revision's replica with the fewest of our requests; None: the model must be woken."""
        return min(self.ready(model, revision), key=lambda replica: replica.num_inflight, default=None)

    def ready(self, model: str, revision: str | None) -> list[Replica]:
        """The revision's replicas that take requests."""
        return [
            replica
            for replica in self._ready.get(model, {}).values()
            if not replica.is_draining and not replica.link.is_leaving and replica.revision == revision
        ]

    def all(self) -> Iterator[Replica]:
        """Every ready replica, draining ones included."""
        for replicas in list(self._ready.values()):
            yield from list(replicas.values())

    def of(self, model: str) -> list[Replica]:
        """The model's ready replicas."""
        return list(self._ready.get(model, {}).values())

    def add(self, link: AgentLink, model: str, revision: str, attempt: int) -> Replica:
        """A replica is ready. The one of an older attempt on that agent is replaced."""
        replicas = self._ready.setdefault(model, {})
        known = replicas.get(link.address)
        if known is not None and known.attempt == attempt and known.revision == revision:
            return known
        replica = Replica(link, model, revision, attempt, self._clock.monotonic_s())
        replicas[link.address] = replica
        return replica

    def drop(self, replica: Replica) -> None:
        """The replica is gone or cannot be reached. Dropping twice is no error.

        No effect where the agent, or a load, has told of it anew since it was taken from here.
        """
        key = (replica.model, replica.link.address)
        if self._ready.get(replica.model, {}).get(replica.link.address, replica) is not replica:
            return
        attempt = max(replica.attempt, self._dropped[key].attempt if key in self._dropped else 0)
        self._dropped[key] = _Drop(attempt, self._clock.monotonic_s())
        self._remove(replica)

    def drop_agent(self, link: AgentLink) -> None:
        """The agent is dead; what it says after its return is believed again."""
        for replica in self.all():
            if replica.link is link:
                self._remove(replica)
        self._dropped = {key: drop for key, drop in self._dropped.items() if key[1] != link.address}

    def forget(self, model: str) -> None:
        """The model was deleted."""
        self._ready.pop(model, None)
        self._dropped = {key: drop for key, drop in self._dropped.items() if key[0] != model}

    def apply(self, link: AgentLink, event: AgentEvent) -> None:
        """Follow what an agent says; `link.state` has the event already. A heartbeat says: as before."""
        if self._dropped:
            self._believe_again(link)
        if isinstance(event, ReplicaChanged):
            self._follow(link, event.replica)
        elif isinstance(event, Snapshot):
            self._drop_agent_except(link, {(item.model, item.attempt) for item in event.status.replicas})
            for status in event.status.replicas:
                self._dropped.pop((status.model, link.address), None)
                self._follow(link, status)

    def _believe_again(self, link: AgentLink) -> None:
        """Take in what the agent has DOUBT_S after we dropped it: one broken connection says little of a replica."""
        now_s = self._clock.monotonic_s()
        for key, drop in list(self._dropped.items()):
            if key[1] == link.address and now_s - drop.at_s >= DOUBT_S:
                del self._dropped[key]
                for status in list(link.state.replicas.values()):
                    if status.model == key[0]:
                        self._follow(link, status)

    def _drop_agent_except(self, link: AgentLink, keep: set[tuple[str, int]]) -> None:
        """Drop the agent's replicas whose (model, attempt) is not in `keep`."""
        for replica in self.all():
            if replica.link is link and (replica.model, replica.attempt) not in keep:
                self._remove(replica)

    def _follow(self, link: AgentLink, status: ReplicaStatus) -> None:
        known = self._ready.get(status.model, {}).get(link.address)
        if status.state == "ready":
            if known is not None and known.attempt > status.attempt:
                return
            dropped = self._dropped.get((status.model, link.address))
            if dropped is not None and status.attempt <= dropped.attempt:
                return
            replica = self.add(link, status.model, status.revision, status.attempt)
            replica.is_loading = status.is_loading
            replica.num_seats = status.num_seats
            replica.request_s = status.request_s
            was_busy, replica.num_remote = replica.num_remote > 0, status.num_running + status.num_queued
            if was_busy or replica.num_remote:
                replica.used_s = self._clock.monotonic_s()
        elif known is not None and status.attempt >= known.attempt and status.revision == known.revision:
            self._remove(known)

    def _remove(self, replica: Replica) -> None:
        replicas = self._ready.get(replica.model)
        if replicas is not None and replicas.get(replica.link.address) is replica:
            del replicas[replica.link.address]
            if not replicas:
                del self._ready[replica.model]
