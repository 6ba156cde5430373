# SPDX-License-Identifier: Apache-2.0
"""One run: a cluster, clients that come one after another, faults meanwhile, and what must be true after it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

import aiohttp

from chaos.harness.aftermath import check_loads, check_no_process, check_settled
from chaos.harness.agent_watch import AgentWatch
from chaos.harness.ask import Ask, Right, draw_ask, right_answer
from chaos.harness.client import PATIENCE_S, Client, Outcome
from chaos.harness.parts import SECRET, Parts, ServerPart
from chaos.harness.record_history import RecordHistory
from chaos.harness.schedule import Bounds, Fault, plan
from chaos.harness.trouble import Trouble
from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.sdk.orchestrator import AsyncClient
from serverlessllm.text.tokenizer import TextModel
from serverlessllm.types import EngineKind
from support.model_dirs import write_simulated

KEEP_ALIVE_S: Final = 2.0
OPTIONS: Final = {"load_s": 0.2, "prefill_s": 0.02, "token_s": 0.03}


@dataclass(frozen=True)
class Load:
    """How many clients come over how long, and what for."""

    num_clients: int = 200
    over_s: float = 13.0
    num_models: int = 4
    tokens: tuple[int, int] = (20, 90)


@dataclass
class Storm:
    """`run` once. `seed` decides the faults and what clients ask."""

    home: Path
    store_kind: str
    seed: int
    bounds: Bounds = field(default_factory=Bounds)
    load: Load = field(default_factory=Load)
    engine: EngineKind = "simulated"
    options: Mapping[str, float] = field(default_factory=lambda: OPTIONS)

    async def run(self) -> list[Outcome]:
        """Returns every client's outcome; all that must hold afterwards was checked."""
        name = f"chaos-{self.seed}"
        faults = plan(self.seed, self.bounds)
        print(f"seed {self.seed} on {self.store_kind}", *faults, sep="\n")  # noqa: T201  # shown when it fails
        parts = Parts(self.home, self.store_kind, name, agent_flags=self.agent_flags())
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

    def agent_flags(self) -> dict[str, str]:
        """What every agent is started with."""
        return {"engine-kinds": self.engine, "engine-max-num-seqs": "16"}

    def write_model(self, number: int) -> Path:
        """A checkpoint; all models share one tokenizer."""
        return write_simulated(self.home / f"m{number}", nbytes=1 << 20, variant=number)

    async def right_answers(self, asks: Sequence[Ask], front: ServerPart, text: TextModel) -> list[Right]:
        """Those that are to come; the weather is still calm."""
        return [right_answer(ask, text) for ask in asks]

    async def _add_models(self, front: ServerPart) -> TextModel:
        """Register the models; returns the text model that all of them share."""
        async with AsyncClient(front.url) as client:
            for number in range(self.load.num_models):
                source = self.write_model(number)
                view = await client.add_model(
                    f"m{number}",
                    str(source),
                    wait=True,
                    engine=self.engine,
                    options=dict(self.options),
                    keep_alive_s=KEEP_ALIVE_S,
                )
        artifact = front.server.data_dir / "artifacts" / str(view.revision)
        return TextModel.load(Artifact.open(artifact))

    async def _weather(
        self, parts: Parts, watches: Sequence[AgentWatch], faults: Sequence[Fault], text: TextModel
    ) -> list[Outcome]:
        pick = Random(self.seed)
        models = [f"m{number}" for number in range(self.load.num_models)]
        asks = [draw_ask(pick, number, models, self.load.tokens) for number in range(self.load.num_clients)]
        rights = await self.right_answers(asks, parts.orchestrators[0], text)
        by_name = {watch.name: watch for watch in watches}
        trouble = Trouble(parts, lambda agent: by_name[agent.name].workers(), self.seed)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=PATIENCE_S, sock_read=PATIENCE_S)
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session,
            asyncio.TaskGroup() as group,
        ):
            group.create_task(trouble.run(faults))
            clients = [
                group.create_task(work) for work in self._clients(parts, asks, rights, session, trouble)
            ]
        return [client.result() for client in clients]

    def _clients(
        self,
        parts: Parts,
        asks: Sequence[Ask],
        rights: Sequence[Right],
        session: aiohttp.ClientSession,
        trouble: Trouble,
    ) -> list[Coroutine[None, None, Outcome]]:
        pick = Random(self.seed + 1)

        async def later(client: Client, wait_s: float) -> Outcome:
            await asyncio.sleep(wait_s)
            return await client.run()

        begun = list[Coroutine[None, None, Outcome]]()
        for ask, right in zip(asks, rights, strict=True):
            client = Client(
                session,
                parts.orchestrators,
                ask,
                right,
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
