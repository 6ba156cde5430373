# SPDX-License-Identifier: Apache-2.0
"""All loads of one node, and the replicas that they made. Knows no HTTP and no requests."""

from __future__ import annotations

import asyncio
from pathlib import Path

from serverlessllm.agent.adapters import Adapters
from serverlessllm.agent.admission import Admission
from serverlessllm.agent.artifacts import OpenArtifacts
from serverlessllm.agent.flight import Flight
from serverlessllm.agent.load import Load, NodeParts
from serverlessllm.agent.load_messages import hot_result_of
from serverlessllm.agent.replica import Replica, ReplicaKey
from serverlessllm.agent.warm import warm
from serverlessllm.engine.registry import num_ranks
from serverlessllm.errors import SllmError, StaleAttemptError
from serverlessllm.types import EngineKind
from serverlessllm.wire.agent import LoadRequest, LoadResult
from serverlessllm.wire.events import KvChunks


class Loads:
    """Single flight per (model, revision). Ensures: one replica per key at a time."""

    def __init__(self, parts: NodeParts) -> None:
        self._parts = parts
        self._artifacts = OpenArtifacts(parts.loader.manifest)
        self._flights: dict[ReplicaKey, Flight[LoadResult]] = {}
        self._broken: set[ReplicaKey] = set()
        self.replicas: dict[ReplicaKey, Replica] = {}
        self._admission = Admission(parts.arena, self.replicas, parts.config.engine.max_replicas)

    async def load(self, request: LoadRequest, engine: EngineKind) -> LoadResult:
        """Bring a replica up, join the load that does, or report the one that is ready as hot; or only the bytes.

        Cancelled when the last caller leaves. Raises: StaleAttemptError; InsufficientMemoryError; CapacityError when
        no room came free in time; CheckpointError; ModelLoadError; ReplicaGoneError when an unload stopped it.
        """
        if request.warm_only:
            return await warm(self._parts, self._artifacts, request)
        key = ReplicaKey(request.model, request.revision)
        while (replica := self.replicas.get(key)) is not None:
            self.fence(replica, request.attempt)
            flight = self._flights.get(key)
            if replica.state == "ready":
                return hot_result_of(replica)
            if flight is not None and not flight.is_stopped:
                return await flight.join()
            await replica.gone.wait()
        replica = self._new_replica(key, engine, request)
        flight = Flight(self._bring_up(replica, request))
        self._flights[key] = flight
        return await flight.join()

    def fence(self, replica: Replica, attempt: int) -> None:
        """Make `attempt` the replica's. Raises StaleAttemptError if it is older: its caller acts on an old view."""
        if attempt < replica.attempt:
            raise StaleAttemptError(
                f"attempt {attempt} for model {replica.key.model} is stale: attempt {replica.attempt} "
                "owns the replica",
                source="agent",
            )
        if attempt > replica.attempt:
            replica.attempt = attempt
            self._parts.reporter.replica_changed(replica)

    def kv_chunks(self) -> list[KvChunks]:
        """The prompt chunks that each replica has cached."""
        ready = [replica for replica in self.replicas.values() if replica.state == "ready"]
        return [
            KvChunks(replica.key.model, replica.key.revision, names)
            for replica in ready
            if (names := replica.kv.published)
        ]

    async def stop_load(self, key: ReplicaKey) -> None:
        """Cancel a load under way; returns when nothing of it is left."""
        flight = self._flights.get(key)
        if flight is not None:
            await flight.stopped()

    async def warm_text(self, directory: Path, revision: str) -> None:
        """Parse the tokenizer of a revision that is in DRAM already. Raises as `OpenArtifacts.open`."""
        opened = await self._artifacts.open(directory, revision)
        await self._parts.texts.get(opened.artifact)

    async def check_bytes(self, directory: Path, revision: str) -> bool:
        """Compare what an earlier agent left of a revision in DRAM with its digests; what is wrong is dropped.

        Raises as `OpenArtifacts.open`.
        """
        opened = await self._artifacts.open(directory, revision)
        return await self._parts.loader.check_adopted(revision, opened.artifact)

    async def drain(self) -> None:
        """Cancel all loads, let what runs in the replicas finish, unbind them."""
        await asyncio.gather(*(flight.stopped() for flight in list(self._flights.values())))
        await asyncio.gather(*(replica.drain() for replica in list(self.replicas.values())))

    async def stop(self) -> None:
        """Cancel all loads and unbind all replicas."""
        await asyncio.gather(*(flight.stopped() for flight in list(self._flights.values())))
        await asyncio.gather(*(replica.unbind() for replica in list(self.replicas.values())))

    def _new_replica(self, key: ReplicaKey, engine: EngineKind, request: LoadRequest) -> Replica:
        replica = Replica(
            key,
            engine,
            request.attempt,
            slots=self._parts.slots,
            clock=self._parts.clock,
            max_queue_length=self._parts.config.agent.max_queue_length,
            adapters=Adapters(self._parts.loader, self._parts.arena),
            on_change=self._on_change,
            on_kv_change=self._parts.reporter.kv_changed,
            num_ranks=num_ranks(engine, request.options),
        )
        self.replicas[key] = replica
        self._on_change(replica)
        return replica

    def _on_change(self, replica: Replica) -> None:
        self._parts.reporter.replica_changed(replica)
        if replica.gone.is_set() and self.replicas.get(replica.key) is replica:
            del self.replicas[replica.key]
            self._parts.reporter.regions_changed()
        if replica.is_idle or replica.gone.is_set():
            self._admission.notice()

    async def _bring_up(self, replica: Replica, request: LoadRequest) -> LoadResult:
        """The work of one flight: a replica that takes requests, or none and an error that says why."""
        reporter, began_s = self._parts.reporter, self._parts.clock.wall_s()
        may_stream = replica.key not in self._broken
        load = Load(self._parts, self._artifacts, self._admission, replica, request, may_stream=may_stream)
        try:
            result = await load.run()
        except BaseException as error:
            # Before the wait: once the replica is gone, the key is free for the next flight.
            del self._flights[replica.key]
            reporter.load_failed(replica.key, str(error) or "stopped")
            self._parts.traces.loaded(replica, began_s, None, str(error) or "stopped")
            await replica.unbind()
            raise
        del self._flights[replica.key]
        self._parts.traces.loaded(replica, began_s, result)
        if result.is_streaming:
            replica.keep_loading(asyncio.create_task(self._finish(load, replica)))
        else:
            self._broken.discard(replica.key)
            reporter.load_succeeded(replica.key, result, replica.engine)
        return result

    async def _finish(self, load: Load, replica: Replica) -> None:
        """The rest of a load whose replica takes requests already; where it fails, the replica goes.

        The next load of that key does not stream: if it fails too, its callers are told why.
        """
        reporter = self._parts.reporter
        try:
            result = await load.rest()
        except SllmError as error:
            self._broken.add(replica.key)
            reporter.load_failed(replica.key, str(error))
            replica.fail_load(error)
        except asyncio.CancelledError:
            reporter.load_failed(replica.key, "stopped")
            raise
        else:
            reporter.load_succeeded(replica.key, result, replica.engine)
