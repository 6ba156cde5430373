# SPDX-License-Identifier: Apache-2.0
"""The header lines of `POST /infer`: all that we add to a client's body. Knows no connection."""

from __future__ import annotations

from serverlessllm.metadata.records import ModelRecord
from serverlessllm.orchestrator.replicas import Replica
from serverlessllm.telemetry.timeline import Timeline
from serverlessllm.wire.agent import SECRET_HEADER, InferHeaders
from serverlessllm.wire.openai import Endpoint
from serverlessllm.wire.trace_context import TRACEPARENT


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
        adapter: ModelRecord | None = None,
    ) -> bytes:
        """The lines for one request at one replica; every value is of plain characters. `adapter` is settled."""
        headers = InferHeaders(
            request_id=timeline.request_id,
            created_s=int(timeline.arrived_s),
            endpoint=endpoint,
            model=replica.model,
            revision=replica.revision,
            attempt=replica.attempt,
            deadline_ms=0,
            tenant=timeline.tenant,
            priority=0,
            cache_salt=cache_salt,
            seed=seed,
            adapter="" if adapter is None else adapter.revision or "",
            adapter_artifact="" if adapter is None else adapter.artifact or "",
        ).encode()
        text = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        if timeline.trace is not None:
            text += f"{TRACEPARENT}: {timeline.trace.header()}\r\n"
        return self._secret_line + text.encode()
