# SPDX-License-Identifier: Apache-2.0
"""`sllm ingest` as a process that tests may kill, and its HTTP as curl would use it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from serverlessllm.sdk.local_server import LocalServer
from serverlessllm.wire.ingest import SECRET_HEADER

PATIENCE_S = 30.0


class IngestProcess:
    """Use as a context manager; `server.kill()` and `server.start()` in between as often as wanted."""

    def __init__(
        self,
        data_path: Path,
        *,
        env: Mapping[str, str] | None = None,
        flags: Mapping[str, str] | None = None,
        log_path: Path | None = None,
    ) -> None:
        """Few connections, so that a small file arrives in several rounds."""
        self.data_path = data_path
        self.server = LocalServer(
            data_path,
            command="ingest",
            env={"SLLM_INGEST_ALLOW_PRIVATE_URLS": "yes", "SLLM_SOURCES_CONNECTIONS": "2", **(env or {})},
            flags=flags,
            log_path=log_path,
        )

    @property
    def headers(self) -> dict[str, str]:
        return {SECRET_HEADER: (self.data_path / "secret").read_text()}

    def submit(self, source: str, **fields: Any) -> httpx.Response:
        """`POST /ingest`."""
        body = {"source": source, **fields}
        return httpx.post(f"{self.server.url}/ingest", json=body, headers=self.headers, timeout=PATIENCE_S)

    def job(self, job_id: str) -> dict[str, Any]:
        """`GET /jobs/{id}`."""
        answer = httpx.get(f"{self.server.url}/jobs/{job_id}", headers=self.headers, timeout=PATIENCE_S)
        job: dict[str, Any] = answer.json()
        return job

    def ended(self, job_id: str) -> dict[str, Any] | None:
        """The job if it is finished."""
        job = self.job(job_id)
        return job if job["state"] in ("done", "failed", "cancelled") else None

    def __enter__(self) -> Self:
        self.server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.stop()
