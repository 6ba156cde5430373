# SPDX-License-Identifier: Apache-2.0
"""One admitted request on its way: what stays the same over all its tries, and what they have come to."""

from __future__ import annotations

from serverlessllm.errors import SllmError
from serverlessllm.metadata.records import ModelRecord
from serverlessllm.orchestrator.exchange import Exchange
from serverlessllm.orchestrator.prompt import Prompt
from serverlessllm.orchestrator.reattach import FoundRun
from serverlessllm.orchestrator.replicas import Replica
from serverlessllm.orchestrator.stream_record import StreamRecord
from serverlessllm.wire.embeddings import EmbeddingRequest
from serverlessllm.wire.openai import ChatRequest, CompletionRequest, Endpoint
from serverlessllm.wire.run_name import RunName


class TryAgain(Exception):  # noqa: N818  (control flow, not an error of ours)
    """This try failed, and another one may succeed; `cause` says why. What reached the client is in its record."""

    def __init__(self, cause: SllmError) -> None:
        super().__init__(cause.message)
        self.cause = cause


class Moved(Exception):  # noqa: N818  (control flow, not an error of ours)
    """The source says, in `line`, where the stream goes on; everything before that reached the client."""

    def __init__(self, line: bytes) -> None:
        super().__init__("moved")
        self.line = line


class Call:
    """`seed` tells the request from others of its id, `hop` numbers its runs at agents.

    `replica` is the one that it runs at, or ran last.

    `failed` are agents that failed it, one entry per failure; `num_cuts` counts the breaks of its stream. A client
    that came back has all up to `last_seq` already.
    """

    def __init__(
        self,
        exchange: Exchange,
        record: ModelRecord,
        parsed: ChatRequest | CompletionRequest | EmbeddingRequest,
        prompt: Prompt,
        *,
        endpoint: Endpoint,
        seed: int,
        adapter: ModelRecord | None,
    ) -> None:
        self.exchange = exchange
        self.timeline = exchange.timeline
        self.record = record
        self.prompt = prompt
        self.endpoint = endpoint
        self.seed = seed
        self.adapter = adapter
        self.hop = 0
        self.replica: Replica | None = None
        self.failed: list[str] = []
        self.num_cuts = 0
        self.last_seq = 0
        self.created_s = int(exchange.timeline.arrived_s)
        self.cut: SllmError | None = None
        self.stream: StreamRecord | None = None
        self.with_usage = not isinstance(parsed, EmbeddingRequest) and parsed.include_usage
        if not isinstance(parsed, EmbeddingRequest) and parsed.is_stream:
            self.stream = StreamRecord(parsed.num_choices)

    def rejoin(self, found: FoundRun, last_seq: int) -> None:
        """Go on as the request whose run was found; its client has all up to `last_seq`."""
        self.seed, self.hop, self.created_s = found.run.seed, found.run.hop, found.created_s
        self.last_seq = last_seq
        if self.stream is not None and not found.is_whole:
            self.stream.seq = last_seq
            self.stream.is_partial = True

    @property
    def run(self) -> RunName:
        """The name of its present run."""
        return RunName(self.timeline.tenant, self.timeline.request_id, self.seed, self.hop)

    @property
    def begun(self) -> StreamRecord | None:
        """What its client has, if anything of an answer reached it."""
        return self.stream if self.stream is not None and self.stream.seq else None
