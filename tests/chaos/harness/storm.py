# SPDX-License-Identifier: Apache-2.0
"""One run: a cluster, clients that come one after another, faults meanwhile, and what must be true after it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

import aiohttp

from chaos.harness.aftermath import check_loads, check_no_process, check_settled
from chaos.harness.agent_watch import AgentWatch
from chaos.harness.ask import draw_ask, right_answer
from chaos.harness.client import PATIENCE_S, Client, Outcome
from chaos.harness.parts import SECRET, Parts, ServerPart
from chaos.harness.record_history import RecordHistory
from chaos.harness.schedule import Bounds, Fault, plan
from chaos.harness.trouble import Trouble
from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.sdk.orchestrator import AsyncClient
from serverlessllm.text.tokenizer import TextModel
from support.model_dirs import write_simulated

KEEP_ALIVE_S: Final = 2.0
OPTIONS: Final = {"load_s": 0.2, "prefill_s": 0.02, "token_s": 0.03}
_AGENT_FLAGS: Final = {"engine-kinds": "simulated", "engine-max-num-seqs": "16", "log-level": "info"}


@dataclass(frozen=True)
class Load:
    """How many clients come over how long, and what for."""

    num_clients: int = 200
    over_s: float = 13.0
    num_models: int = 4


@dataclass
class Storm:
    """`run` once. `seed` decides the faults and what clients ask."""

    home: Path
    store_kind: str
    seed: int
    bounds: Bounds = field(default_factory=Bounds)
    load: Load = field(default_factory=Load)

    async def run(self) -> list[Outcome]:
        """Returns every client's outcome; all that must hold afterwards was checked."""
        name = f"chaos-{self.seed}"
        faults = plan(self.seed, self.bounds)
        print(f"seed {self.seed} on {self.store_kind}", *faults, sep="\n")  # noqa: T201  # shown when it fails
        parts = Parts(self.home, self.store_kind, name, agent_flags=_AGENT_FLAGS)
        try:
            await parts.start(self.bounds.num_orchestrators, self.bounds.num_agents)
            history = RecordHistory(parts.store_url)
            await history.open()
            watches = [AgentWatch(agent.name, agent.url, SECRET) for agent in parts.agents]
            try:
                async with _following(watches, history):
                    text = await self._add_models(parts.orchestrators[0])
                    outcomes = await self._weather(parts, watches, faults, text)
                    await check_settled(parts, history)
            finally:
                await history.close()
        finally:
            await parts.stop()
        history.check()
        check_loads(watches)
        await check_no_process(name)
        return outcomes

    async def _add_models(self, front: ServerPart) -> TextModel:
        """Register the models; returns the text model that all of them share."""
        async with AsyncClient(front.url) as client:
            for number in range(self.load.num_models):
                source = write_simulated(self.home / f"m{number}", nbytes=1 << 20, variant=number)
                view = await client.add_model(
                    f"m{number}",
                    str(source),
                    wait=True,
                    engine="simulated",
                    options=OPTIONS,
                    keep_alive_s=KEEP_ALIVE_S,
                )
        artifact = front.server.data_dir / "artifacts" / str(view.revision)
        return TextModel.load(Artifact.open(artifact))

    async def _weather(
        self, parts: Parts, watches: Sequence[AgentWatch], faults: Sequence[Fault], text: TextModel
    ) -> list[Outcome]:
        by_name = {watch.name: watch for watch in watches}
        trouble = Trouble(parts, lambda agent: by_name[agent.name].workers(), self.seed)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=PATIENCE_S, sock_read=PATIENCE_S)
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session,
            asyncio.TaskGroup() as group,
        ):
            group.create_task(trouble.run(faults))
            clients = [group.create_task(work) for work in self._clients(parts, text, session, trouble)]
        return [client.result() for client in clients]

    def _clients(
        self, parts: Parts, text: TextModel, session: aiohttp.ClientSession, trouble: Trouble
    ) -> list[Coroutine[None, None, Outcome]]:
        pick = Random(self.seed)
        models = [f"m{number}" for number in range(self.load.num_models)]

        async def later(client: Client, wait_s: float) -> Outcome:
            await asyncio.sleep(wait_s)
            return await client.run()

        begun = list[Coroutine[None, None, Outcome]]()
        for number in range(self.load.num_clients):
            ask = draw_ask(pick, number, models)
            client = Client(
                session,
                parts.orchestrators,
                ask,
                right_answer(ask, text),
                run=parts.run,
                had_agent_trouble_since=trouble.had_agent_trouble_since,
            )
            begun.append(later(client, pick.uniform(0.0, self.load.over_s)))
        return begun


@asynccontextmanager
async def _following(watches: Sequence[AgentWatch], history: RecordHistory) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(watch.run()) for watch in watches]
    tasks.append(asyncio.create_task(history.run()))
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for watch in watches:
            await watch.aclose()
