# SPDX-License-Identifier: Apache-2.0
"""One trace per request: a span from its arrival to its last byte, and below it one per phase of its timeline.

The phases follow each other from the arrival on, exactly as long as the timeline says; what agents and engines did
meanwhile is told by them, below the same span. Names and attributes follow OpenTelemetry's conventions for generative
AI. With `telemetry.log_requests` a finished request is also one line of the log. Prompts only where asked for.
"""

from __future__ import annotations

import logging
from contextvars import ContextVar
from typing import Final

import msgspec

from serverlessllm.config import TelemetryConfig
from serverlessllm.telemetry.logs import FIELDS
from serverlessllm.telemetry.spans import Attribute, Span, SpanSink
from serverlessllm.telemetry.timeline import Timeline
from serverlessllm.types import PHASES
from serverlessllm.wire import trace_context
from serverlessllm.wire.trace_context import TraceContext

log = logging.getLogger(__name__)

PROVIDER: Final = "serverlessllm"
OPERATIONS: Final = {"chat": "chat", "completions": "text_completion", "embeddings": "embeddings"}
STREAM_SPAN: Final = "stream"
"""From the first token to the last byte: what follows the phases."""


class _Prompt(msgspec.Struct):
    messages: msgspec.Raw = msgspec.Raw(b"")
    prompt: msgspec.Raw = msgspec.Raw(b"")
    input: msgspec.Raw = msgspec.Raw(b"")


_prompt: ContextVar[str] = ContextVar("sllm_prompt", default="")
_decoder: Final = msgspec.json.Decoder(_Prompt)


class RequestTraces:
    """`begin` when a request arrives, `finished` with its timeline, in the same task."""

    def __init__(
        self, config: TelemetryConfig, sink: SpanSink | None, *, is_logging_ids: bool = False
    ) -> None:
        """`is_logging_ids`: requests get a trace id for the log even where no trace is sent."""
        self._config = config
        self._sink = sink
        self._is_minting = sink is not None or is_logging_ids

    def begin(self, traceparent: str | None, body: bytes) -> None:
        """Go on with the caller's trace, or start one; whoever we call is told."""
        parent = trace_context.parse(traceparent)
        if self._is_minting:
            new = trace_context.new_trace(self._config.sample_ratio) if parent is None else parent.child()
            trace_context.enter(new)
        else:
            trace_context.enter(parent)
        if self._config.record_prompts:
            _prompt.set(_prompt_of(body))

    def finished(self, timeline: Timeline) -> None:
        """The request has ended, however."""
        if self._config.log_requests:
            log.info("request %s", timeline.request_id, extra={FIELDS: self._line(timeline)})
        context = timeline.trace
        if self._sink is None or context is None or not context.is_sampled:
            return
        for span in self._spans(timeline, context):
            self._sink.add(span)

    def _spans(self, timeline: Timeline, context: TraceContext) -> list[Span]:
        arrived_s, ended_s = timeline.arrived_s, timeline.arrived_s + timeline.e2e_ms / 1e3
        operation = OPERATIONS.get(timeline.endpoint, timeline.endpoint)
        is_failed = timeline.state == "failed"
        root = Span(
            f"{operation} {timeline.model}",
            context,
            "orchestrator",
            arrived_s,
            ended_s,
            kind="server",
            attributes=self._attributes(timeline, operation),
            error=(timeline.error or timeline.state) if is_failed else "",
        )
        spans, at_s = [root], arrived_s
        for phase, duration_ms in _exact_phases(timeline).items():
            until_s = at_s + duration_ms / 1e3
            if duration_ms > 0:
                spans.append(_phase_span(phase, context, at_s, until_s))
            at_s = until_s
        if timeline.is_stream and timeline.ttft_ms > 0:
            spans.append(_phase_span(STREAM_SPAN, context, arrived_s + timeline.ttft_ms / 1e3, ended_s))
        return spans

    def _attributes(self, timeline: Timeline, operation: str) -> dict[str, Attribute]:
        attributes: dict[str, Attribute] = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.request.model": timeline.model,
            "gen_ai.response.model": timeline.model,
            "gen_ai.response.id": timeline.request_id,
            "gen_ai.usage.input_tokens": timeline.prompt_tokens,
            "gen_ai.usage.output_tokens": timeline.completion_tokens,
            "http.response.status_code": timeline.status,
            "sllm.start": timeline.start,
            "sllm.tier": timeline.tier or "none",
            "sllm.tenant": timeline.tenant,
            "sllm.stream": timeline.is_stream,
            "sllm.num_retries": timeline.num_retries,
            "sllm.cached_tokens": timeline.cached_tokens,
            "sllm.ttft_ms": timeline.ttft_ms,
        }
        if timeline.agent_id is not None:
            attributes["sllm.agent"] = timeline.agent_id
        if timeline.hops:
            attributes["sllm.hops"] = ", ".join(
                f"{hop.agent_id} {hop.how} after {hop.seq}" for hop in timeline.hops
            )
        if timeline.state != "done":
            attributes["error.type"] = timeline.state
        if _prompt.get():
            attributes["gen_ai.input.messages"] = _prompt.get()
        return attributes

    def _line(self, timeline: Timeline) -> dict[str, object]:
        fields: dict[str, object] = {
            "request_id": timeline.request_id,
            "model": timeline.model,
            "endpoint": timeline.endpoint,
            "tenant": timeline.tenant,
            "state": timeline.state,
            "status": timeline.status,
            "start": timeline.start,
            "agent": timeline.agent_id,
            "ttft_ms": round(timeline.ttft_ms, 2),
            "e2e_ms": round(timeline.e2e_ms, 2),
            "prompt_tokens": timeline.prompt_tokens,
            "completion_tokens": timeline.completion_tokens,
        }
        if timeline.error is not None:
            fields["error"] = timeline.error
        if _prompt.get():
            fields["prompt"] = _prompt.get()
        return fields


def _exact_phases(timeline: Timeline) -> dict[str, float]:
    """As `Timeline.phases`, unrounded."""
    return {phase: float(getattr(timeline, f"{phase}_ms")) for phase in PHASES}


def _phase_span(name: str, parent: TraceContext, start_s: float, end_s: float) -> Span:
    return Span(
        name, parent.child(), "orchestrator", start_s, max(start_s, end_s), attributes={"sllm.phase": name}
    )


def _prompt_of(body: bytes) -> str:
    """What the caller asked, as it wrote it in JSON; empty for a body that is none."""
    try:
        found = _decoder.decode(body)
    except msgspec.MsgspecError:
        return ""
    return b"".join(map(bytes, (found.messages, found.prompt, found.input))).decode(errors="replace")
