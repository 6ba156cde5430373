# SPDX-License-Identifier: Apache-2.0
"""What an agent adds to a request's trace: its load, its turn, and what the worker that served it did.

Durations are those that the load and the engine measured; a phase of a load is placed before the next one, the last
one at the load's end. Without a sink nothing is made.
"""

from __future__ import annotations

from serverlessllm.agent.inference import Inference
from serverlessllm.agent.replica import Replica
from serverlessllm.clock import Clock
from serverlessllm.telemetry.spans import Attribute, Part, Span, SpanSink
from serverlessllm.wire import trace_context
from serverlessllm.wire.agent import InferHeaders, LoadResult
from serverlessllm.wire.migrate import MigrateResult
from serverlessllm.wire.trace_context import TraceContext


class NodeTraces:
    """For one agent. The current trace is that of the call that is being served, or that started the load."""

    def __init__(self, sink: SpanSink | None, agent_id: str, clock: Clock) -> None:
        self._sink = sink
        self._agent_id = agent_id
        self._clock = clock

    def loaded(self, replica: Replica, began_s: float, result: LoadResult | None, error: str = "") -> None:
        """A load that began at `began_s` (Unix time) has ended: with `result`, or with `error`."""
        parent = trace_context.current()
        if self._sink is None or parent is None or not parent.is_sampled:
            return
        ended_s = self._clock.wall_s()
        attributes = self._of(replica)
        if result is not None:
            attributes |= {"sllm.tier": result.tier, "sllm.nbytes": result.nbytes, "sllm.gbps": result.gbps}
            attributes |= {"sllm.start": result.start, "sllm.is_streaming": result.is_streaming}
        load = parent.child()
        self._add(f"load {replica.key.model}", load, began_s, ended_s, attributes, error=error)
        if result is not None:
            self._add_load_phases(load, replica, result, ended_s)

    def _add_load_phases(
        self, load: TraceContext, replica: Replica, result: LoadResult, ended_s: float
    ) -> None:
        bind_s = result.bind_ms / 1e3
        bind = load.child()
        self._add("agent.bind", bind, ended_s - bind_s, ended_s, self._of(replica))
        moved = "fetch" if result.fetch_ms > 0 else "read"
        moved_s = (result.fetch_ms or result.read_ms) / 1e3
        if moved_s > 0:
            self._add(f"agent.{moved}", load.child(), ended_s - bind_s - moved_s, ended_s - bind_s)
        if replica.attach_ms > 0:
            attributes = self._of(replica) | {"process.pid": replica.pid or 0}
            start_s = ended_s - replica.attach_ms / 1e3
            self._add("engine.bind", bind.child(), start_s, ended_s, attributes, part="engine")

    def moved(self, headers: InferHeaders, result: MigrateResult) -> None:
        """A move of a request away from here has ended: preparing beside the decoding, then the handover."""
        parent = trace_context.parse(headers.traceparent)
        if self._sink is None or parent is None or not parent.is_sampled:
            return
        ended_s, handover_s = self._clock.wall_s(), result.handover_ms / 1e3
        attributes: dict[str, Attribute] = {
            "sllm.agent": self._agent_id,
            "sllm.outcome": result.state,
            "sllm.mode": result.mode,
            "sllm.num_rounds": result.num_rounds,
            "sllm.num_tokens": result.num_tokens,
            "sllm.copied_bytes": result.copied_bytes,
        }
        migrate, began_s = parent.child(), ended_s - handover_s - result.prepare_ms / 1e3
        error = "" if result.state in ("moved", "ended") else result.message or result.state
        self._add(f"migrate {headers.model}", migrate, began_s, ended_s, attributes, error=error)
        if handover_s > 0:
            self._add("agent.handover", migrate.child(), ended_s - handover_s, ended_s, attributes)

    def inferred(self, inference: Inference, num_tokens: int) -> None:
        """A request's run here has ended, however; the engine sampled so many ids for it."""
        parent = trace_context.parse(inference.headers.traceparent)
        if self._sink is None or parent is None or not parent.is_sampled:
            return
        ended_s, replica, timing = self._clock.wall_s(), inference.replica, inference.timing
        attributes = self._of(replica) | {
            "gen_ai.request.model": inference.headers.model,
            "gen_ai.response.id": inference.headers.request_id,
            "gen_ai.usage.output_tokens": num_tokens,
            "sllm.attempt": inference.headers.attempt,
            "sllm.hop": inference.headers.hop,
        }
        infer = parent.child()
        self._add(
            f"infer {inference.headers.model}",
            infer,
            inference.began_s,
            ended_s,
            attributes,
            is_server=True,
            error="" if timing is not None else "no_token",
        )
        if timing is None:
            return
        first_s, prefill_s = inference.first_token_s, timing.prefill_ms / 1e3
        prefill_s = min(prefill_s, first_s - inference.began_s)
        engine = self._of(replica) | {"process.pid": replica.pid or 0}
        detail: dict[str, Attribute] = {
            "gen_ai.usage.input_tokens": timing.prompt_tokens,
            "sllm.cached_tokens": timing.cached_tokens,
            "sllm.stall_ms": timing.stall_ms,
        }
        self._add(
            "engine.prefill", infer.child(), first_s - prefill_s, first_s, engine | detail, part="engine"
        )
        self._add("engine.decode", infer.child(), first_s, ended_s, engine, part="engine")

    def _of(self, replica: Replica) -> dict[str, Attribute]:
        return {"sllm.agent": self._agent_id, "sllm.engine": replica.engine, "sllm.model": replica.key.model}

    def _add(
        self,
        name: str,
        context: TraceContext,
        start_s: float,
        end_s: float,
        attributes: dict[str, Attribute] | None = None,
        *,
        part: Part = "agent",
        is_server: bool = False,
        error: str = "",
    ) -> None:
        if self._sink is not None:
            span = Span(
                name,
                context,
                part,
                min(start_s, end_s),
                end_s,
                kind="server" if is_server else "internal",
                attributes=attributes or {},
                error=error,
            )
            self._sink.add(span)
