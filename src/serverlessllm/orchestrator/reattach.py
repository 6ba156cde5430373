# SPDX-License-Identifier: Apache-2.0
"""Finds the run of a stream whose client came back: it lost its connection together with another orchestrator.

Agents keep such runs by tenant and request id (`wire/run_name.py`). Those that have a replica of the model are asked
first, then the others. Where several have a run of the request, the last one counts and the others are ended. An
agent that does not answer, or that an orchestrator which has just started does not hear yet, may be the one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, NamedTuple

from serverlessllm.errors import AnswerGoneError, UnreachableError, WireError
from serverlessllm.metadata.records import ModelRecord
from serverlessllm.orchestrator.agent_link import AgentLink
from serverlessllm.orchestrator.agents import Agents
from serverlessllm.orchestrator.replicas import Replica, ReplicaTable
from serverlessllm.orchestrator.runs import Runs
from serverlessllm.orchestrator.upstream import UpstreamResponse
from serverlessllm.wire.agent import CREATED_HEADER, HOP_HEADER, SEED_HEADER, number_header
from serverlessllm.wire.run_name import RunName

MAX_AT_ONCE: Final = 32
GONE_STATUS: Final = 410
PATIENCE_S: Final = 15.0
"""How long silent agents are waited for; one that is dead loses its lease before."""
LOOK_AGAIN_S: Final = 0.2


class FoundRun(NamedTuple):
    """A run that goes on, or has ended and is kept. `is_whole`: `response` brings it from its first event on.

    Close `response`.
    """

    replica: Replica
    response: UpstreamResponse
    run: RunName
    created_s: int
    is_whole: bool


class Reattach:
    """For all requests of a process."""

    def __init__(self, agents: Agents, table: ReplicaTable, runs: Runs) -> None:
        self._agents = agents
        self._table = table
        self._runs = runs

    async def find(self, record: ModelRecord, name: RunName, last_seq: int) -> FoundRun | None:
        """The run, so that at least all after `last_seq` comes; None: no agent has it.

        Where `last_seq` is 0, silent agents are not waited for: nothing is lost with what they have.

        Raises: AnswerGoneError when it is there, but not what follows `last_seq`; UnreachableError when it was not
        found and some agent stayed silent, WireError.
        """
        clock = asyncio.get_running_loop().time
        until_s = clock() + PATIENCE_S
        while True:
            try:
                return await self._look(record, name, last_seq)
            except UnreachableError:
                if not last_seq:
                    return None
                if clock() >= until_s:
                    raise
            await asyncio.sleep(LOOK_AGAIN_S)

    async def _look(self, record: ModelRecord, name: RunName, last_seq: int) -> FoundRun | None:
        """Ask every agent once."""
        replicas = {
            replica.link.address: replica
            for replica in self._table.all()
            if replica.model == record.name and replica.link.is_alive
        }
        others = [link for link in self._agents.alive() if link.address not in replicas]
        groups = [[replica.link for replica in replicas.values()]]
        groups += [others[start : start + MAX_AT_ONCE] for start in range(0, len(others), MAX_AT_ONCE)]
        silent = self._silent()
        for links in groups:
            answers = await asyncio.gather(*(self._ask(link, name, last_seq) for link in links))
            found = self._choose([answer for answer in answers if isinstance(answer, FoundRun)])
            if found is not None:
                return found
            gone = next((answer for answer in answers if isinstance(answer, AnswerGoneError)), None)
            if gone is not None:
                raise gone
            silent = next((answer for answer in answers if isinstance(answer, UnreachableError)), silent)
        if silent is not None:
            raise silent
        return None

    def _silent(self) -> UnreachableError | None:
        """For an agent of the cluster that does not speak to us."""
        link = next((link for link in self._agents.links if not link.is_alive and link.problem is None), None)
        if link is None:
            return None
        return UnreachableError(
            f"agent {link.address} may have the answer, and does not speak", source="agent"
        )

    async def _ask(
        self, link: AgentLink, name: RunName, last_seq: int
    ) -> FoundRun | AnswerGoneError | UnreachableError | None:
        """From the beginning if that is kept: then the stream can be continued elsewhere once more."""
        try:
            response = await self._runs.attach(link, name, 0)
            is_whole = response.status == 200
            if response.status == GONE_STATUS and last_seq:
                response.close()
                response = await self._runs.attach(link, name, last_seq)
        except UnreachableError as error:
            return error
        if response.status == 200:
            return self._found(link, name, response, is_whole=is_whole)
        response.close()
        if response.status == GONE_STATUS:
            return AnswerGoneError(f"what follows token {last_seq} of the answer is not kept any more")
        return None

    def _found(
        self, link: AgentLink, name: RunName, response: UpstreamResponse, *, is_whole: bool
    ) -> FoundRun:
        try:
            seed, hop, created_s = (
                number_header(response.headers, header)
                for header in (SEED_HEADER, HOP_HEADER, CREATED_HEADER)
            )
        except WireError:
            response.close()
            raise
        run = RunName(name.tenant, name.request_id, seed, hop)
        return FoundRun(self._replica(link), response, run, created_s, is_whole)

    def _replica(self, link: AgentLink) -> Replica:
        """What the run is counted at; one of its own where the table has none, as while it drains."""
        known = next((replica for replica in self._table.all() if replica.link is link), None)
        return known or Replica(link, "", "", 0, 0.0)

    def _choose(self, found: Sequence[FoundRun]) -> FoundRun | None:
        if not found:
            return None
        last = max(found, key=lambda candidate: candidate.run.hop)
        for other in found:
            if other is not last:
                other.response.close()
                self._runs.end(other.replica.link, other.run)
        return last
