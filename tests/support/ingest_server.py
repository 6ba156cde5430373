# SPDX-License-Identifier: Apache-2.0
"""The ingest service in this process, over real HTTP, with real children; and a client that waits for its jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from serverlessllm.app.http_server import listen, start_http
from serverlessllm.config import Config, replace
from serverlessllm.ingest.gate import Gate
from serverlessllm.ingest.service import create_app
from serverlessllm.ingest.workplace import Workplace
from serverlessllm.sdk.ingest import IngestClient
from serverlessllm.wire.ingest import IngestRequest, Job

SECRET: Final = "s3cret"  # of nothing
PATIENCE_S: Final = 60.0


@dataclass
class IngestServer:
    """A running service, its client and its directories."""

    data_path: Path
    client: IngestClient

    @property
    def artifacts(self) -> Path:
        return self.data_path / "artifacts"

    @property
    def fetches(self) -> Path:
        return self.data_path / "ingest" / "fetch"

    async def start(self, source: str, **fields: Any) -> Job:
        """Ask for a job."""
        return await self.client.ingest(IngestRequest(source=source, **fields))

    async def end_of(self, job: Job) -> Job:
        """The job once it is finished."""
        async with asyncio.timeout(PATIENCE_S):
            async for seen in self.client.follow(job.id):
                job = seen
        return job

    async def run(self, source: str, **fields: Any) -> Job:
        """A job from its beginning to its end."""
        return await self.end_of(await self.start(source, **fields))

    async def until(self, job: Job, phase: str, min_bytes: int = 1) -> Job:
        """The job once the phase has got so far. Fails when the job ends before."""
        async with asyncio.timeout(PATIENCE_S):
            async for seen in self.client.follow(job.id):
                if seen.phase == phase and seen.done_bytes >= min_bytes:
                    return seen
        raise AssertionError(f"the job ended before {phase} reached {min_bytes} bytes")


@asynccontextmanager
async def ingest_server(data_path: Path, **settings: Any) -> AsyncIterator[IngestServer]:
    """The service with `settings` of its section; loopback may be fetched from unless they say otherwise."""
    ingest = {"allow_private_urls": True, **settings}
    # Few connections, so that a small file arrives in several rounds.
    sources = {"connections": 2}
    config = replace(Config(), {"data_dir": str(data_path), "ingest": ingest, "sources": sources})
    server = await start_http(create_app(Workplace(config), Gate(SECRET)), listen("127.0.0.1", 0, key="port"))
    client = IngestClient(server.url, SECRET)
    try:
        yield IngestServer(data_path, client)
    finally:
        await client.aclose()
        await server.stop()
