# SPDX-License-Identifier: Apache-2.0
"""A stream goes on at another agent, because its source says so. The orchestrator decides where it really does.

    the destination answers       its run is read from now on; the source's is ended
    it does not, or has nothing   its run is forbidden there (a later one of that number too), and the source, which
                                  kept what it sampled meanwhile, is read again
    the source has nothing either the stream is cut: it is continued like any other

So whoever else thinks that he has the stream, its client gets ids of one run. Knows no placement.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import msgspec

from serverlessllm.errors import UnreachableError, WireError
from serverlessllm.orchestrator.agents import Agents
from serverlessllm.orchestrator.call import Call, TryAgain
from serverlessllm.orchestrator.replicas import Replica, ReplicaTable
from serverlessllm.orchestrator.request_metrics import RequestMetrics
from serverlessllm.orchestrator.runs import Runs
from serverlessllm.wire.migrate import Moving, decode_moving

if TYPE_CHECKING:
    from serverlessllm.orchestrator.agent_link import AgentLink
    from serverlessllm.orchestrator.stream_record import StreamRecord
    from serverlessllm.orchestrator.upstream import UpstreamResponse

_log = logging.getLogger(__name__)
_BROKEN: Final = (UnreachableError, WireError)


class Handovers:
    """For all requests of a process."""

    def __init__(self, agents: Agents, table: ReplicaTable, runs: Runs, metrics: RequestMetrics) -> None:
        self._agents = agents
        self._table = table
        self._runs = runs
        self._metrics = metrics

    async def follow(
        self, call: Call, record: StreamRecord, source: Replica, line: bytes
    ) -> UpstreamResponse:
        """Its events where it goes on; `call.replica` and its hop follow. Raises TryAgain where it does not."""
        moving = decode_moving(line)
        if moving is None:
            raise TryAgain(
                WireError("the agent says that the stream moves, but not where to", source="agent")
            )
        link = self._link(moving)
        if link is not None:
            response = await self._attach(call, link, moving, record.seq)
            if response is not None:
                self._arrived(call, record, source, link, moving)
                return response
            self._runs.end(link, msgspec.structs.replace(call.run, hop=moving.hop))
        response = await self._attach(call, source.link, None, record.seq)
        if response is None:
            call.hop = max(call.hop, moving.hop)
            raise TryAgain(UnreachableError("the stream moved, and is nowhere", source="agent"))
        self._metrics.moved(call.timeline, source.link.agent_id, record.seq, "returned")
        return response

    async def _attach(
        self, call: Call, link: AgentLink, moving: Moving | None, seq: int
    ) -> UpstreamResponse | None:
        """The events after `seq` of the run there; None where there are none."""
        run = call.run if moving is None else msgspec.structs.replace(call.run, hop=moving.hop)
        try:
            response = await self._runs.attach(link, run, seq)
        except _BROKEN as error:
            _log.info("request %s cannot go on at %s: %s", run.request_id, link.address, error.message)
            return None
        if response.status != 200:
            response.close()
            return None
        return response

    def _arrived(
        self, call: Call, record: StreamRecord, source: Replica, link: AgentLink, moving: Moving
    ) -> None:
        """Count it there from now on, and end what is left at the source."""
        self._runs.end(source.link, msgspec.structs.replace(call.run, hop=moving.hop - 1))
        call.hop = moving.hop
        timeline = call.timeline
        replica = call.replica = self._replica(source, link)
        source.num_inflight -= 1
        replica.num_inflight += 1
        source.link.breaker.succeeded()
        link.breaker.begin()
        timeline.agent_id, timeline.attempt = link.agent_id, replica.attempt
        self._metrics.moved(timeline, link.agent_id, record.seq, "moved")

    def _replica(self, source: Replica, link: AgentLink) -> Replica:
        """The destination's, also one that its events have not told of yet."""
        for replica in self._table.of(source.model):
            if replica.link is link and replica.revision == source.revision:
                return replica
        return Replica(link, source.model, source.revision, source.attempt, source.ready_s)

    def _link(self, moving: Moving) -> AgentLink | None:
        found = self._agents.by_id(moving.agent_id)
        if found is None:
            _log.warning("agent %s, to which a stream moves, is not known", moving.agent_id)
        return found
