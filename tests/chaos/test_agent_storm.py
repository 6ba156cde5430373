# SPDX-License-Identifier: Apache-2.0
"""Loads, answers, departures, unloads and kill -9 at once, with room for few: no id is lost, nothing leaks."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Final

from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.config import MIB
from support.running_agent import AgentClient, expected, running_agent
from support.simulated_artifact import write_simulated_artifact

SEED: Final = 20_260
NUM_MODELS: Final = 8
NUM_CLIENTS: Final = 12
ROUNDS_PER_CLIENT: Final = 12
DEPARTURE_RATIO: Final = 0.2
KILL_INTERVAL_S: Final = 0.2
UNLOAD_INTERVAL_S: Final = 0.15
TOLERATED: Final = {"replica_gone", "worker_lost", "stale_attempt", "model_load_failed"}
"""What an orchestrator answers with another placement; anything else would reach a user."""


class Storm:
    """The actors, over one set of models whose attempts only rise."""

    def __init__(self, node: AgentClient, artifacts: list[Artifact]) -> None:
        self._node = node
        self._artifacts = artifacts
        self._attempts = Counter[int]()
        self._random = random.Random(SEED)
        self.outcomes = Counter[str]()

    async def client(self, number: int) -> None:
        """Wake and ask some model, again and again; leave early now and then."""
        for _ in range(ROUNDS_PER_CLIENT):
            call = asyncio.create_task(self._ask(self._random.randrange(NUM_MODELS), number))
            if self._random.random() < DEPARTURE_RATIO:
                await asyncio.wait([call], timeout=self._random.random() / 10)
                call.cancel()
            with suppress(asyncio.CancelledError):
                await call

    async def killer(self) -> None:
        """kill -9 of some worker, for ever."""
        while True:
            await asyncio.sleep(KILL_INTERVAL_S)
            pids = [replica.pid for replica in (await self._node.status()).replicas if replica.pid]
            if pids:
                with suppress(ProcessLookupError):
                    os.kill(self._random.choice(pids), signal.SIGKILL)

    async def unloader(self) -> None:
        """Unload some model in some way, for ever."""
        while True:
            await asyncio.sleep(UNLOAD_INTERVAL_S)
            number = self._random.randrange(NUM_MODELS)
            flags = {name: self._random.random() < 0.5 for name in ("drop_bytes", "only_idle")}
            await self._node.unload(
                self._artifacts[number], f"m{number}", attempt=self._next_attempt(number), **flags
            )

    async def _ask(self, number: int, seed: int) -> None:
        artifact, model = self._artifacts[number], f"m{number}"
        reply = await self._node.load(
            artifact, model, attempt=self._next_attempt(number), options={"token_s": 0.001}
        )
        if reply.status == 200:
            reply = await self._node.infer(
                artifact, {"stream": True, "max_tokens": 20, "seed": seed}, model=model
            )
        if reply.status == 200:
            assert reply.is_done
            assert reply.token_ids == expected(artifact, len(reply.token_ids), seed=seed)
        failed = reply.body or next((event for event in reply.events if "error" in event), None)
        outcome = "ok" if failed is None else failed["error"]["code"]
        assert outcome in TOLERATED | {"ok"}, failed
        self.outcomes[outcome] += 1

    def _next_attempt(self, number: int) -> int:
        self._attempts[number] += 1
        return self._attempts[number]


async def test_storm_loses_no_id_and_leaks_nothing(tmp_path: Path) -> None:
    print(f"seed {SEED}")  # noqa: T201  # shown when the test fails
    artifacts = [
        write_simulated_artifact(tmp_path / "artifacts", f"v{i}", nbytes=(1 + i % 3) * 2 * MIB - MIB)
        for i in range(NUM_MODELS)
    ]
    settings = {"arena": {"budget_bytes": 12 * MIB}, "engine": {"max_replicas": 3, "max_num_seqs": 2}}
    async with running_agent(tmp_path, **settings) as node:
        storm = Storm(node, artifacts)
        trouble = [asyncio.create_task(storm.killer()), asyncio.create_task(storm.unloader())]
        await asyncio.gather(*(storm.client(number) for number in range(NUM_CLIENTS)))
        for task in trouble:
            task.cancel()
        await asyncio.wait(trouble)
        # A replica whose worker was killed last is listed no more while it is still being unbound: its slot is.
        status = await node.until(
            lambda status: (
                not status.loads
                and status.slots["simulated.bound"] == len(status.replicas)
                and all(r.state == "ready" and r.num_running == r.num_queued == 0 for r in status.replicas)
            )
        )
        pinned = {region.revision for region in status.regions if region.is_pinned}
        assert pinned == {replica.revision for replica in status.replicas}
        assert len(status.replicas) <= 3
        assert storm.outcomes["ok"] > NUM_CLIENTS
