# SPDX-License-Identifier: Apache-2.0
"""The road from a sleeping model to a ready replica: place, claim, load; again elsewhere when that fails.

One `wake` runs per model at a time (`wake.py` sees to that); it runs until it succeeds, until no agent could do
better, or until it is cancelled because nobody waits any more. Deadlines are the waiters' own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import msgspec

from serverlessllm.clock import Clock
from serverlessllm.errors import (
    CapacityError,
    CheckpointError,
    ConflictError,
    DiskFullError,
    InsufficientMemoryError,
    MetadataUnavailableError,
    ModelLoadError,
    NoAgentError,
    RequestError,
    ShuttingDownError,
    SllmError,
    StaleAttemptError,
    UnreachableError,
    UnsupportedCheckpointError,
)
from serverlessllm.metadata.records import ModelRecord
from serverlessllm.orchestrator.agent_link import AgentLink
from serverlessllm.orchestrator.agents import Agents
from serverlessllm.orchestrator.breakers import Breakers
from serverlessllm.orchestrator.changes import Changes
from serverlessllm.orchestrator.fetches import Fetches, Report
from serverlessllm.orchestrator.hedge import Hedge, LoadTry, Urgency
from serverlessllm.orchestrator.models import Models
from serverlessllm.orchestrator.placement.decide import Decision
from serverlessllm.orchestrator.placer import Placer
from serverlessllm.orchestrator.replicas import Replica, ReplicaTable
from serverlessllm.orchestrator.room import Room
from serverlessllm.wire.agent import LoadResult

log = logging.getLogger(__name__)

LOOK_AGAIN_S: Final = 1.0
AGENT_BACKOFF_S: Final = 0.2
PLACE_AGAIN: Final = (
    ConflictError,
    MetadataUnavailableError,
    ShuttingDownError,
    StaleAttemptError,
    UnreachableError,
)
"""Says nothing against the model or the agent's ability: the waiters' deadlines bound how often."""


@dataclass(frozen=True, slots=True)
class Woken:
    """A replica that is ready, and how long deciding and claiming took.

    `load` is what this wake-up loaded; None when somebody else had the replica ready meanwhile.
    """

    replica: Replica
    load: LoadResult | None
    place_ms: float

    def after_fetch(self, fetch_ms: float) -> Woken:
        """The same, where the bytes had to be fetched and converted first."""
        if self.load is None:
            return self
        fetch_ms += self.load.fetch_ms
        load = msgspec.structs.replace(self.load, start="cold", tier="remote", fetch_ms=fetch_ms)
        return Woken(self.replica, load, self.place_ms)


class Waker:
    """Wakes models. Keeps no state of its own between calls."""

    def __init__(
        self,
        models: Models,
        agents: Agents,
        table: ReplicaTable,
        placer: Placer,
        room: Room,
        changes: Changes,
        clock: Clock,
        fetches: Fetches,
        breakers: Breakers,
        hedge: Hedge[Woken],
    ) -> None:
        self._breakers = breakers
        self._hedge = hedge
        self._models = models
        self._fetches = fetches
        self._agents = agents
        self._table = table
        self._placer = placer
        self._room = room
        self._changes = changes
        self._clock = clock

    async def wake(
        self,
        model: str,
        report: Report,
        num_prompt_tokens: int = 0,
        first_token_by_s: Callable[[], float | None] = lambda: None,
    ) -> Woken:
        """Returns a ready replica; `report` takes a few words for those who wait.

        `num_prompt_tokens`: about what the request that woke it has; none of it is cached anywhere.
        `first_token_by_s()` (monotonic): a load that would be later than that is begun on a second agent too.

        A model whose bytes are elsewhere is fetched first, once; so is one whose artifact no agent can read.

        Raises: ModelNotFoundError; ModelLoadError when the load failed on every agent that may take it;
        InsufficientMemoryError when it fits none; NoAgentError when nobody has its engine installed;
        DiskFullError when no disk has room for what must be fetched.
        """
        failures: dict[str, SllmError] = {}
        must_wait = was_lost = False
        fetch_ms = 0.0
        while True:
            record = await self._models.settled(model, report)
            if record.state == "remote":
                began_s = self._clock.monotonic_s()
                record = await self._fetches.join(model, report)
                fetch_ms += (self._clock.monotonic_s() - began_s) * 1e3
            adopted = self._breakers.least_busy(self._table.ready(model, record.revision))
            if adopted is not None:
                return Woken(adopted, None, 0.0)
            started_s = self._clock.monotonic_s()
            links = self._agents.alive()
            shunned = self._breakers.shunned(links)
            decision = self._placer.decide(record, shunned | failures.keys(), num_prompt_tokens)
            link = self._placer.link(decision)
            if link is None and shunned:
                failing = self._table.get(model, record.revision)
                if failing is not None:
                    return Woken(failing, None, 0.0)  # nowhere else to go
                decision = self._placer.decide(record, failures.keys(), num_prompt_tokens)
                link = self._placer.link(decision)
            if link is None:
                if not was_lost and any(_is_lost(error) for error in failures.values()):
                    was_lost = True
                    failures.clear()
                    await self._fetches.lost(record)
                    continue
                self._raise_if_hopeless(record, links, decision, failures)
                report("waiting for an agent")
                await self._changes.wait(LOOK_AGAIN_S)
                continue
            try:
                async with self._room.turn(link, must_wait=must_wait):
                    if must_wait:
                        report("waiting for room")
                        await self._room.make(link, model)
                    tried = frozenset({link.agent_id}) | shunned | failures.keys()
                    urgency = Urgency(
                        partial(self._is_late, record, link, started_s, first_token_by_s),
                        partial(self._elsewhere, record, tried, num_prompt_tokens),
                    )
                    load = partial(self._load, record, started_s, report)
                    woken = await self._hedge.run(load, _try(record, link, decision), urgency)
                    return woken if fetch_ms == 0.0 else woken.after_fetch(fetch_ms)
            except DiskFullError as error:
                _note_failure(link, model, error, failures)
            except CapacityError:
                must_wait = True
            except PLACE_AGAIN as error:
                if isinstance(error, UnreachableError):
                    link.num_failures += 1  # another agent may be better
                    self._breakers.failed(link, error)
                log.info("wake of %s on %s: %s; placing again", model, link.agent_id, error.message)
                await self._changes.wait(AGENT_BACKOFF_S)
            except SllmError as error:
                _note_failure(link, model, error, failures)

    def _raise_if_hopeless(
        self, record: ModelRecord, links: list[AgentLink], decision: Decision, failures: dict[str, SllmError]
    ) -> None:
        """Raise when waiting cannot help: every agent failed, or the model fits none."""
        if failures:
            last = list(failures.values())[-1]
            if isinstance(last, RequestError | UnsupportedCheckpointError | DiskFullError):
                raise last
            raise ModelLoadError(
                f"{record.name} could not be loaded on {', '.join(failures)}: {last.message}",
                source=last.source,
            )
        if record.engine == "torch" and decision.is_rejected_only_for("engine"):
            raise NoAgentError(
                f"{record.name} needs the engine torch, which no node has: pip install 'serverlessllm[engine]' "
                "there, and start it again"
            )
        if decision.is_rejected_only_for("memory"):
            budgets = [link.state.base.arena_budget_bytes for link in links if link.state.base is not None]
            raise InsufficientMemoryError(
                f"{record.name} needs {record.nbytes} bytes of memory; the largest node has a budget of "
                f"{max(budgets, default=0)}; raise arena.budget_bytes or add a larger node"
            )

    def _is_late(
        self,
        record: ModelRecord,
        link: AgentLink,
        started_s: float,
        first_token_by_s: Callable[[], float | None],
    ) -> bool:
        """Whether the load there is expected to miss the deadline, or has used half of the time without an end."""
        by_s = first_token_by_s()
        if by_s is None:
            return False
        now_s = self._clock.monotonic_s()
        load = link.state.loads.get((record.name, record.revision or ""))
        eta_s = 0.0 if load is None else load.eta_s
        return now_s + eta_s > by_s or now_s > started_s + (by_s - started_s) / 2

    def _elsewhere(
        self, record: ModelRecord, tried: frozenset[str], num_prompt_tokens: int
    ) -> LoadTry | None:
        decision = self._placer.decide(record, tried, num_prompt_tokens)
        link = self._placer.link(decision)
        return None if link is None else _try(record, link, decision)

    async def _load(self, record: ModelRecord, started_s: float, report: Report, tried: LoadTry) -> Woken:
        def claimed(attempt: int) -> None:
            tried.attempt = attempt
            report("loading")

        result, place_ms = await self._placer.load(
            record, tried.link, tried.decision, started_s=started_s, on_claim=claimed
        )
        replica = self._table.add(tried.link, record.name, record.revision or "", result.attempt)
        replica.is_loading = result.is_streaming
        return Woken(replica, result, place_ms)


def _note_failure(link: AgentLink, model: str, error: SllmError, failures: dict[str, SllmError]) -> None:
    """This agent is not asked again in this wake-up."""
    log.warning("wake of %s on %s failed: %s", model, link.agent_id, error.message)
    link.num_failures += 1
    failures[link.agent_id] = error


def _try(record: ModelRecord, link: AgentLink, decision: Decision) -> LoadTry:
    return LoadTry(record.name, record.revision or "", link, decision)


def _is_lost(error: SllmError) -> bool:
    """Whether it says that the artifact is damaged or gone, rather than that it cannot be run."""
    return isinstance(error, CheckpointError) and not isinstance(error, UnsupportedCheckpointError)
