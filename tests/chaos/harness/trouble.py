# SPDX-License-Identifier: Apache-2.0
"""Does to a cluster what a schedule says, undoes it, and remembers when. Each part has one trouble at a time."""

from __future__ import annotations

import asyncio
import math
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from random import Random

from chaos.harness.parts import Parts, ServerPart
from chaos.harness.schedule import NUM_FAULTY, Fault, Role

FindWorkers = Callable[[ServerPart], list[int]]


class Trouble:
    """`run` the faults. `find_workers(agent)` gives the process ids that serve its replicas now."""

    def __init__(self, parts: Parts, find_workers: FindWorkers, seed: int) -> None:
        self._parts = parts
        self._find_workers = find_workers
        self._pick = Random(seed)
        self._agents_well_since_s = -math.inf
        self._num_ill_agents = 0
        self._turns: dict[Role, asyncio.Semaphore] = {
            role: asyncio.Semaphore(number) for role, number in NUM_FAULTY.items()
        }

    async def run(self, faults: Sequence[Fault]) -> None:
        """Returns when the last one is undone and everything runs again."""
        began_s = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as group:
            for fault in faults:
                group.create_task(self._one(fault, began_s))

    def had_agent_trouble_since(self, when_s: float) -> bool:
        """Whether some agent was in trouble at any moment since then (time of the event loop)."""
        return self._num_ill_agents > 0 or self._agents_well_since_s >= when_s

    @contextmanager
    def _ill_agent(self) -> Iterator[None]:
        self._num_ill_agents += 1
        try:
            yield
        finally:
            self._num_ill_agents -= 1
            self._agents_well_since_s = asyncio.get_running_loop().time()

    async def _one(self, fault: Fault, began_s: float) -> None:
        await asyncio.sleep(began_s + fault.at_s - asyncio.get_running_loop().time())
        async with self._turns[fault.role]:  # a restart may have taken longer than was planned
            if fault.role == "store":
                await self._store(fault)
                return
            parts = self._parts.agents if fault.role == "agent" else self._parts.orchestrators
            part = parts[fault.number]
            async with part.lock:
                with self._ill_agent() if fault.role == "agent" else nullcontext():
                    await self._part(part, fault)

    async def _store(self, fault: Fault) -> None:
        store = self._parts.store
        if fault.kind == "kill":
            await asyncio.to_thread(store.kill)
            await asyncio.sleep(fault.lasts_s)
            await asyncio.to_thread(store.start)
        else:
            await asyncio.to_thread(store.pause)
            await asyncio.sleep(fault.lasts_s)
            store.go_on()

    async def _part(self, part: ServerPart, fault: Fault) -> None:
        match fault.kind:
            case "kill":
                await asyncio.to_thread(part.kill)
                await asyncio.sleep(fault.lasts_s)
                await asyncio.to_thread(part.start_again)
            case "pause":
                part.pause()
                await asyncio.sleep(fault.lasts_s)
                part.go_on()
            case "cut":
                assert part.host is not None
                self._parts.network.cut(part.host)
                await asyncio.sleep(fault.lasts_s)
                self._parts.network.mend(part.host)
            case "kill worker":
                self._signal_worker(self._some_worker(part), signal.SIGKILL)
            case "pause worker":
                pid = self._some_worker(part)
                self._signal_worker(pid, signal.SIGSTOP)
                await asyncio.sleep(fault.lasts_s)
                self._signal_worker(pid, signal.SIGCONT)

    def _some_worker(self, agent: ServerPart) -> int:
        """0 where it has none."""
        return self._pick.choice(self._find_workers(agent) or [0])

    @staticmethod
    def _signal_worker(pid: int, number: signal.Signals) -> None:
        if pid:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
