# SPDX-License-Identifier: Apache-2.0
"""The header lines of `/infer`: all that we add to a client's body, or say of a run. Knows no connection."""

from __future__ import annotations

from collections.abc import Mapping

from serverlessllm.metadata.records import ModelRecord
from serverlessllm.orchestrator.replicas import Replica
from serverlessllm.telemetry.timeline import Timeline
from serverlessllm.wire.agent import SECRET_HEADER, InferHeaders
from serverlessllm.wire.openai import Endpoint
from serverlessllm.wire.run_name import RunName


class InferHead:
    """For one cluster secret."""

    def __init__(self, secret: str) -> None:
        self._secret_line = f"{SECRET_HEADER}: {secret}\r\n".encode()

    def lines(
        self,
        timeline: Timeline,
        replica: Replica,
        endpoint: Endpoint,
        *,
        seed: int,
        cache_salt: str,
        hop: int = 0,
        created_s: int | None = None,
        deadline_ms: int = 0,
        adapter: ModelRecord | None = None,
    ) -> bytes:
        """The lines for one request at one replica; every value is of plain characters. `adapter` is settled."""
        headers = InferHeaders(
            request_id=timeline.request_id,
            created_s=int(timeline.arrived_s) if created_s is None else created_s,
            endpoint=endpoint,
            model=replica.model,
            revision=replica.revision,
            attempt=replica.attempt,
            deadline_ms=deadline_ms,
            tenant=timeline.tenant,
            priority=0,
            cache_salt=cache_salt,
            seed=seed,
            hop=hop,
            adapter="" if adapter is None else adapter.revision or "",
            adapter_artifact="" if adapter is None else adapter.artifact or "",
            traceparent="" if timeline.trace is None else timeline.trace.header(),
        ).encode()
        return self._secret_line + _lines(headers)

    def run_lines(self, run: RunName) -> bytes:
        """The lines of a call about a run that is at an agent."""
        return self._secret_line + _lines(run.encode())


def _lines(headers: Mapping[str, str]) -> bytes:
    return "".join([f"{name}: {value}\r\n" for name, value in headers.items()]).encode()
