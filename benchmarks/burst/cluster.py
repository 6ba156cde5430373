# SPDX-License-Identifier: Apache-2.0
"""The real cluster: one orchestrator and the agents, processes of their own, with simulated engines or `torch`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from benchmarks.burst.hardware import SCALE, Hardware
from benchmarks.burst.models import model_name, register
from benchmarks.burst.processes import tree_cpu_s
from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.metadata.sqlite import SqliteStore
from serverlessllm.sdk.agent import AgentClient
from serverlessllm.sdk.local_server import LocalServer
from serverlessllm.sdk.orchestrator import AsyncClient
from serverlessllm.types import EngineKind
from serverlessllm.wire.agent import LoadRequest

SECRET: Final = "the-secret-of-this-benchmark"
EXTENT_BYTES: Final = 2 << 20


class BurstCluster:
    """Use as a context manager; everything lies under `home`."""

    def __init__(
        self,
        home: Path,
        hardware: Hardware,
        artifacts: Sequence[Artifact],
        engine: EngineKind = "simulated",
        max_replicas: int | None = None,
    ) -> None:
        """`artifacts` are of one size. Speeds hold for `simulated`; other engines are as fast as they are."""
        self.hardware = hardware
        self._engine = engine
        self._max_replicas = max_replicas
        self._home = home
        self._artifacts = list(artifacts)
        self._stack = ExitStack()
        self._agents: list[LocalServer] = []
        self.front: LocalServer

    def __enter__(self) -> Self:
        path = self._home / "metadata.sqlite"
        asyncio.run(self._register(path))
        env = {"SLLM_SECRET": SECRET, "SLLM_METADATA_URL": f"sqlite:{path}", "SLLM_LOG_LEVEL": "warning"}
        self.front = self._start("orchestrator", "front", {}, env)
        flags = self._agent_flags()
        self._agents = [
            self._start("agent", f"node{index}", flags, env) for index in range(self.hardware.num_nodes)
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def cpu_s(self) -> dict[str, float]:
        """Processor time used so far, by role; workers count with their agents."""
        return {
            "client": tree_cpu_s(os.getpid()) - sum(map(tree_cpu_s, self._pids())),
            "front": tree_cpu_s(self.front.pid),
            "agents": sum(tree_cpu_s(agent.pid) for agent in self._agents),
        }

    def _pids(self) -> list[int]:
        return [self.front.pid, *(agent.pid for agent in self._agents)]

    async def prepare(self) -> None:
        """As the simulation begins: no replica, and every model in the DRAM of one node, evenly."""
        async with AsyncClient(self.front.url) as client:
            for index in range(len(self._artifacts)):
                await client.stop_model(model_name(index), drop_bytes=True)
            while sum(view.is_alive for view in await client.agents()) < len(self._agents):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        nodes = [self._warm(node, agent) for node, agent in enumerate(self._agents)]
        await asyncio.gather(*nodes)

    async def _warm(self, node: int, agent: LocalServer) -> None:
        client = AgentClient(agent.url, SECRET)
        try:
            mine = list(enumerate(self._artifacts))[node :: len(self._agents)]
            for index, artifact in mine[: self.hardware.dram_models]:
                request = LoadRequest(
                    model=model_name(index),
                    revision=artifact.revision,
                    artifact=str(artifact.directory),
                    engine=self._engine,
                    attempt=0,
                    warm_only=True,
                )
                await client.load(request)
        finally:
            await client.aclose()

    async def _register(self, path: Path) -> None:
        store = await SqliteStore.open(path)
        await register(store, self._artifacts, self.hardware, self._engine, self._max_replicas)
        await store.close()

    def _agent_flags(self) -> dict[str, str]:
        hardware = self.hardware
        nbytes = self._artifacts[0].index.weights_nbytes
        held_bytes = -(-nbytes // EXTENT_BYTES) * EXTENT_BYTES
        pace = {"loader-max-disk-bytes-per-s": str(int(hardware.nvme_bytes_per_s / SCALE))}
        return (pace if self._engine == "simulated" else {}) | {
            "arena-budget-bytes": str(hardware.dram_models * held_bytes),
            "arena-extent-bytes": str(EXTENT_BYTES),
            "arena-huge-pages": "never",
            "loader-verify": "never",
            "engine-slots": "2",
            "engine-threads": "1",
            "engine-dtype": "float32",
            "engine-max-replicas": str(hardware.num_seats),
            "engine-max-num-seqs": str(hardware.max_batch),
            "agent-tokenizer-cache-size": "64",
        }

    def _start(self, command: str, name: str, flags: dict[str, str], env: dict[str, str]) -> LocalServer:
        server = LocalServer(self._home / name, command=command, flags=flags, env=env)
        self._stack.callback(server.stop)
        return server.start()
